"""From logits to predictions, and where training starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmoe.compute.registered import registered
from tfmoe.schema.schema import part_from_dict, part_to_dict
from tfmoe.schema.tasks import Binary, Multiclass, Task


class _OfTasks(keras.layers.Layer):
    """A layer that is given the tasks, or a saved config of them."""

    def __init__(self, tasks: Sequence[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tasks = tuple(
            part_from_dict(task, Task) if isinstance(task, dict) else task for task in tasks
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "tasks": [part_to_dict(task) for task in self.tasks]}


@registered
class Outputs(_OfTasks):
    """Towers' logits to `(predictions, logits)`, dicts by task."""

    def call(self, logits: Any) -> Any:
        predictions, named = {}, {}
        for task, values in zip(self.tasks, logits, strict=True):
            if isinstance(task, Multiclass):
                predictions[task.name] = ops.softmax(values, axis=-1)
            else:
                values = values[:, 0]
                binary = isinstance(task, Binary)
                predictions[task.name] = ops.sigmoid(values) if binary else values
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
            scores = ops.sigmoid(logits)
        elif not binary.any():
            scores = logits
        else:
            scores = ops.where(ops.take(ops.array(binary), task), ops.sigmoid(logits), logits)
        return {"score": scores}, {"score": logits}


def start_at_means(towers: Any, tasks: Sequence[Any], label_means: dict[str, Any]) -> None:
    """Sets the towers' last biases so that the first prediction is the mean label.

    Args:
        towers: built `Towers` of all tasks.
        tasks: sequence of `Task`.
        label_means: dict by task, as a `Preprocessor` has it; NaN where there is none.
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
            bias[t, 0] = mean
    towers.bias.assign(bias)
