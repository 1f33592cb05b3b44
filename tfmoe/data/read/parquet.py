"""Parquet files, read by row groups."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.parquet

from tfmoe.data.arrow import is_text
from tfmoe.data.read import tables


class ParquetFragment:
    """Some neighbouring row groups of a Parquet file, together at least a chunk."""

    def __init__(
        self, path: str, file: int, schema: pa.Schema, groups: list[int], num_rows: int
    ) -> None:
        self.path = path
        self.file = file
        self.names = schema.names
        self.num_rows = num_rows
        self._groups = groups
        self._schema = schema

    @classmethod
    def all_of(cls, path: str, file: int) -> list[ParquetFragment]:
        """The fragments of a file."""
        try:
            with pyarrow.parquet.ParquetFile(path) as opened:
                metadata, schema = opened.metadata, opened.schema_arrow
        except pa.ArrowInvalid as error:
            raise ValueError(f"Received {path}, which is no Parquet file: {error}.") from error
        fragments: list[ParquetFragment] = []
        groups: list[int] = []
        rows = 0
        for group in range(metadata.num_row_groups):
            groups.append(group)
            rows += metadata.row_group(group).num_rows
            if rows >= tables.CHUNK_ROWS or group == metadata.num_row_groups - 1:
                fragments.append(cls(path, file, schema, groups, rows))
                groups, rows = [], 0
        return fragments or [cls(path, file, schema, [], 0)]

    def first(self, num_rows: int = 1, text: str | None = None) -> pa.Table:
        """The first rows, at most `num_rows`, as a `pa.Table`; `text` is for CSV files."""
        with pyarrow.parquet.ParquetFile(self.path) as opened:
            batches = opened.iter_batches(num_rows, row_groups=self._groups)
            return pa.Table.from_batches(itertools.islice(batches, 1), self._schema)

    def read(self, kinds: Mapping[str, str | None]) -> Iterator[tables.Chunk]:
        tables.check_names(self.names, kinds, self.path)
        # Text arrives as the file has it, a dictionary and places in it.
        text = [name for name in kinds if is_text(self._schema.field(name).type)]
        size, columns = tables.CHUNK_ROWS, list(kinds)
        with pyarrow.parquet.ParquetFile(self.path, read_dictionary=text) as opened:
            for batch in opened.iter_batches(size, row_groups=self._groups, columns=columns):
                yield {name: batch.column(name) for name in kinds}
