"""Factorization machines' products of all pairs of columns."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfmoe.compute.registered import registered
from tfmoe.compute.types import Shape, Tensor
from tfmoe.features.interactions.base import ByColumns
from tfmoe.validation import check_bool


@registered
class FM(ByColumns):
    r"""The sum of the products of all pairs of columns.

        output = 1/2 sum_d ((sum_c v_cd)^2 - sum_c v_cd^2)

    Args:
        vector: bool; True for one number for each `d`, `(b, d)` ("bi-interaction"), without the sum
            over `d`.

    Call arguments:
        inputs: float tensor `(b, c, d)`.

    Returns:
        Float tensor `(b, 1)`, or `(b, d)`.

    Raises:
        ValueError: if the input has another number of axes.

    Example:

    >>> FM()(np.array([[[1.0, 2.0], [3.0, 4.0]]])).numpy().tolist()
    [[11.0]]

    Sources: Rendle, 2010, https://doi.org/10.1109/ICDM.2010.127; He and Chua, 2017,
    https://arxiv.org/abs/1708.05027.
    """

    def __init__(self, vector: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_bool("FM", "vector", vector)
        self.vector = vector

    def call(self, inputs: Tensor) -> Tensor:
        total = ops.square(ops.sum(inputs, axis=1)) - ops.sum(ops.square(inputs), axis=1)
        return total / 2 if self.vector else ops.sum(total, axis=-1, keepdims=True) / 2

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape[0], input_shape[2] if self.vector else 1

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "vector": self.vector}
