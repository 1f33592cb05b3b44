"""Lists of values, and perhaps their weights: twins of `list_ids`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from tfmoe.data.arrow import at_row, in_cells, of_lists, split_lists, split_numbers
from tfmoe.data.encode.codecs.base import MISSING, single_of
from tfmoe.data.encode.codecs.categorical import CategoricalCodec
from tfmoe.data.encode.codecs.numeric import as_they_are
from tfmoe.data.encode.columns import (
    Cells,
    cells_of,
    check_aligned,
    kept_places,
    list_ids,
    padded_ids,
    plain_feature,
)
from tfmoe.data.kinds import to_arrow
from tfmoe.data.read.tables import one_array
from tfmoe.schema.columns import MISSING_ID, MISSING_STRING, PADDING_ID
from tfmoe.schema.histories import leader_of, list_groups


class ListCodec(CategoricalCodec):
    """See `Codec`. Of columns that share positions the first encodes all, the others nothing."""

    #: Whether values are looked up, so that texts that repeat are worth keeping.
    looks_up = True

    def __init__(self, column, schema):
        super().__init__(column, schema)
        self._leads = leader_of(column) == column.name
        self._members = [self]
        for leader, *others in list_groups(schema.columns):
            if leader.name == column.name:
                self._members += [_codec_of(other, schema) for other in others]

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
        column = self.column
        length = fitted.lengths[column.name]
        if not self._leads:
            return {}
        if len(self._members) == 1 and column.weights is None and self.looks_up:
            array, (table, is_int, cache, declared) = chunk[column.raw_name], self.reading(fitted)
            ids = list_ids(array, column, table, is_int, length, cache, declared)
            return {column.name: ids}
        # Weights, or what stands beside, differ where texts repeat: each cell is taken by itself.
        cells = [member.cells(chunk, *member.reading(fitted)) for member in self._members]
        check_aligned([member.column.raw_name for member in self._members], cells)
        places = kept_places(cells, length, column.keeps_last)
        padded = padded_ids(cells, places)
        features = {}
        for member, own, kept, ids in zip(self._members, cells, places, padded, strict=True):
            features[member.column.name] = ids
            features |= member.weigh(chunk, own.lengths, kept, ids)
        return features

    def cells(self, chunk: Mapping[str, pa.Array], *reading: Any) -> Cells:
        """The ids of the cells' elements."""
        return cells_of(chunk[self.column.raw_name], self.column, *reading)

    def ids(self, chunk, *reading):
        return self.cells(chunk, *reading).ids

    def weigh(self, chunk: Any, lengths: Any, places: Any, ids: Any) -> dict[str, np.ndarray]:
        """The weights of ids at the places, as a feature, if there are some."""
        name = self.column.weights
        if name is None:
            return {}
        weights = np.append(self._weights(chunk[name], lengths), np.float32(0))[places]
        weights = np.where(ids == PADDING_ID, np.float32(0), weights)
        weights = np.where(ids == MISSING_ID, np.float32(1), weights)
        return {f"{self.column.name}_weights": weights}

    def _weights(self, array, lengths):
        """A number for each element: float32, 1 where it is missing."""
        name = self.column.weights
        values, own = split_numbers(array, name, self.column.separator)
        if self._separated:
            # An empty text has one value, which is missing; in a text file it has none.
            none = (lengths == 0) & (own == 1)
            values, own = values[np.repeat(~none, own)], np.where(none, 0, own)
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

    def _request(self, array: pa.Array, text: bool) -> np.ndarray:
        """Cells as a request has them: text with its separators `(n,)`, else `(n, longest)`."""
        name, missing = self.column.raw_name, self.owner.missing
        if self._separated:
            return single_of(array, name, text)
        elements, lengths = split_lists(array, self.column)
        with in_cells(of_lists(lengths)):
            values = single_of(elements, name, text, missing)
        width = max([1, *lengths])
        kind = "string" if text else "int64"
        found = np.full((len(lengths), width), MISSING[kind], values.dtype)
        found[np.arange(width) < lengths[:, None]] = values
        return found

    def request(self, df, fitted):
        column, text = self.column, self.is_text(fitted)
        values = self._request(one_array(to_arrow(df[column.raw_name], column.raw_name)), text)
        if column.weights is None:
            return {column.name: values}
        raw = one_array(to_arrow(df[column.weights], column.weights))
        weights = padded_numbers(raw, column.weights, column.separator)
        return {column.name: values, f"{column.name}_weights": weights}

    def graph(self, raw, encoder):
        import tensorflow as tf

        if not self._leads:
            return {}
        length = encoder.preprocessor.lengths[self.column.name]
        found = [member.padded(raw, encoder) for member in self._members]
        width = tf.reduce_max([tf.shape(ids)[1] for ids in found])
        found = [tf.pad(ids, [[0, 0], [0, width - tf.shape(ids)[1]]]) for ids in found]
        kept = _kept(found, length, self.column.keeps_last)
        cut = [tf.gather(tf.pad(ids, [[0, 0], [0, length]]), kept, batch_dims=1) for ids in found]
        empty = tf.reduce_all([ids == PADDING_ID for ids in cut], axis=[0, 2])[:, None]
        first = tf.one_hot(0, length, MISSING_ID, PADDING_ID, dtype=tf.int32)[None]
        features = {}
        for member, ids in zip(self._members, cut, strict=True):
            name = member.column.name
            features[name] = tf.where(empty, first, ids)
            if member.column.weights is not None:
                raw_weights = raw[f"{name}_weights"]
                weights = _weights_at(kept, raw_weights, width + length, features[name])
                features[f"{name}_weights"] = weights
        return features

    def padded(self, raw: Mapping[str, Any], encoder: Any) -> Any:
        """Ids `(b, l)` of a request's cells, with `PADDING_ID` for missing elements."""
        import tensorflow as tf

        column, cells = self.column, raw[self.column.name]
        if self._separated:
            cells = tf.strings.split(cells, column.separator).to_tensor(MISSING_STRING)
            cells = tf.strings.strip(cells) if column.strip else cells
        ids, missing = self.look_up(cells, encoder)
        return tf.where(missing, PADDING_ID, ids)


def padded_numbers(array: pa.Array, name: str, separator: str | None) -> np.ndarray:
    """Lists of numbers as a request has them: float64 `(n, longest)`, padded with NaN."""
    numbers, lengths = split_numbers(array, name, separator)
    width = max([1, *lengths])
    found = np.full((len(lengths), width), MISSING["float64"])
    found[np.arange(width) < lengths[:, None]] = numbers
    return found


def _codec_of(column, schema):
    from tfmoe.data.encode.codecs import codec_of  # which knows the kinds of lists

    return codec_of(column, schema)


def _kept(columns, length, keeps_last):
    """The places of ids `(b, l)` that are kept, `(b, length)`, perhaps behind the end."""
    import tensorflow as tf

    present = tf.reduce_any([ids != PADDING_ID for ids in columns], axis=0)
    # One place more, so that a request of width 0 has a maximum.
    ends = tf.where(present, tf.range(tf.shape(present)[1]) + 1, 0)
    ends = tf.pad(ends, [[0, 0], [0, 1]])
    start = tf.zeros_like(ends[:, 0])
    if keeps_last:
        start = tf.maximum(tf.reduce_max(ends, axis=1) - length, 0)
    return start[:, None] + tf.range(length)


def _weights_at(places, weights, width, ids):
    """A request's weights `(b, l)` of the ids at the places."""
    import tensorflow as tf

    # A request may have fewer weights than values.
    short = tf.maximum(width - tf.shape(weights)[1], 0)
    weights = tf.pad(weights, [[0, 0], [0, short]], constant_values=np.float64("nan"))
    weights = tf.gather(weights, places, batch_dims=1)
    weights = tf.where(tf.math.is_finite(weights), weights, np.float64(1))
    weights = tf.where(ids == PADDING_ID, np.float32(0), as_they_are(weights))
    return tf.where(ids == MISSING_ID, np.float32(1), weights)


def _weighed(values):
    return plain_feature(np.where(np.isfinite(values), values, 1.0))
