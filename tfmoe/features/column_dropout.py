"""Dropout of whole columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmoe import validation
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Shape, Tensor


@registered
class ColumnDropout(keras.layers.Layer):
    r"""In training, what a column gives of a row is 0 at some rate, and the rest is scaled up.

        output[b, column] = inputs[b, column] * keep[b, column] / (1 - rate)

    with `keep` 0 at the rate, else 1, drawn for every column of every row: a model learns not to
    lean on one column alone.

    Args:
        sizes: sequence of int >= 1, the sizes of the columns' vectors, in their order.
        rate: float in [0, 1).
        seed: int, or None for one of Keras's.

    Call arguments:
        inputs: float `(b, f)`, or `(b, n, f)` for `n` copies, of which all lose the same columns.
        training: bool; if False nothing is dropped.

    Returns:
        Float tensor of the shape of `inputs`.
    """

    def __init__(
        self, sizes: Sequence[int], rate: float, seed: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.sizes = validation.sizes("ColumnDropout", "sizes", sizes)
        self.rate = validation.number("ColumnDropout", "rate", rate, 0, most=0.99)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        # For each place of a vector its column.
        self._columns = np.repeat(np.arange(len(self.sizes)), self.sizes).astype("int32")
        self.built = True

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if not training or not self.rate:
            return inputs
        shape = (ops.shape(inputs)[0], len(self.sizes))
        kept = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator) >= self.rate
        factors = ops.cast(kept, inputs.dtype) / (1 - self.rate)
        factors = ops.take(factors, self._columns, axis=1)
        return inputs * (factors[:, None] if len(inputs.shape) == 3 else factors)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        config = {"sizes": list(self.sizes), "rate": self.rate, "seed": self.seed}
        return {**super().get_config(), **config}


def column_dropout_of(
    rate: Any, sizes: Sequence[int], structure: Any, policy: Any
) -> ColumnDropout | None:
    """The layer of a model's argument `column_dropout`; None where nothing is dropped.

    Args:
        rate: float in [0, 1), the argument.
        sizes: of the columns.
        structure: the model's `Structure`.
        policy: dtype policy of the model.

    Raises:
        ValueError: if it is no such number, or the structure reads tokens.
    """
    if not validation.number("MultiTaskModel", "column_dropout", rate, 0, most=0.99):
        return None
    if structure.input_kind == "tokens":
        raise ValueError(
            "`column_dropout` drops columns of the one vector that a row is. Received a "
            f"{type(structure).__name__}, which reads tokens. Leave it out."
        )
    return ColumnDropout(sizes, rate, dtype=policy, name="tfmoe_column_dropout")
