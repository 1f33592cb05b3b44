"""Several columns' values together.

The id is `FIRST_ID` plus the bucket of the parts' texts with a unit separator (U+001F) between
them. A part's text is that which its own column would be hashed by: integers are their decimal
digits, truth values have one spelling. Where a part is missing, by its own column's rules, the id
is `MISSING_ID`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmoe.data.encode.codecs.base import Codec
from tfmoe.data.encode.codecs.categorical import CategoricalCodec, are_missing, respelled
from tfmoe.data.encode.columns import categorical_texts
from tfmoe.data.encode.hashing import HASH_KEY, hash_buckets
from tfmoe.data.numerals import SPELLED_WHOLE
from tfmoe.schema.columns import FIRST_ID, MISSING_ID

_SEPARATOR = "\x1f"


class CrossedCodec(Codec):
    """See `Codec`. Its parts read the raw columns, and the request."""

    def __init__(self, column, schema):
        super().__init__(column, schema)
        parts: list[Any] = [schema.column(name) for name in column.columns]
        self._parts = [CategoricalCodec(part, schema) for part in parts]

    def kinds(self, dtypes):
        return {}

    def encode(self, chunk, fitted):
        texts, missing = [], np.zeros(len(next(iter(chunk.values()))), bool)
        for part in self._parts:
            table, is_int, _, declared = part.reading(fitted)
            raw = part.column.raw_name
            text, gaps = categorical_texts(chunk[raw], raw, table, is_int, declared)
            texts.append(text)
            missing |= gaps
        joined = pc.binary_join_element_wise(*texts, pa.scalar(_SEPARATOR, pa.large_string()))
        joined = joined.dictionary_encode()
        buckets = hash_buckets(joined.dictionary, self.column.hash_buckets)
        ids = (FIRST_ID + buckets).astype(np.int32)[joined.indices.to_numpy()]
        return {self.column.name: np.where(missing, np.int32(MISSING_ID), ids)}

    def signature(self, fitted):
        return {}

    def request(self, df, fitted):
        return {}

    def graph(self, raw, encoder):
        import tensorflow as tf

        texts, missing = [], False
        for part in self._parts:
            cells = raw[part.column.name]
            table = encoder.preprocessor.tables[part.column.table]
            text = cells.dtype == tf.string
            if text:
                cells = tf.strings.regex_replace(cells, SPELLED_WHOLE, r"\1")
            missing |= are_missing(cells, table)
            texts.append(respelled(cells) if text else tf.strings.as_string(cells))
        joined = tf.strings.join(texts, _SEPARATOR)
        buckets = self.column.hash_buckets
        ids = FIRST_ID + tf.strings.to_hash_bucket_strong(joined, buckets, key=HASH_KEY)
        return {self.column.name: tf.where(missing, MISSING_ID, tf.cast(ids, tf.int32))}
