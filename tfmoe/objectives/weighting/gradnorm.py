"""Weights under which gradients are as long as tasks are behind."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from tfmoe import validation
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Tensor
from tfmoe.objectives.weighting import adam
from tfmoe.objectives.weighting.base import State, Weighting, mean_of

_LEAST = 1e-3


@registered
class GradNorm(Weighting):
    r"""Learns weights under which slower tasks have longer gradients at the shared tensor.

        G_t = |w_t grad L_t|,   r_t = (L_t / L_t(0)) / mean,   sum_t |G_t - mean(G) r_t^alpha|

    is what `w` learns to make small, with `mean(G) r_t^alpha` held constant. Means are over the
    tasks that have a label in the batch, and `L_t(0)` is a task's first loss. After each step
    the weights are made to have the mean 1. The gradients are those that reach the last tensor
    that all tasks share, see `PCGrad`.

    Args:
        alpha: float >= 0; the larger, the more the tasks' speeds count.
        learning_rate: float > 0, of the Adam that learns the weights.

    Source: Chen et al., 2018, https://arxiv.org/abs/1711.02257, which takes the gradients of the
    last shared layer's weights. Weights are at least 0.001 here.
    """

    compares = True
    combines = True

    def __init__(self, alpha: float = 1.5, learning_rate: float = 0.025) -> None:
        self.alpha = validation.number("GradNorm", "alpha", alpha, least=0)
        self.learning_rate = validation.number("GradNorm", "learning_rate", learning_rate, above=0)

    def start(self, num_tasks: int) -> dict[str, np.ndarray]:
        zeros = np.zeros(num_tasks, "float32")
        own = {"weights": zeros + 1, "initial": zeros - 1, "losses": zeros}  # -1: there was none
        return {**own, **adam.start(num_tasks)}

    def weigh(self, losses: Tensor, present: Tensor, state: State) -> tuple[Tensor, State]:
        new = (present > 0) & (state["initial"] < 0)
        initial = ops.where(new, losses, state["initial"])
        return state["weights"], {"initial": initial, "losses": losses}

    def learn(self, gram: Tensor, state: State) -> State:
        norms = ops.sqrt(ops.diagonal(gram))
        present = ops.cast(norms > 0, "float32")
        left = state["losses"] / ops.maximum(state["initial"], 1e-8)
        speed = left / ops.maximum(mean_of(left, present), 1e-8)
        aim = mean_of(norms, present) * ops.power(ops.maximum(speed, 1e-8), self.alpha)
        weights = state["weights"]
        gradient = ops.sign(norms - aim) * norms / weights
        # In units of its own, for Adam's epsilon is none of gradients as small as these.
        gradient = gradient / ops.maximum(ops.max(norms / weights), 1e-30)
        change, moments = adam.step(gradient, present, state, self.learning_rate)
        weights = ops.maximum(weights + change, _LEAST)
        return {"weights": weights / ops.mean(weights), **moments}

    def get_config(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "learning_rate": self.learning_rate}
