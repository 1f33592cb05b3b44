"""Tables in memory: DataFrames, and dicts of arrays."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from tfmoe.data.arrow import to_arrow
from tfmoe.data.read import tables


class TableFragment:
    """A table in memory: DataFrame, or mapping of names to arrays of equal length."""

    file = 0

    def __init__(self, table: pd.DataFrame | Mapping[Any, Any]) -> None:
        self._table = table
        # pandas names columns by numbers where it is told no names; schemas name them by text.
        named = [(str(name), name) for name in table]
        self.names = [text for text, _ in named]
        tables.check_names(self.names, self.names)
        self._named = dict(named)
        self.num_rows = len(table) if isinstance(table, pd.DataFrame) else _common_length(table)

    def read(self, kinds: Iterable[str]) -> Iterator[tables.Chunk]:
        arrays = {name: to_arrow(self._table[self._named[name]], name) for name in kinds}
        for start in range(0, self.num_rows, tables.CHUNK_ROWS):
            yield {
                name: tables.one_array(array.slice(start, tables.CHUNK_ROWS))
                for name, array in arrays.items()
            }


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
