"""Which files a path stands for: a file, a glob, a folder, here or behind an URL."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfmoe import remote
from tfmoe.data.read.options import TextOptions, split_options
from tfmoe.data.read.partitions import is_partition
from tfmoe.remote import Stamp

CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
TFRECORD = (".tfrecord", ".tfrecord.gz")
ARROW = (".arrow", ".feather")
EXTENSIONS = (*CSV, ".parquet", *ARROW, ".orc", *TFRECORD)


@dataclass(frozen=True)
class File:
    """A file of a source.

    Args:
        path: a local path, or an URL.
        stamp: what it was when it was found.
        options: how a text file is written, or None for as its name says.
    """

    path: str
    stamp: Stamp
    options: TextOptions | None = None


def files_of(given: Sequence[str | Path]) -> list[File]:
    """The files that some paths, globs and folders stand for, in order, each once.

    Of folders in a folder those are entered that are named `column=value`. A file that is found
    under several spellings of its path has the first one.

    Raises:
        FileNotFoundError: if no file matches.
        ValueError: if a folder has no files of tables, or options are unknown.
    """
    files: dict[str, File] = {}
    for whole in map(remote.address, given):
        # A file may be named so.
        named = not remote.is_remote(whole) and Path(whole).exists()
        pattern, how = (whole, None) if named else split_options(whole)
        found = _behind(pattern.rstrip("/")) if remote.is_remote(pattern) else _here(pattern)
        if not found:
            where = "" if remote.is_remote(pattern) else f", looked up from {str(Path.cwd())!r}"
            raise FileNotFoundError(
                f"No file matches. Received source={pattern!r}{where}. Check the path or the glob."
            )
        how = None if how == TextOptions() else how
        for path, stamp in found.items():
            place = _place(path)
            first = files[place].path if place in files else path
            files[place] = File(first, stamp, how)
    return list(files.values())


def extension_of(path: str) -> str:
    """What a file's name ends in, one of `EXTENSIONS` without `.gz`.

    Raises:
        ValueError: if it is none of them.
    """
    name = remote.without_query(path).lower()
    for extension in EXTENSIONS:
        if name.endswith(extension):
            return extension.removesuffix(".gz")
    raise ValueError(
        f"Files must be named {', '.join('*' + known for known in EXTENSIONS)}. Received "
        f"{path!r}. Rename or convert it; some files of a folder are given as a glob, "
        "'folder/*.parquet'."
    )


def folders_of(path: str) -> tuple[str, ...]:
    """The names of the folders in a file's path, as it was given."""
    return Path(remote.without_query(path)).parts[:-1]


def _place(path: str) -> str:
    """What a file is told from others by, however its path is spelled; of an URL that."""
    if remote.is_remote(path):
        return path
    plain = os.path.abspath(path)
    if ".." in Path(path).parts and not (os.path.exists(plain) and os.path.samefile(path, plain)):
        # `..` behind a link leads elsewhere than to the folder in which the link is.
        return os.path.realpath(path)
    return plain


def _here(pattern: str) -> dict[str, Stamp]:
    paths = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))
    found: list[str] = []
    for path in paths:
        found += _in_folder(path) if Path(path).is_dir() else [path]
    return {path: remote.stamp(path) for path in found}


def _in_folder(folder: str) -> list[str]:
    return _tables(folder, sorted(_below(folder, "")))


def _below(folder: str, prefix: str) -> Iterable[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file() and _is_shown(entry.name):
                yield prefix + entry.name
            elif entry.is_dir() and is_partition(entry.name):
                yield from _below(entry.path, f"{prefix}{entry.name}/")


def _is_shown(name: str) -> bool:
    """Whether a name is none of marks such as `_SUCCESS`, which Spark writes."""
    return name[0] not in "._"


def _tables(folder: str, names: list[str]) -> list[str]:
    if not any(name.lower().endswith(EXTENSIONS) for name in names):
        raise ValueError(
            f"A folder needs files of tables in it. Received {folder!r} with {names[:4]}. Those "
            "of folders in folders are found where these are named column=value, or given as a "
            "glob, 'folder/**/*.parquet'."
        )
    return [str(Path(folder, name)) for name in names]


def _behind(url: str) -> dict[str, Stamp]:
    """See `files_of`; of an URL."""
    if any(mark in remote.without_query(url) for mark in "*?["):
        found: dict[str, Stamp] = {}
        for path, stamp in remote.matching(url).items():
            found |= _in_remote_folder(path) if stamp is None else {path: stamp}
        return found
    if _seems_file(url) or not remote.is_folder(url):
        try:
            return {url: remote.stamp(url)}
        except FileNotFoundError:
            return {}
    return _in_remote_folder(url)


def _seems_file(url: str) -> bool:
    """Whether a web server need not be asked: a page of links may have any name there."""
    return remote.is_web(url) and remote.without_query(url).lower().endswith(EXTENSIONS)


def _in_remote_folder(url: str) -> dict[str, Stamp]:
    root = f"{url}/"
    found = {}
    for path, stamp in remote.below(url).items():
        *folders, name = path.removeprefix(root).split("/")
        if name and _is_shown(name) and all(map(is_partition, folders)):
            found[path] = stamp
    _tables(url, [path.removeprefix(root) for path in found])
    return found
