"""From logits to predictions, and where training starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmoe.compute.registered import registered
from tfmoe.heads.values import (
    chain_logit,
    conditional_logit,
    lognormal_parts,
    regression_value,
    serving_shift,
)
from tfmoe.schema.files import part_from_dict, part_to_dict
from tfmoe.schema.links import ESCM2, ESMM
from tfmoe.schema.tasks import Binary, Multiclass, Regression, Task, in_chain_order, parent_of

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

    The prediction of a regression is in its label's units, its logit is standardised. Of a task
    that is given another both have the whole chain's by the task's name, and the conditional one's
    as `<task>_given_<other>`.
    """

    def call(self, logits: Any) -> Any:
        made = dict(zip((task.name for task in self.tasks), logits, strict=True))
        predictions: dict[str, Any] = {}
        named: dict[str, Any] = {}
        for task in in_chain_order(self.tasks):
            values = made[task.name]
            if isinstance(task, Multiclass):
                predictions[task.name], named[task.name] = ops.softmax(values, axis=-1), values
            elif isinstance(task, Binary):
                values = values[:, 0]
                if task.given is not None:
                    (further,) = task.further_outputs
                    parent = named[task.given]
                    if isinstance(task.link, ESMM | ESCM2):
                        conditional, values = values, chain_logit(parent, values)
                    else:
                        conditional = conditional_logit(parent, values)
                    named[further], predictions[further] = conditional, ops.sigmoid(conditional)
                named[task.name] = values
                predictions[task.name] = ops.sigmoid(values + serving_shift(task))
            else:
                values = values if task.num_logits > 1 else values[:, 0]
                mean, std = self.moments.get(task.name, (0.0, 1.0))
                predictions[task.name] = regression_value(task, values) * std + mean
                named[task.name] = values
                if task.further_outputs:
                    probability, value = lognormal_parts(values)
                    parts = (probability, value * std)
                    predictions |= dict(zip(task.further_outputs, parts, strict=True))
        names = [n for task in self.tasks for n in (task.name, *task.further_outputs)]
        return {name: predictions[name] for name in names}, named


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
        if logits.shape[-1] == 1:
            logits = logits[:, 0]
        forms: dict[Any, list[int]] = {}
        for index, one in enumerate(self.tasks):
            forms.setdefault(_form(one), []).append(index)
        scores = None
        for members in forms.values():
            values = self._scores(self.tasks[members[0]], logits, task)
            if scores is None:
                scores = values
            else:
                mine = np.isin(np.arange(len(self.tasks)), members)
                scores = ops.where(ops.take(ops.array(mine), task), values, scores)
        return {"score": scores}, {"score": logits}

    def _scores(self, like: Task, logits: Any, task: Any) -> Any:
        """Predictions of rows as if all tasks were of the form of one."""
        if like.num_logits == 1 and len(logits.shape) > 1:
            logits = logits[:, 0]
        if isinstance(like, Binary):
            shifts = np.array([serving_shift(one) for one in self.tasks], "float32")
            if shifts.any():
                logits = logits + ops.take(ops.array(shifts), task)
            return ops.sigmoid(logits)
        mean, std = (ops.take(ops.array(one), task) for one in moments_by_task(self))
        return regression_value(like, logits) * std + mean


def _form(task: Task) -> tuple[Any, ...]:
    """What decides how a task's logits become its prediction."""
    return type(task), task.loss if isinstance(task, Regression) and task.is_scaled else None


def moments_by_task(head: _OfTasks) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of a head's tasks in their order, float32 `(t,)`."""
    pairs = [head.moments.get(task.name, (0.0, 1.0)) for task in head.tasks]
    means, stds = np.array(pairs, "float32").T
    return means, stds


def moments_of(tasks: Sequence[Task], known: Moments) -> dict[str, tuple[float, float]]:
    """Those of the tasks whose labels are standardised, as far as they are known.

    Labels that cannot be shifted have the mean 0, and as their deviation the mean.
    """
    found = {}
    for task in tasks:
        if isinstance(task, Regression) and task.standardize and task.name in known:
            mean, std = known[task.name]
            # What was scaled before has a mean of 0 already.
            scaled = task.is_scaled and mean > 0
            found[task.name] = (0.0, float(mean)) if scaled else (float(mean), float(std))
    return found


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
            parent = parent_of(task, tasks)
            if parent is not None and isinstance(task.link, ESMM | ESCM2):
                # The tower says the conditional probability.
                before = float(label_means.get(parent.name, np.nan))
                mean = mean / before if before > 0 else mean
            mean = np.clip(mean, 1e-4, 1 - 1e-4)
            # What is predicted is corrected for the weight of positive rows.
            bias[t, 0] = np.log(mean / (1 - mean)) + np.log(task.positive_weight)
        else:
            shift, std = moments.get(task.name, (0.0, 1.0))
            bias[t, : task.num_logits] = _first_logits(task, (float(mean) - shift) / std)
    towers.bias.assign(bias)


def _first_logits(task: Regression, mean: float) -> list[float]:
    """Logits whose prediction is a mean, standardised; of half the labels above 0 and sigma 1."""
    if not task.is_scaled:
        return [mean]
    log = float(np.log(max(mean, 1e-4)))
    if task.loss == "poisson":
        return [log]
    return [0.0, log + float(np.log(2)) - 0.5, float(np.log(np.e - 1))]
