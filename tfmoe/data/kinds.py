"""The kinds of Arrow's types: which mean the same, and what to do with those that no column reads.

`plain` brings each array to one of few types, so that the rest of the room knows no views, runs
or extensions.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def is_list(kind: pa.DataType) -> bool:
    """Whether Arrow type `kind` is one of its types of lists."""
    return (
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or _is_list_view(kind)
    )


def _is_list_view(kind):
    return pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)


def is_text(kind: pa.DataType) -> bool:
    """Whether Arrow type `kind` holds text or bytes, dictionary-encoded or not."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or _is_odd_text(kind)
    )


def _is_odd_text(kind):
    return (
        pa.types.is_string_view(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _is_short_decimal(kind):
    # Older pyarrow knows no such type; a decimal is told by its width.
    return pa.types.is_decimal(kind) and kind.bit_width < 128


def is_time(kind: pa.DataType) -> bool:
    """Whether Arrow type `kind` is a date, a time, a point in time or a span of it."""
    return pa.types.is_temporal(kind) or pa.types.is_interval(kind)


def plain(array: pa.Array) -> pa.Array:
    """The same values in one of the types that the rest of the room knows.

    Views become strings, bytes and lists; runs and extension types what they stand for; short
    decimals longer ones. Places in dictionaries have 32 bits at least, so that dictionaries can be
    joined and a place behind the last be named. Structs, mappings, unions and times stay, for
    errors to name them.

    Args:
        array: Arrow array.
    """
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return plain(array.storage)
    if pa.types.is_run_end_encoded(kind):
        return plain(pc.run_end_decode(array))
    if pa.types.is_dictionary(kind):
        values, places = plain(array.dictionary), array.indices
        if kind.index_type.bit_width < 32:
            places = places.cast(pa.int32())
        elif values.type == kind.value_type:
            return array
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        return pa.DictionaryArray.from_arrays(places, values)
    if pa.types.is_string_view(kind):
        return array.cast(pa.large_string())
    if pa.types.is_binary_view(kind):
        return array.cast(pa.large_binary())
    if pa.types.is_fixed_size_binary(kind):
        return array.cast(pa.binary())
    if _is_short_decimal(kind):
        return array.cast(pa.decimal128(kind.precision, kind.scale))
    if is_list(kind):
        return _plain_lists(array)
    return array


def _plain_lists(array):
    if not _is_list_view(array.type) and _is_plain(array.type.value_type):
        return array
    values, lengths = plain(array.flatten()), pc.list_value_length(array).fill_null(0)
    ends = np.cumsum(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)
    offsets = pa.array(np.append(np.zeros(1, np.int64), ends))
    return pa.LargeListArray.from_arrays(offsets, values, mask=pc.is_null(array))


def _is_plain(kind):
    """Whether `plain` leaves arrays of the type as they are."""
    if pa.types.is_dictionary(kind):
        return kind.index_type.bit_width >= 32 and _is_plain(kind.value_type)
    odd = isinstance(kind, pa.BaseExtensionType) or pa.types.is_run_end_encoded(kind)
    return not (odd or _is_odd_text(kind) or _is_short_decimal(kind) or is_list(kind))


def to_arrow(values: Any, name: str, numbers: bool = False) -> pa.ChunkedArray:
    """A column of a table in memory as an Arrow array; NaN becomes null.

    Args:
        values: pandas Series, NumPy array `(n,)` or `(n, l)`, Arrow array or list.
        name: the column's name, for errors.
        numbers: whether numbers are wanted: then these may lie among texts, for one may stand
            for a missing number.

    Returns:
        `pa.ChunkedArray` of n cells, each chunk `plain`.

    Raises:
        TypeError: if the cells are of several types, or of none that Arrow knows.
    """
    values = _dense(values)
    try:
        chunked = _chunked(values)
        chunks = [plain(chunk) for chunk in chunked.chunks]
        # Chunks of no cells have a type as well.
        return pa.chunked_array(chunks or [plain(pa.array([], chunked.type))])
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        array = _of_objects(values, numbers)
        if array is not None:
            return pa.chunked_array([array])
        raise TypeError(
            f"Column {name!r} must hold values of one type, or lists of one type. Received "
            f"cells that do not fit together: {error}. Convert the column to one type: in pandas "
            f"df[{name!r}].astype(str)."
        ) from error


def _dense(values):
    """A Sparse column of pandas with all its cells, which Arrow does not know; others as it is."""
    import pandas as pd

    sparse = isinstance(getattr(values, "dtype", None), pd.SparseDtype)
    return np.asarray(values) if sparse else values


def _chunked(values):
    if isinstance(values, pa.ChunkedArray):
        return values
    if isinstance(values, np.ndarray) and values.ndim == 2:
        flat = pa.array(values.ravel(), from_pandas=True)
        return pa.chunked_array([pa.FixedSizeListArray.from_arrays(flat, values.shape[1])])
    array = values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True)
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


def _of_objects(values, numbers):
    """Objects of several types as one, if these go together; else None."""
    import pandas as pd

    cells = list(getattr(values, "tolist", lambda: values)())
    missing = pd.isna(pd.Series(cells, dtype=object)).tolist()
    present = [cell for cell, gap in zip(cells, missing, strict=True) if not gap]
    if present and all(isinstance(cell, np.datetime64) for cell in present):
        gap = np.datetime64("NaT")
        return _of_moments([gap if m else c for c, m in zip(cells, missing, strict=True)])
    texts = _as_texts(present, numbers)
    if texts is None:
        return None
    left = iter(texts)
    return pa.array([None if gap else next(left) for gap in missing], pa.string())


def _of_moments(cells):
    """Points in time of NumPy's, of one or more units, in the finest; None if it is too fine."""
    moments = np.array(cells, "datetime64")
    unit = np.datetime_data(moments.dtype)[0]
    if unit in ("ps", "fs", "as"):
        return None
    return pa.array(moments if unit in ("ms", "us", "ns") else moments.astype("datetime64[s]"))


def _as_texts(cells, numbers):
    """Objects as text, if they are integers of any size, or if numbers are wanted and all are
    numbers, truth values or texts; else None.
    """
    kinds: tuple[type, ...] = (int, np.integer)
    if numbers:
        import decimal

        kinds = (*kinds, float, np.floating, str, decimal.Decimal, np.bool_)
    others: tuple[type, ...] = (np.timedelta64,)  # which NumPy has among its integers
    if not numbers:
        others = (*others, bool)
    if not all(isinstance(cell, kinds) and not isinstance(cell, others) for cell in cells):
        return None
    return [
        repr(float(cell)) if isinstance(cell, float | np.floating) else str(cell) for cell in cells
    ]


def remedy(kind: pa.DataType, expected: str, name: str) -> str:
    """What to do about a column of a type that does not suit; what it says works.

    Args:
        kind: Arrow type of the cells.
        expected: what they should be, as `wrong_type` says it.
        name: the raw column's name.
    """
    column = f"df[{name!r}]"
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if is_list(kind):
        return _remedy_of_lists(kind.value_type, column, name)
    if is_time(kind):
        return _remedy_of_times(kind, column, name)
    if pa.types.is_struct(kind) or pa.types.is_map(kind) or pa.types.is_union(kind):
        return (
            "No column reads mappings. Make a column of each field that matters: in pandas "
            f"{column}.str[field]."
        )
    if expected == "lists":
        return "Make each cell a list, or give `separator` if cells are strings to be split."
    if is_text(kind) and expected == "points in time":
        return (
            "Write it by ISO 8601, as 2024-03-31 01:30:00; or make times of the column: in pandas "
            f"pd.to_datetime({column}, format=...)."
        )
    if is_text(kind) and expected == "lists of numbers":
        return (
            f"Make lists of the column: in pandas {column}"
            r""".str.findall(r"[\w.+-]+")"""
            '.map(lambda cell: [float(one) for one in cell], na_action="ignore"). A Sequence of '
            "numbers may have a `separator` instead."
        )
    if is_text(kind):
        return (
            "Correct the cell; or name in `missing` what stands for a missing value; or declare "
            'the column Categorical(dtype="string"), if it is an input.'
        )
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return (
            "Declare the column Numeric if it is a quantity; to take each number for a category, "
            f"make it text: in pandas {column}.astype(str)."
        )
    if pa.types.is_boolean(kind):
        return 'Leave out `dtype`, or declare dtype="string"; Numeric reads true and false too.'
    if pa.types.is_integer(kind):
        return 'Declare dtype="string", which holds integers of any size.'
    return f"Convert the column: in pandas {column}.astype(str)."


def _remedy_of_lists(inner, column, name):
    if pa.types.is_dictionary(inner):
        inner = inner.value_type
    numbers = pa.types.is_floating(inner) or pa.types.is_decimal(inner)
    if numbers:
        return (
            f"Declare Vector('vector', source={name!r}), if each cell has as many numbers; one of "
            f"them is Numeric('number', source={name!r}, element=0). Of lists of many lengths, a "
            f"history of numbers is Sequence('history', source={name!r}, boundaries=(0, 1)). Whole "
            "numbers that name things are integers, for MultiCategorical."
        )
    if is_text(inner) or pa.types.is_integer(inner) or pa.types.is_boolean(inner):
        return (
            "Declare the column MultiCategorical or Sequence if its cells are lists; of a number "
            f"in a list of one take it out: in pandas {column}.str[0]."
        )
    return (
        "No column reads lists of such values. Make lists of texts or integers for "
        f"MultiCategorical: in pandas {column}.map(lambda cell: [str(one) for one in cell])."
    )


def _remedy_of_times(kind, column, name):
    if pa.types.is_duration(kind):
        return f"Make a number for Numeric: in pandas {column}.dt.total_seconds()."
    if pa.types.is_time(kind):
        return (
            f"Make an hour of it: in pandas {column}.map(lambda time: time.hour), for Categorical "
            "or Numeric."
        )
    if pa.types.is_interval(kind):
        return f"Make text of it, for Categorical: in pandas {column}.astype(str)."
    return (
        f"Declare Timestamp('time', source={name!r}), for its hour and weekday, or "
        f"Timestamp('age', source={name!r}, parts=['age']) for the days since a date."
    )
