"""Lists of numbers, each the id of the interval that it is in: twins of `bounded_cells`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from tfmoe.data.encode.codecs.lists import ListCodec, padded_numbers
from tfmoe.data.encode.codecs.numeric import flushed
from tfmoe.data.encode.columns import SMALLEST, Cells, bounded_cells
from tfmoe.schema.columns import FIRST_ID, PADDING_ID


class BoundedCodec(ListCodec):
    """See `Codec`. Nothing is fitted, and there is no table of values."""

    looks_up = False

    @property
    def needs_fit(self):
        return self.column.max_length is None

    def reading(self, fitted: Any) -> Any:
        return ()

    def cells(self, chunk: Any, *reading: Any) -> Cells:
        return bounded_cells(chunk[self.column.raw_name], self.column)

    def is_text(self, fitted):
        return False

    def signature(self, fitted):
        return {**super().signature(fitted), self.column.name: ("float64", 2)}

    def _request(self, array: pa.Array, text: bool) -> np.ndarray:
        return padded_numbers(array, self.column.raw_name, self.column.separator)

    def hold(self, encoder):
        pass

    def padded(self, raw, encoder):
        import tensorflow as tf

        values = raw[self.column.name]
        boundaries = tf.constant(self.column.boundaries, tf.float64)
        flat = tf.reshape(flushed(values, SMALLEST), [1, -1])
        ids = FIRST_ID + tf.searchsorted(boundaries[None], flat, side="right")
        present = tf.math.is_finite(values)
        return tf.where(present, tf.reshape(ids, tf.shape(values)), PADDING_ID)

    def sample(self, fitted, num_rows, generator):
        cells: list[Any] = []
        for row in range(num_rows):
            size = int(generator.integers(0, 7))
            values = generator.choice(self.column.boundaries, size)
            odd = [np.nan, np.inf, -np.inf, 1e-310] if 2 * row > num_rows else []
            values = values + generator.choice([0.0, -1.0, 1.0, *odd], size)
            cells.append(None if odd and row % 9 == 0 else values.tolist())
        return cells if self.column.separator is None else [self._text(cell) for cell in cells]

    def typical(self, fitted, row):
        boundaries = self.column.boundaries
        cell = [float(boundaries[(row + step) % len(boundaries)]) for step in range(2)]
        return cell if self.column.separator is None else self._text(cell)

    def _text(self, cell):
        return None if cell is None else self.column.separator.join(map(repr, cell))
