"""Values of raw columns that are no inputs: exact codes of groups and segments of rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmoe.data import arrow
from tfmoe.data.kinds import is_list, is_text
from tfmoe.data.numerals import whole_spelling

# What a missing value has in place of a code.
NO_VALUE = -1


class ValueCodes:
    """Codes of a raw column's values: equal ones of equal values, others of others, none hashed.

    Codes are 0, 1, ... in the order in which the values first come, over all chunks that are
    asked for. Values are compared by what they say: 7, `"7"` and 7.0 are one.
    Null, NaN and an empty text are missing. About 100 bytes a value are held.

    Args:
        name: the column's name, for errors.

    Attributes:
        texts: list of str, each code's value.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.texts: list[str] = []
        self._codes: dict[str, int] = {}

    def codes(self, array: pa.Array) -> np.ndarray:
        """Each cell's code, int32 `(n,)`; -1 where it is missing.

        Raises:
            TypeError: if cells are lists.
        """
        if is_list(array.type):
            raise TypeError(
                f"Rows are grouped by a column of single values. Received column {self.name!r} of "
                f"{array.type}. Name another one."
            )
        found = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
        own = np.empty(len(found.dictionary) + 1, np.int32)
        own[-1] = NO_VALUE
        for place, text in enumerate(_texts(found.dictionary, self.name)):
            own[place] = NO_VALUE if not text else self._code(text)
        return own[pc.fill_null(found.indices.cast(pa.int64()), -1).to_numpy()]

    def _code(self, text: str) -> int:
        code = self._codes.setdefault(text, len(self.texts))
        if code == len(self.texts):
            self.texts.append(text)
        return code


def _texts(values, name):
    """Values as text, None where missing; of any type."""
    kind = values.type
    if pa.types.is_floating(kind):
        return map(_of_float, values.cast(pa.float64()).to_pylist())
    if pa.types.is_decimal(kind):
        return map(_of_decimal, values.to_pylist())
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or is_text(kind):
        return whole_spelling(arrow.to_text(values, name)).to_pylist()
    return values.cast(pa.string()).to_pylist()  # times


def _of_float(value):
    if value is None or value != value:
        return None
    return str(int(value)) if value.is_integer() else repr(value)


def _of_decimal(value):
    if value is None:
        return None
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
