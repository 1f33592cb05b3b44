"""Weights by chance."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from tfmoe import validation
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Tensor
from tfmoe.objectives.weighting import drawn
from tfmoe.objectives.weighting.base import State, Weighting, softmax_of


@registered
class RLW(Weighting):
    """Random loss weighting: `softmax(N(0, 1))`, drawn in each step.

    The softmax is over the tasks that have a label in the batch.

    Args:
        seed: int >= 0. The draws come again after 2,039 steps.

    Source: Lin et al., 2022, https://arxiv.org/abs/2111.10603.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = validation.integer("RLW", "seed", seed, 0)

    def start(self, num_tasks: int) -> dict[str, np.ndarray]:
        return drawn.start()

    def weigh(self, losses: Tensor, present: Tensor, state: State) -> tuple[Tensor, State]:
        numbers, new = drawn.draw(losses.shape[0], self.seed, state)
        return softmax_of(ops.cast(numbers, losses.dtype), present), new

    def get_config(self) -> dict[str, Any]:
        return {"seed": self.seed}
