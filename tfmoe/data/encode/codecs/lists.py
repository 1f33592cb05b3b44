"""Lists of values, and perhaps their weights: twins of `list_ids`."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfmoe.data.arrow import at_row, split_numbers
from tfmoe.data.encode.codecs.base import MISSING, single_values
from tfmoe.data.encode.codecs.categorical import CategoricalCodec
from tfmoe.data.encode.codecs.numeric import as_they_are
from tfmoe.data.encode.columns import (
    element_ids,
    kept_places,
    list_ids,
    padded_ids,
    plain_feature,
)
from tfmoe.data.kinds import is_list, to_arrow
from tfmoe.data.read.tables import one_array
from tfmoe.schema.columns import MISSING_ID, MISSING_STRING, PADDING_ID


class ListCodec(CategoricalCodec):
    """See `Codec`."""

    @property
    def needs_fit(self):
        return super().needs_fit or self.column.max_length is None

    @property
    def _separated(self):
        return self.column.separator is not None

    def kinds(self, dtypes):
        kind = "text" if self._separated else "list"
        return dict.fromkeys(self.column.raw_names, kind)

    def encode(self, chunk, fitted):
        column, array = self.column, chunk[self.column.raw_name]
        table, is_int, cache, declared = self.reading(fitted)
        length = fitted.lengths[column.name]
        if column.weights is None:
            ids = list_ids(array, column, table, is_int, length, cache, declared)
            return {column.name: ids}
        # Weights differ where texts repeat: each cell is taken by itself.
        is_int = is_int and (not self._separated or is_list(array.type))
        ids, lengths = element_ids(array, column, table, is_int, cache, declared)
        weights = self._weights(chunk[column.weights], lengths)
        places = kept_places(ids, lengths, length, column.keeps_last)
        kept = padded_ids(ids, places)
        weights = np.append(weights, np.float32(0))[places]
        weights = np.where(kept == PADDING_ID, np.float32(0), weights)
        weights = np.where(kept == MISSING_ID, np.float32(1), weights)
        return {column.name: kept, f"{column.name}_weights": weights}

    def _weights(self, array, lengths):
        """A number for each element: float32, 1 where it is missing."""
        name = self.column.weights
        values, own = split_numbers(array, name, self.column.separator)
        # A missing cell of weights has 1 for each value.
        bad = np.flatnonzero((own != lengths) & (own > 0))
        if len(bad):
            raise at_row(
                ValueError(
                    f"Column {name!r} weighs the values of {self.column.raw_name!r}, one number "
                    f"each. Received {own[bad[0]]} weights of {lengths[bad[0]]} values. Make both "
                    "lists equally long, or the weights of a row None."
                ),
                bad[0],
            )
        weights = np.ones(lengths.sum(), np.float32)
        weights[np.repeat(own > 0, lengths)] = _weighed(values)
        return weights

    def is_text(self, fitted):
        return self._separated or super().is_text(fitted)

    def signature(self, fitted):
        kind = "string" if self.is_text(fitted) else "int64"
        found = {self.column.name: (kind, 1 if self._separated else 2)}
        if self.column.weights is not None:
            found[f"{self.column.name}_weights"] = ("float64", 2)
        return found

    def request(self, df, fitted):
        column, text = self.column, self.is_text(fitted)
        cells = df[column.raw_name].tolist()
        values = single_values(cells, text) if self._separated else _padded(cells, text)
        if column.weights is None:
            return {column.name: values}
        raw = one_array(to_arrow(df[column.weights], column.weights))
        numbers, lengths = split_numbers(raw, column.weights, column.separator)
        width = max([1, *lengths])
        weights = np.full((len(lengths), width), MISSING["float64"])
        weights[np.arange(width) < lengths[:, None]] = numbers
        return {column.name: values, f"{column.name}_weights": weights}

    def graph(self, raw, encoder):
        import tensorflow as tf

        column, cells = self.column, raw[self.column.name]
        if self._separated:
            cells = tf.strings.split(cells, column.separator).to_tensor(MISSING_STRING)
            cells = tf.strings.strip(cells) if column.strip else cells
        ids, missing = self.look_up(cells, encoder)
        ids = tf.where(missing, PADDING_ID, ids)
        length = encoder.preprocessor.lengths[column.name]
        kept = _kept(ids, length, column.keeps_last)
        padded = tf.gather(tf.pad(ids, [[0, 0], [0, length]]), kept, batch_dims=1)
        empty = tf.reduce_all(padded == PADDING_ID, axis=1, keepdims=True)
        first = tf.one_hot(0, length, MISSING_ID, PADDING_ID, dtype=tf.int32)[None]
        features = {column.name: tf.where(empty, first, padded)}
        if column.weights is not None:
            name = f"{column.name}_weights"
            weights = raw[name]
            # A request may have fewer weights than values.
            short = tf.maximum(tf.shape(ids)[1] + length - tf.shape(weights)[1], 0)
            nan = np.float64("nan")
            weights = tf.pad(weights, [[0, 0], [0, short]], constant_values=nan)
            weights = tf.gather(weights, kept, batch_dims=1)
            weights = tf.where(tf.math.is_finite(weights), weights, np.float64(1))
            weights = tf.where(padded == PADDING_ID, np.float32(0), as_they_are(weights))
            features[name] = tf.where(features[column.name] == MISSING_ID, np.float32(1), weights)
        return features


def _kept(ids, length, keeps_last):
    """The places of the ids `(b, l)` that are kept, `(b, length)`, perhaps behind the end."""
    import tensorflow as tf

    # One place more, so that a request of width 0 has a maximum.
    places = tf.range(tf.shape(ids)[1])
    ends = tf.pad(tf.where(ids != PADDING_ID, places + 1, 0), [[0, 0], [0, 1]])
    start = tf.zeros_like(ends[:, 0])
    if keeps_last:
        start = tf.maximum(tf.reduce_max(ends, axis=1) - length, 0)
    return start[:, None] + tf.range(length)


def _weighed(values):
    return plain_feature(np.where(np.isfinite(values), values, 1.0))


def _padded(cells: list[Any], text: bool) -> np.ndarray:
    lists = [[] if cell is None or isinstance(cell, float) else list(cell) for cell in cells]
    missing = MISSING["string" if text else "int64"]
    width = max([1, *map(len, lists)])
    rows = [single_values(cell + [missing] * (width - len(cell)), text) for cell in lists]
    return np.stack(rows) if rows else np.zeros((0, width), object if text else "int64")
