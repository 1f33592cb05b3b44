"""The gate whose weights are the scores' nearest point among all weights."""

from __future__ import annotations

import math
from collections.abc import Callable

from keras import ops

from tfmoe.compute.registered import registered
from tfmoe.compute.types import Tensor
from tfmoe.gates.logits import LogitGate
from tfmoe.gates.rows import Rows


@registered
class SparsemaxGate(LogitGate):
    r"""Like softmax, but low scores get a weight of exactly 0.

    With `z = inputs[b] @ W_t`:

        weights[b, t] = max(z - tau, 0), with tau such that the row sums to 1

    An expert whose score lies 1 or more below the best gets nothing, so the number of
    non-zeros is up to the scores and has no bound. What is 0 gets no gradient.

    Args:
        num_tasks, num_experts, router, balance, expert_ids, num_choices, usage_decay: see `Gate`.
        kernel_initializer: Keras initializer.

    Call arguments:
        inputs: float tensor `(b, f)`.
        task: int tensor `(b,)` or None, the row's task; see `Gate`.

    Returns:
        Float tensor `(b, t, e)`; non-negative, each row sums to 1 over `e`. With a
        static router `(1, t, e)`.

    Raises:
        ValueError: if a count is too small.

    Example:

    >>> gate = SparsemaxGate(num_tasks=1, num_experts=4, kernel_initializer="identity")
    >>> gate(np.array([[0.75, 0.25, -0.5, 0.0]])).numpy()[0, 0].tolist()
    [0.75, 0.25, 0.0, 0.0]

    Source: Martins and Astudillo, 2016, algorithm 1, https://arxiv.org/abs/1602.02068.
    """

    def select(self, scores: Tensor, rows: Rows, training: bool) -> tuple[Tensor, Tensor]:
        weights = above_threshold(within(scores, 1.0), lambda mean, spread, size: mean - 1 / size)
        return weights, weights


def within(scores: Tensor, reach: float) -> Tensor:
    """`scores - best`, and `-reach` for all that lie further below the row's best."""
    best = ops.stop_gradient(ops.max(scores, axis=-1, keepdims=True, initial=-math.inf))
    return ops.maximum(scores - best, -reach)


def above_threshold(x: Tensor, threshold: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """`max(x - tau, 0)` over the last axis, where tau follows from what lies above it.

    keras.ops.sparsemax is not used because it is wrong (Keras 3.15): it adds up cumulative
    sums where it should take the last one.

    Args:
        x: float tensor `(..., e)` of which all axes but the first are known, with a best
            of 0 in each row.
        threshold: makes tau of the mean of the entries above it, the sum of the squares of
            their differences from that mean, and their number.

    Returns:
        Float tensor `(..., e)`. Gradients are exact: those through tau are taken where the
        set of the entries above it stays as it is.
    """
    # Were the r largest entries those above tau, tau would follow from them. The right r is
    # the last whose own entry is above the tau that follows.
    ordered = ops.flip(ops.sort(ops.stop_gradient(x), axis=-1), axis=-1)
    count = ops.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    mean = ops.cumsum(ordered, axis=-1) / count
    spread = ops.cumsum(ops.square(ordered), axis=-1) - count * ops.square(mean)
    above = ops.where(ordered > threshold(mean, spread, count), ordered, 0.0)
    inside = ops.cast(x >= ops.min(above, axis=-1, keepdims=True, initial=0.0), x.dtype)
    # Once more from these alone, not from differences of sums: to all digits, and with a
    # gradient that does not pass through the sorting.
    size = ops.sum(inside, axis=-1, keepdims=True)
    mean = ops.sum(inside * x, axis=-1, keepdims=True) / size
    spread = ops.sum(inside * ops.square(x - mean), axis=-1, keepdims=True)
    return ops.relu(x - threshold(mean, spread, size))
