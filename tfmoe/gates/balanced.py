"""Top-k whose load is levelled by a bias instead of a loss."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute.math import shares
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Initializer, Shape, Tensor
from tfmoe.gates.logits import LogitGate, largest, softmax_of_chosen
from tfmoe.gates.rows import Rows
from tfmoe.gates.task_router import Router


@registered
class BalancedTopKGate(LogitGate):
    r"""Keeps the `num_nonzeros` experts highest in affinity plus a levelling bias.

    With `s = sigmoid(inputs @ W_t)` and a bias `c` of each task and expert:

        chosen: the k experts with the largest s + c
        weights[b, t, e] = s[e] / sum of s over the chosen, 0 for all others

    The bias decides who is chosen, never with which weight, and gets no gradient. After
    each training step it moves by `rate`: up for experts that fewer of the batch's
    examples chose than the mean, down for the others. So every task comes to use all
    experts evenly, without a loss that pulls at the weights. Where rows have one task each,
    only their task's bias moves.

    With a static router all examples choose alike, and the bias makes a task's choice wander
    through the experts for as long as it trains.

    Args:
        num_tasks, num_experts, router, balance, expert_ids, num_choices, usage_decay: see `Gate`.
        num_nonzeros: int >= 1, experts chosen for a task; all of them if there are
            fewer.
        rate: float >= 0, by how much the bias moves in a step.
        kernel_initializer: Keras initializer.

    Call arguments:
        inputs: float tensor `(b, f)`.
        task: int tensor `(b,)` or None, the row's task; see `Gate`.
        training: bool; the bias moves in training only.

    Returns:
        Float tensor `(b, t, e)` with `min(k, e)` non-zeros in a row, which sum to 1. With a
        static router `(1, t, e)`. In the record, `probabilities` are `s` over its sum.

    Raises:
        ValueError: if a count is too small, or `rate` is negative.

    Example:

    >>> gate = BalancedTopKGate(num_tasks=1, num_experts=4, num_nonzeros=2)
    >>> int(np.count_nonzero(gate(np.ones((1, 3)))))
    2

    Source: DeepSeek-AI, 2024, section 2.1.2, https://arxiv.org/abs/2412.19437. Differs from it
    in that load is counted for each task.
    """

    num_nonzeros: int
    always_sparse = True

    def __init__(
        self,
        num_tasks: int | None = None,
        num_experts: int | None = None,
        num_nonzeros: int = 2,
        rate: float = 0.001,
        router: Router = "linear",
        kernel_initializer: Initializer = "lecun_normal",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_tasks, num_experts, router, kernel_initializer, **kwargs)
        num_nonzeros = validation.integer("BalancedTopKGate", "num_nonzeros", num_nonzeros, 1)
        if not rate >= 0:
            raise ValueError(
                "BalancedTopKGate moves its bias by `rate` a step, which must be at least "
                f"0. Received rate={rate}. A usual value is 0.001."
            )
        self.num_nonzeros = num_nonzeros
        self.rate = rate

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        # Half precision would round the small moves away.
        self.bias = self.add_weight(
            name="bias",
            shape=(self.num_tasks, self.num_choices),
            dtype=keras.backend.result_type(self.variable_dtype, "float32"),
            initializer="zeros",
            trainable=False,
            autocast=False,
            aggregation="mean",
        )

    def select(self, scores: Tensor, rows: Rows, training: bool) -> tuple[Tensor, Tensor]:
        bias = ops.cast(self.bias, scores.dtype)
        if rows.task is not None:
            bias = ops.take(bias, rows.task, axis=0)[:, None]
        _, chosen, one_hot = largest(ops.sigmoid(scores) + bias, self.num_nonzeros)
        if training:
            load = rows.sums(ops.sum(one_hot, axis=2))
            mean = ops.mean(load, axis=-1, keepdims=True)
            self.bias.assign_add(ops.cast(self.rate * ops.sign(mean - load), self.bias.dtype))
        # In logarithms, because all affinities of a row may underflow.
        logs = ops.log_sigmoid(scores)
        values = ops.take_along_axis(logs, chosen, axis=-1)
        return shares(logs), softmax_of_chosen(values, one_hot)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_nonzeros": self.num_nonzeros,
            "rate": self.rate,
        }
