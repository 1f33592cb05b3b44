"""How often each value of a column occurs, in bounded memory."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmoe.data.encode.vocabulary import ARROW_TYPES, Marks
from tfmoe.data.numerals import SPELLINGS, are_flags
from tfmoe.schema.columns import MISSING_INT, MISSING_STRING

_BUFFER = 1_000_000


class Counts:
    """How often each value of a table occurs.

    Chunks are counted by Arrow and buffered; once the buffer exceeds a million entries
    and twice what is counted so far, it is summed up. If then more than `max_distinct`
    values are left, the most frequent ones are kept and a warning says so. From then on
    counts are lower bounds: a value that was dropped and comes again starts at 0, so
    rare values may be missed, while a value that is frequent in every part of the data
    is never dropped. Up to the cap counts are exact, in any order of rows and merges.

    Args:
        dtype: `"int"` or `"string"`.
        max_distinct: int >= 1.
        name: the column's name, for the warning.
        missing: the texts and integers that stand for a missing value, as a column names them.
    """

    def __init__(
        self, dtype: str, max_distinct: int, name: str, missing: tuple[str | int, ...] = ()
    ) -> None:
        self._missing = missing
        self._marks = Marks(missing)
        self.dtype = dtype
        self.max_distinct = max_distinct
        self.name = name
        self._parts: list[pa.Table] = []
        self._buffered = 0
        self._current = 0
        self._warned = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Pickles of older versions know of no values that stand for a missing one.
        self.__dict__ |= {"_missing": (), "_marks": Marks(()), **state}

    def add(self, values: pa.Array, counts: pa.Array | None = None) -> None:
        """Counts an Arrow array of values; null and the missing values are left out.

        Args:
            values: Arrow array, perhaps with a dictionary.
            counts: int64 Arrow array, how often each value occurs, or None if each does once
                for every time it is in `values`.
        """
        if counts is None:
            if pa.types.is_dictionary(values.type):
                present = values.indices.drop_null().to_numpy(zero_copy_only=False)
                counts = pa.array(np.bincount(present, minlength=len(values.dictionary)))
                values = values.dictionary
            else:
                values, counts = pc.value_counts(values).flatten()
        values = values.cast(ARROW_TYPES[self.dtype])
        keep = np.greater(counts.to_numpy(), 0) & ~self._is_missing(values)
        self.add_table(pa.table({"value": values, "count": counts}).filter(pa.array(keep)))

    def _is_missing(self, values):
        if self.dtype == "int":
            return self._marks.in_integers(values.fill_null(MISSING_INT).to_numpy())
        return self._marks.in_text(values.fill_null(MISSING_STRING))

    def as_text(self) -> Counts:
        """The same counts of the integers' decimal forms."""
        other = Counts("string", self.max_distinct, self.name, self._missing)
        other._warned = self._warned
        for part in self._parts:
            text = part["value"].cast(pa.string()).cast(ARROW_TYPES["string"])
            other.add_table(pa.table({"value": text, "count": part["count"]}))
        return other

    def add_table(self, table: pa.Table) -> None:
        """Adds an Arrow table of `value` and `count`."""
        self._parts.append(table)
        self._buffered += len(table)
        if self._buffered > max(2 * self._current, _BUFFER):
            self._sum_up()

    def add_counts(self, other: Counts) -> None:
        """Adds what others have counted, who stay as they are; integers as text where that is so.

        Nothing is sorted, and what is summed up already not again as long as it is most of all:
        parts may be added one after the other, however many.
        """
        if other.dtype != self.dtype:
            other = other.as_text()
        self._warned |= other._warned
        if not self._parts:
            self._parts = list(other._parts)
            self._current, self._buffered = other._current, other._buffered
            return
        for part in other._parts:
            self.add_table(part)

    def _sum_up(self):
        if not self._buffered:
            return
        # Several times faster than Arrow's group_by. The sums pass through float64, which
        # is exact up to 2**53 rows.
        parts = pa.concat_tables(self._parts).combine_chunks()
        values = parts["value"].combine_chunks().dictionary_encode()
        counts = np.bincount(values.indices.to_numpy(), parts["count"].to_numpy())
        table = pa.table({"value": values.dictionary, "count": counts.astype(np.int64)})
        if len(table) > self.max_distinct:
            table = _most_frequent_first(table).slice(0, self.max_distinct)
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"Column {self.name!r} has more than max_distinct={self.max_distinct} "
                    "different values: only the most frequent are kept and counts are lower "
                    "bounds. Raise `max_distinct`, or use `hash_buckets` for such a column.",
                    stacklevel=2,
                )
        self._parts = [table]
        self._current = len(table)
        self._buffered = 0

    def table(self) -> pa.Table:
        """Arrow table of `value` and `count`, most frequent first, ties by value.

        Truth values are `True` and `False`, however they were spelled, if nothing else was seen.
        """
        seen = self.as_seen()
        spelled = one_spelling_of(seen)
        return seen if spelled is seen else _most_frequent_first(spelled)

    def as_seen(self) -> pa.Table:
        """The same of the values as they were spelled, for more may be seen that are none."""
        self._sum_up()
        if not self._parts:
            empty = {"value": pa.array([], ARROW_TYPES[self.dtype]), "count": pa.array([], "int64")}
            return pa.table(empty)
        return _most_frequent_first(self._parts[0])

    def respelled(self, spelled: Mapping[str, str]) -> Counts:
        """The same counts of text, with some values taken for others."""
        other = Counts(self.dtype, self.max_distinct, self.name, self._missing)
        other._warned = self._warned
        for part in self._parts:
            values = part["value"].combine_chunks()
            found = pc.index_in(values, value_set=pa.array(list(spelled), values.type))
            meant = pa.array(list(spelled.values()), values.type).take(found)
            respelled = pc.coalesce(meant, values)
            other.add_table(pa.table({"value": respelled, "count": part["count"]}))
        return other

    def without(self, values: pa.Array) -> Counts:
        """The same counts, but for some values, which count from 0 on again."""
        self._sum_up()
        other = Counts(self.dtype, self.max_distinct, self.name, self._missing)
        other._warned = self._warned
        for part in self._parts:
            gone = pc.is_in(part["value"], value_set=values)
            other.add_table(part.filter(pc.invert(gone)))
        return other

    def vocabulary(self, min_count: int = 1, max_size: int | None = None) -> pa.Array:
        """The values that get an id, in the order of their ids."""
        table = self.table()
        table = table.filter(pc.greater_equal(table["count"], min_count))
        return table["value"].slice(0, max_size).combine_chunks()


def one_spelling_of(table: pa.Table) -> pa.Table:
    """The counts of truth values as `True` and `False`, where nothing else was seen.

    Args:
        table: of `Counts.as_seen`, which comes back as it is if there are others.
    """
    if not 0 < len(table) <= len(SPELLINGS) or pa.types.is_integer(table["value"].type):
        return table
    values = table["value"].to_pylist()
    if not are_flags(values):
        return table
    counts: Counter[str] = Counter()
    for value, count in zip(values, table["count"].to_pylist(), strict=True):
        counts[SPELLINGS[value]] += count
    kind = ARROW_TYPES["string"]
    return pa.table(
        {
            "value": pa.array(list(counts), kind),
            "count": pa.array(list(counts.values()), pa.int64()),
        }
    )


def _most_frequent_first(table):
    # Arrow compares text by its UTF-8 bytes.
    return table.sort_by([("count", "descending"), ("value", "ascending")])
