"""What every reader is, and what all readers share."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Protocol

import pyarrow as pa

# Rows of a chunk, about: enough for Arrow to be quick, few enough for several to be held.
# Readers look it up here, at each use.
CHUNK_ROWS = 65_536

Chunk = dict[str, pa.Array]


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
        """The columns' names."""
        ...

    def read(self, kinds: Mapping[str, str | None]) -> Iterator[Chunk]:
        """Yields chunks of about `CHUNK_ROWS` rows, each a dict of Arrow arrays.

        Args:
            kinds: the columns to read, and what each should hold; see
                `tfmoe.data.encode.rows.required_columns`. Readers of files whose columns have
                types take these.
        """
        ...


def one_array(chunked: pa.ChunkedArray) -> pa.Array:
    """A chunked array as one, without a copy if it has one chunk."""
    return chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks()


def check_names(names: Iterable[str], wanted: Iterable[str], path: str | None = None) -> None:
    """Raises ValueError if a table has one of the wanted names twice."""
    names = list(names)
    repeated = sorted({str(name) for name in wanted if names.count(name) > 1})
    if repeated:
        where = f" in {path}" if path else ""
        raise ValueError(
            f"A table needs different column names. Received {repeated} twice{where}. "
            "Rename or drop one of them."
        )
