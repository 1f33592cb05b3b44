"""What is asked of a kind of column: to be read, counted, encoded, asked for and served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from tfmoe.data.arrow import decoded, to_ints, to_text
from tfmoe.data.kinds import to_arrow
from tfmoe.data.read.tables import one_array
from tfmoe.schema.columns import MISSING_INT, MISSING_STRING

if TYPE_CHECKING:
    import pandas as pd

    from tfmoe.data.encode.vocabulary import Vocabulary
    from tfmoe.schema.schema import Schema

# What a request has where a value is missing.
MISSING = {"string": MISSING_STRING, "int64": MISSING_INT, "float64": np.nan}


class Codec:
    """What to do with the cells of one column, in NumPy and, to the bit, in a graph.

    `fitted` is a `Fitted` or a `Preprocessor`, which have by the same names what was fitted:
    `numeric`, `tables`, `dtypes`, `lengths` and, for kinds with a `count`, `fits`.

    Args:
        column: the column.
        schema: the `Schema` that it is of.
    """

    #: The class of what `fit` returns, None if that is nothing.
    fit_kind: ClassVar[Any] = None

    def __init__(self, column: Any, schema: Schema) -> None:
        self.column = column
        self.schema = schema

    @property
    def needs_fit(self) -> bool:
        """Whether it cannot be encoded with what the schema says alone."""
        return False

    @property
    def dtype(self) -> str | None:
        """`"int"` or `"string"`, if it brings along a table of values, else None."""
        return None

    def kinds(self, dtypes: Mapping[str, str | None]) -> dict[str, str | None]:
        """Its raw columns and what each should hold; see `rows.required_columns`."""
        raise NotImplementedError

    def nothing(self) -> Any:
        """What `count` begins with, a dataclass that has a `merge`; None if nothing is counted."""
        return None

    def count(self, chunk: Mapping[str, pa.Array], seen: Any) -> Any:
        """What was seen, and the cells of a chunk."""
        raise NotImplementedError

    def fit(self, seen: Any) -> Any:
        """What was seen as what encoding needs: a frozen dataclass of plain data, or None."""
        return None

    def grown(self, fit: Any, seen: Any) -> Any:
        """What was fitted, for a Preprocessor that grows.

        Args:
            fit: what was fitted before, None of a new column.
            seen: all that was counted, before and later; None if the fit is to stay.
        """
        return fit if fit is not None and seen is None else self.fit(seen)

    def adopt(self, fit: Any) -> None:
        """Takes over an earlier fit, for what a saved schema does not tell."""

    def take_over(self, other: Any) -> None:
        """Adopts what another codec of the same column has adopted or read."""

    def notice(self, seen: Any) -> str | None:
        """What a user should know of what was seen."""
        return None

    def width(self, fit: Any) -> int | None:
        """Its length, if the column `is_sized`."""
        return self.column.width

    def vocabulary(self, fit: Any) -> Vocabulary | None:
        """The table of values that a fit brings along, if it has one."""
        return None

    def check(self, fit: Any) -> bool:
        """Whether a fit, which may come from a stranger's file, is one that encoding can use."""
        return True

    def encode(self, chunk: Mapping[str, pa.Array], fitted: Any) -> dict[str, np.ndarray]:
        """Features by name: float32 or int32, `(n,)` or `(n, width)`.

        Raises:
            TypeError, ValueError: if a cell is none of the column's.
        """
        raise NotImplementedError

    def signature(self, fitted: Any) -> dict[str, tuple[str, int]]:
        """What a request has for it, by name: "float64", "int64" or "string", and how many axes."""
        raise NotImplementedError

    def request(self, df: pd.DataFrame, fitted: Any) -> dict[str, np.ndarray]:
        """Raw cells of a DataFrame as a request has them."""
        raise NotImplementedError

    def hold(self, encoder: Any) -> None:
        """Puts the tables that its graph looks up into those of the `GraphEncoder`."""

    def graph(self, raw: Mapping[str, Any], encoder: Any) -> dict[str, Any]:
        """A request's tensors to features by name; `encoder` is the `GraphEncoder`."""
        raise NotImplementedError

    def sample(self, fitted: Any, num_rows: int, generator: np.random.Generator) -> list[Any]:
        """Raw cells made up from what was fitted; the second half has missing and odd ones."""
        raise NotImplementedError

    def typical(self, fitted: Any, row: int) -> Any:
        """A raw cell for people to read, of which there are three."""
        raise NotImplementedError


def single_values(
    cells: Any, name: str, text: bool, missing: tuple[str | int, ...] = ()
) -> np.ndarray:
    """Cells as text or integers, with what a request has where one is missing.

    Args:
        cells: a column of a table in memory.
        name: the column's name, for errors.
        text: bool, which of the two.
        missing: the texts that stand for a missing integer.

    Raises:
        TypeError: if a cell is none of them, as encoding raises it.
    """
    return single_of(one_array(to_arrow(cells, name)), name, text, missing)


def single_of(
    array: pa.Array, name: str, text: bool, missing: tuple[str | int, ...] = ()
) -> np.ndarray:
    """The same of an Arrow array."""
    if not text:
        return to_ints(array, name, missing)
    return np.array(
        [MISSING_STRING if c is None else c for c in decoded(to_text(array, name)).to_pylist()],
        object,
    )
