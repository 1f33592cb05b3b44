"""Weights by how losses have changed from epoch to epoch: DWA and STCH."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from keras import ops

from tfmoe import validation
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Tensor
from tfmoe.objectives.weighting.base import State, Weighting, softmax_of

# Below it a loss has no logarithm worth weighing by.
_LEAST = 1e-8


class _ByEpoch(Weighting):
    """Keeps the mean loss of each task in the epoch that is running."""

    def start(self, num_tasks: int) -> dict[str, np.ndarray]:
        return {name: np.zeros(num_tasks, "float32") for name in ("sums", "counts")}

    def weigh(self, losses: Tensor, present: Tensor, state: State) -> tuple[Tensor, State]:
        return ops.ones_like(losses), {
            "sums": state["sums"] + losses * present,
            "counts": state["counts"] + present,
        }

    def end_epoch(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.zeros_like(state[name]) for name in ("sums", "counts")}


def _means(state: Mapping[str, np.ndarray]) -> np.ndarray:
    """The mean losses of an epoch `(t,)`; NaN where a task had no label."""
    some = state["counts"] > 0
    return np.where(some, state["sums"] / np.where(some, state["counts"], 1), np.nan)


@registered
class DWA(_ByEpoch):
    r"""Dynamic weight average: tasks whose loss fell least in the last epoch weigh most.

        T softmax((L^{n-1}_t / L^{n-2}_t) / temperature)

    over the `T` tasks that have a label in the batch, with the mean losses of the last two epochs.
    In the first two epochs of `fit`, and outside of `fit`, which has no epochs, all weigh 1.

    Args:
        temperature: float > 0.

    Source: Liu et al., 2019, https://arxiv.org/abs/1803.10704.
    """

    compares = True

    def __init__(self, temperature: float = 2.0) -> None:
        self.temperature = validation.number("DWA", "temperature", temperature, above=0)

    def start(self, num_tasks: int) -> dict[str, np.ndarray]:
        last = {"last": np.full(num_tasks, -1, "float32")}  # -1: there was none
        return {**super().start(num_tasks), **last, "ratios": np.ones(num_tasks, "float32")}

    def weigh(self, losses: Tensor, present: Tensor, state: State) -> tuple[Tensor, State]:
        weights = softmax_of(state["ratios"] / self.temperature, present) * ops.sum(present)
        return weights, super().weigh(losses, present, state)[1]

    def end_epoch(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        means, last = _means(state), state["last"]
        known = np.isfinite(means)
        both = known & (last > 0)
        ratios = np.where(both, means / np.where(both, last, 1), state["ratios"])
        return {
            **super().end_epoch(state),
            "last": np.where(known, means, last).astype("float32"),
            "ratios": ratios.astype("float32"),
        }

    def get_config(self) -> dict[str, Any]:
        return {"temperature": self.temperature}


@registered
class STCH(_ByEpoch):
    r"""Smooth Tchebycheff: presses on the task that has come the least way from its nadir.

        T mu logsumexp(log(L_t / nadir_t) / mu)

    over the `T` tasks that have a label in the batch. Before it come `warm_up` epochs of
    `sum_t log L_t`, and each task's mean loss in the last of them is its nadir. Outside of `fit`,
    which has no epochs, the warm-up does not end.

    Args:
        mu: float > 0; the smaller, the more the worst task counts alone.
        warm_up: int >= 1, epochs.

    Source: Lin et al., 2024, https://arxiv.org/abs/2402.19078, with the warm-up of its authors'
    code.
    """

    compares = True

    def __init__(self, mu: float = 1.0, warm_up: int = 4) -> None:
        self.mu = validation.number("STCH", "mu", mu, above=0)
        self.warm_up = validation.integer("STCH", "warm_up", warm_up, 1)

    def start(self, num_tasks: int) -> dict[str, np.ndarray]:
        own = {"nadirs": np.ones(num_tasks, "float32"), "epochs": np.zeros((), "float32")}
        return {**super().start(num_tasks), **own}

    def weigh(self, losses: Tensor, present: Tensor, state: State) -> tuple[Tensor, State]:
        losses_ = ops.maximum(losses, _LEAST)
        worse = softmax_of(ops.log(losses_ / state["nadirs"]) / self.mu, present)
        warm = ops.cast(state["epochs"] >= self.warm_up, "float32")
        factor = warm * ops.sum(present) * worse + (1 - warm)
        return factor / losses_, super().weigh(losses, present, state)[1]

    def end_epoch(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        changed, epochs = super().end_epoch(state), state["epochs"] + 1
        if epochs == self.warm_up:
            means = _means(state)
            found = np.where(np.isfinite(means), np.maximum(means, _LEAST), 1)
            changed["nadirs"] = found.astype("float32")
        return {**changed, "epochs": np.asarray(epochs, "float32")}

    def get_config(self) -> dict[str, Any]:
        return {"mu": self.mu, "warm_up": self.warm_up}
