"""From logits to predictions, and where training starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmoe.compute.registered import registered
from tfmoe.schema.schema import part_from_dict, part_to_dict
from tfmoe.schema.tasks import Binary, Multiclass, Regression, Task

# By task, what its labels are standardised by: mean and standard deviation.
Moments = Mapping[str, Sequence[float]]


class _OfTasks(keras.layers.Layer):
    """A layer that is given the tasks, or a saved config of them.

    Args:
        tasks: sequence of `Task`.
        moments: dict by task of the mean and standard deviation of labels that the towers
            predict standardised; 0 and 1 for those that are not there. Numbers, not variables,
            which half precision would round.
    """

    def __init__(self, tasks: Sequence[Any], moments: Moments | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tasks = tuple(
            part_from_dict(task, Task) if isinstance(task, dict) else task for task in tasks
        )
        given = moments or {}
        self.moments = {name: (float(mean), float(std)) for name, (mean, std) in given.items()}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "tasks": [part_to_dict(task) for task in self.tasks],
            "moments": {name: list(pair) for name, pair in self.moments.items()},
        }


@registered
class Outputs(_OfTasks):
    """Towers' logits to `(predictions, logits)`, dicts by task.

    The prediction of a regression is in its label's units, its logit is standardised.
    """

    def call(self, logits: Any) -> Any:
        predictions, named = {}, {}
        for task, values in zip(self.tasks, logits, strict=True):
            if isinstance(task, Multiclass):
                predictions[task.name] = ops.softmax(values, axis=-1)
            else:
                values = values[:, 0]
                if isinstance(task, Binary):
                    predictions[task.name] = ops.sigmoid(values)
                else:
                    mean, std = self.moments.get(task.name, (0.0, 1.0))
                    predictions[task.name] = values * std + mean
            named[task.name] = values
        return predictions, named


@registered
class ScoreOutputs(_OfTasks):
    """Towers' logits of rows of one task each to `(predictions, logits)`, both `{"score"}`.

    Tasks with fewer classes than the widest have probability 0 for the others.
    """

    def call(self, logits: Any, task: Any) -> Any:
        if isinstance(self.tasks[0], Multiclass):
            counts = np.array([one.num_outputs for one in self.tasks])
            known = np.arange(counts.max()) < counts[:, None]
            logits = ops.where(ops.take(ops.array(known), task, axis=0), logits, -1e9)
            return {"score": ops.softmax(logits, axis=-1)}, {"score": logits}
        logits = logits[:, 0]
        binary = np.array([isinstance(one, Binary) for one in self.tasks])
        if binary.all():
            return {"score": ops.sigmoid(logits)}, {"score": logits}
        mean, std = (ops.take(ops.array(one), task) for one in moments_by_task(self))
        scores = logits * std + mean
        if binary.any():
            scores = ops.where(ops.take(ops.array(binary), task), ops.sigmoid(logits), scores)
        return {"score": scores}, {"score": logits}


def moments_by_task(head: _OfTasks) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of a head's tasks in their order, float32 `(t,)`."""
    pairs = [head.moments.get(task.name, (0.0, 1.0)) for task in head.tasks]
    means, stds = np.array(pairs, "float32").T
    return means, stds


def moments_of(tasks: Sequence[Task], known: Moments) -> dict[str, tuple[float, float]]:
    """Those of the tasks whose labels are standardised, as far as they are known."""
    wanted = [task.name for task in tasks if isinstance(task, Regression) and task.standardize]
    return {name: (known[name][0], known[name][1]) for name in wanted if name in known}


def start_at_means(
    towers: Any, tasks: Sequence[Any], label_means: dict[str, Any], moments: Moments
) -> None:
    """Sets the towers' last biases so that the first prediction is the mean label.

    Args:
        towers: built `Towers` of all tasks.
        tasks: sequence of `Task`.
        label_means: dict by task, as a `Preprocessor` has it; NaN where there is none.
        moments: see `Outputs`.
    """
    bias = ops.convert_to_numpy(towers.bias).copy()
    for t, task in enumerate(tasks):
        mean = np.asarray(label_means.get(task.name, np.nan), "float64")
        if np.isnan(mean).any():
            continue
        if isinstance(task, Multiclass):
            bias[t, : task.num_outputs] = np.log(np.clip(mean, 1e-4, 1))
        elif isinstance(task, Binary):
            mean = np.clip(mean, 1e-4, 1 - 1e-4)
            bias[t, 0] = np.log(mean / (1 - mean))
        else:
            shift, std = moments.get(task.name, (0.0, 1.0))
            bias[t, 0] = (mean - shift) / std
    towers.bias.assign(bias)
