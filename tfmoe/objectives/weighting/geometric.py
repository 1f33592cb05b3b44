"""The geometric mean of the losses."""

from __future__ import annotations

from keras import ops

from tfmoe.compute.registered import registered
from tfmoe.compute.types import Tensor
from tfmoe.objectives.weighting.base import State, Weighting, mean_of

# Below it a loss has no logarithm worth weighing by.
_LEAST = 1e-8


@registered
class GLS(Weighting):
    """Geometric loss strategy: the geometric mean `(prod_t L_t)^(1/T)` in place of the sum.

    Over the `T` tasks that have a label in the batch, so that a loss `L_t` weighs
    `mean / (T L_t)`. No task's unit matters.

    Source: Chennupati et al., 2019, https://arxiv.org/abs/1904.08492.
    """

    compares = True

    def weigh(self, losses: Tensor, present: Tensor, state: State) -> tuple[Tensor, State]:
        losses = ops.maximum(losses, _LEAST)
        mean = ops.exp(mean_of(ops.log(losses), present))
        return mean / (ops.maximum(ops.sum(present), 1) * losses), {}
