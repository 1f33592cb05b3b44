"""Files behind URLs, `s3://`, `gs://`, `hdfs://`, `https://`, by way of fsspec.

What a store needs to be told, such as keys or another address, stands where fsspec and the store's
own package look for it: in the environment or their configuration. What is read is fetched as
ranges of bytes, each of them again if it failed.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

PathLike: TypeAlias = str | os.PathLike[str]

# What tells whether a file is as it was: its size, and when it was written or a tag.
Stamp: TypeAlias = tuple[Any, ...]

_Result = TypeVar("_Result")

# A slash may be gone: `Path("gs://bucket")` is "gs:/bucket".
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/{1,3})(?!/)")

# How often something is tried, and how long the first wait between is, in seconds; each further
# one is twice as long.
TRIES = 4
FIRST_WAIT = 0.2
# What comes up again however often it is tried.
_FINAL = (
    FileExistsError,
    FileNotFoundError,
    ImportError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
    PermissionError,
    TypeError,
    ValueError,
)
# Of a file that is read from its beginning to its end so much is fetched at once.
_AHEAD = 8 << 20
# Stores in which a file appears when its last byte has come.
_WHOLE = {"abfs", "az", "gcs", "gs", "memory", "s3", "s3a"}
# Where file systems say when a file was written, or what its contents are: the first that is there.
_TAGS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "Last-Modified", "updated", "created")


class RemoteError(OSError):
    """A store did not give or take what it was asked, however often."""


def is_remote(path: PathLike) -> bool:
    """Whether a path is an URL, but for those of local files (`file://`)."""
    found = _URL.match(os.fspath(path))
    return found is not None and found[1].lower() != "file"


def address(path: PathLike) -> str:
    """A path as text: an URL with both slashes, that of a local file as its path.

    `~` at its beginning is the user's folder, which shells leave as it is in `--out=~/a`.

    Example:

    >>> address(Path("s3://bucket/a")), address("file:///a/b"), address("a/b")
    ('s3://bucket/a', '/a/b', 'a/b')
    """
    text = os.fspath(path)
    found = _URL.match(text)
    if found is None:
        return os.path.expanduser(text)
    if found[1].lower() == "file":
        return "/" + text[found.end() :]
    return text if len(found[2]) > 1 else f"{found[1]}://{text[found.end() :]}"


def without_query(path: str) -> str:
    """A path, or that of an URL without what else a web server is asked."""
    return urlsplit(path)._replace(query="", fragment="").geturl() if is_web(path) else path


def is_web(path: str) -> bool:
    """Whether an URL is of a web server."""
    return path.startswith(("http:", "https:"))


def name_of(url: str) -> str:
    """The last part of an URL."""
    return without_query(url).rstrip("/").rsplit("/", 1)[-1]


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of an URL, and the path in it.

    Raises:
        ImportError: if fsspec or the store's package is not there.
        ValueError: if the URL is of no known kind.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise ImportError(
            f"Files behind URLs are read and written by fsspec. Received {url!r}, and fsspec is "
            "not installed. Run: pip install 'tfmoe[remote]'"
        ) from error
    try:
        return url_to_fs(url)
    except ImportError as error:
        raise ImportError(
            f"Each kind of store has a package that fsspec uses. Received {url!r}: {error}. "
            "pip install 'tfmoe[remote]' brings those of s3:// and https://; gs:// needs gcsfs, "
            "hdfs:// the libraries of Hadoop."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"An URL is of a kind that fsspec knows, as s3://bucket/key. Received {url!r}: {error}."
        ) from error


def tried(url: str, act: Callable[[], _Result]) -> _Result:
    """What `act` returns, which is called up to `TRIES` times as long as it fails.

    Raises:
        RemoteError: if it still fails; what will not get better by waiting, as it comes up.
    """
    failures = 0
    while True:
        try:
            return act()
        except _FINAL:
            raise
        # Packages of stores have errors of their own for what the network does.
        except Exception as error:
            failures += 1
            if failures == TRIES:
                raise RemoteError(
                    f"A remote store must answer. Received {url}, tried {TRIES} times: "
                    f"{type(error).__name__}: {error}. Check the connection and the keys, and run "
                    "it again."
                ) from error
        time.sleep(FIRST_WAIT * 2 ** (failures - 1))


class RemoteFile(io.RawIOBase):
    """A file behind an URL to read from, also in any order; a failed fetch is tried again.

    Args:
        url: str.
        ahead: bytes that are fetched at least, if there are so many.
    """

    def __init__(self, url: str, ahead: int) -> None:
        super().__init__()
        self._url = url
        self._ahead = ahead
        self._system, self._path = file_system(url)
        self._place = self._start = 0
        self._held = b""
        self._size = _info(url)["size"]
        if self._size is None:  # some web servers do not say it before
            self._held = tried(url, lambda: self._system.cat_file(self._path))
            self._size = len(self._held)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = offset + (0, self._place, self._size)[whence]
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        start = min(self._place, self._size)
        end = self._size if size is None or size < 0 else min(start + size, self._size)
        if start < end and not self._start <= start <= end <= self._start + len(self._held):
            until = max(end, min(start + self._ahead, self._size))
            self._held = tried(self._url, lambda: self._fetched(start, until))
            self._start = start
        self._place = end
        return self._held[start - self._start : end - self._start]

    def _fetched(self, start, end):
        found = self._system.cat_file(self._path, start=start, end=end)
        if len(found) == self._size:  # a web server may know no ranges
            found = found[start:end]
        if len(found) != end - start:
            raise OSError(f"{len(found)} of {end - start} bytes came")
        return found


def opened(path: str, ahead: int = _AHEAD) -> Any:
    """What Arrow reads a file from: a local path as it is, of an URL a file.

    Args:
        path: str.
        ahead: bytes of an URL's file that are fetched at least.
    """
    if not is_remote(path):
        return path
    import pyarrow as pa

    return pa.PythonFile(RemoteFile(path, ahead), mode="r")


def _info(url: str) -> dict[str, Any]:
    """What the store says of a file now.

    Raises:
        FileNotFoundError: if there is none.
    """
    system, path = file_system(url)
    system.invalidate_cache(path)
    return tried(url, lambda: system.info(path))


def stamp(path: str) -> Stamp:
    """What a file is now, to be compared with what it is later; see `Stamp`.

    Raises:
        FileNotFoundError: if there is none.
    """
    if is_remote(path):
        return _stamp_of(_info(path))
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def _stamp_of(info: Mapping[str, Any]) -> Stamp:
    tag = next((info[name] for name in _TAGS if info.get(name) is not None), None)
    # Some say a time once as such, once in seconds.
    return info["size"], tag.timestamp() if isinstance(tag, datetime) else tag


def exists(path: PathLike) -> bool:
    """Whether there is a file or a folder, here or behind an URL."""
    url = address(path)
    if not is_remote(url):
        return os.path.exists(url)
    system, inner = file_system(url)
    system.invalidate_cache()
    return tried(url, lambda: system.exists(inner))


def join(path: PathLike, name: str) -> str:
    """The path or URL of what is in a folder."""
    return f"{address(path).rstrip('/')}/{name}"


def is_folder(url: str) -> bool:
    """Whether there is a folder, or files whose names begin as if there were."""
    system, path = file_system(url)
    system.invalidate_cache()
    return tried(url, lambda: system.isdir(path))


def names_in(folder: PathLike) -> list[str]:
    """The names of files and folders in a folder, here or behind an URL; none if there is none."""
    url = address(folder)
    try:
        if not is_remote(url):
            return sorted(os.listdir(url))
        system, path = file_system(url)
        system.invalidate_cache()
        found = tried(url, lambda: system.ls(path, detail=False))
    except FileNotFoundError:
        return []
    return sorted(name_of(name) for name in found)


def below(url: str) -> dict[str, Stamp]:
    """All files in a folder and its folders, in order: their stamps by URL.

    Args:
        url: str, without a slash at its end.
    """
    system, path = file_system(url)
    system.invalidate_cache()
    found = tried(url, lambda: system.find(path, detail=True))
    return {_url_of(url, path, name): _stamp_at(url, path, found[name]) for name in sorted(found)}


def matching(url: str) -> dict[str, Stamp | None]:
    """What matches a glob, in order: stamps by URL, None of a folder."""
    system, path = file_system(url)
    system.invalidate_cache()
    found = tried(url, lambda: system.glob(path, detail=True))
    return {
        _url_of(url, path, name): None
        if found[name]["type"] == "directory"
        else _stamp_at(url, path, found[name])
        for name in sorted(found)
    }


def _url_of(url: str, path: str, name: str) -> str:
    """The URL of a name in the file system in which another URL's path is `path`."""
    # A host, too, stands in front of the path.
    return url.removesuffix(path.lstrip("/")) + name.lstrip("/")


def _stamp_at(url: str, path: str, info: Mapping[str, Any]) -> Stamp:
    found = _stamp_of(info)
    # A web server's page of links says nothing of what they are.
    return stamp(_url_of(url, path, info["name"])) if None in found else found


@contextlib.contextmanager
def local_copy(path: PathLike) -> Iterator[Path]:
    """A local file or folder with the same name and contents, which is gone afterwards; a local
    path as it is.

    Raises:
        FileNotFoundError: if nothing is at the URL.
    """
    if not is_remote(path):
        yield Path(address(path))
        return
    url = address(path).rstrip("/")
    with tempfile.TemporaryDirectory() as held:
        copy = Path(held) / name_of(url)
        if is_folder(url):
            copy.mkdir()
            for one in below(url):
                part = copy / one.removeprefix(f"{url}/")
                part.parent.mkdir(parents=True, exist_ok=True)
                _download(one, part)
        else:
            _download(url, copy)
        yield copy


def read_text(path: PathLike) -> str:
    """What is in a file of text in UTF-8, here or behind an URL."""
    with local_copy(path) as copy:
        return copy.read_text(encoding="utf-8")


def _download(url: str, path: Path) -> None:
    with RemoteFile(url, _AHEAD) as file, path.open("wb") as written:
        shutil.copyfileobj(file, written, _AHEAD)


def upload(file: PathLike, url: str) -> None:
    """Writes a local file to an URL, where it appears when all of it is there."""
    system, path = file_system(url)
    kinds = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
    folder, _, name = path.rpartition("/")
    # A folder of an object store is but the beginning of names.
    if not kinds & _WHOLE and folder:
        system.makedirs(folder, exist_ok=True)
    draft = path if kinds & _WHOLE else f"{folder}/.{name}.tfmoe-draft"
    try:
        tried(url, lambda: system.put_file(os.fspath(file), draft))
        if draft != path:
            tried(url, lambda: system.mv(draft, path))
    except BaseException:
        if draft != path:
            with contextlib.suppress(Exception):
                system.rm_file(draft)
        raise
    finally:
        system.invalidate_cache()


def remove(url: str) -> None:
    """Removes a file, if it is there."""
    system, path = file_system(url)
    with contextlib.suppress(FileNotFoundError):
        tried(url, lambda: system.rm_file(path))
    system.invalidate_cache()
