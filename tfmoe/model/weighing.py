"""How a model's steps weigh the losses of tasks and combine their gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator
from typing import Any

import keras
from keras import ops

from tfmoe.heads.values import imputed_tasks
from tfmoe.model.inputs import labels_of, task_of
from tfmoe.objectives.weighting.base import Weighting
from tfmoe.objectives.weighting.learner import WeightLearner
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Regression


def learner_of(
    model: Any, weighting: Weighting | None, own_losses: Container[str] = ()
) -> WeightLearner | None:
    """What weighs the losses of a model; None for fixed weights.

    Args:
        model: `MultiTaskModel`.
        weighting: `Weighting`, or None.
        own_losses: names of the tasks whose loss is another than their own.

    Raises:
        ValueError: if gradients are to be combined where nothing is shared that is trained, or
            losses to be compared that may be below 0.
    """
    if weighting is None:
        return None
    check_tasks(weighting, model.schema, own_losses)
    if weighting.combines and model.added_tasks:
        raise ValueError(
            f"{type(weighting).__name__} combines the gradients that tasks send into what they "
            f"share. Received a model with added tasks {list(model.added_tasks)}, of which all "
            "that is shared is frozen. Leave out `weighting`."
        )
    # The loss of a task that is given another one reaches that one's tower too, and so comes to the
    # shared tensor by slices that are not its own.
    chained = any(model.schema.parent(task) is not None for task in model.schema.tasks)
    by_parameter = chained or model.structure.shared_point() == "inputs"
    return WeightLearner(weighting, model.schema.task_names, by_parameter)


def check_tasks(weighting: Weighting, schema: Schema, own_losses: Container[str] = ()) -> None:
    """Raises ValueError if a weighting does not go with the tasks of a schema.

    Args:
        weighting: `Weighting`.
        schema: `Schema`.
        own_losses: names of the tasks whose loss is another than their own.
    """
    owner = type(weighting).__name__
    tasks = [task for task in schema.tasks if task.name not in own_losses]
    imputed = imputed_tasks(tasks)
    below = [
        task.name
        for index, task in enumerate(tasks)
        if index in imputed or (isinstance(task, Regression) and task.is_scaled)
    ]
    if weighting.compares and below:
        raise ValueError(
            f"{owner} compares losses by their logarithms or ratios, so that all must be above 0. "
            f'Received the tasks {below}, whose loss is "poisson", "lognormal" or that of the link '
            '"escm2-dr" and may be below. '
            "Use fixed weights, RLW, or a combination of gradients such as tfmoe.UPGrad()."
        )


class EpochEnds(keras.callbacks.Callback):
    """Lets a weighting learn from an epoch that has ended."""

    def __init__(self, learner: WeightLearner) -> None:
        super().__init__()
        self.learner = learner

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.learner.end_epoch()


def looked_again(model: Any, step: Any, args: tuple[Any, ...]) -> Any:
    """A training step, after which the batch's losses are computed once more.

    The second pass draws what the first one drew, and leaves nothing behind but what the weighting
    learns: counters and random numbers go on from the first.

    Args:
        model: compiled `MultiTaskModel`.
        step: the step.
        args: its arguments, see `Trainable.train_step`.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(args[-1])
    if keras.backend.backend() == "jax":
        _, other, _, _ = args[0]
        logs, (trainable, left, optimizer, metrics) = step(*args)
        forward, _ = model.stateless_call(trainable, other, x, training=True)
        mapping = list(zip(model.metrics_variables, metrics, strict=True))
        with keras.StatelessScope(state_mapping=mapping) as scope:
            _learn(model, x, y, sample_weight, forward)
        metrics = [_current(scope, variable, value) for variable, value in mapping]
        return logs, (trainable, left, optimizer, metrics)
    variables = list(model.non_trainable_variables)
    before = [ops.copy(variable) for variable in variables]
    logs = step(*args)
    with _no_gradients():
        left = [ops.copy(variable) for variable in variables]
        _assign(variables, before)
        forward = model(x, training=True)
        _learn(model, x, y, sample_weight, forward)
        _assign(variables, left)
    return logs


def _learn(model: Any, x: Any, y: Any, sample_weight: Any, forward: Any) -> None:
    objectives, learner = model._objectives.value, model.weighting_state
    labels = labels_of(model.schema, y)
    losses, _ = objectives.losses(
        labels, sample_weight, forward.of(x), **task_of(model.schema, x), tracks=False
    )
    learner.look_again(losses)


def _current(scope: Any, variable: Any, value: Any) -> Any:
    found = scope.get_current_value(variable)
    return value if found is None else found


def _assign(variables: list[Any], values: list[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


@contextlib.contextmanager
def _no_gradients() -> Iterator[None]:
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    with torch.no_grad():
        yield
