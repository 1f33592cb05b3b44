"""Which way a vocabulary is held inside a served graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from tfmoe.data.encode.vocabulary import Vocabulary
from tfmoe.schema.columns import UNKNOWN_ID


def graph_table(vocabulary: Vocabulary, text: bool) -> Any:
    """What looks up ids in a graph, by `lookup(raw)`; what is exported must hold it.

    A hash table is the fastest, and part of the graph; see `SortedTable` for large ones.

    Args:
        vocabulary: `Vocabulary`.
        text: whether raw values are strings, not int64.
    """
    import tensorflow as tf

    values, ids = vocabulary.keyed(text)
    bisected = vocabulary.bisected(text) if vocabulary.is_large else None
    if bisected is not None:
        from tfmoe.data.encode.sorted_table import SortedTable

        keys, order = bisected
        return SortedTable(keys, ids[order], text)
    if not len(values):
        # TensorFlow takes no empty table; that one value is unknown is so without it too.
        values, ids = pa.array([""] if text else [0]), np.array([UNKNOWN_ID])
    kind = tf.string if text else tf.int64
    initializer = tf.lookup.KeyValueTensorInitializer(
        tf.constant(values.to_pylist(), kind, shape=(len(values),)),
        tf.constant(ids, tf.int64, shape=(len(values),)),
    )
    return tf.lookup.StaticHashTable(initializer, UNKNOWN_ID)
