"""Adam on a few numbers of a weighting's own."""

from __future__ import annotations

import numpy as np
from keras import ops

from tfmoe.compute.types import Tensor

_BETAS = 0.9, 0.999
_EPSILON = 1e-8


def start(num_tasks: int) -> dict[str, np.ndarray]:
    """Its moments and each task's number of steps, of which there are none yet."""
    return {name: np.zeros(num_tasks, "float32") for name in ("first", "second", "steps")}


def step(
    gradient: Tensor, present: Tensor, state: dict[str, Tensor], rate: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """What is to be added to the numbers `(t,)`, and the new moments.

    Only numbers of present tasks take a step, and each has its own count of them.
    """
    steps = state["steps"] + present
    moments = []
    for name, beta, new in zip(
        ("first", "second"), _BETAS, (gradient, gradient * gradient), strict=True
    ):
        old = state[name]
        moments.append(ops.where(present > 0, beta * old + (1 - beta) * new, old))
    some = ops.maximum(steps, 1)
    first, second = (
        moment / (1 - ops.power(ops.full_like(some, beta), some))
        for moment, beta in zip(moments, _BETAS, strict=True)
    )
    change = -rate * first / (ops.sqrt(second) + _EPSILON) * present
    return change, {"first": moments[0], "second": moments[1], "steps": steps}
