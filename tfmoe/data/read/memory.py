"""Tables in memory: DataFrames, dicts of arrays, and record batches that come one by one."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd
import pyarrow as pa

from tfmoe.data.kinds import plain, to_arrow
from tfmoe.data.numerals import numbers
from tfmoe.data.read import tables


class TableFragment:
    """A table in memory: DataFrame, or mapping of names to arrays of equal length."""

    file = 0

    def __init__(self, table: pd.DataFrame | Mapping[Any, Any], part: str = "") -> None:
        self._table = table
        self._part = part
        # pandas names columns by numbers where it is told no names; schemas name them by text.
        named = [(str(name), name) for name in table]
        self.names = [text for text, _ in named]
        tables.check_names(self.names, self.names)
        self._named = dict(named)
        self.num_rows = len(table) if isinstance(table, pd.DataFrame) else _common_length(table)

    def read(self, kinds: Iterable[str] | Mapping[str, str | None]) -> Iterator[tables.Chunk]:
        wanted = kinds if isinstance(kinds, Mapping) else dict.fromkeys(kinds)
        arrays = {
            name: to_arrow(self._table[self._named[name]], name, numbers=kind in ("float", "int"))
            for name, kind in wanted.items()
        }
        for start in range(0, self.num_rows, tables.CHUNK_ROWS):
            columns = {
                name: tables.one_array(array.slice(start, tables.CHUNK_ROWS))
                for name, array in arrays.items()
            }
            yield tables.Chunk(columns, start=start, part=self._part)

    def look(self, num_rows: int) -> tables.Chunk:
        """All rows: they lie in memory."""
        columns, unread = {}, {}
        for name in self.names:
            try:
                columns[name] = tables.one_array(self._seen(name))
            except TypeError as error:
                unread[name] = str(error)
        chunk = tables.Chunk(columns, part=self._part)
        chunk.unread = unread
        return chunk

    def _seen(self, name):
        """A column; one of numbers and texts only if the texts stand for missing numbers."""
        values = self._table[self._named[name]]
        try:
            return to_arrow(values, name)
        except TypeError:
            array = to_arrow(values, name, numbers=True)
            if any(len(numbers(chunk).bad) for chunk in array.chunks):
                raise
            return array


def held(rows: Any, part: str = "") -> TableFragment | None:
    """The fragment of a DataFrame or another table of Arrow columns; None for anything else.

    Args:
        rows: pandas DataFrame, or what Arrow's stream interface exports: of Polars, of pyarrow.
        part: words for where the rows are, for errors.
    """
    if isinstance(rows, pd.DataFrame):
        return TableFragment(rows, part)
    if not hasattr(rows, "__arrow_c_stream__"):
        return None
    table = pa.table(rows)
    tables.check_names(table.column_names, table.column_names)
    return TableFragment(dict(zip(table.column_names, table.columns, strict=True)), part)


class BatchesFragment:
    """Arrow record batches as they come, of some columns; they can be read only once.

    Args:
        batches: iterable of `pa.RecordBatch`.
        names: the columns of them.
        part: words for where they come from, for errors.
    """

    file = 0
    num_rows = None

    def __init__(
        self, batches: Iterable[pa.RecordBatch], names: Iterable[str], part: str = ""
    ) -> None:
        self._batches = batches
        self._part = part
        self.names = list(names)

    def read(self, kinds: Mapping[str, str | None]) -> Iterator[tables.Chunk]:
        """See `Fragment.read`."""
        start = 0
        for table in tables.sized(self._batches):
            columns = {name: plain(tables.one_array(table[name])) for name in kinds}
            yield tables.Chunk(columns, start=start, part=self._part)
            start += table.num_rows

    def look(self, num_rows: int) -> tables.Chunk:
        """See `Fragment.look`; the first rows, which are not read again."""
        chunk = next(self.read(dict.fromkeys(self.names)), None)
        first = {name: array.slice(0, num_rows) for name, array in (chunk or {}).items()}
        return tables.Chunk(first, part=self._part)


def _common_length(table):
    single = [name for name, values in table.items() if not hasattr(values, "__len__")]
    if single:
        raise TypeError(
            "A table given as a dict needs an array for each column. Received a single value "
            f"for {single}. A table of one row has arrays of one value."
        )
    lengths = {name: len(values) for name, values in table.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            "A table given as a dict needs arrays of equal length. Received lengths "
            f"{lengths}. Cut or fill them."
        )
    return next(iter(lengths.values()), 0)
