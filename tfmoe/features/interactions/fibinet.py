"""Columns weighed by how much each matters in a row, and their bilinear products."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from tfmoe import validation
from tfmoe.compute.initializers import PerMember
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Shape, Tensor
from tfmoe.features.interactions.base import ByColumns

KINDS = ("all", "each", "interaction")


@registered
class FiBiNET(ByColumns):
    r"""Bilinear products of all pairs of columns, as they are and weighed by a SENet.

        z_c = mean_d v_cd,   a = relu(W2 relu(W1 z)),   v'_c = a_c v_c
        output = [(v_i W) * v_j for i < j] and [(v'_i W') * v'_j for i < j], side by side

    Args:
        reduction: int >= 1; `W1` maps `c` columns to `max(1, c // reduction)`.
        kind: `"all"`, one matrix `W`; `"each"`, one for each left column `i`; `"interaction"`, one
            for each pair. `W'` are others.

    Call arguments:
        inputs: float tensor `(b, c, d)`.

    Returns:
        Float tensor `(b, c (c - 1) d)`.

    Raises:
        ValueError: if a number is too small, a kind unknown, or there is one column.

    Source: Huang et al., 2019, https://arxiv.org/abs/1905.09433.
    """

    def __init__(self, reduction: int = 3, kind: str = "all", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reduction = validation.integer("FiBiNET", "reduction", reduction, 1)
        validation.check_choice("FiBiNET", "kind", kind, KINDS)
        self.kind = kind

    def make(self, num_columns: int, size: int) -> None:
        if num_columns < 2:
            raise ValueError(
                f"FiBiNET multiplies pairs of columns. Received {num_columns}. Add a column."
            )
        left, right = np.triu_indices(num_columns, 1)
        self._left, self._right = left.tolist(), right.tolist()
        squeezed = max(1, num_columns // self.reduction)
        shape = (num_columns, squeezed)
        self.squeeze = self.add_weight(name="squeeze", shape=shape, initializer="glorot_uniform")
        self.excite = self.add_weight(
            name="excite", shape=shape[::-1], initializer="glorot_uniform"
        )
        num = {"all": 1, "each": num_columns - 1, "interaction": len(left)}[self.kind]
        self.kernels = [
            self.add_weight(
                name=name,
                shape=(num, size, size),
                initializer=PerMember("glorot_uniform", salt=salt),
            )
            for salt, name in enumerate(("kernel", "weighed_kernel"))
        ]

    def call(self, inputs: Tensor) -> Tensor:
        importance = ops.relu(ops.matmul(ops.mean(inputs, axis=-1), self.squeeze))
        weights = ops.relu(ops.matmul(importance, self.excite))
        parts = (inputs, inputs * weights[..., None])
        products = [self._pairs(*both) for both in zip(parts, self.kernels, strict=True)]
        return ops.concatenate(products, axis=-1)

    def _pairs(self, vectors: Tensor, kernel: Any) -> Tensor:
        left, right = (ops.take(vectors, one, axis=1) for one in (self._left, self._right))
        if self.kind == "all":
            mapped = ops.matmul(left, kernel[0])
        else:
            chosen = kernel
            if self.kind == "each":
                chosen = ops.take(ops.convert_to_tensor(kernel), self._left, axis=0)
            mapped = ops.einsum("bpd,pde->bpe", left, ops.convert_to_tensor(chosen))
        size = len(self._left) * vectors.shape[-1]
        return ops.reshape(mapped * right, (-1, size))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, columns, size = input_shape
        return batch, columns * (columns - 1) * size

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "reduction": self.reduction, "kind": self.kind}
