"""Files that Arrow keeps by record batches, Arrow IPC (Feather), and by stripes, ORC."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from tfmoe import remote
from tfmoe.data.kinds import plain
from tfmoe.data.read import tables

# Of a file behind an URL, for its parts are read in any order.
_AHEAD = 1 << 20
# Parts of a file that are looked at to tell what its columns hold.
_LOOKS = 4


class _Opened(Protocol):
    """A file that is read part by part."""

    schema: pa.Schema

    @property
    def num_rows(self) -> int | None:
        """Its rows, or None where they would have to be read."""
        ...

    def parts(self, columns: list[str], spread: int | None = None) -> Iterator[pa.RecordBatch]:
        """Its parts, with some columns; of `spread` only so many, from all over the file."""
        ...


class ColumnarFragment:
    """A whole file of typed columns: `.arrow` and `.feather` (IPC, as a file or a stream), `.orc`.

    Args:
        path: str.
        file: number of the file in its source.
    """

    def __init__(self, path: str, file: int) -> None:
        self.path = path
        self.file = file
        self._is_orc = remote.without_query(path).lower().endswith(".orc")
        with self._opened() as opened:
            self._schema = opened.schema
            self.num_rows = opened.num_rows
        self.names = tables.Names(self._schema.names, path)

    @contextmanager
    def _opened(self) -> Iterator[_Opened]:
        kind = "ORC" if self._is_orc else "Arrow IPC"
        try:
            yield _Orc(self.path) if self._is_orc else _ipc(self.path)
        except (FileNotFoundError, PermissionError, IsADirectoryError, remote.RemoteError):
            raise
        except pa.ArrowNotImplementedError as error:
            raise TypeError(
                f"A file's columns must be of types that are read. Received {self.path}: {error}. "
                "Write the column as numbers, text or lists of these."
            ) from error
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"Received {self.path}, which is no whole {kind} file: {error}. Write it again."
            ) from error

    def read(self, kinds: Mapping[str, str | None]) -> Iterator[tables.Chunk]:
        """See `Fragment.read`."""
        tables.check_names(self.names, kinds, self.path)
        columns = list(kinds)
        start = 0
        with self._opened() as opened:
            for table in tables.sized(opened.parts(columns)):
                yield self._chunk(table, columns, start)
                start += table.num_rows

    def look(self, num_rows: int) -> tables.Chunk:
        """See `Fragment.look`; parts from all over the file."""
        tables.check_names(self.names, self.names, self.path)
        with self._opened() as opened:
            own = list(opened.parts(self.names, _LOOKS))
        own = [part.slice(0, num_rows // len(own) + 1) for part in own]
        return self._chunk(pa.Table.from_batches(own, self._schema), self.names, 0)

    def _chunk(self, table, columns, start):
        found = {name: plain(tables.one_array(table[name])) for name in columns}
        return tables.Chunk(found, self.path, start)


class _Orc:
    def __init__(self, path: str) -> None:
        import pyarrow.orc

        self._file = pyarrow.orc.ORCFile(remote.opened(path, _AHEAD))
        self.schema = self._file.schema
        self.num_rows: int | None = self._file.nrows

    def parts(self, columns, spread=None):
        for number in _spread(self._file.nstripes, spread):
            yield self._file.read_stripe(number, columns).select(columns)


class _IpcFile:
    def __init__(self, source: Any, path: str) -> None:
        self._source = source
        self._reader = pa.ipc.open_file(source)
        self.schema = self._reader.schema
        self._path = path

    @property
    def num_rows(self) -> int | None:
        """Of a file behind an URL None, for each batch would have to be fetched for it."""
        if remote.is_remote(self._path):
            return None
        batches = range(self._reader.num_record_batches)
        return sum(self._reader.get_batch(number).num_rows for number in batches)

    def parts(self, columns, spread=None):
        # Only what is wanted is decompressed, or fetched.
        places = [self.schema.get_field_index(name) for name in columns]
        options = pa.ipc.IpcReadOptions(included_fields=sorted(places))
        reader = pa.ipc.open_file(self._source, options=options)
        for number in _spread(reader.num_record_batches, spread):
            yield reader.get_batch(number).select(columns)


class _IpcStream:
    """The same without a list of batches at its end, as data sets on hubs are written."""

    num_rows: int | None = None

    def __init__(self, source: Any) -> None:
        self._reader = pa.ipc.open_stream(source)
        self.schema = self._reader.schema

    def parts(self, columns, spread=None):
        batches = itertools.islice(self._reader, spread)
        return (batch.select(columns) for batch in batches)


def _ipc(path: str) -> _Opened:
    source = remote.opened(path, _AHEAD)
    source = pa.memory_map(path) if isinstance(source, str) else source
    mark = source.read(6)
    source.seek(0)
    if mark == b"ARROW1":
        return _IpcFile(source, path)
    if mark[:4] == b"FEA1":
        raise pa.ArrowInvalid("it is of Feather's version 1, which only pyarrow.feather reads")
    return _IpcStream(source)


def _spread(count: int, wanted: int | None) -> list[int]:
    if wanted is None or not count:
        return list(range(count))
    return np.unique(np.linspace(0, count - 1, wanted).astype(int)).tolist()
