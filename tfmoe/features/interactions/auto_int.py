"""Columns that attend to each other."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfmoe import validation
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Shape, Tensor
from tfmoe.features.interactions.base import ByColumns


@registered
class AutoInt(ByColumns):
    r"""Self-attention over the columns, in several heads and layers.

        head_h = softmax(V Q_h (V K_h)^T) V W_h
        V <- relu([head_1; ...; head_H] + V R)

    Args:
        num_layers: int >= 1.
        num_heads: int >= 1, `H`.
        head_dim: int >= 1, size of a head.

    Call arguments:
        inputs: float tensor `(b, c, d)`, `V`.

    Returns:
        Float tensor `(b, c H head_dim)`.

    Raises:
        ValueError: if a number is too small.

    Source: Song et al., 2019, https://arxiv.org/abs/1810.11921, whose scores are not scaled.
    """

    def __init__(
        self, num_layers: int = 1, num_heads: int = 2, head_dim: int = 8, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_layers = validation.integer("AutoInt", "num_layers", num_layers, 1)
        self.num_heads = validation.integer("AutoInt", "num_heads", num_heads, 1)
        self.head_dim = validation.integer("AutoInt", "head_dim", head_dim, 1)

    def make(self, num_columns: int, size: int) -> None:
        units = self.num_heads * self.head_dim
        self.kernels = []
        for layer in range(self.num_layers):
            own = {
                name: self.add_weight(
                    name=f"{name}_{layer}", shape=(size, units), initializer="glorot_uniform"
                )
                for name in ("query", "key", "value", "residual")
            }
            self.kernels.append(own)
            size = units

    def call(self, inputs: Tensor) -> Tensor:
        columns, vectors = inputs.shape[1], inputs
        for own in self.kernels:
            query, key, value = (self._heads(vectors, own[n]) for n in ("query", "key", "value"))
            weights = ops.softmax(ops.einsum("bihd,bjhd->bhij", query, key), axis=-1)
            attended = ops.einsum("bhij,bjhd->bihd", weights, value)
            attended = ops.reshape(attended, (-1, columns, self.num_heads * self.head_dim))
            vectors = ops.relu(attended + ops.matmul(vectors, own["residual"]))
        return ops.reshape(vectors, (-1, columns * self.num_heads * self.head_dim))

    def _heads(self, vectors: Tensor, kernel: Any) -> Tensor:
        shape = (-1, vectors.shape[1], self.num_heads, self.head_dim)
        return ops.reshape(ops.matmul(vectors, kernel), shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape[0], input_shape[1] * self.num_heads * self.head_dim

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "head_dim": self.head_dim,
        }
