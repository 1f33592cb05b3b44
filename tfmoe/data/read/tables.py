"""What every reader is, and what all readers share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import pyarrow as pa

from tfmoe.data.kinds import plain

# Rows of a chunk, about: enough for Arrow to be quick, few enough for several to be held.
# Readers look it up here, at each use.
CHUNK_ROWS = 65_536


class Chunk(dict[str, pa.Array]):
    """Columns of some neighbouring rows, and where these come from.

    Args:
        columns: dict of Arrow arrays of equal length.
        path: the file, or None for a table in memory.
        start: place of the first row in the file or table, from 0.
        part: words for a part of the file, such as its row group.
        untyped: whether the source has but text, as a CSV file.

    Attributes:
        unread: columns that a look could not read, and why.
    """

    def __init__(
        self,
        columns: Mapping[str, pa.Array],
        path: str | None = None,
        start: int = 0,
        part: str = "",
        untyped: bool = False,
    ) -> None:
        super().__init__(columns)
        self.path = path
        self.start = start
        self.part = part
        self.untyped = untyped
        self.unread: dict[str, str] = {}

    def head(self, num_rows: int) -> Chunk:
        """The first rows of the chunk."""
        columns = {name: array.slice(0, num_rows) for name, array in self.items()}
        return Chunk(columns, self.path, self.start, self.part, self.untyped)

    def place(self, row: int | None) -> str:
        """Words for a row of the chunk, or for the chunk."""
        if row is not None:
            rows = f"row {self.start + row:,} (from 0)"
        else:
            last = self.start + len(next(iter(self.values()), ())) - 1
            rows = f"rows {self.start:,} to {last:,} (from 0)"
        parts = [rows, self.part, f"of {self.path}" if self.path else ""]
        return " ".join(part for part in parts if part)


@contextmanager
def placed(chunk: Mapping[str, pa.Array]) -> Iterator[None]:
    """Errors about a chunk's cells say which rows of which file these are of.

    Raises:
        TypeError, ValueError: those that came up, with the place; and a TypeError in the place
            of an error of Arrow's own, which no user should see.
    """
    try:
        yield
    except (TypeError, ValueError, pa.ArrowException) as error:
        where = chunk.place(getattr(error, "row", None)) if isinstance(chunk, Chunk) else ""
        if isinstance(error, pa.ArrowException | UnicodeError):
            raise TypeError(
                f"The table's cells must be of types that its columns read. Received {where}, of "
                f"the types { {name: str(array.type) for name, array in chunk.items()} }: {error}. "
                "Convert the column to numbers, text or lists of these."
            ) from error
        if not where:
            raise
        raise type(error)(f"{error} Received it in {where}.") from error


class Fragment(Protocol):
    """Some rows of a source: a table, a CSV file, some row groups of a Parquet file.

    Attributes:
        file: number of the file it belongs to, for workers that share by files.
        num_rows: number of its rows, or None if that is not known without reading.
    """

    file: int

    @property
    def num_rows(self) -> int | None: ...

    @property
    def names(self) -> Collection[str]:
        """The columns' names; of a file, with its `path`."""
        ...

    def read(self, kinds: Mapping[str, str | None]) -> Iterator[Chunk]:
        """Yields chunks of about `CHUNK_ROWS` rows, each a dict of Arrow arrays.

        Args:
            kinds: the columns to read, and what each should hold; see
                `tfmoe.data.encode.rows.required_columns`. Readers of files whose columns have
                types take these.
        """
        ...

    def look(self, num_rows: int) -> Chunk:
        """Some of the rows, about `num_rows`, from all over the fragment; all columns."""
        ...


class Names(list[str]):
    """Names of columns, and the file that has them, for errors."""

    def __init__(self, names: Iterable[str], path: str) -> None:
        super().__init__(names)
        self.path = path


def one_array(chunked: pa.ChunkedArray) -> pa.Array:
    """A chunked array as one, without a copy if it has one chunk; the others become `plain`."""
    if chunked.num_chunks < 2:
        return chunked.chunk(0) if chunked.num_chunks else chunked.combine_chunks()
    # Before they are joined: places of few bits have no room for the values of all dictionaries.
    chunks = [plain(chunk) for chunk in chunked.chunks]
    return pa.chunked_array(chunks).combine_chunks()


def sized(parts: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Parts cut, and small ones joined, to tables of about `CHUNK_ROWS` rows."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for part in parts:
        for start in range(0, part.num_rows, CHUNK_ROWS):
            waiting.append(part.slice(start, CHUNK_ROWS))
            rows += waiting[-1].num_rows
            if rows >= CHUNK_ROWS:
                yield pa.Table.from_batches(waiting)
                waiting, rows = [], 0
    if rows:
        yield pa.Table.from_batches(waiting)


def check_names(names: Iterable[str], wanted: Iterable[str], path: str | None = None) -> None:
    """Raises ValueError if a table has one of the wanted names twice."""
    counts = Counter(names)
    repeated = sorted({str(name) for name in wanted if counts[name] > 1})
    if repeated:
        where = f" in {path}" if path else ""
        raise ValueError(
            f"A table needs different column names. Received {repeated} twice{where}. "
            "Rename or drop one of them."
        )
