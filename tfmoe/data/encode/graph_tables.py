"""Which way a vocabulary is held inside a served graph."""

from __future__ import annotations

import contextlib
from typing import Any

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
    if vocabulary.is_large:
        from tfmoe.data.encode.sorted_table import SortedTable

        # Two values of one hash are as rare as ten million values in one vocabulary are many.
        with contextlib.suppress(ValueError):
            return SortedTable(values, ids)
    kind = tf.string if text else tf.int64
    initializer = tf.lookup.KeyValueTensorInitializer(
        tf.constant(values.to_pylist(), kind, shape=(len(values),)),
        tf.constant(ids, tf.int64, shape=(len(values),)),
    )
    return tf.lookup.StaticHashTable(initializer, UNKNOWN_ID)
