"""A line of progress for a whole training."""

import keras
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class ProgressLine(keras.callbacks.Callback):
    """One line for a whole training: epoch, batches, time, losses.

    Keras's own bar prints every metric of every task in every epoch; with several
    tasks that is many lines. `with line.progress: model.fit(...)` gives the terminal back
    also when `fit` fails.

    Args:
        title: str, in front of the bar.
        console: `rich.console.Console`, or None for the standard one.
    """

    def __init__(self, title, console=None):
        super().__init__()
        self.title = title
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[losses]}"),
            console=console,
        )

    def on_train_begin(self, logs=None):
        self.progress.start()
        self.line = self.progress.add_task(self.title, total=None, losses="")
        self.validation = ""

    def on_epoch_begin(self, epoch, logs=None):
        self.progress.reset(
            self.line,
            total=self.params.get("steps"),
            description=f"{self.title}, epoch {epoch + 1}/{self.params['epochs']}",
        )

    def on_train_batch_end(self, batch, logs=None):
        text = f"loss {logs['loss']:.4f}{self.validation}"
        self.progress.update(self.line, completed=batch + 1, losses=text)

    def on_epoch_end(self, epoch, logs=None):
        if "val_loss" in logs:
            self.validation = f", val_loss {logs['val_loss']:.4f}"
        self.progress.update(self.line, losses=f"loss {logs['loss']:.4f}{self.validation}")

    def on_train_end(self, logs=None):
        self.progress.stop()
