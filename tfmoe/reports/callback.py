"""A Keras callback that shows what gates select."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import tree
from rich.console import Console
from rich.markup import escape

from tfmoe import validation
from tfmoe.files import PathLike
from tfmoe.remote import address
from tfmoe.reports.gate_use import GateUse, gate_use, sample
from tfmoe.reports.pictures import heat_map_png, require_matplotlib
from tfmoe.reports.tables import use_table
from tfmoe.validation import checks_arguments


@checks_arguments
class GateReport(keras.callbacks.Callback):
    """Reports what the gates select on some rows, at the end of each epoch.

    A table on the console with warnings of collapse, dead and duplicate experts; the
    numbers as a DataFrame, `report.frame`; scalars and a heat map for TensorBoard. Nothing
    is compiled, and training is the same as without the callback.

    Args:
        data: rows to report on, best the validation rows; the `source` of `gate_use`.
        every: int >= 1; report after every so many epochs.
        num_rows: int >= 1; at most so many rows, always the same: drawn from all, or the
            first of a dataset.
        console: bool, whether to print, or the `rich.console.Console` to print to.
        log_dir: folder for TensorBoard, or None. It needs TensorFlow and matplotlib, and
            TensorBoard only to look at it.

    Attributes:
        history: dict by epoch, from 1, of lists with a `GateUse` for each gate.
        frame: DataFrame of the whole history: `epoch`, and the columns of `GateUse.frame`. Write
            it with `report.frame.to_csv(path, index=False)` for `tfmoe report --history`.

    Raises:
        ValueError: if a number is too small; when training begins, if the model has no gate.
        ImportError: if `log_dir` is given and matplotlib is not installed.

    Example:

    >>> inputs = keras.Input((3,))
    >>> model = keras.Model(inputs, tfmoe.MMoE(2, 4, (8,), tfmoe.DSelectKGate())(inputs))
    >>> model.compile(loss="mse")
    >>> x, y = np.ones((8, 3)), np.ones((8, 2, 8))
    >>> report = tfmoe.GateReport(x, console=False)
    >>> _ = model.fit(x, y, epochs=3, verbose=0, callbacks=[report])
    >>> len(report.frame)  # 3 epochs, 2 tasks, 4 experts
    24
    """

    def __init__(
        self,
        data: Any,
        every: int = 1,
        num_rows: int = 4096,
        console: bool | Console = True,
        log_dir: PathLike | None = None,
    ) -> None:
        super().__init__()
        validation.check_counts("GateReport", every=(every, 1), num_rows=(num_rows, 1))
        if console is True:
            console = Console()
        self.data, self.every, self.num_rows = data, every, num_rows
        self.console: Any = console or None
        self.log_dir = log_dir
        self.history: dict[int, list[GateUse]] = {}
        if log_dir is not None:
            require_matplotlib()

    @property
    def frame(self) -> pd.DataFrame:
        """The history as one DataFrame; empty before the first report."""
        parts = [
            use.frame().assign(epoch=epoch) for epoch, uses in self.history.items() for use in uses
        ]
        if not parts:
            return pd.DataFrame()
        frame = pd.concat(parts, ignore_index=True)
        return frame[["epoch", *frame.columns.drop("epoch")]]

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.features = sample(self.model, self.data, self.num_rows)
        if not gate_use(self.model, tree.map_structure(lambda x: x[:1], self.features)):
            raise ValueError(
                "GateReport needs a model with a gate. Received a model without one, "
                f"{self.model.name!r}. Build it with a mixture such as tfmoe.MMoE, or leave "
                "GateReport out."
            )
        self.history.clear()
        if self.log_dir is not None:
            import tensorflow as tf

            self.writer = tf.summary.create_file_writer(str(Path(address(self.log_dir)) / "gates"))

    def get_state(self) -> dict[str, Any]:
        """What a `tfmoe.Checkpoint` keeps: the history."""
        return {str(epoch): [one._asdict() for one in uses] for epoch, uses in self.history.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Called before the first step of a training that goes on."""
        self.history.clear()
        for epoch, uses in state.items():
            self.history[int(epoch)] = [_restored(one) for one in uses]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if (epoch + 1) % self.every:
            return
        uses = gate_use(self.model, self.features)
        self.history[epoch + 1] = uses
        if self.console is not None and self.params.get("verbose") in (1, "auto"):
            self.console.print()  # Keras's bar has not ended its line yet
        for use in uses:
            if self.console is not None:
                title = f"{use.gate} after epoch {epoch + 1}"
                self.console.print(use_table(use, title, whole="GateReport.frame"))
                for warning in use.warnings:
                    self.console.print(f"[yellow]{escape(warning)}[/]")
            if self.log_dir is not None:
                # Steps are counted as Keras's own TensorBoard callback counts epochs.
                _write_events(use, self.writer, epoch)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self.log_dir is not None:
            self.writer.close()


def _restored(fields: dict[str, Any]) -> GateUse:
    """A `GateUse` that went through a file, where tuples are lists."""
    values: Any = {n: tuple(v) if isinstance(v, list) else v for n, v in fields.items()}
    return GateUse(**values)


def _write_events(use: GateUse, writer: Any, step: int) -> None:
    """Scalars of each task, and the heat map.

    `tf.summary.scalar` and `image` need TensorBoard installed, these few lines do not.
    """
    import tensorflow as tf

    def write(tag: str, value: Any, plugin: str) -> None:
        metadata = tf.compat.v1.SummaryMetadata()
        metadata.plugin_data.plugin_name = plugin
        tf.summary.write(tag, value, step, metadata)

    numbers = {
        "experts a row": use.num_used,
        "experts in all": use.effective_experts,
        "entropy": use.entropy,
        "converged": use.converged,
    }
    with writer.as_default():
        for name, values in numbers.items():
            if values is not None:
                for task, value in zip(use.tasks, values, strict=True):
                    if not np.isnan(value):  # NaN where a task has no rows
                        tag = f"{use.gate} {name}/{task}"
                        write(tag, tf.constant(value, "float32"), "scalars")
        png = heat_map_png(use)
        # Width and height stand at a fixed place in a PNG file.
        sizes = [str(int.from_bytes(png[i : i + 4], "big")) for i in (16, 20)]
        write(f"{use.gate} weights", tf.constant([*sizes, png]), "images")
    writer.flush()
