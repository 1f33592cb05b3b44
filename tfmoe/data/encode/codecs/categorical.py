"""Values of a set, one a row: twins of `categorical_ids`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from tfmoe.data.encode.codecs.base import Codec, single_values
from tfmoe.data.encode.columns import TextCache, categorical_ids
from tfmoe.data.encode.graph_tables import graph_table
from tfmoe.data.encode.hashing import HASH_KEY
from tfmoe.data.numerals import SPELLED_WHOLE, SPELLINGS
from tfmoe.schema.columns import FIRST_ID, MISSING_ID


class CategoricalCodec(Codec):
    """See `Codec`; what is fitted are tables of values, which `Statistics` counts."""

    def __init__(self, column, schema):
        super().__init__(column, schema)
        self.owner = schema.column(column.table)
        self._cache = TextCache()

    @property
    def needs_fit(self):
        return self.owner.hash_buckets is None

    def kinds(self, dtypes):
        return {self.column.raw_name: dtypes[self.column.table]}

    def encode(self, chunk, fitted):
        return {self.column.name: self.ids(chunk, *self.reading(fitted))}

    def ids(self, chunk: Mapping[str, pa.Array], *reading: Any) -> np.ndarray:
        """The ids of all values of its cells, int32, one after the other."""
        return categorical_ids(chunk[self.column.raw_name], self.column.raw_name, *reading)

    def reading(self, fitted: Any) -> tuple[Any, bool, TextCache, bool]:
        """How values become ids, as `categorical_ids` takes it."""
        is_int = fitted.dtypes[self.column.name] == "int"
        return self.reading_by(fitted.tables[self.column.table], is_int)

    def reading_by(self, table: Any, is_int: bool) -> tuple[Any, bool, TextCache, bool]:
        """The same, of a table and whether its values are integers."""
        return table, is_int, self._cache, self.owner.dtype is not None

    def is_text(self, fitted: Any) -> bool:
        """Whether the raw column holds strings."""
        return fitted.dtypes[self.column.name] == "string"

    def signature(self, fitted):
        return {self.column.name: ("string" if self.is_text(fitted) else "int64", 1)}

    def request(self, df, fitted):
        raw, text = self.column.raw_name, self.is_text(fitted)
        return {self.column.name: single_values(df[raw], raw, text, self.owner.missing)}

    def hold(self, encoder):
        self.table(encoder)

    def graph(self, raw, encoder):
        import tensorflow as tf

        ids, missing = self.look_up(raw[self.column.name], encoder)
        return {self.column.name: tf.where(missing, MISSING_ID, ids)}

    def look_up(self, raw: Any, encoder: Any) -> tuple[Any, Any]:
        """Ids of raw values, and which of these are missing."""
        import tensorflow as tf

        text = raw.dtype == tf.string
        table = encoder.preprocessor.tables[self.column.table]
        if text and table.spells_whole:
            raw = tf.strings.regex_replace(raw, SPELLED_WHOLE, r"\1")
        missing = are_missing(raw, table)
        buckets = self.owner.hash_buckets
        if buckets:
            words = raw if text else tf.strings.as_string(raw)
            words = respelled(words) if text and table.one_spelling else words
            ids = FIRST_ID + tf.strings.to_hash_bucket_strong(words, buckets, key=HASH_KEY)
        else:
            ids = self.table(encoder).lookup(raw)
        return tf.cast(ids, tf.int32), missing

    def table(self, encoder: Any) -> Any:
        """The vocabulary, keyed as the raw values are; None of hashed values.

        Columns that share it, and hold the same, have one. What is exported must hold it.
        """
        if self.owner.hash_buckets:
            return None
        text = self.is_text(encoder.preprocessor)
        key = f"{self.column.table}_{'text' if text else 'int'}"
        if key not in encoder.tables:
            encoder.tables[key] = graph_table(encoder.preprocessor.tables[self.column.table], text)
        return encoder.tables[key]


def are_missing(raw: Any, table: Any) -> Any:
    """Which of a request's values stand for a missing one of a `Vocabulary` or `HashTable`."""
    import tensorflow as tf

    missing = tf.zeros_like(raw, tf.bool)
    text = raw.dtype == tf.string
    for marker in table.missing.texts if text else table.missing.integers:
        missing |= raw == (marker if text else np.int64(marker))
    return missing


def respelled(words: Any) -> Any:
    """Tensor of text with one spelling of each truth value."""
    import tensorflow as tf

    for spelled, meant in SPELLINGS.items():
        words = tf.where(words == spelled, meant, words)
    return words
