"""Raw columns as Arrow or NumPy arrays of one known type, with clear errors.

Arrow infers what a raw column holds; the schema says what it should hold. These
functions bring the one to the other without looking at single rows, and say which
column, which type and which value is at fault when that is impossible.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmoe.data import numerals
from tfmoe.data.kinds import is_list, is_text, remedy
from tfmoe.schema.columns import MISSING_INT, MultiCategorical
from tfmoe.schema.missing import MARKERS

if TYPE_CHECKING:
    from tfmoe.data.numerals import Numbers


def wrong_type(name: str, expected: str, array: pa.Array, example: object = None) -> TypeError:
    """The error for a column that does not hold what the schema says."""
    if example is None:
        present = array.drop_null()
        example = _example(present[0]) if len(present) else None
    return TypeError(
        f"Column {name!r} must hold {expected}. Received {array.type}, for example "
        f"{_shortened(example)}. {remedy(array.type, expected, name)}"
    )


def _example(scalar):
    try:
        return scalar.as_py()
    except (ValueError, pa.ArrowException):  # a time that Python cannot hold
        return str(scalar)


def _shortened(example):
    text = repr(example)
    return text if len(text) <= 80 else f"{text[:77]}..."


def at_row(error: Exception, row: int | None) -> Exception:
    """The error, knowing which row of its chunk it is about, None for any; see `tables.placed`."""
    error.row = None if row is None else int(row)  # type: ignore[attr-defined]
    return error


@contextmanager
def in_cells(rows: Callable[[int], int | None]) -> Iterator[None]:
    """Errors about elements or dictionaries know the row of the cell.

    Args:
        rows: what gives the row of a place among them.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        place = getattr(error, "row", None)
        if place is not None:
            at_row(error, rows(place))
        raise


def of_lists(lengths: np.ndarray) -> Callable[[int], int]:
    """What gives the row in whose list of so many elements the element at a place is."""
    return lambda place: int(np.searchsorted(np.cumsum(lengths), place, side="right"))


def _of_dictionary(array):
    """What gives the first row that has the value at a place of the dictionary, None if none."""

    def row(place):
        rows = np.flatnonzero(pc.equal(array.indices, place).fill_null(False))
        return int(rows[0]) if len(rows) else None

    return row


def to_floats(
    array: pa.Array,
    name: str,
    missing: tuple[str | int | float, ...] | None = None,
    seen: Counter[str] | None = None,
    element: int | None = None,
) -> np.ndarray:
    """Numbers as float64 `(n,)`; null becomes NaN.

    Args:
        array: Arrow array.
        name: the column's name, for errors.
        missing: the texts and numbers that stand for a missing number, None for `MARKERS`.
        seen: a `Counter` to which the texts are added that stood for a missing number.
        element: the place of the number in cells that are lists, or None.

    Raises:
        TypeError: if the column does not hold numbers, booleans or numbers as text.
    """
    if element is not None:
        array = _elements_at(array, name, element)
    kind = array.type
    if is_text(kind):
        values = _floats_of_text(array, name, missing, seen)
    else:
        values = _floats_of_numbers(decoded(array), name)
    numbers = missing_numbers(missing)
    if numbers:
        values = np.where(np.isin(values, np.array(numbers, np.float64)), np.nan, values)
    return values


def _elements_at(array, name, place):
    """One value of each list, null where the list is shorter or missing."""
    if pa.types.is_null(array.type):
        return array
    if not is_list(array.type):
        raise TypeError(
            f"Column {name!r} must hold lists for a Numeric of `element`. Received {array.type}. "
            "Leave out `element` if each cell is a number."
        )
    values, lengths = array.flatten(), pc.list_value_length(array).fill_null(0)
    lengths = lengths.to_numpy(zero_copy_only=False).astype(np.int64)
    places = np.cumsum(lengths) - lengths + place
    return values.take(pa.array(places, mask=lengths <= place))


def missing_numbers(missing: tuple[str | int | float, ...] | None) -> list[float]:
    """The numbers among what stands for a missing one, also those given as text.

    A fraction is there twice, for in a column of 32 bits it is another number.
    """
    found = [numerals.number_of(str(marker)) for marker in missing or ()]
    numbers = [number for number in found if number is not None]
    fractions = [number for number in numbers if not float(number).is_integer()]
    return numbers + [float(np.float32(number)) for number in fractions]


def _floats_of_text(array, name, missing, seen):
    markers = MARKERS if missing is None else [str(marker) for marker in missing]
    found: Numbers = numerals.numbers(to_text(array, name), markers)
    if len(found.bad):
        example = decoded(array)[int(found.bad[0])]
        raise at_row(wrong_type(name, "numbers", array, _example(example)), found.bad[0])
    if seen is not None:
        seen.update(found.markers)
    return found.values


def _floats_of_numbers(array, name):
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


def to_ints(array: pa.Array, name: str, missing: tuple[str | int | float, ...] = ()) -> np.ndarray:
    """Integers as int64 `(n,)`; null becomes `MISSING_INT`.

    Whole floats count as integers, for pandas turns integers with gaps into floats, and so do
    integers as text.

    Args:
        array: Arrow array.
        name: the column's name, for errors.
        missing: the texts that stand for a missing one.

    Raises:
        TypeError: if the column holds anything else.
    """
    if is_text(array.type):
        text = to_text(array, name)
        values, bad = numerals.integers(text, [str(marker) for marker in missing])
        if len(bad):
            example = _example(decoded(text)[int(bad[0])])
            raise at_row(wrong_type(name, "integers", array, example), bad[0])
        return values
    array = decoded(array)
    kind = array.type
    if pa.types.is_floating(kind):
        return _whole(array, name)
    if pa.types.is_decimal(kind):
        return to_ints(_digits(array, name, "integers"), name)
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
            raise at_row(
                TypeError(
                    f"Column {name!r} holds integers as {array.type}, which cannot tell them apart "
                    f"above {exact:.0f}. Received {example:.0f}. Write or read the column as "
                    'integers; in pandas, where it has gaps, with dtype="Int64".'
                ),
                np.flatnonzero(bad)[0],
            )
        raise at_row(wrong_type(name, expected, array, example), np.flatnonzero(bad)[0])
    whole = np.full(len(floats), MISSING_INT, np.int64)
    whole[present] = floats[present].astype(np.int64)
    return whole


def _digits(array, name, expected):
    """Decimals as text, if they are whole."""
    # Of a negative scale Arrow writes no plain digits.
    scale = max(array.type.scale, 0)
    text = array.cast(pa.decimal256(76, scale)).cast(pa.string())
    if scale:
        text = pc.replace_substring_regex(text, r"\.0+\z", "")
    parts = pc.fill_null(pc.match_substring(text, "."), False)
    if pc.any(parts).as_py():
        place = np.flatnonzero(parts.to_numpy(zero_copy_only=False))[0]
        raise at_row(wrong_type(name, expected, array, array[int(place)].as_py()), place)
    return text


def to_text(array: pa.Array, name: str) -> pa.Array:
    """Strings, or a dictionary of strings: `pa.StringArray`, or `pa.DictionaryArray`.

    Integers become their decimal digits, also those of decimals and whole floats, booleans
    `True` and `False`, bytes are read as UTF-8. Null stays null.

    Raises:
        TypeError: if the column holds anything else.
    """
    if pa.types.is_dictionary(array.type):
        with in_cells(_of_dictionary(array)):
            values = to_text(array.dictionary, name)
        return pa.DictionaryArray.from_arrays(array.indices, values)
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return array
    expected = "strings or integers"
    if pa.types.is_decimal(kind):
        return _digits(array, name, expected)
    if pa.types.is_floating(kind):
        whole = _whole(array, name, expected)
        array = pa.array(whole, mask=whole == MISSING_INT)
    elif pa.types.is_boolean(kind):
        return pc.if_else(array, "True", "False")
    elif not (pa.types.is_integer(kind) or pa.types.is_null(kind) or is_text(kind)):
        raise wrong_type(name, "single values" if is_list(kind) else expected, array)
    try:
        return array.cast(pa.large_string() if pa.types.is_large_binary(kind) else pa.string())
    except pa.ArrowInvalid as error:
        raise TypeError(
            f"Column {name!r} holds bytes that are not UTF-8 text. Received {error}. Decode them, "
            f"or write them as digits: in pandas df[{name!r}].map(bytes.hex, na_action='ignore')."
        ) from error


def as_integers(
    array: pa.Array, name: str, untyped: bool, missing: tuple[str | int | float, ...] = ()
) -> np.ndarray | None:
    """Categories as int64 if all are integers of 64 bits, else None: they are text then.

    Args:
        array: Arrow array.
        name: the column's name, for errors.
        untyped: whether text was found where its source cannot say more, as in CSV files:
            digits are integers then, but for leading zeros and the like.
        missing: the texts that stand for a missing value.

    Returns:
        int64 `(n,)` with `MISSING_INT` for missing cells, or None.

    Raises:
        TypeError: if a float has lost digits.
    """
    if is_text(array.type):
        markers = [str(marker) for marker in missing]
        text = to_text(array, name) if untyped else None
        if text is not None:
            return numerals.canonical_integers(text, markers)
        return None if array.null_count < len(array) else np.full(len(array), MISSING_INT)
    array = decoded(array)
    kind = array.type
    if pa.types.is_decimal(kind):
        floats = array.cast(pa.float64(), safe=False)
        if not pc.all(pc.equal(pc.floor(floats), floats)).as_py():
            return None
        return numerals.canonical_integers(_digits(array, name, "strings or integers"))
    if pa.types.is_floating(kind):
        floats = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
        present = floats[~np.isnan(floats)]
        whole = np.isfinite(present) & (np.floor(present) == present) & (np.abs(present) < 2.0**63)
        return _whole(array, name) if whole.all() else None
    if pa.types.is_uint64(kind) and (pc.max(array).as_py() or 0) >= 2**63:
        return None
    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        return to_ints(array, name)
    return None


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
    elements = array.flatten()
    if column.strip and not is_list(kind):
        elements = pc.ascii_trim(elements, numerals.SPACES)
    if not _may_be_categories(decoded(elements)):
        raise wrong_type(column.raw_name, "lists of strings or integers", array)
    return elements, lengths.astype(np.int64)


def split_numbers(
    array: pa.Array, name: str, separator: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The numbers in cells that are lists, and how many each cell has.

    Args:
        array: Arrow array of n cells.
        name: the column's name, for errors.
        separator: what parts the numbers of cells that are text, or None. With it, a number is a
            cell of one.

    Returns:
        float64 of all numbers, one cell after the other, NaN for missing ones, and int64 `(n,)`; a
        missing cell has no numbers.

    Raises:
        TypeError: if cells are no lists of numbers.
    """
    if pa.types.is_null(array.type):
        return np.zeros(0), np.zeros(len(array), np.int64)
    if is_text(array.type) and separator is not None:
        text = decoded(to_text(array, name))
        text = pc.if_else(pc.equal(text, ""), pa.scalar(None, text.type), text)
        array = pc.split_pattern(text, separator)
    if separator is not None and not is_list(array.type) and not is_text(array.type):
        # Where no cell has more than one, a table has plain numbers.
        values = to_floats(array, name)
        present = ~np.isnan(values)
        return values[present], present.astype(np.int64)
    if not is_list(array.type):
        raise wrong_type(name, "lists of numbers", array)
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    lengths = lengths.astype(np.int64)
    try:
        values = to_floats(array.flatten(), name)
    except TypeError as error:
        cell = of_lists(lengths)(getattr(error, "row", 0))
        example = array[cell].as_py()
        raise at_row(wrong_type(name, "lists of numbers", array, example), cell) from None
    return values, lengths


def _may_be_categories(array):
    kind = array.type
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        floats = array.cast(pa.float64(), safe=False)
        floats = floats.filter(pc.is_finite(floats))
        return pc.all(pc.equal(pc.floor(floats), floats), min_count=0).as_py()
    return (
        is_text(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
    )


def decoded(array: pa.Array) -> pa.Array:
    """The array without a dictionary."""
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def present_texts(text: pa.Array, markers: Collection[str]) -> pa.Array:
    """Which cells of text are neither missing nor one of some markers: Arrow booleans."""
    gaps = pc.is_in(text, value_set=pa.array(["", *markers], text.type))
    return pc.and_(pc.is_valid(text), pc.invert(gaps))
