"""CSV and TSV files."""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from tfmoe.data.read import tables

# CSV files are parsed in blocks of this size, and a row may not be longer. Larger blocks
# leave the cache and take up to half as long again; chunks are concatenated afterwards.
_BLOCK_BYTES = 1 << 20


class CsvFragment:
    """A CSV or TSV file, perhaps gzipped: UTF-8, a header line, empty cells missing.

    A category's `12.0` is read as `12` where the first block has only whole floats: so writes
    pandas integers with gaps, and any part of them.
    """

    num_rows = None

    def __init__(self, path: str, file: int) -> None:
        self.path = path
        self.file = file

    def _open(self, columns=None, types=None, prefetch=True):
        delimiter = "\t" if ".tsv" in Path(self.path).name.lower() else ","
        convert = pyarrow.csv.ConvertOptions(
            column_types=types,
            include_columns=columns,
            null_values=[""],
            strings_can_be_null=True,
        )
        return pyarrow.csv.open_csv(
            self.path,
            read_options=pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=prefetch),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=convert,
        )

    def first(self, num_rows: int = 1, text: str | None = None) -> pa.Table:
        """The first rows, `num_rows` or more if there are, as a table of types that fit them.

        Args:
            num_rows: int.
            text: a column that is left as text, or None.
        """
        batches, rows = [], 0
        types = None if text is None else {text: pa.string()}
        try:
            with self._open(types=types, prefetch=False) as reader:
                while rows < num_rows:
                    batches.append(reader.read_next_batch())
                    rows += batches[-1].num_rows
        except StopIteration:
            pass
        except (pa.ArrowInvalid, OSError) as error:
            raise self._unreadable(error) from error
        return pa.Table.from_batches(batches, reader.schema)

    @cached_property
    def _inferred(self):
        """The first block's schema, and the names of its columns of whole floats."""
        table = self.first()
        columns = zip(table.column_names, table.columns, strict=True)
        floats = {n: cells for n, cells in columns if pa.types.is_floating(cells.type)}
        whole = [
            n for n, cells in floats.items() if pc.all(pc.equal(pc.floor(cells), cells)).as_py()
        ]
        return table.schema, whole

    @property
    def names(self) -> list[str]:
        return self._inferred[0].names

    def _type(self, name, kind):
        inferred = self._inferred[0].field(name).type
        if kind == "float":
            return inferred if pa.types.is_boolean(inferred) else pa.float64()
        if kind in ("string", "text", "list"):
            return pa.string()
        # Integers with gaps may have been written as 3.0: keep what the file has.
        if pa.types.is_integer(inferred) or pa.types.is_floating(inferred):
            return inferred
        if pa.types.is_null(inferred):
            # All that may read a column in two ways reads numbers.
            return pa.int64() if kind == "int" else pa.float64()
        return pa.string()

    def read(self, kinds: Mapping[str, str | None]) -> Iterator[tables.Chunk]:
        tables.check_names(self.names, kinds, self.path)
        types = {name: self._type(name, kind) for name, kind in kinds.items()}
        try:
            with self._open(list(types), types) as reader:
                for chunk in _chunks(reader):
                    yield {n: self._category(chunk[n], n, kinds[n]) for n in types}
        except (pa.ArrowInvalid, OSError) as error:
            raise self._unreadable(error) from error

    def _category(self, array, name, kind):
        if kind != "string" or name not in self._inferred[1]:
            return array
        return pc.replace_substring_regex(array, r"^(-?[0-9]+)\.0\z", r"\1")

    def _unreadable(self, error):
        if isinstance(error, FileNotFoundError):
            return error
        if isinstance(error, OSError):
            return OSError(f"Received {self.path}, which is cut off or no gzip file: {error}.")
        place = re.search(r"CSV column #(\d+)", str(error))
        if place is None:
            return ValueError(
                "A CSV file needs a header line and rows of as many cells, in UTF-8, of at most "
                f"1 MB a row. Received {self.path}: {error}. Repair the file."
            )
        name = self.names[int(place[1])]
        return TypeError(
            f"Column {name!r} of {self.path} does not hold what the schema says: {error}. "
            "Correct the cell, or the column's kind or dtype in the schema."
        )


def _chunks(batches: Iterable[pa.RecordBatch]) -> Iterator[tables.Chunk]:
    """Small record batches concatenated to chunks of at least `CHUNK_ROWS` rows."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= tables.CHUNK_ROWS:
            yield _columns(waiting)
            waiting, rows = [], 0
    if rows:
        yield _columns(waiting)


def _columns(batches):
    table = pa.Table.from_batches(batches)
    return {name: tables.one_array(table[name]) for name in table.column_names}
