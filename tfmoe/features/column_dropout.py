"""Dropout of whole columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmoe import validation
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Shape, Tensor
from tfmoe.features.encoder import Encoder


@registered
class ColumnDropout(keras.layers.Layer):
    r"""In training, what a column gives of a row is 0 at some rate, and the rest is scaled up.

        output[b, column] = inputs[b, column] * keep[b, column] / (1 - rate)

    with `keep` 0 at the rate, else 1, drawn for every column of every row: a model learns not to
    lean on one column alone. What a column gives is a part of the row's one vector, or its tokens,
    of a sequence those of all positions together. Tokens are scaled as well, so that the mean of
    each over the draws is what it is without, whatever the structure makes of them; they stay
    among those that are present, for it is what the column says that is lost, not the column.

    Args:
        sizes: sequence of int >= 1, how many places each column has along the axis, in their order:
            the sizes of the columns' vectors, or how many tokens they are.
        rate: float in [0, 1).
        axis: int, the axis along which the columns lie: -1, or 1 for tokens.
        seed: int, or None for one of Keras's.

    Call arguments:
        inputs: float `(b, f)`, or `(b, n, f)` for `n` copies, of which all lose the same columns;
            tokens are `(b, c, d)`.
        training: bool; if False nothing is dropped.

    Returns:
        Float tensor of the shape of `inputs`.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        rate: float,
        seed: int | None = None,
        axis: int = -1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sizes = validation.sizes("ColumnDropout", "sizes", sizes)
        self.rate = validation.number("ColumnDropout", "rate", rate, 0, most=0.99)
        self.seed, self.axis = seed, axis
        self.seed_generator = keras.random.SeedGenerator(seed)
        # For each place its column.
        self._columns = np.repeat(np.arange(len(self.sizes)), self.sizes).astype("int32")
        self.built = True

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if not training or not self.rate:
            return inputs
        shape = (ops.shape(inputs)[0], len(self.sizes))
        kept = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator) >= self.rate
        factors = ops.cast(kept, inputs.dtype) / (1 - self.rate)
        factors = ops.take(factors, self._columns, axis=1)
        places = [1] * len(inputs.shape)
        places[0], places[self.axis] = -1, len(self._columns)
        return inputs * ops.reshape(factors, places)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "sizes": list(self.sizes),
            "rate": self.rate,
            "seed": self.seed,
            "axis": self.axis,
        }


def column_dropout_of(
    rate: Any, encoder: Encoder, lengths: Mapping[str, int], policy: Any
) -> ColumnDropout | None:
    """The layer of a model's argument `column_dropout`; None where nothing is dropped.

    Args:
        rate: float in [0, 1), the argument.
        encoder: the model's `Encoder`.
        lengths: dict by sequence of its positions.
        policy: dtype policy of the model.

    Raises:
        ValueError: if it is no such number.
    """
    if not validation.number("MultiTaskModel", "column_dropout", rate, 0, most=0.99):
        return None
    tokens = encoder.tokens is not None
    sizes, axis = (encoder.token_counts(lengths), 1) if tokens else (encoder.sizes, -1)
    return ColumnDropout(sizes, rate, axis=axis, dtype=policy, name="tfmoe_column_dropout")
