"""Numbers: twins of `numeric_feature`."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfmoe.data.arrow import missing_numbers, to_floats
from tfmoe.data.encode.codecs.base import Codec
from tfmoe.data.encode.columns import (
    LARGEST_FEATURE,
    LARGEST_FLOAT,
    SMALLEST,
    SMALLEST_FEATURE,
    numeric_feature,
)
from tfmoe.data.kinds import to_arrow
from tfmoe.data.read.tables import one_array
from tfmoe.schema.columns import FIRST_ID, MISSING_ID


class NumericCodec(Codec):
    """See `Codec`; what is fitted is a `NumericFit`, which `Statistics` counts."""

    @property
    def needs_fit(self):
        return self.column.transform != "none"

    def kinds(self, dtypes):
        return {self.column.raw_name: "float" if self.column.element is None else "list"}

    def encode(self, chunk, fitted):
        column = self.column
        array = chunk[column.raw_name]
        values = to_floats(array, column.raw_name, column.missing, element=column.element)
        return {column.name: numeric_feature(values, column, fitted.numeric[column.name])}

    def signature(self, fitted):
        return {self.column.name: ("float64", 1)}

    def request(self, df, fitted):
        column = self.column
        raw = one_array(to_arrow(df[column.raw_name], column.raw_name, numbers=True))
        # A request has numbers, also those that stand for a missing one.
        texts = column.missing and tuple(m for m in column.missing if isinstance(m, str))
        return {column.name: to_floats(raw, column.raw_name, texts, element=column.element)}

    def graph(self, raw, encoder):
        import tensorflow as tf

        column, raw = self.column, raw[self.column.name]
        fit = encoder.preprocessor.numeric[column.name]
        missing = ~tf.math.is_finite(raw)
        for marker in missing_numbers(column.missing):
            missing |= raw == np.float64(marker)
        values = tf.where(missing, np.float64(0 if fit.fill is None else fit.fill), raw)
        values = flushed(values, SMALLEST)
        missing = missing if fit.fill is None else tf.zeros_like(missing)
        if column.embeds:
            boundaries = tf.constant(np.asarray(fit.boundaries, "float64"))
            ids = FIRST_ID + tf.searchsorted(boundaries[None], values[None], side="right")[0]
            return {column.name: tf.where(missing, MISSING_ID, ids)}
        if column.transform == "none":
            feature = as_they_are(values)
        else:
            if column.transform == "log":
                values = tf.sign(values) * tf.math.log1p(tf.abs(values))
            feature = scaled(values, fit.mean, fit.scale)
        return {column.name: tf.where(missing, np.float32(0), feature)}


def flushed(values: Any, smallest: float) -> Any:
    """Tensor without subnormal numbers: some machines have them and others do not, so none has."""
    import tensorflow as tf

    return tf.where(tf.abs(values) < smallest, tf.zeros_like(values), values)


def scaled(values: Any, mean: Any, scale: Any) -> Any:
    """Twin of `scaled_feature`."""
    import tensorflow as tf

    apart = flushed(values - np.asarray(mean, "float64"), SMALLEST)
    times = apart * np.asarray(scale, "float64")
    feature = tf.clip_by_value(times, np.float64(-LARGEST_FEATURE), np.float64(LARGEST_FEATURE))
    return flushed(tf.cast(feature, tf.float32), SMALLEST_FEATURE)


def as_they_are(values: Any) -> Any:
    """Twin of `plain_feature`."""
    import tensorflow as tf

    feature = tf.clip_by_value(values, np.float64(-LARGEST_FLOAT), np.float64(LARGEST_FLOAT))
    return flushed(tf.cast(feature, tf.float32), SMALLEST_FEATURE)
