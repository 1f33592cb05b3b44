"""A history weighed by what each of its values has to do with the candidate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute.math import narrowed, wide_dtype
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Tensor
from tfmoe.features.interest.base import Interest


@registered
class InterestAttention(Interest):
    r"""The history's vectors, weighed by a network that sees each beside the candidate.

        a_j = MLP([h_j, t, h_j - t, h_j * t])
        output = sum over j of a_j h_j

    With weights `w_j` of the values

        output = sum over j of w_j a_j h_j

    and with `softmax` `a_j` is `exp(MLP_j) / sum over i of |w_i| exp(MLP_i)`. A value of weight 0
    is as if it were not there.

    The `a_j` start near 1, so that the layer starts as the sum of the history, or its mean with
    `softmax`. Differences and products are of the first `c` units of `h_j`, those of the
    candidate's space. In a `MultiTaskModel` it is `tfmoe.TargetAttention`, the pooling of a
    `Sequence`.

    Args:
        hidden_units: sequence of int >= 1, the MLP's hidden layers; a linear unit follows.
        activation: Keras activation of the hidden layers.
        softmax: bool; whether the `a_j` are turned into shares of 1.

    Call arguments:
        history: float tensor `(b, l, d)`.
        candidate: float tensor `(b, c)`, `c <= d`.
        present: bool tensor `(b, l)`, False at padding, which has no part in anything.
        training: ignored.
        weights: float tensor `(b, l)` of the values, also below 0, or None.

    Returns:
        Float tensor `(b, d)`; zeros where no value is there.

    Raises:
        ValueError: if a number is too small, or a candidate larger than the history's vectors.

    Source: Zhou et al., 2018, https://arxiv.org/abs/1706.06978.

    Example:

    >>> history, candidate = np.ones((2, 5, 4)), np.ones((2, 4))
    >>> InterestAttention()(history, candidate, np.ones((2, 5), bool)).shape
    TensorShape([2, 4])
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (32,),
        activation: Any = "relu",
        softmax: bool = False,
        **kwargs: Any,
    ) -> None:
        # Weights come as they are: half precision does not hold them all.
        super().__init__(autocast=False, **kwargs)
        self.hidden_units = validation.sizes("InterestAttention", "hidden_units", hidden_units)
        validation.check_bool("InterestAttention", "softmax", softmax)
        self.activation = keras.activations.get(activation)
        self.softmax = softmax

    def make(self, length: int | None, size: int, compared: int) -> None:
        units = (*self.hidden_units, 1)
        fans = (size + 3 * compared, *self.hidden_units)
        self.kernels = [
            self.add_weight(name=f"kernel_{i}", shape=shape, initializer="glorot_uniform")
            for i, shape in enumerate(zip(fans, units, strict=True))
        ]
        # A history whose weights start near 0 is one that nothing is learnt from for long.
        starts = ["zeros"] * len(self.hidden_units) + ["ones"]
        self.biases = [
            self.add_weight(name=f"bias_{i}", shape=(num,), initializer=start)
            for i, (num, start) in enumerate(zip(units, starts, strict=True))
        ]

    def call(
        self,
        history: Tensor,
        candidate: Tensor,
        present: Tensor,
        training: bool | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        history, candidate = (ops.cast(one, self.compute_dtype) for one in (history, candidate))
        kernels, biases = (
            [ops.cast(weight, self.compute_dtype) for weight in weights]
            for weights in (self.kernels, self.biases)
        )
        hidden = self._first(history, candidate, kernels[0], biases[0])
        for kernel, bias in zip(kernels[1:], biases[1:], strict=True):
            hidden = ops.matmul(self.activation(hidden), kernel) + bias
        # Sums are made in float32 at least, as in other poolings; float16 would lose the shares of
        # many positions.
        dtype = wide_dtype(history)
        shares = ops.cast(hidden[..., 0], dtype)
        if weights is not None:
            present = ops.logical_and(present, weights != 0)
        if self.softmax:
            if weights is not None:
                sizes = ops.where(present, ops.abs(ops.cast(weights, dtype)), 1.0)
                shares, weights = shares + ops.log(sizes), ops.sign(weights)
            shares = ops.softmax(ops.where(present, shares, -1e9), axis=-1)
        shares = shares * ops.cast(present, dtype)
        if weights is not None:
            shares = shares * ops.cast(weights, dtype)
        summed = ops.einsum("bl,bld->bd", shares, ops.cast(history, dtype))
        return narrowed(summed, history.dtype)

    def _first(self, history: Tensor, candidate: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        """`[h, t, h - t, h * t] @ kernel + bias`, of which no `(b, l, d + 3 c)` is made."""
        size, compared = history.shape[-1], candidate.shape[-1]
        ends = [size, size + compared, size + 2 * compared]
        own, other, difference, product = ops.split(kernel, ends, axis=0)
        # h W1 + t W2 + (h - t) W3 = h (W1 + W3) + t (W2 - W3)
        own = own + ops.pad(difference, [[0, size - compared], [0, 0]])
        of_candidate = ops.matmul(candidate, other - difference) + bias
        products = history[..., :compared] * candidate[:, None]
        of_history = ops.matmul(history, own) + ops.matmul(products, product)
        return of_history + of_candidate[:, None]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "hidden_units": list(self.hidden_units),
            "activation": keras.activations.serialize(self.activation),
            "softmax": self.softmax,
        }
