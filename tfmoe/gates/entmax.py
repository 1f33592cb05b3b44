"""The gate half-way between softmax and sparsemax."""

from __future__ import annotations

from keras import ops

from tfmoe.compute.registered import registered
from tfmoe.compute.types import Tensor
from tfmoe.gates.logits import LogitGate
from tfmoe.gates.rows import Rows
from tfmoe.gates.sparsemax import above_threshold, within


@registered
class EntmaxGate(LogitGate):
    r"""Like softmax, but low scores get a weight of exactly 0, smoothly reached.

    The 1.5-entmax of `z = inputs[b] @ W_t`:

        weights[b, t] = max(z / 2 - tau, 0) ** 2, with tau such that the row sums to 1

    An expert whose score lies 2 or more below the best gets nothing, so the number of
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

    >>> gate = EntmaxGate(num_tasks=1, num_experts=4, kernel_initializer="identity")
    >>> gate(np.array([[1.0, 0.6, -1.0, -2.0]])).numpy()[0, 0].astype(float).round(4).tolist()
    [0.64, 0.36, 0.0, 0.0]

    Source: Peters et al., 2019, section 3 and algorithm 2,
    https://arxiv.org/abs/1905.05702.
    """

    def select(self, scores: Tensor, rows: Rows, training: bool) -> tuple[Tensor, Tensor]:
        weights = ops.square(above_threshold(within(scores / 2, 1.0), _threshold))
        return weights, weights


def _threshold(mean, spread, size):
    # Above tau, the differences from it are at most 1 and their squares sum to 1, so their
    # mean, which the root is, is at least `1 / size` and its gradient finite. Below 0 are
    # only sizes that are too large.
    return mean - ops.sqrt(ops.relu(1 - spread) / size)
