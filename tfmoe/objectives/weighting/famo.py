"""Weights that let all losses fall at one rate."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from tfmoe import validation
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Tensor
from tfmoe.objectives.weighting import adam
from tfmoe.objectives.weighting.base import State, Weighting, softmax_of

_EPSILON = 1e-8


@registered
class FAMO(Weighting):
    r"""Fast adaptive multitask optimization: losses fall at one rate, without their gradients.

        sum_t z_t log(D_t) / c,   D_t = L_t - least + 1e-8,   z = softmax(w),   c = sum_t z_t / D_t

    with `c` held constant, over the tasks that have a label in the batch. After each step the
    batch's losses are computed again, and `w` learns from how much the log of each has fallen: it
    grows where it fell less. That is one more forward pass a step, with the same dropout.

    Args:
        learning_rate: float > 0, of the Adam that learns `w`.
        decay: float >= 0, times `w` added to its gradient.
        least: float, below all losses; what they could be at best.

    Source: Liu et al., 2023, https://arxiv.org/abs/2306.03792, algorithm 1 and its code.
    """

    compares = True
    looks_again = True

    def __init__(
        self, learning_rate: float = 0.025, decay: float = 0.01, least: float = 0.0
    ) -> None:
        self.learning_rate = validation.number("FAMO", "learning_rate", learning_rate, above=0)
        self.decay = validation.number("FAMO", "decay", decay, least=0)
        self.least = validation.number("FAMO", "least", least)

    def start(self, num_tasks: int) -> dict[str, np.ndarray]:
        names = ("logits", "before", "present")
        return {n: np.zeros(num_tasks, "float32") for n in names} | adam.start(num_tasks)

    def _above(self, losses: Tensor) -> Tensor:
        return ops.maximum(losses - self.least, 0) + _EPSILON

    def weigh(self, losses: Tensor, present: Tensor, state: State) -> tuple[Tensor, State]:
        shares = softmax_of(state["logits"], present) / self._above(losses)
        weights = shares / ops.maximum(ops.sum(shares), 1e-30)
        return weights, {"before": losses, "present": present}

    def compare(self, after: Tensor, state: State) -> State:
        present = state["present"]
        fallen = ops.log(self._above(state["before"])) - ops.log(self._above(after))
        shares = softmax_of(state["logits"], present)
        # The softmax's derivative times what the losses have fallen.
        gradient = shares * (fallen - ops.sum(shares * fallen)) + self.decay * state["logits"]
        change, moments = adam.step(gradient, present, state, self.learning_rate)
        return {"logits": state["logits"] + change, **moments}

    def get_config(self) -> dict[str, Any]:
        return {"learning_rate": self.learning_rate, "decay": self.decay, "least": self.least}
