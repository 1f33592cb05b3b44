"""Keras's progress bar, with a line of what matters that fits a terminal."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfmoe.objectives.losses import own_metrics
from tfmoe.schema.tasks import Task

# Of more tasks their mean is shown, and the worst of them.
_MOST_TASKS, _WORST = 4, 2


class Progress(keras.callbacks.ProgbarLogger):
    """Shows losses in Keras's bar, and the tasks' metrics in one line after it.

    Keras would show every number of every task, which for two tasks does not fit a line.
    Each task has one number: the AUC, the accuracy or the RMSE, of the validation rows where
    there are some. All others are in the history.
    """

    async_safe = True

    def __init__(self) -> None:
        super().__init__()
        self._in_fit = False

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        self._in_fit = True

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        super().on_train_batch_end(batch, _losses(logs))

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        super().on_test_batch_end(batch, _losses(logs))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_end(epoch, _losses(logs))
        self._show(logs)

    def on_test_end(self, logs: Any = None) -> None:
        super().on_test_end(_losses(logs))
        if not self._in_fit:
            self._show(logs)

    def _show(self, logs: Any) -> None:
        line = metrics_line(self.model.schema.tasks, logs or {}, _width())
        if self.verbose and line:
            print(line, flush=True)


def _width() -> int:
    return shutil.get_terminal_size().columns


def _losses(logs: Any) -> dict[str, Any]:
    """What the bar shows; the loss of a single task is the whole."""
    logs = logs or {}
    return {name: logs[name] for name in ("loss", "val_loss") if name in logs}


def metrics_line(tasks: Sequence[Task], logs: Mapping[str, float], width: int) -> str:
    """A number of each task, or of many their means and the worst, in `width` characters.

    Args:
        tasks: the schema's tasks.
        logs: dict of an epoch's numbers.
        width: int, of the terminal.
    """
    before = "val_" if any(name.startswith("val_") for name in logs) else ""
    kinds: dict[str, list[tuple[str, float]]] = {}
    for task in tasks:
        kind = own_metrics(task)[0].name
        value = logs.get(f"{before}{task.name}_{kind}")
        if value is not None and not np.isnan(value):
            kinds.setdefault(kind, []).append((task.name, value))
    if not kinds:
        return ""
    each = "  ".join(
        f"{before}{name}_{kind} {value:.4g}"
        for kind, values in kinds.items()
        for name, value in values
    )
    if sum(map(len, kinds.values())) <= _MOST_TASKS and len(each) <= width:
        return each
    means = "  ".join(_mean(before, kind, values) for kind, values in kinds.items())
    for worst in range(_WORST, 0, -1):
        line = "  ".join(_mean(before, k, values, worst) for k, values in kinds.items())
        if len(line) <= width:
            return line
    return means[:width]


def _mean(before: str, kind: str, values: list[tuple[str, float]], worst: int = 0) -> str:
    mean = np.mean([value for _, value in values])
    text = f"{before}{kind} {mean:.4g}"
    if len(values) == 1:
        return f"{before}{values[0][0]}_{kind} {mean:.4g}"
    text += f", mean of {len(values)}"
    found = sorted(values, key=lambda pair: pair[1], reverse=kind == "rmse")[:worst]
    if found:
        text += f", worst {', '.join(f'{name} {value:.4g}' for name, value in found)}"
    return text
