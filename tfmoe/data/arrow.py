"""Raw columns as Arrow or NumPy arrays of one known type, with clear errors.

Arrow infers what a raw column holds; the schema says what it should hold. These
functions bring the one to the other without looking at single rows, and say which
column, which type and which value is at fault when that is impossible.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmoe.schema.columns import MISSING_INT, MultiCategorical

_REMEDY = {
    "numbers": "Convert the column, or declare it Categorical.",
    "integers": 'Convert the column, or declare dtype="string".',
    "strings or integers": "Convert the column to strings, or declare it Numeric.",
    "lists": "Make each cell a list, or give `separator` if cells are strings to be split.",
    "single values": "Declare the column MultiCategorical or Sequence if its cells are lists.",
}


def to_arrow(values: Any, name: str) -> pa.ChunkedArray:
    """A column of a table in memory as an Arrow array; NaN becomes null.

    Args:
        values: pandas Series, NumPy array `(n,)` or `(n, l)`, Arrow array or list.
        name: the column's name, for errors.

    Returns:
        `pa.ChunkedArray` of n cells.

    Raises:
        TypeError: if the cells are of several types, or of none that Arrow knows.
    """
    try:
        if isinstance(values, pa.ChunkedArray):
            return values
        if isinstance(values, np.ndarray) and values.ndim == 2:
            flat = pa.array(values.ravel(), from_pandas=True)
            return pa.chunked_array([pa.FixedSizeListArray.from_arrays(flat, values.shape[1])])
        array = values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True)
    except (pa.ArrowException, OverflowError, UnicodeError, ValueError) as error:
        raise TypeError(
            f"Column {name!r} must hold values of one type, or lists of one type. Received "
            f"cells that do not fit together: {error}. Convert the column to one type."
        ) from error
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


def is_list(kind: pa.DataType) -> bool:
    """Whether Arrow type `kind` is one of its types of lists."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or _is_fixed(kind)


def _is_fixed(kind):
    return pa.types.is_fixed_size_list(kind)


def is_text(kind: pa.DataType) -> bool:
    """Whether Arrow type `kind` holds text or bytes, dictionary-encoded or not."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def wrong_type(name: str, expected: str, array: pa.Array, example: object = None) -> TypeError:
    """The error for a column that does not hold what the schema says."""
    if example is None:
        present = array.drop_null()
        example = present[0].as_py() if len(present) else None
    return TypeError(
        f"Column {name!r} must hold {expected}. Received {array.type}, for example "
        f"{example!r}. {_REMEDY[expected]}"
    )


def to_floats(array: pa.Array, name: str) -> np.ndarray:
    """Numbers as float64 `(n,)`; null becomes NaN.

    Raises:
        TypeError: if the column does not hold numbers or booleans.
    """
    array = decoded(array)
    kind = array.type
    if pa.types.is_float64(kind) and not array.null_count:
        return array.to_numpy()
    numeric = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    if not (numeric or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
        raise wrong_type(name, "single values" if is_list(kind) else "numbers", array)
    if pa.types.is_boolean(kind):
        array = array.cast(pa.int8())
    # safe=False: integers above 2**53 are rounded rather than refused.
    return array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def to_ints(array: pa.Array, name: str) -> np.ndarray:
    """Integers as int64 `(n,)`; null becomes `MISSING_INT`.

    Whole floats count as integers: pandas turns integers with gaps into floats.

    Raises:
        TypeError: if the column holds anything else.
    """
    array = decoded(array)
    kind = array.type
    if pa.types.is_floating(kind):
        return _whole(array, name)
    if not (pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise wrong_type(name, "single values" if is_list(kind) else "integers", array)
    try:
        return array.cast(pa.int64()).fill_null(MISSING_INT).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid as error:
        raise wrong_type(name, "integers", array, pc.max(array).as_py()) from error


def _whole(array, name, expected="integers"):
    """Floats as int64, if they are whole and small enough to be exact."""
    # Digits of a float's fraction, and the one that is always there.
    exact = 2.0 ** (np.finfo(array.type.to_pandas_dtype()).nmant + 1)
    floats = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
    present = ~np.isnan(floats)
    bad = present & ~((np.floor(floats) == floats) & (np.abs(floats) <= exact))
    if bad.any():
        example = float(floats[bad][0])
        if exact < abs(example) < 2.0**63:
            raise TypeError(
                f"Column {name!r} holds integers as {array.type}, which cannot tell them apart "
                f"above {exact:.0f}. Received {example:.0f}. Write or read the column as "
                'integers; in pandas, where it has gaps, with dtype="Int64".'
            )
        raise wrong_type(name, expected, array, example)
    whole = np.full(len(floats), MISSING_INT, np.int64)
    whole[present] = floats[present].astype(np.int64)
    return whole


def to_text(array: pa.Array, name: str) -> pa.Array:
    """Strings, or a dictionary of strings: `pa.StringArray`, or `pa.DictionaryArray`.

    Integers become their decimal digits, booleans `True` and `False`, bytes are read
    as UTF-8. Null stays null.

    Raises:
        TypeError: if the column holds anything else.
    """
    if pa.types.is_dictionary(array.type):
        values = to_text(array.dictionary, name)
        return pa.DictionaryArray.from_arrays(array.indices, values)
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return array
    if pa.types.is_floating(kind):
        whole = _whole(array, name, "strings or integers")
        array = pa.array(whole, mask=whole == MISSING_INT)
    elif pa.types.is_boolean(kind):
        return pc.if_else(array, "True", "False")
    elif not (pa.types.is_integer(kind) or pa.types.is_null(kind) or is_text(kind)):
        raise wrong_type(name, "single values" if is_list(kind) else "strings or integers", array)
    try:
        return array.cast(pa.string())
    except pa.ArrowInvalid as error:
        raise TypeError(
            f"Column {name!r} holds bytes that are not UTF-8 text: {error}. Decode them first."
        ) from error


def decimals(values: np.ndarray) -> pa.Array:
    """The decimal digits of int64 values, as a `pa.StringArray`."""
    return pa.array(values, pa.int64()).cast(pa.string())


def whole_numbers(text: pa.Array) -> np.ndarray:
    """The int64 whose decimal form each string is, `MISSING_INT` where there is none.

    `"7"` is the decimal form of 7; `"007"`, `"+7"` and `"7.0"` are of none.

    Args:
        text: Arrow strings without nulls.

    Returns:
        int64 `(n,)`.
    """
    values = np.full(len(text), MISSING_INT, np.int64)
    digits = pc.match_substring_regex(text, r"^(0|-?[1-9][0-9]{0,18})\z")
    places = np.flatnonzero(digits.to_numpy(zero_copy_only=False))
    # Nineteen digits may exceed int64, which Python's integers do not mind.
    numbers = np.array([int(digits) for digits in text.take(places).to_pylist()], object)
    fits = (numbers >= -(2**63)) & (numbers < 2**63)
    values[places[fits.astype(bool)]] = numbers[fits.astype(bool)].astype(np.int64)
    return values


def split_lists(array: pa.Array, column: MultiCategorical) -> tuple[pa.Array, np.ndarray]:
    """The elements of a list column's cells, and how many each cell has.

    Args:
        array: Arrow array of n cells.
        column: `MultiCategorical` or `Sequence`.

    Returns:
        Arrow array of all elements, one cell after the other, and int64 `(n,)`; a
        missing cell has no elements.

    Raises:
        TypeError: if cells are neither lists nor strings with a `separator`.
    """
    kind = array.type
    if pa.types.is_null(kind):
        return pa.nulls(0), np.zeros(len(array), np.int64)
    if not is_list(kind):
        if column.separator is None:
            raise wrong_type(column.raw_name, "lists", array)
        array = pc.split_pattern(decoded(to_text(array, column.raw_name)), column.separator)
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    # flatten() leaves out what null cells may hold behind the scenes.
    return array.flatten(), lengths.astype(np.int64)


def decoded(array: pa.Array) -> pa.Array:
    """The array without a dictionary."""
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
