"""Files and folders that appear under their names whole or not at all, and never over others.

Each is written into a scratch folder beside its place and moved there when it is complete. If
writing fails, nothing is left: neither a part under the final name, nor the scratch folder, nor
the folders that were made to hold it. A process that is killed may leave the scratch folder,
whose name begins with a dot. (Nothing here waits for the disk: this is about failures of
programs, not of power.)
"""

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

# What a file system says that has no hard links.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}

PathLike = str | os.PathLike[str]


def check_local(path: PathLike) -> None:
    """Raises ValueError where a path is that of a remote store, which would become a folder."""
    # A slash may be gone: `Path("gs://bucket")` is "gs:/bucket".
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise ValueError(
            f"Folders are written where this process runs. Received path={str(path)!r}. Write to "
            "a local folder, and copy it."
        )


def check_new(path: PathLike) -> None:
    """Raises FileExistsError if something is at the path, be it a link to nothing."""
    if os.path.lexists(path):
        raise FileExistsError(
            f"Nothing is written over. Received path={str(path)!r}, which is there already. "
            "Remove it or choose another name."
        )


@contextlib.contextmanager
def scratch(path: PathLike) -> Iterator[Path]:
    """A folder beside `path` to work in, gone afterwards with all that was not moved away.

    Makes the folder that is to hold `path`.

    Raises:
        ValueError: if the path is a remote one.
    """
    check_local(path)
    path = Path(path)
    parent = path.parent
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}-", dir=parent))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        for empty in made:
            # Another process may have put something there.
            with contextlib.suppress(OSError):
                empty.rmdir()
        raise
    shutil.rmtree(folder, ignore_errors=True)


def place(draft: PathLike, path: PathLike) -> None:
    """Moves a finished file or folder to a path on the same file system, where nothing is.

    Raises:
        FileExistsError: if something is there; `draft` stays where it was.
    """
    check_new(path)
    if os.path.isdir(draft):
        try:
            # Replaces an empty folder at most, if one came just now.
            os.rename(draft, path)
        except OSError:
            check_new(path)
            raise
        return
    try:
        # Unlike a rename, a link fails where another process has just put a file.
        os.link(draft, path)
    except FileExistsError:
        check_new(path)
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.rename(draft, path)
        return
    os.unlink(draft)


@contextlib.contextmanager
def new_file(path: PathLike) -> Iterator[Path]:
    """A path to write a file to, which appears at `path` when the block ends without error.

    Raises:
        FileExistsError: if something is at the path.
        ValueError: if the path is a remote one.

    Example:

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with new_file(folder / "a.txt") as draft:
    ...     _ = draft.write_text("whole")
    ...     (folder / "a.txt").exists()
    False
    >>> (folder / "a.txt").read_text()
    'whole'
    """
    check_new(path)
    with scratch(path) as folder:
        # Under its own name, for the ending decides what some libraries write.
        draft = folder / Path(path).name
        yield draft
        place(draft, path)


@contextlib.contextmanager
def new_folder(path: PathLike) -> Iterator[Path]:
    """An empty folder to fill, which appears at `path` when the block ends without error.

    Raises: see `new_file`.
    """
    check_new(path)
    with scratch(path) as folder:
        draft = folder / Path(path).name
        draft.mkdir()
        yield draft
        place(draft, path)


@contextlib.contextmanager
def new_files(path: PathLike) -> Iterator[Path]:
    """As `new_folder`, but a folder may be there: then all files in the draft join its own.

    Raises:
        FileExistsError: if one of the files, or a file in the folder's place, is there. Then
            none of them is added.
        ValueError: if the path is a remote one.
    """
    path = Path(path)
    if not path.is_dir():
        with new_folder(path) as draft:
            yield draft
        return
    with scratch(path / "files") as draft:
        yield draft
        placed: list[Path] = []
        try:
            for file in sorted(draft.iterdir()):
                place(file, path / file.name)
                placed.append(path / file.name)
        except BaseException:
            for added in placed:
                added.unlink()
            raise


def next_version(folder: PathLike) -> int:
    """One more than the largest number that names something in a folder; 1 if none does."""
    # Not `str.isdigit`, to which a superscript is a digit.
    names = [name for name in os.listdir(folder) if re.fullmatch("[0-9]+", name)]
    return 1 + max(map(int, names), default=0)


def new_version(folder: PathLike, fill: Callable[[Path], None]) -> Path:
    """Makes a folder that gets the next free number as its name.

    The number is chosen when the folder is complete: of two processes that write at once each
    gets its own.

    Args:
        folder: local folder of the versions, made if there is none.
        fill: called with an empty folder, which it fills.

    Returns:
        `folder / "<number>"`.

    Raises:
        ValueError: if the path is a remote one.
    """
    folder = Path(folder)
    with scratch(folder / "version") as held:
        draft = held / "version"
        draft.mkdir()
        fill(draft)
        while True:
            version = folder / str(next_version(folder))
            # Another process may have just taken the number.
            with contextlib.suppress(FileExistsError):
                place(draft, version)
                return version
