"""Files and folders that appear under their names whole or not at all.

Each is written into a scratch folder beside its place and moved there when it is complete, where
nothing is, or, by `replaced`, in the place of what is there. If writing fails, nothing is left:
neither a part under the final name, nor the scratch folder, nor the folders that were made to
hold it. A process that is killed leaves its scratch folder, whose name begins with a dot and ends
in `.tfmoe-draft`; whoever writes next beside it removes it. (Nothing here waits for the disk:
this is about failures of programs, not of power.)

What is to be at an URL is written among this machine's temporary files and then uploaded. A file
of an object store appears when its last byte has come; of a folder that file comes last without
which nothing is loaded from it.
"""

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tfmoe import remote
from tfmoe.remote import PathLike, address, is_remote

# What a file system says that has no hard links.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}

# How a scratch folder's name ends, and what it looks like.
_DRAFT = ".tfmoe-draft"
_DRAFT_NAME = re.compile(r"\..*-[a-z0-9_]{8}" + re.escape(_DRAFT))
# What in a scratch folder holds the folder whose place its draft is to take.
_REPLACED = ".replaced.tfmoe"

# Without these nothing is loaded from a folder; of one that is uploaded they are the last.
_MARKERS = {"preprocessor.json", "saved_model.pb"}


def check_local(path: PathLike) -> None:
    """Raises ValueError where a path is that of a remote store, which would become a folder."""
    if is_remote(path):
        raise ValueError(
            f"This is written where this process runs. Received path={address(path)!r}. Write to "
            "a local folder, and copy it."
        )


def check_new(path: PathLike) -> None:
    """Raises FileExistsError if something is at the path, be it a link to nothing."""
    path = address(path)
    if remote.exists(path) if is_remote(path) else os.path.lexists(path):
        raise FileExistsError(
            f"Nothing is written over. Received path={path!r}, which is there already. "
            "Remove it or choose another name."
        )


@contextlib.contextmanager
def _draft_of(url: str, folder: bool = False) -> Iterator[Path]:
    """A local path, of an empty folder if asked for, of what is to be uploaded."""
    remote.file_system(url)  # what is missing is told before the work
    with tempfile.TemporaryDirectory(suffix=_DRAFT) as held:
        draft = Path(held) / remote.name_of(url)
        if folder:
            draft.mkdir()
        yield draft


def _upload(draft: Path, url: str) -> None:
    """Uploads a file, or what is in a folder; of several files all or none.

    Raises:
        FileExistsError: if one is there.
    """
    if not draft.is_dir():
        check_new(url)
        remote.upload(draft, url)
        return
    files = [file for file in draft.rglob("*") if file.is_file()]
    files.sort(key=lambda file: (file.name in _MARKERS, file))
    targets = {file: remote.join(url, file.relative_to(draft).as_posix()) for file in files}
    for target in targets.values():
        check_new(target)
    begun: list[str] = []
    try:
        for file, target in targets.items():
            begun.append(target)
            remote.upload(file, target)
    except BaseException:
        for target in begun:
            with contextlib.suppress(Exception):
                remote.remove(target)
        raise


@contextlib.contextmanager
def scratch(path: PathLike) -> Iterator[Path]:
    """A folder beside `path` to work in, gone afterwards with all that was not moved away.

    Makes the folder that is to hold `path`.

    Raises:
        ValueError: if the path is a remote one.
    """
    check_local(path)
    path = Path(address(path))
    parent = path.parent
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    _remove_left_drafts(parent)
    folder, lock = _new_draft(parent, path.name)
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        for empty in made:
            # Another process may have put something there.
            with contextlib.suppress(OSError):
                empty.rmdir()
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _new_draft(parent: Path, name: str) -> tuple[Path, int | None]:
    """A new scratch folder, and what locks it as long as this process lives, or None."""
    while True:
        folder = Path(tempfile.mkdtemp(suffix=_DRAFT, prefix=f".{name[:40]}-", dir=parent))
        # Another writer may take it for one that was left, before it is locked, and remove it.
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            lock = _locked(folder)
            if lock is None or folder.exists():
                return folder, lock
            os.close(lock)


def _remove_left_drafts(parent: Path) -> None:
    """Removes scratch folders in `parent` whose processes are gone."""
    with os.scandir(parent) as entries:
        left = [parent / one.name for one in entries if _DRAFT_NAME.fullmatch(one.name)]
    for folder in left:
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            lock = _locked(folder)
            if lock is not None:
                _put_back(folder)
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _put_back(folder: Path) -> None:
    """Of a scratch folder that was left, puts back what was to be replaced and has not been."""
    old = folder / _REPLACED
    if old.exists():
        for draft in folder.iterdir():
            path = folder.parent / draft.name
            if draft != old and not os.path.lexists(path):
                os.rename(old, path)
                return


def _locked(folder: Path) -> int | None:
    """The folder's lock, which ends with the process or `os.close`; None where there are none.

    Raises:
        BlockingIOError: if another has it.
        FileNotFoundError: if the folder is gone.
    """
    try:
        import fcntl
    except ImportError:  # Windows: what a killed process left stays.
        return None
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise
    except OSError:  # a file system without locks
        os.close(lock)
        return None
    return lock


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
        ImportError: if it is an URL, and what writes there is not installed.

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
    if is_remote(path):
        with _draft_of(address(path)) as draft:
            yield draft
            _upload(draft, address(path))
        return
    path = Path(address(path))
    with scratch(path) as folder:
        # Under its own name, for the ending decides what some libraries write.
        draft = folder / path.name
        yield draft
        place(draft, path)


@contextlib.contextmanager
def replaced(path: PathLike) -> Iterator[Path]:
    """As `new_file`, for a file or a folder that takes the place of what is there.

    What was there stays as it is unless the block ends without error. Of two who write at once
    the last one's stays, whole.

    Raises:
        ValueError: if it is a folder, and the path an URL: one takes no other's place there.
    """
    if is_remote(path):
        with _draft_of(address(path)) as draft:
            yield draft
            if draft.is_dir():
                raise ValueError(
                    "In a remote store a folder takes no other's place. Received "
                    f"path={address(path)!r}. Write one file, or a new folder."
                )
            remote.upload(draft, address(path))
        return
    path = Path(address(path))
    with scratch(path) as folder:
        draft = folder / path.name
        yield draft
        if not draft.is_dir() and not path.is_dir():
            os.replace(draft, path)
            return
        # A folder takes no other's place in one step; this one waits in the scratch folder.
        old = folder / _REPLACED
        try:
            if os.path.lexists(path):
                os.rename(path, old)
            os.rename(draft, path)
        except BaseException:
            if os.path.lexists(old) and not os.path.lexists(path):
                os.rename(old, path)
            raise


@contextlib.contextmanager
def new_folder(path: PathLike) -> Iterator[Path]:
    """An empty folder to fill, which appears at `path` when the block ends without error.

    In a remote store its files appear one after the other.

    Raises: see `new_file`.
    """
    check_new(path)
    if is_remote(path):
        with _uploaded(path) as draft:
            yield draft
        return
    path = Path(address(path))
    with scratch(path) as folder:
        draft = folder / path.name
        draft.mkdir()
        yield draft
        place(draft, path)


@contextlib.contextmanager
def _uploaded(path: PathLike) -> Iterator[Path]:
    """A draft of a folder, whose files go to a remote store at the end."""
    with _draft_of(address(path), folder=True) as draft:
        yield draft
        _upload(draft, address(path))


@contextlib.contextmanager
def new_files(path: PathLike) -> Iterator[Path]:
    """As `new_folder`, but a folder may be there: then all files in the draft join its own.

    Raises:
        FileExistsError: if one of the files, or a file in the folder's place, is there. Then
            none of them is added.
        ImportError: if it is an URL, and what writes there is not installed.
    """
    if is_remote(path):
        with _uploaded(path) as draft:
            yield draft
        return
    path = Path(address(path))
    if not path.is_dir():
        with new_folder(path) as draft:
            yield draft
        return
    with scratch(path) as held:
        draft = held / path.name
        draft.mkdir()
        yield draft
        # An empty folder is replaced in one step, unless others hold it or put something there.
        if not any(path.iterdir()):
            with contextlib.suppress(OSError):
                os.rename(draft, path)
                return
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
    names = [name for name in remote.names_in(folder) if re.fullmatch("[0-9]+", name)]
    return 1 + max(map(int, names), default=0)


def new_version(folder: PathLike, fill: Callable[[Path], None]) -> Path | str:
    """Makes a folder that gets the next free number as its name.

    The number is chosen when the folder is complete: of two processes that write at once each
    gets its own, but in a remote store, where no number can be taken before its files are there.

    Args:
        folder: folder of the versions, made if there is none.
        fill: called with an empty local folder, which it fills.

    Returns:
        `folder / "<number>"`, or the URL of that as text.

    Raises:
        ImportError: if it is an URL, and what writes there is not installed.
    """
    if is_remote(folder):
        with _draft_of(address(folder), folder=True) as draft:
            fill(draft)
            url = remote.join(folder, str(next_version(folder)))
            _upload(draft, url)
            return url
    folder = Path(address(folder))
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
