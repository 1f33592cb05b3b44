"""What every layer of ours is in which columns meet."""

from __future__ import annotations

from typing import Any

import keras

from tfmoe.compute.types import Shape
from tfmoe.validation import checks_arguments


@checks_arguments
class ByColumns(keras.layers.Layer):
    """A layer of columns as vectors of one size, `(b, c, d)` to `(b, g)`.

    `Interactions` hands columns to it, not the row's one vector; those of another size are
    projected. A layer of one's own is a subclass, registered with Keras, with `call` and
    `compute_output_shape`; its weights are made in `make(num_columns, size)`.

    Args:
        activity_regularizer, trainable, dtype, autocast, name: as for any Keras layer.
    """

    def build(self, input_shape: Shape) -> None:
        if len(input_shape) != 3:
            raise ValueError(
                f"{type(self).__name__} takes columns of one size, (batch, columns, size). "
                f"Received shape {tuple(input_shape)}. `Interactions` makes them of a row's vector."
            )
        self.make(int(input_shape[1]), int(input_shape[2]))

    def make(self, num_columns: int, size: int) -> None:
        """Makes the weights."""

    def compute_output_spec(self, inputs: Any) -> Any:
        shape = self.compute_output_shape(inputs.shape)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)
