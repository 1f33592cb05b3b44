"""Raw columns to ids and floats: what every row becomes, in NumPy and Arrow.

The rules, which the exported graph repeats:

- `Numeric`: computed in float64, then cast to float32. NaN, infinities and the column's
  `missing` are missing. Subnormal numbers are 0 (at every step, and in what was fitted), as
  TensorFlow has them on most machines.
  With y = x, or sign(x) * log1p(|x|) for `"log"`, the feature is
  `clip((y - mean) * scale, -100, 100)`; a missing cell is `fill` (in raw units), or 0.0
  if that is None. `"none"` is x, clipped to +-3e38. `"buckets"` is an id,
  `FIRST_ID + searchsorted(boundaries, x, side="right")`; a missing cell has the bucket of
  `fill`, or `MISSING_ID` if that is None. The mean with `"log"` is that of y.
- `Categorical`: `MISSING_ID` for null, NaN, `MISSING_INT` in an integer column, the empty
  string in a string column and the column's `missing`; the vocabulary's id, or `UNKNOWN_ID`.
  `12.0` and ` 12` are `12`, in text too. Where a vocabulary has but truth values, `true`, `True`
  and `TRUE` have one id, and hashed ones always.
- Lists: a cell ends with its last element that is not missing, for a request is padded.
  Of its positions the first `length` are kept (the last ones for `Sequence`), with
  `PADDING_ID` for missing elements and after the end. A cell of which no element is left
  has `MISSING_ID` in the first position and `PADDING_ID` after it. A separated string is
  cut like `str.split(separator)`, with `strip` each element loses the ASCII spaces around it;
  elements are compared as text, with the decimal form of the vocabulary if that holds integers
  (`12.0` is `12`), and only the empty element is missing. Weights lie where their values do, 0 at
  padding, 1 where one is missing or infinite, and 1 for the missing id of a cell without elements.
- Lists that are aligned: cells end with the last element that is not missing in one of them, and
  the same positions of all are kept. `MISSING_ID` stands first where none has an element left.

The codecs of `Vector`, `Timestamp`, `Crossed` and `Text` hold both twins, and say their rules.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from tfmoe.data import arrow
from tfmoe.data.encode.vocabulary import HashTable, Vocabulary, one_spelling
from tfmoe.data.numerals import canonical_integers, whole_spelling
from tfmoe.schema.columns import (
    FIRST_ID,
    MISSING_ID,
    MISSING_STRING,
    PADDING_ID,
    MultiCategorical,
    Numeric,
)

# Nearer to 0 are float64's and float32's subnormal numbers, and 0.
SMALLEST = float(np.finfo("float64").tiny)
SMALLEST_FEATURE = float(np.finfo("float32").tiny)

LARGEST_FEATURE = 100.0
LARGEST_FLOAT = 3e38


@dataclass(frozen=True)
class NumericFit:
    """What was fitted of a `Numeric` column; plain float64 data.

    Args:
        mean, scale: the feature is `(y - mean) * scale`, with y the logarithm for `"log"`.
            0 and 1 if nothing is scaled.
        fill: what a missing cell counts as in raw units, or None (then the feature is 0,
            or the missing id for buckets).
        boundaries: inner boundaries of the buckets, ascending, float64 `(<= num_buckets - 1,)`;
            empty without buckets.
    """

    mean: float = 0.0
    scale: float = 1.0
    fill: float | None = None
    boundaries: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        for name in ("mean", "fill", "boundaries"):
            value = getattr(self, name)
            if value is not None:
                flushed = without_subnormals(value)
                object.__setattr__(self, name, flushed if np.ndim(value) else float(flushed))


def without_subnormals(values: np.ndarray | float, smallest: float = SMALLEST) -> np.ndarray:
    """The numbers, 0 in the place of those nearer to it than `smallest`."""
    small = np.abs(values) < smallest
    return np.where(small, 0.0, values) if np.any(small) else np.asarray(values)


def log_transform(values: np.ndarray) -> np.ndarray:
    """sign(x) * log(1 + |x|)."""
    return np.sign(values) * np.log1p(np.abs(values))


def numeric_feature(values: np.ndarray, column: Numeric, fit: NumericFit) -> np.ndarray:
    """The feature of a `Numeric` column.

    Args:
        values: float64 `(n,)` in raw units, NaN for missing.
        column: `Numeric`.
        fit: `NumericFit`.

    Returns:
        float32 `(n,)`, or int32 ids `(n,)` if the column has buckets.
    """
    missing = ~np.isfinite(values)
    gaps = missing.any()
    if gaps:
        values = np.where(missing, 0.0 if fit.fill is None else fit.fill, values)
    values = without_subnormals(values)
    empty: float = 0.0
    if column.embeds:
        feature = (FIRST_ID + np.searchsorted(fit.boundaries, values, side="right")).astype("int32")
        empty = MISSING_ID
    elif column.transform == "none":
        feature = plain_feature(values)
    else:
        scaled = log_transform(values) if column.transform == "log" else values
        feature = scaled_feature(scaled, fit.mean, fit.scale)
    if gaps and fit.fill is None:
        feature[missing] = empty
    return feature


def scaled_feature(
    values: np.ndarray, mean: float | np.ndarray, scale: float | np.ndarray
) -> np.ndarray:
    """`clip((values - mean) * scale, -100, 100)` of float64, as float32."""
    with np.errstate(over="ignore"):
        scaled = without_subnormals(values - mean) * scale
    feature = np.clip(scaled, -LARGEST_FEATURE, LARGEST_FEATURE).astype("float32")
    return without_subnormals(feature, SMALLEST_FEATURE).astype("float32")


def plain_feature(values: np.ndarray) -> np.ndarray:
    """float64 as float32, clipped to +-3e38."""
    feature = np.clip(values, -LARGEST_FLOAT, LARGEST_FLOAT).astype("float32")
    return without_subnormals(feature, SMALLEST_FEATURE).astype("float32")


class TextCache:
    """Ids of the last dictionary of strings that came along in a column.

    The chunks of a Parquet row group share their dictionary, which then is looked up
    once.
    """

    def __init__(self) -> None:
        self._last: tuple[pa.Array, np.ndarray] | None = None

    def ids(self, dictionary: pa.Array, look_up: Callable[[pa.Array], np.ndarray]) -> np.ndarray:
        """What `look_up` gives for a dictionary, or gave for the last if that was the same."""
        # Read once: other threads may put another in its place.
        last = self._last
        if last is None or not last[0].equals(dictionary):
            last = self._last = (dictionary, look_up(dictionary))
        return last[1]


def categorical_ids(
    array: pa.Array,
    name: str,
    table: Vocabulary | HashTable,
    is_int: bool,
    cache: TextCache,
    declared: bool = True,
) -> np.ndarray:
    """Ids of single values.

    Args:
        array: Arrow array of n values.
        name: the raw column's name, for errors.
        table: `Vocabulary` or `HashTable`.
        is_int: whether the table's values are integers.
        cache: the column's `TextCache`.
        declared: whether the schema says so. If it does, what is no integer is an error; if all
            values that were seen were integers, it is unknown.

    Returns:
        int32 `(n,)`.
    """
    if is_int and (declared or _may_be_int(array.type)):
        return table.int_ids(arrow.to_ints(array, name, table.missing.texts))
    text = arrow.to_text(array, name)
    if is_int:
        # Several times faster than to look texts up.
        text = whole_spelling(text)
        integers = canonical_integers(text, table.missing.texts)
        if integers is not None:
            return table.int_ids(integers)
    return _text_ids(text, table, cache)


def categorical_texts(
    array: pa.Array, name: str, table: Vocabulary | HashTable, is_int: bool, declared: bool = True
) -> tuple[pa.Array, np.ndarray]:
    """Single values as the texts that are hashed, and which are missing.

    Args: see `categorical_ids`.

    Returns:
        Arrow large_string `(n,)` without nulls, and bool `(n,)`.
    """
    if is_int and (declared or _may_be_int(array.type)):
        values = arrow.to_ints(array, name, table.missing.texts)
        return arrow.decimals(values).cast(pa.large_string()), table.missing.in_integers(values)
    text = arrow.decoded(arrow.to_text(array, name)).cast(pa.large_string())
    text = whole_spelling(text.fill_null(MISSING_STRING))
    return one_spelling(text), table.missing.in_text(text)


def _may_be_int(kind):
    """Whether integers of the type are of 64 bits with a sign."""
    small = pa.types.is_integer(kind) and not pa.types.is_uint64(kind)
    return small or pa.types.is_floating(kind) or pa.types.is_null(kind)


def _text_ids(text, table, cache):
    if not pa.types.is_dictionary(text.type):
        if table.takes_repeats(len(text)):
            return table.text_ids(text.fill_null(MISSING_STRING))
        text = text.dictionary_encode()

    def look_up(dictionary):
        # The last place is for null, here and in the indices.
        return np.append(table.text_ids(dictionary.fill_null(MISSING_STRING)), np.int32(MISSING_ID))

    ids = cache.ids(text.dictionary, look_up)
    places = text.indices
    if places.null_count:
        places = places.fill_null(len(ids) - 1)
    return ids.take(places.to_numpy(zero_copy_only=False))


def list_ids(
    array: pa.Array,
    column: MultiCategorical,
    table: Vocabulary | HashTable,
    is_int: bool,
    length: int,
    cache: TextCache,
    declared: bool = True,
) -> np.ndarray:
    """Ids of a list column's cells.

    Args:
        array: Arrow array of n cells, lists or separated strings.
        column: `MultiCategorical` or `Sequence`.
        table, is_int, cache, declared: as in `categorical_ids`.
        length: int >= 1, the number of positions kept.

    Returns:
        int32 `(n, length)`.
    """
    if column.separator is None or arrow.is_list(array.type):
        return _padded_ids(array, column, table, is_int, length, cache, declared)
    # Separated strings repeat, "Action|Comedy": cut and look up the different ones.
    text = arrow.to_text(array, column.raw_name)
    if not pa.types.is_dictionary(text.type):
        text = text.dictionary_encode()

    def look_up(dictionary):
        cells = pa.concat_arrays([dictionary, pa.nulls(1, dictionary.type)])
        return _padded_ids(cells, column, table, is_int, length, TextCache())

    ids = cache.ids(text.dictionary, look_up)
    places = text.indices.fill_null(len(ids) - 1).to_numpy(zero_copy_only=False)
    return ids.take(places, axis=0)


def _padded_ids(array, column, table, is_int, length, cache, declared=True):
    cells = [cells_of(array, column, table, is_int, cache, declared)]
    return padded_ids(cells, kept_places(cells, length, column.keeps_last))[0]


class Cells(NamedTuple):
    """The ids of a list column's cells, before they are cut.

    Attributes:
        ids: int32, the elements of all cells, one cell after the other; `PADDING_ID` for missing
            ones.
        starts: int64 `(n,)`, where each cell begins among them.
        lengths: int64 `(n,)`, the elements of each cell.
        ends: int64 `(n,)`, the same without missing elements at its end.
    """

    ids: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    ends: np.ndarray


def cells_of(
    array: pa.Array,
    column: MultiCategorical,
    table: Vocabulary | HashTable,
    is_int: bool,
    cache: TextCache,
    declared: bool = True,
) -> Cells:
    """The ids of a list column's elements; see `list_ids`."""
    elements, lengths = arrow.split_lists(array, column)
    separated = column.separator is not None and not arrow.is_list(array.type)
    is_int = is_int and not separated
    with arrow.in_cells(arrow.of_lists(lengths)):
        ids = categorical_ids(elements, column.raw_name, table, is_int, cache, declared)
    # No value has the missing id, so it marks the elements to skip.
    ids = np.where(ids == MISSING_ID, np.int32(PADDING_ID), ids)
    starts = np.cumsum(lengths) - lengths
    return Cells(ids, starts, lengths, _up_to_last_present(ids, starts, lengths))


def bounded_cells(array: pa.Array, column: Any) -> Cells:
    """The ids of the numbers of a sequence with `boundaries`."""
    values, lengths = arrow.split_numbers(array, column.raw_name, column.separator)
    ids = FIRST_ID + np.searchsorted(column.boundaries, without_subnormals(values), side="right")
    ids = np.where(np.isfinite(values), ids, PADDING_ID).astype(np.int32)
    starts = np.cumsum(lengths) - lengths
    return Cells(ids, starts, lengths, _up_to_last_present(ids, starts, lengths))


def check_aligned(names: Sequence[str], columns: Sequence[Cells]) -> None:
    """Raises ValueError, with its row, where cells of aligned columns are not equally long.

    Those without a present element may have any length.
    """
    longest = np.max([np.where(cells.ends > 0, cells.lengths, 0) for cells in columns], axis=0)
    for name, cells in zip(names, columns, strict=True):
        odd = np.flatnonzero((cells.ends > 0) & (cells.lengths != longest))
        if len(odd):
            row = odd[0]
            other = next(
                other
                for other, longer in zip(names, columns, strict=True)
                if longer.ends[row] > 0 and longer.lengths[row] == longest[row]
            )
            raise arrow.at_row(
                ValueError(
                    "Sequences that are aligned have equally long cells in a row. Received "
                    f"{longest[row]} values of {other!r} and {cells.lengths[row]} of {name!r}. "
                    "Write missing values as null, or leave out `aligned_with`."
                ),
                row,
            )


def kept_places(columns: Sequence[Cells], length: int, keeps_last: bool) -> list[np.ndarray]:
    """Which of their elements cells that share positions keep.

    Args:
        columns: of each column its `Cells`.
        length: int >= 1, the number of positions.
        keeps_last: whether of long cells the last positions are kept.

    Returns:
        For each column int64 `(n, length)`, places among its ids, -1 where there is none.
    """
    ends = np.max([cells.ends for cells in columns], axis=0)
    first = np.maximum(ends - length, 0) if keeps_last else np.zeros_like(ends)
    kept, places = np.minimum(ends, length), np.arange(length)
    found = []
    for cells in columns:
        inside = places < np.minimum(kept, cells.lengths - first)[:, None]
        found.append(np.where(inside, (cells.starts + first)[:, None] + places, -1))
    return found


def padded_ids(columns: Sequence[Cells], places: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The ids at the places that `kept_places` found, int32 `(n, length)` for each column.

    Where no column has an element each has the missing id first.
    """
    padded = [
        # The last place is for what is behind the end.
        np.append(cells.ids, np.int32(PADDING_ID))[own]
        for cells, own in zip(columns, places, strict=True)
    ]
    empty = np.all([(ids == PADDING_ID).all(axis=1) for ids in padded], axis=0)
    for ids in padded:
        ids[empty, 0] = MISSING_ID
    return padded


def _up_to_last_present(ids, starts, lengths):
    """Each cell's length without the missing elements at its end."""
    cells = np.repeat(np.arange(len(lengths)), lengths)
    present = np.flatnonzero(ids != PADDING_ID)
    trimmed = np.zeros_like(lengths)
    # Places ascend, and of several values for one cell NumPy keeps the last.
    trimmed[cells[present]] = present - starts[cells[present]] + 1
    return trimmed
