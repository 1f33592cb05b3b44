"""Early stopping that looks at all tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfmoe.model.watched_tasks import WatchesTasks, task_weights
from tfmoe.validation import checks_arguments, integer, number


@checks_arguments
class MultiTaskEarlyStopping(WatchesTasks, keras.callbacks.EarlyStopping):
    r"""Ends a training when the tasks together do not improve any more.

    The total loss is a sum of numbers of different sizes, and a task with a large one decides
    alone. Here every task counts by its weight, whatever its numbers are like. With `v_t` what is
    watched of task t in this epoch and `f_t` the same in the first one,

        improvement = sum_t w_t s_t (v_t - f_t) / |f_t| / sum_t w_t

    where `s_t` is 1 if more of it is better, else -1. It is in the history, as `improvement`. A
    task without rows, whose number is NaN, does not count in that epoch.

    Args:
        monitor: what is watched: str, a metric that every task has, such as `"loss"`; or a dict by
            task, such as `{"click": "auc", "stars": "rmse"}`, where tasks may be left out. Of the
            validation rows where there are some.
        weights: dict of float >= 0 by task, or None for 1 each; tasks left out have 1.
        patience: int >= 0, epochs without a better improvement after which the training ends.
        min_delta: float >= 0, how much more counts as better.
        start_from_epoch: int >= 0, epochs that are not looked at.
        restore_best_weights: bool; whether the model ends with the weights of the best epoch.
        verbose: 0 or 1, as in Keras.

    Attributes:
        best: float, the best improvement.
        best_epoch: int, from 0.

    Raises:
        ValueError: if an argument is out of range; before the first step, if a task is unknown or
            has no such metric.

    Example:

    >>> stopping = tfmoe.MultiTaskEarlyStopping({"click": "auc", "stars": "rmse"}, patience=2)
    >>> stopping.patience
    2

    Source: the mean relative improvement is that of Maninis et al., 2019, eq. 4,
    https://arxiv.org/abs/1904.08918. Differs from it in that tasks may have weights, and are
    compared with their first epoch instead of a model of one task.
    """

    def __init__(
        self,
        monitor: str | Mapping[str, str] = "loss",
        weights: Mapping[str, float] | None = None,
        patience: int = 3,
        min_delta: float = 0.0,
        start_from_epoch: int = 0,
        restore_best_weights: bool = True,
        verbose: int = 0,
    ) -> None:
        owner = "MultiTaskEarlyStopping"
        super().__init__(
            monitor="improvement",
            mode="max",
            patience=integer(owner, "patience", patience, 0),
            min_delta=number(owner, "min_delta", min_delta, least=0),
            start_from_epoch=integer(owner, "start_from_epoch", start_from_epoch, 0),
            restore_best_weights=restore_best_weights,
            verbose=verbose,
        )
        self.monitor = monitor
        self.weights = task_weights(owner, weights) or {}
        self.watched = []
        self._first: dict[str, float] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        unknown = sorted(set(self.weights) - {one.task for one in self.watched})
        if not self.watched or unknown:
            raise ValueError(
                "MultiTaskEarlyStopping watches tasks of a MultiTaskModel that is compiled. "
                f"Received weights of {unknown}, with watched tasks "
                f"{[one.task for one in self.watched]}. Name them as the schema does."
            )
        self._first = {}
        super().on_train_begin(logs)

    def get_state(self) -> dict[str, dict[str, float]]:
        """What a Checkpoint keeps beside what Keras's callback has: the first epoch's values."""
        return {"first": self._first}

    def set_state(self, state: dict[str, dict[str, float]]) -> None:
        """Called before the first step of a training that goes on."""
        self._first = dict(state["first"])

    def get_monitor_value(self, logs: Any) -> float | None:
        """The improvement since the first epoch, which the epoch's logs get too.

        None, which Keras passes over, if no task has rows.
        """
        gains, weights = [], []
        for one in self.watched:
            value = one.value(logs)
            if np.isnan(value):
                continue
            first = self._first.setdefault(one.task, value)
            gains.append((value - first) / (abs(first) or 1.0))
            weights.append(self.weights.get(one.task, 1.0))
        if not sum(weights):
            return None
        logs["improvement"] = float(np.average(gains, weights=weights))
        return logs["improvement"]
