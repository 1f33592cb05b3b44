"""Stateless arithmetic on tensors, in `keras.ops`: the same on every backend."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfmoe.compute.types import Tensor

_LARGEST = 65504.0  # of float16


def smooth_step(t: Any, gamma: float) -> Any:
    """The cubic that rises smoothly from 0 at `-gamma / 2` to 1 at `gamma / 2`.

    Computed from the clipped ratio, so that it has no branch, no NaN gradient and no
    overflow in half precision, and in a form whose rounding never leaves [0, 1]. Outside
    the interval its gradient is exactly 0.

    Source: Hazimeh et al., 2021, https://arxiv.org/abs/2106.03760, eq. 1.
    """
    v = ops.clip(t / gamma, -0.5, 0.5) + 0.5
    return v * v * (3 - 2 * v)


def num_bits(num_experts: int) -> int:
    """Length of the binary codes that name `num_experts` experts."""
    return (num_experts - 1).bit_length()


def expert_codes(bits: Any, num_experts: int, fold: bool = True) -> Any:
    """Probability of each expert when the bits of its code are drawn independently.

    Expert `i` has the binary code of `i`, most significant bit first. Of the `2**m`
    codes, those from `num_experts` on name nobody. With `fold` such a code counts for
    the expert that its lower `m - 1` bits name, which always exists: that is a balanced
    binary tree with one leaf an expert, read from the last bit, in which some leaves do
    not ask the first bit. So rows sum to 1, and no code is dead. For powers of two
    there is nothing to fold.

    The bits lie on the second last axis, and examples on the last: arithmetic on a few
    numbers of each example is much slower than on rows of examples.

    Args:
        bits: float tensor `(..., m, n)` in [0, 1], `m = num_bits(num_experts)`.
        num_experts: int >= 2.
        fold: if False, the mass of codes that name nobody is dropped.

    Returns:
        Float tensor `(..., num_experts, n)`.
    """
    num = bits.shape[-2]
    *others, last = ops.split(bits, num, axis=-2)
    codes = ops.concatenate([1 - last, last], axis=-2)
    for bit in reversed(others):
        codes = ops.concatenate([codes * (1 - bit), codes * bit], axis=-2)
    live, dead = codes[..., :num_experts, :], codes[..., num_experts:, :]
    if not fold or num_experts == 2**num:
        return live
    first = num_experts - 2 ** (num - 1)
    return live + ops.pad(dead, [(0, 0)] * (len(bits.shape) - 2) + [(first, first), (0, 0)])


def log_or_zero(values: Any) -> Any:
    """The logarithm, and 0 of 0, with gradients that are numbers."""
    return ops.log(ops.where(values > 0, values, 1.0))


def entropy(probabilities: Any, axis: int = -1) -> Any:
    """`-sum p log(p + 1e-6)` over an axis, as the authors of DSelect-k and COMET have it."""
    return -ops.sum(probabilities * ops.log(probabilities + 1e-6), axis=axis)


def shares(scores: Any, axis: int = -1) -> Any:
    """Softmax over an axis, also of a single score, which `ops.softmax` warns of."""
    return ops.exp(ops.log_softmax(scores, axis=axis))


def add_bias(hidden: Any, bias: Any) -> Any:
    """`hidden + bias` for `(b, u)` and `(u,)`; the gradient is cheaper on TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        return hidden + bias
    import tensorflow as tf

    return tf.nn.bias_add(hidden, bias)


def mix(experts: Any, weights: Any) -> Any:
    """Weighs experts' outputs for each task.

    Args:
        experts: `(b, e, u)`.
        weights: `(b, t, e)`, or `(1, t, e)` where they are the same for all examples.

    Returns:
        `(b, t, u)`.
    """
    weights = ops.cast(weights, experts.dtype)
    if weights.shape[0] == 1:
        return ops.einsum("beu,te->btu", experts, weights[0])
    return ops.matmul(weights, experts)


def parted(x: Tensor, sizes: Sequence[Any]) -> list[Tensor]:
    """What lies side by side along a tensor's second axis, `(b, sizes[0], ...)` and so on.

    In one operation if the sizes are numbers, not tensors: the gradient of a slice is as large as
    the whole, and that of many would be many times the work.
    """
    if all(isinstance(size, int) for size in sizes):
        ends = list(itertools.accumulate(sizes))[:-1]
        return ops.split(x, ends, axis=1) if ends else [x]
    parts, start = [], 0
    for size in sizes:
        parts.append(x[:, start : start + size])
        start += size
    return parts


def wide_dtype(values: Tensor) -> str:
    """The dtype of sums of such values: float32 at least."""
    return keras.backend.result_type(values.dtype, "float32")


def narrowed(values: Tensor, dtype: str) -> Tensor:
    """Values in a dtype; those beyond the range of float16 are its largest number."""
    if keras.backend.standardize_dtype(dtype) == "float16":
        values = ops.clip(values, -_LARGEST, _LARGEST)
    return ops.cast(values, dtype)
