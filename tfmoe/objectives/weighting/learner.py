"""What a weighting has learned in a model, and what it reports."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from keras import ops

from tfmoe.compute.replicas import num_replicas
from tfmoe.compute.shared import Combination
from tfmoe.compute.types import Tensor
from tfmoe.objectives.metrics import ByTask
from tfmoe.objectives.weighting.base import Weighting

# Nothing is weighed in an evaluation. A context variable, for replicas have threads.
_SILENT: contextvars.ContextVar = contextvars.ContextVar("tfmoe_weights_silent", default=False)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """While it lasts, no weights are reported."""
    token = _SILENT.set(True)
    try:
        yield
    finally:
        _SILENT.reset(token)


class WeightLearner(ByTask):
    """Weighs losses by a `Weighting`, keeps its state, and reports each task's mean weight.

    A metric, for Keras carries the variables of metrics through the steps of every backend. Its
    weights are means over the steps of an epoch in which the task had a label; `reset_state`
    leaves all that was learned.

    Args:
        weighting: `Weighting`.
        tasks: sequence of str, the tasks' names.
        by_parameter: bool, see `Combination`.
    """

    def __init__(
        self, weighting: Weighting, tasks: Sequence[str], by_parameter: bool = False
    ) -> None:
        names = [f"{name}_weight" for name in tasks]
        super().__init__(names, range(len(names)), name="task_weights")
        self.weighting = weighting
        self.by_parameter = by_parameter
        size = (len(names),)
        self.sums = self.add_variable(size, "zeros", "float32", name="sums")
        self.counts = self.add_variable(size, "zeros", "float32", name="counts")
        # Of the step that is running, for its backward pass.
        self.last = self._kept("last_weights", np.zeros(size))
        self.present = self._kept("last_present", np.zeros(size))
        self._names = list(weighting.start(len(names)))
        values = weighting.start(len(names)).values()
        self._state = [self._kept(n, v) for n, v in zip(self._names, values, strict=True)]

    def _kept(self, name: str, value: Any) -> Any:
        """A variable that is alike on all replicas."""
        value = np.asarray(value, "float32")

        def initial(shape: Any, dtype: Any = None) -> Tensor:
            return ops.convert_to_tensor(value, dtype)

        return self.add_variable(value.shape, initial, "float32", "mean", name)

    @property
    def state(self) -> dict[str, Tensor]:
        """What it has learned, by name."""
        pairs = zip(self._names, self._state, strict=True)
        return {name: ops.convert_to_tensor(variable) for name, variable in pairs}

    def _learn(self, new: dict[str, Tensor], *seen: Tensor) -> None:
        """Takes over what has changed, if it and what it was learned from are finite."""
        fine = [ops.all(ops.isfinite(values)) for values in (*seen, *new.values())]
        keeps = ops.all(ops.stack(fine))
        for name, variable in zip(self._names, self._state, strict=True):
            if name in new:
                values = ops.cast(ops.stop_gradient(new[name]), "float32")
                variable.assign(ops.where(keeps, values, ops.convert_to_tensor(variable)))

    def combination(self) -> Combination | None:
        """What a training step combines gradients by, if it does."""
        if not self.weighting.combines:
            return None
        num, sent = len(self.names), len(self.names) * self.weighting.num_sent
        return Combination(num, self.weighting.combine, sent, self.by_parameter)

    def weigh(
        self, losses: Tensor, counts: Tensor, combination: Combination | None = None
    ) -> Tensor:
        """The loss of a batch, whose gradient is that of the weighed losses.

        Its value is the plain sum, so that epochs and weightings can be compared.

        Args:
            losses: `(t,)`, each task's mean over the rows with its label, of all replicas, times
                its weight.
            counts: `(t,)`, the sums of the weights of these rows.
            combination: of the step.
        """
        known, present = ops.stop_gradient(losses), ops.cast(counts > 0, "float32")
        state = self.state
        weights, new = self.weighting.weigh(known, present, state)
        weights = ops.stop_gradient(ops.where(present > 0, weights, ops.zeros_like(weights)))
        self._learn(new, known)
        minimised, total = ops.sum(weights * losses), ops.sum(losses)
        loss = minimised + ops.stop_gradient(total - minimised)
        if combination is None:
            self._report(weights, present)
            return loss
        if not combination.by_parameter and combination.link is None:
            raise ValueError(
                'A structure that says `shared_point` "inside" passes the last tensor that all '
                "tasks share through `fan_out`. Received a step in which it did not. Call it, or "
                "train with a weighting of losses such as tfmoe.Uncertainty()."
            )
        self.last.assign(weights)
        self.present.assign(present)
        sent = self.weighting.send({**state, **new}) if combination.num_sent else None
        if combination.by_parameter:
            combination.losses = weights * losses
            combination.sent = None if sent is None else ops.stop_gradient(sent)
            return loss
        return loss + num_replicas() * combination.linked(sent)

    def after_backward(self, combination: Combination) -> None:
        """Learns from what the backward pass of a step found."""
        if combination.gram is None or combination.weights is None:
            raise ValueError(
                "Gradients of tasks are combined where they come to the structure. Received a "
                "step in which none came. Let something that the structure holds, or what it "
                "reads, be trainable."
            )
        gram = ops.stop_gradient(combination.gram)
        self._learn(self.weighting.learn(gram, self.state), gram)
        weights = ops.stop_gradient(combination.weights) * ops.convert_to_tensor(self.last)
        self._report(weights, ops.convert_to_tensor(self.present))

    def look_again(self, losses: Tensor) -> None:
        """Learns from the losses of a batch after its step; see `weigh`."""
        after = ops.stop_gradient(losses)
        self._learn(self.weighting.compare(after, self.state), after)

    def _report(self, weights: Tensor, present: Tensor) -> None:
        # One that is not finite is of a step that changes nothing, as with too large a loss scale.
        use = ops.cast(ops.isfinite(weights), "float32") * present
        # All replicas count the step; together they count it once.
        num = num_replicas()
        self.sums.assign_add(ops.where(use > 0, weights, ops.zeros_like(weights)) / num)
        self.counts.assign_add(use / num)

    def end_epoch(self) -> None:
        """Learns from the epoch of training that has ended."""
        state = {name: ops.convert_to_numpy(values) for name, values in self.state.items()}
        changed = self.weighting.end_epoch(state)
        for name, variable in zip(self._names, self._state, strict=True):
            if name in changed:
                variable.assign(np.asarray(changed[name], "float32"))

    def result(self) -> dict[str, Tensor]:
        if _SILENT.get():
            return {}
        return self.named(self.sums / ops.convert_to_tensor(self.counts))

    def reset_state(self) -> None:
        for variable in (self.sums, self.counts):
            variable.assign(ops.zeros(variable.shape, variable.dtype))

    def save_own_variables(self, store: Any) -> None:
        """Called by Keras in saving."""
        for name, variable in zip(self._names, self._state, strict=True):
            store[name] = ops.convert_to_numpy(variable)

    def load_own_variables(self, store: Any) -> None:
        """Called by Keras in loading; a file of a model that was compiled otherwise has nothing."""
        for name, variable in zip(self._names, self._state, strict=True):
            if name in store and tuple(store[name].shape) == tuple(variable.shape):
                variable.assign(np.asarray(store[name]))
