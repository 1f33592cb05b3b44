"""What every weighting is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from keras import ops

from tfmoe.compute.types import Tensor
from tfmoe.validation import checks_arguments

#: What a weighting knows from step to step, by name.
State = dict[str, Tensor]


@checks_arguments
class Weighting:
    """How the losses of tasks are weighed in each step, for `MultiTaskModel.compile(weighting=)`.

    It is a recipe and never changes; what it learns is a state that the model keeps and saves. One
    of one's own is a subclass, registered with Keras, with `get_config` if it has arguments, and
    with `weigh`; or with `combines = True` and `combine`, for the gradients at what tasks share, a
    tensor or else parameters (see `PCGrad`). The losses it sees are multiplied by `Task.weight` or
    `loss_weights` before. All methods are pure functions of tensors, for a step may be compiled.
    """

    #: Whether it looks at the tasks' gradients at what they share.
    combines: bool = False
    #: Whether it must see the losses of a batch again after the step.
    looks_again: bool = False
    #: Whether it compares losses by their logarithms or ratios, so that none may be below 0.
    compares: bool = False
    #: How many numbers `send` returns for each task.
    num_sent: int = 0

    def start(self, num_tasks: int) -> dict[str, np.ndarray]:
        """The state before the first step: float arrays by name."""
        return {}

    def weigh(self, losses: Tensor, present: Tensor, state: State) -> tuple[Tensor, State]:
        """The weights of the losses, and what changes of the state.

        Args:
            losses: `(t,)`, each task's mean loss over the batch's rows with its label, times its
                weight; 0 where there are none.
            present: `(t,)` of 1 and 0, which tasks have a label in the batch.
            state: see `start`.

        Returns:
            `(t,)`, of which only those of present tasks count, and a dict.
        """
        return ops.ones_like(losses), {}

    def send(self, state: State) -> Tensor:
        """What `combine` is to know of the state, `(num_sent * t,)`; called after `weigh`."""
        raise NotImplementedError

    def combine(self, gram: Tensor, received: Tensor) -> Tensor:
        """The weights of the tasks' gradients at what they share, `(t,)`.

        Args:
            gram: `(t, t)`, the inner products of the gradients of the weighed losses; zeros for a
                task without a label in the batch.
            received: what `send` returned.
        """
        return ops.ones_like(ops.diagonal(gram))

    def learn(self, gram: Tensor, state: State) -> State:
        """What changes of the state after the backward pass; arguments as of `combine`."""
        return {}

    def compare(self, after: Tensor, state: State) -> State:
        """What changes of the state, of the losses `(t,)` after the step, with `looks_again`."""
        return {}

    def end_epoch(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What changes of the state after an epoch of `fit`."""
        return {}

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({inside})"


def mean_of(values: Tensor, present: Tensor) -> Tensor:
    """The mean over the tasks that are present."""
    return ops.sum(values * present) / ops.maximum(ops.sum(present), 1)


def softmax_of(values: Tensor, present: Tensor) -> Tensor:
    """The softmax over the tasks that are present, 0 for others."""
    values = ops.where(present > 0, values, ops.full_like(values, -1e30))
    shares = ops.exp(values - ops.max(values)) * present
    return shares / ops.maximum(ops.sum(shares), 1e-30)
