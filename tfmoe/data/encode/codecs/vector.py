"""Vectors of numbers.

A number that is missing or infinite is 0.0; others are `clip((x - mean) * scale, -100, 100)`, each
element with its own mean and scale, or as they are, clipped to +-3e38. A cell of no numbers is
missing. Subnormal numbers are 0, as for `Numeric`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfmoe.data.arrow import at_row, split_numbers
from tfmoe.data.encode.codecs.base import Codec
from tfmoe.data.encode.codecs.numeric import as_they_are, flushed, scaled
from tfmoe.data.encode.columns import SMALLEST, plain_feature, scaled_feature, without_subnormals
from tfmoe.data.fit.sketches import VectorMoments
from tfmoe.data.kinds import to_arrow
from tfmoe.data.read.tables import one_array


@dataclass(frozen=True)
class VectorFit:
    """What was fitted of a `Vector`: mean and scale of each element, float64 `(size,)`."""

    mean: np.ndarray = field(default_factory=lambda: np.zeros(1))
    scale: np.ndarray = field(default_factory=lambda: np.ones(1))


class VectorCodec(Codec):
    """See `Codec`."""

    fit_kind = VectorFit

    @property
    def needs_fit(self):
        return self.column.standardize or self.column.size is None

    def kinds(self, dtypes):
        return {self.column.raw_name: "list"}

    def nothing(self):
        size = self.column.size
        return VectorMoments() if size is None else VectorMoments.none(size)

    def count(self, chunk, seen):
        raw = self.column.raw_name
        return seen.merge(VectorMoments.of(self._vectors(chunk[raw], len(seen.count) or None)))

    def fit(self, seen):
        # Where no cell was seen the size is 1.
        seen = seen if len(seen.count) else VectorMoments.none(1)
        size = len(seen.count)
        if not self.column.standardize:
            return VectorFit(np.zeros(size), np.ones(size))
        return VectorFit(without_subnormals(seen.mean), seen.scale)

    def width(self, fit):
        return len(fit.mean)

    def check(self, fit):
        size = self.column.size or len(fit.mean)
        right = fit.mean.shape == fit.scale.shape == (size,) and size >= 1
        return bool(right and np.isfinite(fit.mean).all() and np.isfinite(fit.scale).all())

    def _vectors(self, array: Any, size: int | None) -> np.ndarray:
        """Cells as float64 `(n, size)`, NaN for what is missing; None takes the cells' own size."""
        name = self.column.raw_name
        values, lengths = split_numbers(array, name)
        present = lengths > 0
        if size is None:
            size = int(lengths[present][0]) if present.any() else 0
        bad = np.flatnonzero(present & (lengths != size))
        if len(bad):
            raise at_row(
                ValueError(
                    f"Column {name!r} must hold vectors of {size} numbers each. Received one of "
                    f"{lengths[bad[0]]}. Make all cells equally long; a missing one is None, and "
                    "lists of many lengths are MultiCategorical or Sequence."
                ),
                bad[0],
            )
        vectors = np.full((len(lengths), size), np.nan)
        vectors[present] = values.reshape(present.sum(), size)
        return without_subnormals(vectors)

    def encode(self, chunk, fitted):
        column, fit = self.column, fitted.fits[self.column.name]
        vectors = self._vectors(chunk[column.raw_name], len(fit.mean))
        missing = ~np.isfinite(vectors)
        vectors = np.where(missing, 0.0, vectors)
        if column.standardize:
            feature = scaled_feature(vectors, fit.mean, fit.scale)
        else:
            feature = plain_feature(vectors)
        return {column.name: np.where(missing, np.float32(0), feature)}

    def signature(self, fitted):
        return {self.column.name: ("float64", 2)}

    def request(self, df, fitted):
        raw = self.column.raw_name
        array = one_array(to_arrow(df[raw], raw))
        return {self.column.name: self._vectors(array, fitted.lengths[self.column.name])}

    def graph(self, raw, encoder):
        import tensorflow as tf

        name = self.column.name
        fit, vectors = encoder.preprocessor.fits[name], raw[name]
        # A request of another size is an error, and is no number that is spread over all.
        vectors = tf.ensure_shape(vectors, (None, len(fit.mean)))
        missing = ~tf.math.is_finite(vectors)
        vectors = flushed(tf.where(missing, np.float64(0), vectors), SMALLEST)
        if self.column.standardize:
            feature = scaled(vectors, fit.mean, fit.scale)
        else:
            feature = as_they_are(vectors)
        return {name: tf.where(missing, np.float32(0), feature)}

    def sample(self, fitted, num_rows, generator):
        fit = fitted.fits[self.column.name]
        normal = generator.normal(size=(num_rows, len(fit.mean)))
        cells: list[Any] = [list(cell) for cell in normal / fit.scale + fit.mean]
        for row in range(num_rows // 2, num_rows, 3):
            cells[row][0] = generator.choice([np.nan, np.inf, 0.0, 1e12])
            if row + 1 < num_rows:
                cells[row + 1] = None
        return cells

    def typical(self, fitted, row):
        fit = fitted.fits[self.column.name]
        numbers = fit.mean + (0.0, -0.5, 0.5)[row % 3] / fit.scale
        return [float(f"{number:.4g}") for number in numbers]
