"""The gate of ReMoE: ReLU, kept sparse by a loss that weighs itself."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Initializer, Shape, Tensor
from tfmoe.gates.logits import LogitGate
from tfmoe.gates.routers import ScoreSpec
from tfmoe.gates.rows import Rows
from tfmoe.gates.task_router import Router

# Where the loss's weight starts and what a step multiplies or divides it by: the authors'.
START, FACTOR = 1e-8, 1.2


@registered
class ReLUGate(LogitGate):
    r"""Experts with a positive score count, as much as the score says.

        weights[b, t] = relu(inputs[b] @ W_t + bias_t)

    In training a loss is added that makes the mean number of non-zeros in a task's row
    approach `num_nonzeros`, and punishes busy experts most. With `f[t, e]` the share of
    the batch's rows in which the expert is not 0, times `e / k`:

        loss = sum_t coefficient[t] * mean_b sum_e f[t, e] * weights[b, t, e]

    `f` gets no gradient. After each training call a task's `coefficient`, which starts
    at 1e-8, is multiplied by 1.2 if its rows had more than k non-zeros on average, and
    divided by 1.2 if they had fewer. It stays between 1e-8 and `max_coefficient`, so
    count on about a hundred steps before it presses. Where rows have one task each, a task
    counts with its share of the rows, and without rows its coefficient rests.

    The number of non-zeros is a target on average, not a bound. A row does not sum to
    1: its weights have no upper limit, and all of them may be 0. An expert that is 0
    for all examples gets no gradient and does not come back by itself.

    Args:
        num_tasks, num_experts, router, balance, expert_ids, num_choices, usage_decay: see `Gate`.
        num_nonzeros: int >= 1, the target k.
        max_coefficient: float >= 1e-8. Larger values come nearer to the target and
            overshoot it more, because the coefficient grows faster than scores fall;
            an expert that is then 0 for all examples is lost. The default suits task
            losses of about 1. With a static router, where one step more can lose all
            experts, take about 0.01.
        kernel_initializer: Keras initializer.

    Call arguments:
        inputs: float tensor `(b, f)`.
        task: int tensor `(b,)` or None, the row's task; see `Gate`.
        training: bool; the loss is added, and the coefficient moves, in training only.

    Returns:
        Float tensor `(b, t, e)`; non-negative. With a static router `(1, t, e)`.

    Raises:
        ValueError: if a count or `max_coefficient` is too small.

    Example:

    >>> gate = ReLUGate(num_tasks=1, num_experts=4, kernel_initializer="identity")
    >>> gate(np.array([[0.75, -1.5, 2.0, 0.0]])).numpy()[0, 0].tolist()
    [0.75, 0.0, 2.0, 0.0]

    Source: Wang et al., 2025, section 3, https://arxiv.org/abs/2412.14711, with the
    variant of the loss that balances the load.
    Differs from it in the bias, without which inputs of mean 0 leave half of the scores
    positive whatever the loss does; in a coefficient per task, where the authors have
    one for all layers; in its limits; and in the static router, whose scores start
    above 0.
    """

    num_nonzeros: int

    def __init__(
        self,
        num_tasks: int | None = None,
        num_experts: int | None = None,
        num_nonzeros: int = 2,
        max_coefficient: float = 0.1,
        router: Router = "linear",
        kernel_initializer: Initializer = "lecun_normal",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_tasks, num_experts, router, kernel_initializer, **kwargs)
        num_nonzeros = validation.integer("ReLUGate", "num_nonzeros", num_nonzeros, 1)
        if not START <= max_coefficient < float("inf"):
            raise ValueError(
                "ReLUGate's `max_coefficient` limits the weight of a loss that starts at "
                f"{START} and must be at least that, and finite. Received "
                f"max_coefficient={max_coefficient}. Try 0.1, or 0.01 with a static router."
            )
        self.num_nonzeros = num_nonzeros
        self.max_coefficient = max_coefficient

    def score_parts(self) -> list[ScoreSpec]:
        # A static score below 0 never gets a gradient. These sum to about 1.
        static = keras.initializers.RandomUniform(0.5 / self.num_choices, 1.5 / self.num_choices)
        return [ScoreSpec(self.num_choices, self.kernel_initializer, "zeros", static)]

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.coefficient = self.add_weight(
            name="coefficient",
            shape=(self.num_tasks,),
            initializer=keras.initializers.Constant(START),
            trainable=False,
            # In float16 the start would be 0, and stay so.
            dtype="float32",
            autocast=False,
            aggregation="mean",
        )

    def select(self, scores: Tensor, rows: Rows, training: bool) -> tuple[Tensor, Tensor]:
        weights = ops.relu(scores)
        if training:
            self._add_loss(weights, rows)
        return weights, weights

    def _add_loss(self, weights, rows):
        active = ops.cast(weights > 0, weights.dtype)
        count = rows.counts(weights)
        own = ops.maximum(count, 1)
        load = rows.sums(active) / own * (self.num_choices / self.num_nonzeros)
        # A copy: the gradient needs the value from before it moves.
        coefficient = ops.copy(ops.cast(self.coefficient, weights.dtype))
        pressure = ops.sum(load * rows.sums(weights), axis=-1)
        # Where rows have one task each, a task's part counts as its rows' losses do.
        total = own[:, 0] if rows.task is None else ops.maximum(ops.sum(count), 1)
        self.add_loss(ops.sum(coefficient * pressure / total))
        # Counted before the mean: shares of a batch would add up to k only nearly.
        excess = ops.sum(rows.sums(active), axis=-1) - self.num_nonzeros * count[:, 0]
        moved = coefficient * ops.power(FACTOR, ops.sign(excess))
        self.coefficient.assign(ops.clip(moved, START, self.max_coefficient))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_nonzeros": self.num_nonzeros,
            "max_coefficient": self.max_coefficient,
        }
