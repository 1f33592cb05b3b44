"""Counting values, and the tables that turn values into ids."""

import warnings
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tfmoe.columns import FIRST_ID, MISSING_ID, MISSING_INT, MISSING_STRING, UNKNOWN_ID
from tfmoe.data.convert import decimals
from tfmoe.data.hashing import hash_buckets

_BUFFER = 1_000_000

# Text offsets of 64 bits: the distinct values of a column may exceed 2 GiB.
ARROW_TYPES = {"int": pa.int64(), "string": pa.large_string()}


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
    """

    def __init__(self, dtype, max_distinct, name):
        self.dtype = dtype
        self.max_distinct = max_distinct
        self.name = name
        self._parts = []
        self._buffered = 0
        self._current = 0
        self._warned = False

    def add(self, values, counts=None):
        """Counts an Arrow array of values; null and the missing values are left out."""
        if counts is None:
            if pa.types.is_dictionary(values.type):
                present = values.indices.drop_null().to_numpy(zero_copy_only=False)
                counts = pa.array(np.bincount(present, minlength=len(values.dictionary)))
                values = values.dictionary
            else:
                values, counts = pc.value_counts(values).flatten()
        part = pa.table({"value": values.cast(ARROW_TYPES[self.dtype]), "count": counts})
        missing = MISSING_INT if self.dtype == "int" else MISSING_STRING
        keep = pc.and_(pc.not_equal(part["value"], missing), pc.greater(part["count"], 0))
        self.add_table(part.filter(keep))

    def add_table(self, table):
        """Adds an Arrow table of `value` and `count`."""
        self._parts.append(table)
        self._buffered += len(table)
        if self._buffered > max(2 * self._current, _BUFFER):
            self._sum_up()

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

    def table(self):
        """Arrow table of `value` and `count`, most frequent first, ties by value."""
        self._sum_up()
        if not self._parts:
            empty = {"value": pa.array([], ARROW_TYPES[self.dtype]), "count": pa.array([], "int64")}
            return pa.table(empty)
        return _most_frequent_first(self._parts[0])

    def vocabulary(self, min_count=1, max_size=None):
        """The values that get an id, in the order of their ids."""
        table = self.table()
        table = table.filter(pc.greater_equal(table["count"], min_count))
        return table["value"].slice(0, max_size).combine_chunks()


def _most_frequent_first(table):
    # Arrow compares text by its UTF-8 bytes.
    return table.sort_by([("count", "descending"), ("value", "ascending")])


class Vocabulary:
    """Ids of the values of a fitted vocabulary: `FIRST_ID` plus the place in it.

    Args:
        values: Arrow array in the order of the ids, int64 or large_string.
    """

    def __init__(self, values):
        self.values = values
        self.is_int = pa.types.is_integer(values.type)
        self._places = None
        if self.is_int:
            self._index = pd.Index(values.to_numpy())
            # The first look-up builds the hash table, which threads must not do at once.
            self._index.get_indexer(values[:1].to_numpy())

    @cached_property
    def _text(self):
        text = decimals(self.values) if self.is_int else self.values
        return text.cast(pa.large_string())

    @property
    def size(self):
        return FIRST_ID + len(self.values)

    def int_ids(self, values):
        """Ids of int64 `(n,)`: int32 `(n,)`."""
        ids = self._index.get_indexer(values) + FIRST_ID
        ids[ids < FIRST_ID] = UNKNOWN_ID
        ids[values == MISSING_INT] = MISSING_ID
        return ids.astype(np.int32)

    def takes_repeats(self, num_values):
        """Whether so many strings are best looked up as they are, repeats and all.

        If not, the different ones should be looked up, once each. Arrow's look-up builds
        a hash table of the vocabulary at each call, so it pays while that is small.
        """
        return len(self._text) <= 2 * num_values

    def text_ids(self, text):
        """Ids of n strings, or of the decimal forms of integers: int32 `(n,)`."""
        if self.takes_repeats(len(text)):
            found = pc.index_in(text.cast(pa.large_string()), value_set=self._text)
            ids = found.fill_null(UNKNOWN_ID - FIRST_ID).to_numpy(zero_copy_only=False) + FIRST_ID
        else:
            if self._places is None:
                ids = range(FIRST_ID, self.size)
                self._places = dict(zip(self._text.to_pylist(), ids, strict=True))
            find = self._places.get
            ids = [find(value, UNKNOWN_ID) for value in text.to_pylist()]
        ids = np.asarray(ids, np.int32)
        ids[pc.equal(text, MISSING_STRING).to_numpy(zero_copy_only=False)] = MISSING_ID
        return ids


class HashTable:
    """Ids of values that are hashed: `FIRST_ID` plus the bucket of the value's text.

    The bucket is that of `tf.strings.to_hash_bucket_strong(text, num_buckets, HASH_KEY)`.
    """

    def __init__(self, num_buckets):
        self.num_buckets = num_buckets

    @property
    def size(self):
        return FIRST_ID + self.num_buckets

    def takes_repeats(self, num_values):
        """Whether so many strings are best looked up as they are; see `Vocabulary`."""
        return False

    def int_ids(self, values):
        """Ids of int64 `(n,)`: int32 `(n,)`."""
        distinct, places = np.unique(values, return_inverse=True)
        ids = self.text_ids(decimals(distinct))
        ids[distinct == MISSING_INT] = MISSING_ID
        return ids[places]

    def text_ids(self, text):
        """Ids of n strings: int32 `(n,)`."""
        ids = (hash_buckets(text, self.num_buckets) + FIRST_ID).astype(np.int32)
        ids[pc.equal(text, MISSING_STRING).to_numpy(zero_copy_only=False)] = MISSING_ID
        return ids
