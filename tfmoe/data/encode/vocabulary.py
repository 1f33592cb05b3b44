"""The tables that turn values into ids: fitted vocabularies, and hashing."""

from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tfmoe.data.arrow import decimals
from tfmoe.data.encode.hashing import hash_buckets
from tfmoe.schema.columns import FIRST_ID, MISSING_ID, MISSING_INT, MISSING_STRING, UNKNOWN_ID

# Text offsets of 64 bits: the distinct values of a column may exceed 2 GiB.
ARROW_TYPES = {"int": pa.int64(), "string": pa.large_string()}


class Vocabulary:
    """Ids of the values of a fitted vocabulary: `FIRST_ID` plus the place in it.

    Args:
        values: Arrow array in the order of the ids, int64 or large_string.
    """

    def __init__(self, values: pa.Array) -> None:
        self.values = values
        self.is_int = pa.types.is_integer(values.type)
        self._places: dict[str, int] | None = None
        if self.is_int:
            self._index = pd.Index(values.to_numpy())
            # The first look-up builds the hash table, which threads must not do at once.
            self._index.get_indexer(values[:1].to_numpy())

    @cached_property
    def _text(self):
        text = decimals(self.values) if self.is_int else self.values
        return text.cast(pa.large_string())

    @property
    def size(self) -> int:
        """Rows of the embedding table."""
        return FIRST_ID + len(self.values)

    def int_ids(self, values: np.ndarray) -> np.ndarray:
        """Ids of int64 `(n,)`: int32 `(n,)`."""
        ids = self._index.get_indexer(values) + FIRST_ID
        ids[ids < FIRST_ID] = UNKNOWN_ID
        ids[values == MISSING_INT] = MISSING_ID
        return ids.astype(np.int32)

    def takes_repeats(self, num_values: int) -> bool:
        """Whether this many strings are best looked up as they are, with their repeats.

        If not, the different ones should be looked up, once each. Arrow's look-up builds
        a hash table of the vocabulary at each call, so it pays while that is small.
        """
        return len(self._text) <= 2 * num_values

    def text_ids(self, text: pa.Array) -> np.ndarray:
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

    def __init__(self, num_buckets: int) -> None:
        self.num_buckets = num_buckets

    @property
    def size(self) -> int:
        """Rows of the embedding table."""
        return FIRST_ID + self.num_buckets

    def takes_repeats(self, num_values: int) -> bool:
        """See `Vocabulary`: hashing is slow, so each distinct string is hashed once."""
        return False

    def int_ids(self, values: np.ndarray) -> np.ndarray:
        """Ids of int64 `(n,)`: int32 `(n,)`."""
        distinct, places = np.unique(values, return_inverse=True)
        ids = self.text_ids(decimals(distinct))
        ids[distinct == MISSING_INT] = MISSING_ID
        return ids[places]

    def text_ids(self, text: pa.Array) -> np.ndarray:
        """Ids of n strings: int32 `(n,)`."""
        ids = (hash_buckets(text, self.num_buckets) + FIRST_ID).astype(np.int32)
        ids[pc.equal(text, MISSING_STRING).to_numpy(zero_copy_only=False)] = MISSING_ID
        return ids
