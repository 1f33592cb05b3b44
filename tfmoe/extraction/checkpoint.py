"""A standalone model of each task, of the epoch that was best for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfmoe.extraction.extract import extract
from tfmoe.files import PathLike, check_new, replaced
from tfmoe.model.load import load_model
from tfmoe.model.model import MultiTaskModel
from tfmoe.model.watched_tasks import WatchesTasks
from tfmoe.remote import address
from tfmoe.validation import checks_arguments


@checks_arguments
class TaskCheckpoint(WatchesTasks, keras.callbacks.Callback):
    """Writes a model of each task, of the epoch that was best for that task.

    Tasks are at their best in different epochs. After each epoch, `<folder>/<task>.keras` is
    written for each task that is better than in all epochs before: the model that
    `tfmoe.extract(model, [task])` makes, with the task's part alone. `<folder>/best.json` says of
    each task the epoch, from 1, and what it reached. Files appear whole, also those that take the
    place of earlier ones.

    Making and writing such a model takes a second or so, for each task that got better.

    Args:
        folder: where to write; it may be there, but none of these files.
        monitor: what is watched: str, a metric that every task has, such as `"loss"`; or a dict by
            task, such as `{"click": "auc", "stars": "rmse"}`, where tasks may be left out. Of the
            validation rows where there are some.
        whole: bool; if True, the whole model is written for each task, as for structures that
            `extract` does not take apart.

    Attributes:
        best: dict by task of the epoch, from 1, and the value.

    Raises:
        ValueError: before the first step, if a task is unknown or has no such metric, or `extract`
            refuses the model.
        FileExistsError: before the first step, if one of the files is there, unless the training
            goes on from a `tfmoe.Checkpoint`.

    Example:

    >>> checkpoint = tfmoe.TaskCheckpoint("best", {"click": "auc", "stars": "rmse"})
    >>> checkpoint.best
    {}
    """

    def __init__(
        self, folder: PathLike, monitor: str | Mapping[str, str] = "loss", whole: bool = False
    ) -> None:
        super().__init__()
        self.folder, self.monitor, self.whole = Path(address(folder)), monitor, bool(whole)
        self.watched = []
        #: Whether this is a training that goes on, whose files are there.
        self.resumes = False
        self.best: dict[str, tuple[int, float]] = {}

    def path(self, task: str) -> Path:
        """Where a task's model is."""
        return self.folder / f"{task}.keras"

    def load(self, task: str) -> MultiTaskModel:
        """A task's model, as `tfmoe.load_model` returns it."""
        return load_model(self.path(task))

    def on_train_begin(self, logs: Any = None) -> None:
        if not isinstance(self.model, MultiTaskModel) or not self.watched:
            raise ValueError(
                "TaskCheckpoint watches tasks of a MultiTaskModel that is compiled. Received "
                f"model={self.model!r}. Use keras.callbacks.ModelCheckpoint for others."
            )
        if not self.resumes:
            for one in self.watched:
                check_new(self.path(one.task))
            check_new(self.folder / "best.json")
        self._of(self.watched[0].task)  # what it refuses, it refuses now
        self.best = {}

    def get_state(self) -> dict[str, list[Any]]:
        """What a `tfmoe.Checkpoint` keeps: the best so far."""
        return {task: list(pair) for task, pair in self.best.items()}

    def set_state(self, state: dict[str, list[Any]]) -> None:
        """Called before the first step of a training that goes on."""
        self.best = {task: (epoch, value) for task, (epoch, value) in state.items()}

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs = logs or {}
        better = []
        for one in self.watched:
            value = one.value(logs)
            best = self.best.get(one.task)
            if not np.isnan(value) and (best is None or value > one.sign * best[1]):
                better.append(one)
        for one in better:
            with replaced(self.path(one.task)) as draft:
                self._of(one.task).save(draft)
            self.best[one.task] = (epoch + 1, float(logs[one.name]))
        if better:
            names = {one.task: one.name for one in self.watched}
            lines = {
                task: {"epoch": number, names[task]: value}
                for task, (number, value) in self.best.items()
            }
            with replaced(self.folder / "best.json") as draft:
                draft.write_text(json.dumps(lines, indent=2) + "\n", encoding="utf-8")

    def _of(self, task: str) -> Any:
        return self.model if self.whole else extract(self.model, [task])
