"""What callbacks watch of several tasks at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tfmoe.schema.schema import Schema
from tfmoe.validation import did_you_mean, number


class Watched(NamedTuple):
    """What is watched of a task.

    Attributes:
        task: str.
        name: str, of the number in an epoch's logs.
        sign: 1 where more of it is better, -1 where less is.
    """

    task: str
    name: str
    sign: int

    def value(self, logs: Mapping[str, Any]) -> float:
        """The number in an epoch's logs, turned so that more is better; NaN without one."""
        return self.sign * float(logs.get(self.name, np.nan))


class WatchesTasks:
    """A part of callbacks that watch a number of each task, told by `fit` before its first step.

    Attributes:
        monitor: str, what is watched of every served task, as `"loss"` or `"auc"`, or a dict of
            that by task; tasks left out are not watched.
        watched: list of `Watched`.
    """

    monitor: Any
    watched: list[Watched]

    def watch(self, schema: Schema, modes: Mapping[str, str | None], validates: bool) -> None:
        """Finds what is watched: of the validation rows where there are some.

        Args:
            schema: of the model.
            modes: see `tfmoe.model.watched.reported`.
            validates: whether there is validation data.

        Raises:
            ValueError: if a task is unknown, or has no such number, or nobody knows its better way.
        """
        owner, tasks = type(self).__name__, schema.task_names
        given = self.monitor
        if isinstance(given, str):
            given = {task.name: given for task in schema.tasks if task.served}
        if not isinstance(given, dict) or not given or not set(given) <= set(tasks):
            raise ValueError(
                f"{owner} watches a metric of each task, as `monitor`, or a dict of such by task, "
                f"of the tasks {list(tasks)}. Received monitor={self.monitor!r}."
            )
        self.watched = []
        for task, metric in given.items():
            name = f"{task}_{metric}"
            if name not in modes:
                own = sorted(one.removeprefix(f"{task}_") for one in modes if one.startswith(task))
                raise ValueError(
                    f"{owner} watches what this fit reports. Received monitor={metric!r} for task "
                    f"{task!r}, of which it reports {own}.{did_you_mean(str(metric), own)} Tasks "
                    "of several kinds take a dict by task."
                )
            if modes[name] is None:
                raise ValueError(
                    f"{owner} must know whether more or less is better. Received "
                    f"monitor={metric!r} for task {task!r}, a metric that does not say so. Watch "
                    "its loss, or another metric."
                )
            sign = 1 if modes[name] == "max" else -1
            self.watched.append(Watched(task, f"val_{name}" if validates else name, sign))


def task_weights(owner: str, weights: Any) -> dict[str, float] | None:
    """Weights of tasks, each >= 0, as a dict of floats, or None.

    Raises:
        ValueError: if they are anything else.
    """
    if weights is None:
        return None
    if not isinstance(weights, dict):
        raise ValueError(
            f"{owner} takes `weights` as a dict by task. Received weights={weights!r}."
        )
    return {name: number(owner, f"weights[{name!r}]", w, least=0) for name, w in weights.items()}
