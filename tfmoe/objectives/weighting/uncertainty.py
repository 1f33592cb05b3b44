"""Weights by each task's own noise, learned."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from tfmoe import validation
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Tensor
from tfmoe.objectives.weighting import adam
from tfmoe.objectives.weighting.base import State, Weighting


@registered
class Uncertainty(Weighting):
    r"""Each loss is weighed by a learned variance of its task.

        sum_t L_t / (2 exp(s_t)) + s_t / 2

    For a loss that stays where it is, `s_t` comes to `log L_t` and the weight to `1 / (2 L_t)`,
    which is 116 for a loss of 0.0043; so `s_t` is kept within `limit`.

    Args:
        learning_rate: float > 0, of an Adam of its own that learns `s`, beside the optimizer.
        limit: float > 0, the most `s_t` may be from 0. With 3, weights are from 0.025 to 10.

    Source: Kendall et al., 2018, https://arxiv.org/abs/1705.07115, with one form for losses of
    every kind. The limit, and an Adam apart from the model's optimizer, are ours.
    """

    compares = True

    def __init__(self, learning_rate: float = 0.01, limit: float = 3.0) -> None:
        self.learning_rate = validation.number(
            "Uncertainty", "learning_rate", learning_rate, above=0
        )
        self.limit = validation.number("Uncertainty", "limit", limit, above=0)

    def start(self, num_tasks: int) -> dict[str, np.ndarray]:
        return {"logs": np.zeros(num_tasks, "float32"), **adam.start(num_tasks)}

    def weigh(self, losses: Tensor, present: Tensor, state: State) -> tuple[Tensor, State]:
        weights = 0.5 * ops.exp(-state["logs"])
        gradient = 0.5 - weights * losses
        change, moments = adam.step(gradient, present, state, self.learning_rate)
        logs = ops.clip(state["logs"] + change, -self.limit, self.limit)
        return weights, {"logs": logs, **moments}

    def get_config(self) -> dict[str, Any]:
        return {"learning_rate": self.learning_rate, "limit": self.limit}
