"""Files that must be what they were when a source was opened."""

from collections.abc import Collection, Iterator, Mapping

from tfmoe import remote
from tfmoe.data.read import tables
from tfmoe.remote import Stamp


class WatchedFragment:
    """A fragment of a file that is looked at before each reading: one stat, or one request.

    Args:
        fragment: `Fragment`.
        path: the file.
        stamp: what it was when it was found.
    """

    def __init__(self, fragment: tables.Fragment, path: str, stamp: Stamp) -> None:
        self._fragment = fragment
        self._path = path
        self._stamp = stamp
        self.file = fragment.file

    @property
    def num_rows(self) -> int | None:
        """See `Fragment`."""
        return self._fragment.num_rows

    @property
    def names(self) -> Collection[str]:
        """See `Fragment.names`."""
        return self._fragment.names

    def read(self, kinds: Mapping[str, str | None]) -> Iterator[tables.Chunk]:
        """See `Fragment.read`.

        Raises:
            OSError: if the file is another one now, or gone.
        """
        self._check()
        yield from self._fragment.read(kinds)

    def look(self, num_rows: int) -> tables.Chunk:
        """See `Fragment.look`; raises as `read`."""
        self._check()
        return self._fragment.look(num_rows)

    def _check(self):
        try:
            found = remote.stamp(self._path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                "The files of a source must stay as long as it is read. Received "
                f"{self._path}, which is gone since the source was opened. Put it back, or open "
                "the source again."
            ) from error
        if found == self._stamp:
            return
        what = (
            f"which has {found[0]:,} bytes now and had {self._stamp[0]:,}"
            if found[0] != self._stamp[0]
            else "which was written again"
        )
        raise OSError(
            "The files of a source must not change as long as it is read. Received "
            f"{self._path}, {what}, since the source was opened. Write changes to a new file, or "
            "make the dataset again, which is then read as it is."
        )
