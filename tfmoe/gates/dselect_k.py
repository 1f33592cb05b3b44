"""DSelect-k: a sparse gate that is smooth in its parameters."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute.math import entropy, expert_codes, num_bits, shares, smooth_step
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Tensor
from tfmoe.gates.base import Gate
from tfmoe.gates.routers import ScoreSpec
from tfmoe.gates.rows import Rows
from tfmoe.gates.schedules import Schedule, number_or_schedule, schedule_config
from tfmoe.gates.task_router import Router


@registered
class DSelectKGate(Gate):
    r"""Selects at most `num_nonzeros` experts a task, and can be trained by gradients.

    Expert `i` has a binary code of `m = ceil(log2 e)` bits. Each of k selectors turns m
    scores `z` into the probability that its bits spell that code, with the smooth step
    `S` of width `gamma` as a bit's probability:

        r(z)[i] = prod_j (S(z[j]) if bit j of i is 1 else 1 - S(z[j]))
        weights[b, t] = sum_l softmax(alpha)[l] * r(z[l])

    `S` reaches 0 and 1 exactly, so once all bits have, a selector names one expert and
    the row has at most k non-zeros. Before that, a row may have more. A bit that has
    reached 0 or 1 gets no gradient any more.

    How far it is shows in two numbers a task: how many experts have a weight above 1e-6,
    which falls to k or less, and `converged`, the share of selectors that name one
    expert, which rises to 1. With a static router the selection then stands still, and
    only the shares `softmax(alpha)` still learn; otherwise it is so for this example,
    until others that are undecided move the router's weights.

    Args:
        num_tasks, num_experts, router, balance, expert_ids, num_choices, usage_decay: see `Gate`.
        num_nonzeros: int >= 1, the number k of selectors. Selectors may coincide, so k
            may exceed the number of experts.
        gamma: float > 0. Smaller values select sooner.
        entropy_reg: float >= 0, weight of the sum over tasks and selectors of the
            batch's mean entropy of `r`, added to the loss in training; or a schedule of
            keras.optimizers.schedules over the training steps. It drives the bits to 0
            or 1. Where rows have one task each it is the mean over rows. The authors' layer
            sums over the batch instead: a value tuned there is multiplied by the batch
            size here, unless the router is static.
        reachability: what becomes of the codes that name no expert when `num_experts`
            is no power of two. `"fold"` gives each to an expert whose code ends alike,
            so that rows always sum to 1 and no selector can get lost. `"penalty"` is
            the authors' way: such mass is lost, and in training the sum over tasks and
            selectors of the batch's mean of `1 / sum(r)` is added to the loss (guarded
            at 1e-6).

    Call arguments:
        inputs: float tensor `(b, f)`.
        task: int tensor `(b,)` or None, the row's task; see `Gate`.
        training: bool; the losses are added in training only.

    Returns:
        Float tensor `(b, t, e)`; non-negative, each row sums to 1 over `e` (at most 1
        with `"penalty"`). With a static router `(1, t, e)`.

    Raises:
        ValueError: if a count is too small, `gamma` is not above 0, `entropy_reg` is
            negative or no schedule, or `reachability` is unknown.

    Example:

    >>> gate = DSelectKGate(num_tasks=2, num_experts=5, num_nonzeros=2)
    >>> gate(np.ones((1, 3))).numpy().sum(axis=-1).round(4).tolist()
    [[1.0, 1.0]]

    Source: Hazimeh et al., 2021, https://arxiv.org/abs/2106.03760, eq. 1 to 8.
    Differs from the authors' layer in the folding, in means over the batch and in
    schedules.
    """

    num_nonzeros: int

    def __init__(
        self,
        num_tasks: int | None = None,
        num_experts: int | None = None,
        num_nonzeros: int = 2,
        gamma: float = 1.0,
        entropy_reg: float | Schedule = 0.0,
        router: Router = "linear",
        reachability: str = "fold",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_tasks, num_experts, router, **kwargs)
        num_nonzeros = validation.integer("DSelectKGate", "num_nonzeros", num_nonzeros, 1)
        if not gamma > 0:
            raise ValueError(
                "DSelectKGate's smooth step has the width `gamma`, which must be above "
                f"0. Received gamma={gamma}. Values from 0.01 to 10 are usual."
            )
        if reachability not in ("fold", "penalty"):
            raise ValueError(
                'DSelectKGate takes `reachability` "fold" or "penalty". Received '
                f"reachability={reachability!r}."
            )
        self.num_nonzeros = num_nonzeros
        self.gamma = gamma
        self.entropy_reg = number_or_schedule("DSelectKGate", "entropy_reg", entropy_reg, least=0)
        self.reachability = reachability

    def score_parts(self) -> list[ScoreSpec]:
        # Near 0 the smooth step is steepest, so every bit starts undecided.
        bit = keras.initializers.RandomUniform(-self.gamma / 100, self.gamma / 100)
        alpha = keras.initializers.RandomUniform(-0.05, 0.05)
        bits = self.num_nonzeros * num_bits(self.num_choices)
        return [ScoreSpec(bits, bit, bit, bit), ScoreSpec(self.num_nonzeros, alpha, "zeros", alpha)]

    def select(self, scores: Tensor, rows: Rows, training: bool) -> tuple[Tensor, Tensor]:
        num_tasks, fold = scores.shape[1], self.reachability == "fold"
        bits, alpha = self._parts(scores)
        selectors = expert_codes(bits, self.num_choices, fold)
        if training:
            self._add_losses(selectors, rows, num_tasks)
        weights = ops.sum(shares(alpha, axis=0) * selectors, axis=0)
        weights = ops.reshape(ops.transpose(weights), (-1, num_tasks, self.num_choices))
        return weights, weights

    def scheduled(self) -> list[str]:
        return ["entropy_reg"]

    def converged(self, scores: Tensor) -> Tensor:
        # With folding an expert may have two codes: the bit that tells them apart may stay
        # undecided, and gets no gradient once the others have decided. Without, all of the
        # codes count, those that name nobody too: a selector stuck on one has decided.
        bits, _ = self._parts(scores)
        num_leaves = self.num_choices if self.reachability == "fold" else 2 ** bits.shape[1]
        reached = ops.count_nonzero(expert_codes(bits, num_leaves), axis=1)
        share = ops.mean(ops.cast(reached == 1, scores.dtype), axis=0)
        return ops.reshape(share, (-1, scores.shape[1]))

    def _parts(self, scores):
        """Of scores `(b, t, s)` the bits' probabilities `(k, m, b * t)`, alpha `(k, 1, b * t)`."""
        k, m = self.num_nonzeros, num_bits(self.num_choices)
        # Rows of examples: arithmetic on the few numbers of each is much slower.
        scores = ops.transpose(ops.reshape(scores, (-1, k * m + k)))
        bits, alpha = ops.split(scores, [k * m], axis=0)
        bits = smooth_step(ops.reshape(bits, (k, m, -1)), self.gamma)
        return bits, ops.reshape(alpha, (k, 1, -1))

    def _add_losses(self, selectors, rows, num_tasks):
        """Of selectors `(k, e, b * t)`."""

        def total(values):
            """Sum over tasks and selectors of the mean over the rows."""
            values = ops.reshape(ops.sum(values, axis=0), (-1, num_tasks))
            return ops.sum(rows.mean(values))

        if self.entropy_reg:
            reg = self.now(self.entropy_reg)
            self.add_loss(ops.multiply(reg, total(entropy(selectors, axis=1))))
        if self.reachability == "penalty" and self.num_choices != 2 ** num_bits(self.num_choices):
            self.add_loss(total(1 / ops.maximum(ops.sum(selectors, axis=1), 1e-6)))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_nonzeros": self.num_nonzeros,
            "gamma": self.gamma,
            "entropy_reg": schedule_config(self.entropy_reg),
            "reachability": self.reachability,
        }
