"""Layers whose inputs a row's own columns weigh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute.math import parted
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Shape, Tensor


@registered
class MaskNet(keras.layers.Layer):
    r"""Blocks whose inputs are multiplied by a mask that the whole row makes.

        m = W2 relu(W1 x + b1) + b2
        block(h) = relu(LN(W (m * h)))

    `x` is the row's vector. The first block reads `x` itself, normed to mean 0 and variance 1
    within each column of more than one number; each further one reads the one before it.

    Args:
        hidden_units: sequence of int >= 1, the units of each block.
        mask_units: int >= 1, units of the layer between `W1` and `W2`.
        sizes: sequence of int, the sizes of the columns of a row; None to take them from the
            `Interactions` that hold it.

    Call arguments:
        inputs: float tensor `(b, f)`.

    Returns:
        Float tensor `(b, hidden_units[-1])`.

    Raises:
        ValueError: if a number is too small.

    Source: Wang et al., 2021, https://arxiv.org/abs/2102.07619, its serial form.
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (64,),
        mask_units: int = 64,
        sizes: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_units = validation.sizes("MaskNet", "hidden_units", hidden_units)
        if not self.hidden_units:
            raise ValueError("MaskNet needs at least one block. Received hidden_units=().")
        self.mask_units = validation.integer("MaskNet", "mask_units", mask_units, 1)
        self.sizes: Any = None if sizes is None else validation.sizes("MaskNet", "sizes", sizes)

    def build(self, input_shape: Shape) -> None:
        validation.check_known(self, "sizes")
        features, units = input_shape[-1], self.mask_units
        self.masks, self.blocks = [], []
        inner = features
        for i, hidden in enumerate(self.hidden_units):
            self.masks.append(
                [
                    self._weight(f"first_{i}", (features, units)),
                    self._weight(f"first_bias_{i}", (units,)),
                    self._weight(f"second_{i}", (units, inner)),
                    self._weight(f"second_bias_{i}", (inner,), "ones"),
                ]
            )
            norm = keras.layers.LayerNormalization(dtype=self.dtype_policy, name=f"norm_{i}")
            norm.build((None, hidden))
            self.blocks.append((self._weight(f"kernel_{i}", (inner, hidden)), norm))
            inner = hidden

    def _weight(self, name: str, shape: tuple[int, ...], initializer: str | None = None) -> Any:
        plain = "zeros" if len(shape) == 1 else "glorot_uniform"
        return self.add_weight(name=name, shape=shape, initializer=initializer or plain)

    def call(self, inputs: Tensor) -> Tensor:
        hidden = self._normed(inputs)
        for mask, (kernel, norm) in zip(self.masks, self.blocks, strict=True):
            first, first_bias, second, second_bias = mask
            inner = ops.relu(ops.matmul(inputs, first) + first_bias)
            weights = ops.matmul(inner, second) + second_bias
            hidden = ops.relu(norm(ops.matmul(weights * hidden, kernel)))
        return hidden

    def _normed(self, inputs: Tensor) -> Tensor:
        parts = []
        for size, part in zip(self.sizes, parted(inputs, self.sizes), strict=True):
            if size > 1:
                centred = part - ops.mean(part, axis=-1, keepdims=True)
                variance = ops.mean(ops.square(centred), axis=-1, keepdims=True)
                part = centred * ops.rsqrt(variance + 1e-5)
            parts.append(part)
        return ops.concatenate(parts, axis=-1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape[0], self.hidden_units[-1]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "hidden_units": list(self.hidden_units),
            "mask_units": self.mask_units,
            "sizes": self.sizes and list(self.sizes),
        }
