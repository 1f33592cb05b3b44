"""A line of progress for a whole training."""

from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column


class ProgressLine(keras.callbacks.Callback):
    """One line for a whole training: epoch, batches, time, losses.

    Keras's own bar prints every metric of every task in every epoch; with several
    tasks that is many lines. Use it in `with line.progress: model.fit(...)`, which gives
    the terminal back also when `fit` fails.

    Args:
        title: str, in front of the bar.
        console: `rich.console.Console`, or None for the standard one.
        widest: str, the longest title of several lines, which then stand in columns.
    """

    def __init__(self, title: str, console: Console | None = None, widest: str = "") -> None:
        super().__init__()
        self.title, self.widest = title, max(title, widest, key=len)
        self.text = Column(no_wrap=True)
        # With a short bar, 99,999 batches of 99 epochs fit into 80 columns.
        self.progress = Progress(
            TextColumn("{task.description}", table_column=self.text),
            BarColumn(bar_width=8),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[losses]}"),
            console=console,
        )

    def on_train_begin(self, logs: Any = None) -> None:
        if plan := getattr(self.model, "plan", ""):
            self.progress.console.print(plan, highlight=False, markup=False)
        epochs = f", epoch {self.params['epochs']}/{self.params['epochs']}"
        self.text.min_width = len(self.widest + epochs)
        self.line = self.progress.add_task(self.title, total=None, losses="")
        self.validation, self.seen = "", 0
        self.batches = self.params.get("steps")  # None where rows are read as they come

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.progress.reset(
            self.line,
            total=self.batches,
            description=f"{self.title}, epoch {epoch + 1}/{self.params['epochs']}",
        )

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        text = f"loss {logs['loss']:.4f}{self.validation}"
        self.seen = batch + 1
        self.progress.update(self.line, completed=self.seen, losses=text)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if "val_loss" in logs:
            self.validation = f", val {logs['val_loss']:.4f}"
        # A training that goes on may have no batch left of its first epoch.
        self.batches = self.seen or self.batches
        text = f"loss {logs['loss']:.4f}{self.validation}"
        self.progress.update(self.line, total=self.batches, losses=text)
