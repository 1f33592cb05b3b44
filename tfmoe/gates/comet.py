"""COMET: soft trees whose leaves are the experts."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute import nested
from tfmoe.compute.math import entropy, num_bits, smooth_step
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Shape, Tensor
from tfmoe.gates.base import Gate
from tfmoe.gates.permutation import LearnedPermutation
from tfmoe.gates.routers import ScoreSpec
from tfmoe.gates.rows import Rows
from tfmoe.gates.schedules import Schedule, number_or_schedule, schedule_config
from tfmoe.gates.task_router import Router


@registered
class CometGate(Gate):
    r"""Selects at most `num_nonzeros` experts a task, by trees that gradients can train.

    Each of k binary trees has a leaf for every expert, in heap order: nodes `2i + 1` and
    `2i + 2` lie below node `i`, and the last `e` of the `2e - 1` nodes are the leaves. A
    node goes left with probability `S(z)`, with the smooth step `S` of width `gamma`. So
    tree `j` reaches expert `i` with the product `p[j, i]` along the path, and with scores
    `a` of the leaves

        weights[b, t, i] = sum_j exp(a[j, i]) p[j, i] / sum_jl exp(a[j, l]) p[j, l]

    `S` reaches 0 and 1 exactly, so once all splits on a tree's path have, it names one
    expert, and the row has at most k non-zeros. Before that, a row may have more. A split
    that has reached 0 or 1 gets no gradient any more. Unlike `DSelectKGate`'s, the trees
    weigh experts by scores of their own, and are the authors' for every number of
    experts.

    Args:
        num_tasks, num_experts, router, balance, expert_ids, num_choices, usage_decay: see `Gate`.
        num_nonzeros: int >= 1, the number k of trees. Trees may coincide.
        gamma: float > 0. Smaller values select sooner.
        entropy_reg: float >= 0, or one of `keras.optimizers.schedules` over the training
            steps: weight of the sum over tasks and trees of the batch's mean entropy of
            `p`, added to the loss in training. It drives the splits to 0 or 1.
        permutation: a `LearnedPermutation`, or None. It changes which expert stands at
            which leaf, for all tasks and trees alike ("COMET+").

    Call arguments:
        inputs: float tensor `(b, f)`.
        task: int tensor `(b,)` or None, the row's task; see `Gate`.
        training: bool; the losses are added in training only.

    Returns:
        Float tensor `(b, t, e)`; non-negative, each row sums to 1 over `e`. With a static
        router `(1, t, e)`.

    Raises:
        ValueError: if a count is too small, `gamma` is not above 0, `entropy_reg` is
            negative, or `permutation` is no `LearnedPermutation`.

    Example:

    >>> gate = CometGate(num_tasks=2, num_experts=5, num_nonzeros=2)
    >>> gate(np.ones((1, 3))).numpy().sum(axis=-1).round(4).tolist()
    [[1.0, 1.0]]

    Source: Ibrahim et al., 2023, https://arxiv.org/abs/2306.02824. Differs from the
    authors' code in the sum of the entropies over tasks, in leaf scores whose bias starts
    at 0, and in that a leaf with `p` below 1e-30 counts as not reached.
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
        permutation: LearnedPermutation | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_tasks, num_experts, router, **kwargs)
        num_nonzeros = validation.integer("CometGate", "num_nonzeros", num_nonzeros, 1)
        if not gamma > 0:
            raise ValueError(
                "CometGate's smooth step has the width `gamma`, which must be above 0. "
                f"Received gamma={gamma}. Values from 0.01 to 10 are usual."
            )
        permutation = nested.given(permutation)
        if permutation is not None and not isinstance(permutation, LearnedPermutation):
            raise ValueError(
                "CometGate takes as `permutation` a LearnedPermutation(num_steps), or None. "
                f"Received permutation={permutation!r}."
            )
        self.num_nonzeros = num_nonzeros
        self.gamma = gamma
        self.entropy_reg = number_or_schedule("CometGate", "entropy_reg", entropy_reg, 0)
        self._permutation_config = self.permutation = None
        if permutation is not None:
            self._permutation_config = nested.config_of(permutation)
            self.permutation = nested.filled(
                self._permutation_config, "CometGate", name="permutation"
            )

    def score_parts(self) -> list[ScoreSpec]:
        # Near 0 the smooth step is steepest, so every split starts undecided.
        split = keras.initializers.RandomUniform(-self.gamma / 100, self.gamma / 100)
        leaf = keras.initializers.RandomUniform(-0.05, 0.05)
        splits = self.num_nonzeros * (self.num_choices - 1)
        leaves = self.num_nonzeros * self.num_choices
        return [ScoreSpec(splits, split, split, split), ScoreSpec(leaves, leaf, "zeros", leaf)]

    def scheduled(self) -> list[str]:
        return ["entropy_reg"]

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        if self.permutation is not None:
            self.permutation.build((None, self.num_tasks, self.num_choices))

    def select(self, scores: Tensor, rows: Rows, training: bool) -> tuple[Tensor, Tensor]:
        e, num_tasks = self.num_choices, scores.shape[1]
        reached, leaves = self._trees(scores)
        if training and self.entropy_reg != 0:
            total = ops.reshape(ops.sum(entropy(reached, axis=1), axis=0), (-1, num_tasks))
            self.add_loss(self.now(self.entropy_reg) * ops.sum(rows.mean(total)))
        # The softmax over all leaves that are reached. Neither the logarithm of 0 nor its
        # gradient may be computed, even to be masked: hence the inner 1. Below the threshold
        # 1 / p would overflow.
        alive = reached > 1e-30
        logits = leaves + ops.log(ops.where(alive, reached, 1.0))
        logits = ops.where(alive, logits, -float("inf"))
        # The initial value is for a batch without rows.
        top = ops.max(logits, axis=(0, 1), keepdims=True, initial=-float("inf"))
        top = ops.stop_gradient(top)
        mass = ops.exp(logits - top)
        weights = ops.sum(mass, axis=0) / ops.sum(mass, axis=(0, 1))
        weights = ops.reshape(ops.transpose(weights), (-1, num_tasks, e))
        if self.permutation is not None:
            weights = self.permutation(weights, training=training)
        return weights, weights

    def _trees(self, scores):
        """Of scores `(b, t, s)` what each tree does with each leaf.

        Returns:
            Probabilities `(k, e, b * t)` with which it is reached, and its scores, likewise.
        """
        k, e = self.num_nonzeros, self.num_choices
        # Rows of examples: arithmetic on the few numbers of each is much slower.
        scores = ops.transpose(ops.reshape(scores, (-1, k * (2 * e - 1))))
        splits, leaves = ops.split(scores, [k * (e - 1)], axis=0)
        left = smooth_step(ops.reshape(splits, (k, e - 1, -1)), self.gamma)
        # Level by level: of a level's nodes the first ones split, the others are leaves,
        # and only the last two levels have leaves.
        cuts = [2**depth - 1 for depth in range(1, num_bits(e))]
        level, over = ops.ones_like(left[:, :1]), None
        for go in ops.split(left, cuts, axis=1) if cuts else [left]:
            nodes, over = ops.split(level, [go.shape[1]], axis=1)
            below = ops.stack([nodes * go, nodes * (1 - go)], axis=2)
            level = ops.reshape(below, (k, 2 * go.shape[1], -1))
        reached = ops.concatenate([over, level], axis=1)
        return reached, ops.reshape(leaves, (k, e, -1))

    def converged(self, scores: Tensor) -> Tensor:
        reached, _ = self._trees(scores)
        named = ops.cast(ops.max(reached, axis=1) >= 1, scores.dtype)
        share = ops.reshape(ops.mean(named, axis=0), (-1, scores.shape[1]))
        if self.permutation is None:
            return share
        return share * ops.cast(self.permutation.is_hard(), scores.dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_nonzeros": self.num_nonzeros,
            "gamma": self.gamma,
            "entropy_reg": schedule_config(self.entropy_reg),
            "permutation": self._permutation_config,
        }
