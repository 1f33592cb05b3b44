"""A large vocabulary inside a served graph: sorted integers, in which values are bisected."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfmoe.data.encode.hashing import HASH_KEY, NUM_FINGERPRINTS
from tfmoe.schema.columns import UNKNOWN_ID


class SortedTable(tf.Module):
    """Ids of the values of a vocabulary, as variables, so that no graph holds the values.

    A hash table of ten million values takes gigabytes, and a graph that holds them nears the
    2 GB that a protocol buffer may have. This is two vectors, which load as fast as they are read.
    Integers are compared as they are, text by 63 bits of its hash: of `n` values, text that is
    none of them is taken for one of them with a chance of `n / 2**63`.

    Args:
        keys: int64 `(n,)`, ascending: the integers, or the texts' fingerprints.
        ids: int32 `(n,)`.
        text: whether raw values are strings.
    """

    def __init__(self, keys: np.ndarray, ids: np.ndarray, text: bool) -> None:
        super().__init__()
        self._text = text
        self.keys = tf.Variable(keys, trainable=False, name="keys")
        self.ids = tf.Variable(ids, trainable=False, name="ids")

    def lookup(self, raw: tf.Tensor) -> tf.Tensor:
        """Ids of values of any shape: int32, `UNKNOWN_ID` of those that are not there."""
        asked = raw
        if self._text:
            asked = tf.strings.to_hash_bucket_strong(raw, NUM_FINGERPRINTS, key=HASH_KEY)
        asked = tf.reshape(asked, [-1])
        # As tensors: a variable of which rows are gathered is copied whole wherever it is read.
        keys, ids = self.keys.read_value(), self.ids.read_value()
        places = tf.minimum(tf.searchsorted(keys, asked), tf.size(keys) - 1)
        found = tf.gather(keys, places) == asked
        return tf.reshape(tf.where(found, tf.gather(ids, places), UNKNOWN_ID), tf.shape(raw))
