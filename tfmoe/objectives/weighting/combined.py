"""Combinations of the tasks' gradients, where tasks share a tensor or else parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from tfmoe import validation
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Tensor
from tfmoe.objectives.gradients import balance, descent
from tfmoe.objectives.weighting import drawn
from tfmoe.objectives.weighting.base import State, Weighting


class Combined(Weighting):
    """A weighting of gradients alone."""

    combines = True


@registered
class PCGrad(Combined):
    """Takes out of each task's gradient what goes against another task's.

    Of each gradient the component along another one is subtracted where their product is below 0,
    in an order drawn in each step; the results are added up.

    This and the other combinations of gradients take them at the last tensor that all tasks share,
    such as the experts' outputs of `MMoE` or the output of `SharedBottom`, in the one backward pass
    there is. What lies below, experts and encoder, learns from the combination. What lies above,
    towers and gates, learns from each task's own loss; so gradients that reach the encoder through
    gates are not combined. Gradients are compared in float32.

    Of structures without such a tensor (`Structure.shared_point`), such as `PLE`, and of tasks that
    are given others, they take the gradients by all parameters at which at least two tasks' losses
    have one, in a backward pass for each task; all other parameters learn from the sum of the
    losses.

    Args:
        seed: int >= 0, of the orders. They come again after 2,039 steps.

    Source: Yu et al., 2020, https://arxiv.org/abs/2001.06782, which combines the gradients of
    weights and draws an order for each task; here all tasks of a step have one.
    """

    num_sent = 1

    def __init__(self, seed: int = 0) -> None:
        self.seed = validation.integer("PCGrad", "seed", seed, 0)

    def start(self, num_tasks: int) -> dict[str, np.ndarray]:
        return {"order": np.arange(num_tasks, dtype="float32"), **drawn.start()}

    def weigh(self, losses: Tensor, present: Tensor, state: State) -> tuple[Tensor, State]:
        numbers, new = drawn.draw(losses.shape[0], self.seed, state)
        order = ops.cast(ops.argsort(numbers), "float32")
        return ops.ones_like(losses), {"order": order, **new}

    def send(self, state: State) -> Tensor:
        return state["order"]

    def combine(self, gram: Tensor, received: Tensor) -> Tensor:
        return balance.pcgrad(gram, ops.cast(ops.round(received), "int32"))

    def get_config(self) -> dict[str, Any]:
        return {"seed": self.seed}


@registered
class MGDA(Combined):
    """The shortest convex combination of the tasks' gradients, along which no task gets worse.

    For what is combined where, see `PCGrad`. Weights add up to 1; tasks with short gradients weigh
    most.

    Source: Sener and Koltun, 2018, https://arxiv.org/abs/1810.04650, solved to the end by an
    interior point.
    """

    def combine(self, gram: Tensor, received: Tensor) -> Tensor:
        return descent.mgda(gram)


@registered
class CAGrad(Combined):
    """The tasks' mean gradient, turned towards what helps the worst task.

    For what is combined where, see `PCGrad`.

    Args:
        c: float >= 0, how far it is turned: 0 is the mean gradient; from 1 on no task gets worse.

    Source: Liu et al., 2021, https://arxiv.org/abs/2110.14048, without the rescaling of its code.
    """

    def __init__(self, c: float = 0.4) -> None:
        self.c = validation.number("CAGrad", "c", c, least=0)

    def combine(self, gram: Tensor, received: Tensor) -> Tensor:
        return descent.cagrad(gram, self.c)

    def get_config(self) -> dict[str, Any]:
        return {"c": self.c}


@registered
class AlignedMTL(Combined):
    """The mean of the tasks' gradients after they are made orthogonal and equally long.

    For what is combined where, see `PCGrad`. All get the length of the shortest principal
    component.

    Source: Senushkin et al., 2023, https://arxiv.org/abs/2305.19000.
    """

    def combine(self, gram: Tensor, received: Tensor) -> Tensor:
        return balance.aligned_mtl(gram)


@registered
class IMTLG(Combined):
    """The combination that has the same projection on every task's gradient.

    For what is combined where, see `PCGrad`. Weights add up to 1 and may be negative.

    Source: Liu et al., 2021, https://openreview.net/forum?id=IMPnRXEWpvr, its part G.
    """

    def combine(self, gram: Tensor, received: Tensor) -> Tensor:
        return balance.imtl_g(gram)


@registered
class NashMTL(Combined):
    """The Nash bargaining solution: weights `w > 0` with `G w = 1 / w`.

    For what is combined where, see `PCGrad`. The combination has the length 1, as its authors' code
    makes it, however long the gradients are.

    Source: Navon et al., 2022, https://arxiv.org/abs/2202.01017, solved anew in each step by
    Newton's method.
    """

    def combine(self, gram: Tensor, received: Tensor) -> Tensor:
        weights = descent.nash_mtl(gram)
        num = ops.sum(ops.cast(ops.diagonal(gram) > 0, weights.dtype))
        # The solution's length is the root of the number of tasks.
        return weights / ops.sqrt(ops.maximum(num, 1))


@registered
class UPGrad(Combined):
    """The mean of the tasks' gradients, each projected so that it goes against no task's.

    For what is combined where, see `PCGrad`. No task gets worse, and a task's part grows with its
    gradient.

    Source: Quinton and Rey, 2024, https://arxiv.org/abs/2406.16232.
    """

    def combine(self, gram: Tensor, received: Tensor) -> Tensor:
        return descent.upgrad(gram)


@registered
class DualBalancing(Combined):
    """DB-MTL: logarithms of the losses, and gradients made as long as the longest.

        sum_t max(n) / n_t grad log L_t

    with running means `n_t` of the gradients' lengths. For what is combined where, see `PCGrad`.

    Args:
        decay: float in [0, 1), of the running means.

    Source: Lin et al., 2023, https://arxiv.org/abs/2308.12029. There the gradients of weights have
    running means; at the shared tensor every batch has rows of its own, so their lengths do.
    """

    compares = True

    num_sent = 2

    def __init__(self, decay: float = 0.9) -> None:
        self.decay = validation.number("DualBalancing", "decay", decay, least=0)
        if decay >= 1:
            raise ValueError(
                "DualBalancing needs `decay` to be a number of at least 0 and below 1. Received "
                f"decay={decay!r}. Use 0 for no running means."
            )

    def start(self, num_tasks: int) -> dict[str, np.ndarray]:
        return {name: np.zeros(num_tasks, "float32") for name in ("norms", "counts")}

    def weigh(self, losses: Tensor, present: Tensor, state: State) -> tuple[Tensor, State]:
        return 1 / ops.maximum(losses, 1e-8), {}

    def send(self, state: State) -> Tensor:
        return ops.concatenate([state["norms"], state["counts"]])

    def _running(self, gram: Tensor, norms: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """The sums of lengths and of their shares, by which they are divided."""
        now = ops.sqrt(ops.diagonal(gram))
        some = now > 0
        norms = ops.where(some, self.decay * norms + (1 - self.decay) * now, norms)
        counts = ops.where(some, self.decay * counts + (1 - self.decay), counts)
        return norms, counts

    def combine(self, gram: Tensor, received: Tensor) -> Tensor:
        num = gram.shape[0]
        norms, counts = self._running(gram, received[:num], received[num:])
        mean = norms / ops.where(counts > 0, counts, ops.ones_like(counts))
        present = ops.cast(ops.diagonal(gram) > 0, mean.dtype)
        return balance.dual_balancing(mean * present)

    def learn(self, gram: Tensor, state: State) -> State:
        norms, counts = self._running(gram, state["norms"], state["counts"])
        return {"norms": norms, "counts": counts}

    def get_config(self) -> dict[str, Any]:
        return {"decay": self.decay}
