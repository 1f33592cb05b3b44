"""Where rows come from: tables in memory and files, read as Arrow columns in chunks.

A `Source` consists of fragments (a table, a CSV file, some row groups of a Parquet file);
a fragment knows its columns' names and yields chunks, each a dict of Arrow arrays. Only the
columns asked for are read.
"""

from __future__ import annotations

import glob
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from tfmoe.data.read.csv import CsvFragment
from tfmoe.data.read.memory import TableFragment
from tfmoe.data.read.options import TextOptions, split_options
from tfmoe.data.read.parquet import ParquetFragment
from tfmoe.data.read.tables import Fragment

# What a user may pass as rows; see `open_source`.
Rows: TypeAlias = (
    pd.DataFrame
    | Mapping[str, Any]
    | str
    | Path
    | Sequence[str | Path]
    | Iterable[pd.DataFrame]
    | Callable[..., Iterable[pd.DataFrame]]
)

_CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
_TFRECORD = (".tfrecord", ".tfrecord.gz")
_EXTENSIONS = (*_CSV, ".parquet", *_TFRECORD)


class Source:
    """Rows to read.

    Args:
        fragments: callable that returns an iterable of fragments, a list if `listed`.
        listed: whether all fragments are known beforehand (and may be put in any order).
        held: whether the rows lie in memory as one table.
        single_pass: whether the source can be read only once.
        begin: callable as `fragments`, of those from a row on, by its place; None where only
            the first can come first.
    """

    def __init__(
        self,
        fragments: Callable[[], Iterable[Fragment]],
        listed: bool = True,
        held: bool = False,
        single_pass: bool = False,
        begin: Callable[[int], Iterable[Fragment]] | None = None,
    ) -> None:
        self.fragments = fragments
        self.listed = listed
        self.held = held
        self.single_pass = single_pass
        self.begin = begin

    @property
    def num_rows(self) -> int | None:
        """Number of rows if it is known without reading them, else None."""
        if not self.listed:
            return None
        return total([fragment.num_rows for fragment in self.fragments()])

    def shard(self, index: int, count: int) -> tuple[list[Fragment] | None, bool]:
        """The part of one of `count` workers.

        Whole files if there are enough of them, else fragments, else every `count`-th row.

        Returns:
            List of fragments, and whether all workers have these same fragments and must
            share their rows; None for the list if the source does not know it beforehand.
        """
        if not self.listed:
            return None, count > 1
        fragments = list(self.fragments())
        if count == 1:
            return fragments, False
        if len({fragment.file for fragment in fragments}) >= count:
            return [one for one in fragments if one.file % count == index], False
        if len(fragments) >= count:
            return fragments[index::count], False
        return fragments, True


def total(counts: Iterable[int | None]) -> int | None:
    """The sum, or None if a count is None, which is not known."""
    known = list(counts)
    return None if None in known else sum(known)  # type: ignore[arg-type]


def open_source(source: Rows) -> Source:
    """The `Source` for what a user passed.

    Args:
        source: DataFrame; dict of arrays of equal length; path, glob or folder of CSV, TSV
            (both perhaps gzipped), Parquet or TFRecord files; list of these; iterable of
            DataFrames, or callable that returns an iterator of DataFrames, of which one with a
            parameter `start` can begin at any row. Behind the path of text files may be said how
            they are written, each part only if it needs to be:
            `"t.csv?delimiter=;&quoting=no&encoding=latin-1"`.

    Raises:
        FileNotFoundError: if no file matches.
        ValueError: if files are of an unknown kind or of several kinds, or an option is unknown.
        TypeError: if it is none of these.
    """
    if isinstance(source, pd.DataFrame | Mapping):
        table = TableFragment(source)
        return Source(lambda: [table], held=True)
    if isinstance(source, str | Path):
        return _files([source])
    if isinstance(source, list | tuple) and source:
        paths = [path for path in source if isinstance(path, str | Path)]
        if len(paths) == len(source):
            return _files(paths)
    if callable(source) and _takes_start(source):
        return Source(
            lambda: _frames(source(start=0)),
            listed=False,
            begin=lambda row: _frames(source(start=row)),
        )
    if callable(source):
        return Source(lambda: _frames(source()), listed=False)
    if isinstance(source, Iterable):
        return Source(
            lambda: _frames(source), listed=False, single_pass=isinstance(source, Iterator)
        )
    raise TypeError(
        "Rows come from a DataFrame, a dict of arrays, paths or globs of files, an iterable of "
        "DataFrames, or a callable that returns one. Received source="
        f"{source!r} of type {type(source).__name__}."
    )


def _takes_start(source):
    """Whether a callable has a parameter `start`, the number of rows that it leaves out."""
    try:
        parameters = inspect.signature(source).parameters
    except (TypeError, ValueError):  # a builtin's may be unknown
        return False
    return "start" in parameters


def _frames(frames):
    for number, frame in enumerate(frames):
        if not isinstance(frame, pd.DataFrame):
            raise TypeError(
                "An iterable source must yield pandas DataFrames. Received a "
                f"{type(frame).__name__}. Paths of several files are given as a list."
            )
        yield TableFragment(frame, f"of DataFrame {number}")


def _files(given):
    paths = []
    options: dict[str, TextOptions] = {}
    for whole in map(str, given):
        # A file may be named so.
        pattern, how = (whole, None) if Path(whole).exists() else split_options(whole)
        found = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))
        if found == [pattern] and Path(pattern).is_dir():
            found = _files_in(Path(pattern))
        if not found:
            raise FileNotFoundError(
                f"No file matches. Received source={pattern!r}, looked up from "
                f"{str(Path.cwd())!r}. Check the path or the glob."
            )
        paths += found
        options |= {path: how for path in found if how and how != TextOptions()}
    kinds = {_extension(path) for path in paths}
    if len(kinds) > 1:
        raise ValueError(
            f"The files of one source must be of one kind. Received {sorted(kinds)} among "
            f"{paths[:4]}. Read them one kind at a time."
        )
    fragments = _fragments(paths, kinds.pop(), options)
    return Source(lambda: fragments)


def _files_in(folder):
    """The tables in a folder, as Spark writes one, but for marks such as `_SUCCESS`."""
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name[0] not in "._")
    if not any(name.lower().endswith(_EXTENSIONS) for name in names):
        raise ValueError(
            f"A folder needs files of tables in it. Received {str(folder)!r} with {names[:4]}. "
            "Those of folders in folders are given as a glob, 'folder/**/*.parquet'; what the "
            "folders' names say is not read."
        )
    return [str(folder / name) for name in names]


def _extension(path):
    name = Path(path).name.lower()
    for extension in _EXTENSIONS:
        if name.endswith(extension):
            return extension.removesuffix(".gz")
    raise ValueError(
        f"Files must be named {', '.join('*' + known for known in _EXTENSIONS)}. Received "
        f"{path!r}. Rename or convert it; some files of a folder are given as a glob, "
        "'folder/*.parquet'."
    )


def _fragments(paths, extension, options):
    if options and extension not in (".csv", ".tsv"):
        raise ValueError(
            "Delimiter, quoting and encoding are those of text files. Received "
            f"{next(iter(options))!r} with options. Leave them out."
        )
    if extension == ".parquet":
        of_files = [ParquetFragment.all_of(path, file) for file, path in enumerate(paths)]
        return [fragment for fragments in of_files for fragment in fragments]
    if extension == ".tfrecord":
        # Imported here: the only files that need TensorFlow.
        from tfmoe.data.read.tfrecord import TfrecordFragment

        return [TfrecordFragment(path, file) for file, path in enumerate(paths)]
    return [CsvFragment(path, file, options.get(path)) for file, path in enumerate(paths)]
