"""Tables in memory as a source of rows."""

import pandas as pd

from tfmoe.data.arrow import to_arrow
from tfmoe.data.read.tables import CHUNK_ROWS, _check_names, _one_array


class TablePiece:
    """A table in memory: DataFrame, or mapping of names to arrays of equal length."""

    file = 0

    def __init__(self, table):
        self._table = table
        # pandas names columns by numbers where it is told no names; schemas name them by text.
        named = [(str(name), name) for name in table]
        self.names = [text for text, _ in named]
        _check_names(self.names, self.names)
        self._named = dict(named)
        if isinstance(table, pd.DataFrame):
            self.num_rows = len(table)
            return
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
        self.num_rows = next(iter(lengths.values()), 0)

    def read(self, kinds):
        """Yields dicts of Arrow arrays, `CHUNK_ROWS` rows or fewer, of the columns `kinds`."""
        arrays = {name: to_arrow(self._table[self._named[name]], name) for name in kinds}
        for start in range(0, self.num_rows, CHUNK_ROWS):
            yield {
                name: _one_array(array.slice(start, CHUNK_ROWS)) for name, array in arrays.items()
            }
