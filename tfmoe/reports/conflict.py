"""Which tasks pull the shared parameters the same way, and which help each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pandas as pd
from rich.console import Console

from tfmoe import validation
from tfmoe.files import PathLike
from tfmoe.model.inputs import frame_of
from tfmoe.model.model import MultiTaskModel
from tfmoe.model.task_gradients import Batch, TaskLosses, cosines, shared
from tfmoe.reports.pictures import MOST_NUMBERS, _figure, _label, _save, _short, _side
from tfmoe.reports.rows import drawn
from tfmoe.reports.tables import plain_table
from tfmoe.validation import checks_arguments, integer, number

if TYPE_CHECKING:
    from rich.table import Table

# Pairs of tasks that a table or a picture tells apart.
_MOST_PAIRS = 8


@checks_arguments
def gradient_conflict(
    model: MultiTaskModel,
    rows: Any,
    num_rows: int = 2048,
    batch_size: int = 1024,
    seed: int = 0,
    tables: bool = True,
) -> pd.DataFrame:
    """The cosine between each two tasks' gradients at the parameters that they share.

    1 is the same direction; 0, as of tasks that have nothing to do with each other; below 0, a step
    for one makes the other worse: they are in conflict. The gradients are those of each task's own
    mean loss on the rows, without dropout. A parameter counts if at least two tasks' losses depend
    on it there. Nothing of the model changes.

    Each batch takes one forward pass and a backward pass a task, not compiled, and the gradients
    are held: 4 bytes a task and parameter.

    Args:
        model: `MultiTaskModel`, compiled. On TensorFlow or JAX.
        rows: raw rows with labels, the triple of `Preprocessor.arrays`, or a dataset.
        num_rows: int >= 1, rows at most: drawn from all, or the first of a dataset.
        batch_size: int >= 1, rows at a time.
        seed: int >= 0, of the draw.
        tables: bool; whether embedding tables count among the parameters.

    Returns:
        DataFrame `(t, t)`, by task; NaN for a task without a gradient, as one of which the rows
        have no label.

    Raises:
        ValueError: if an argument is out of range, the model is not compiled, or the backend is
            another.

    Source: Yu et al., 2020, section 2, https://arxiv.org/abs/2001.06782.
    """
    losses = TaskLosses(model, tables)
    batches = _batches(model, rows, num_rows, batch_size, seed, "gradient_conflict")
    return _conflict(losses, batches)


def _conflict(losses: TaskLosses, batches: Sequence[Batch]) -> pd.DataFrame:
    total: Any = 0.0
    for batch in batches:
        # By the labels of each task: batches may have few of one and many of another.
        _, counts, gradients = losses.jacobian(batch)
        total = total + gradients * counts[:, None]
    found = cosines(total[:, shared(total)])
    return pd.DataFrame(found, index=list(losses.names), columns=list(losses.names))


@checks_arguments
def task_affinity(
    model: MultiTaskModel,
    rows: Any,
    step: float = 0.001,
    num_rows: int = 4096,
    batch_size: int = 1024,
    seed: int = 0,
    tables: bool = True,
) -> pd.DataFrame:
    """How a step for one task changes the losses of the others: which to train together.

    On a batch, the shared parameters take a step down the gradient of task i alone, and the
    affinity of i to j is the share that the loss of j loses by it,

        1 - L_j(shared - step of i) / L_j(shared)

    averaged over the batches. Above 0 training i helps j, below 0 it harms. It changes while a
    model learns: look at a model that is half trained, or several times. The model itself takes
    no step.

    Each batch takes `t + 1` forward and `t` backward passes of `t` tasks, not compiled, so that it
    costs about as much as `t` epochs over these rows: for tens of tasks, not for hundreds.

    Args:
        model: `MultiTaskModel`, compiled. On TensorFlow or JAX.
        rows, num_rows, batch_size, seed, tables: see `gradient_conflict`.
        step: float > 0, the length of a step, as a share of the shared parameters' length. Tasks
            of large losses do not go further than others. Where a task's affinity to itself, on
            the diagonal, is not above 0, the step was too long.

    Returns:
        DataFrame `(t, t)`: a line for each task that takes the step, a column for each whose loss
        changes. NaN where a task has no rows, or a loss of 0.

    Raises:
        ValueError: see `gradient_conflict`.

    Source: Fifty et al., 2021, section 4.1, eq. 1, https://arxiv.org/abs/2109.04617. Differs from
    it in that it looks at a given model, in plain steps, whose length does not depend on the
    loss's.
    """
    step = number("task_affinity", "step", step, above=0)
    losses = TaskLosses(model, tables)
    batches = _batches(model, rows, num_rows, batch_size, seed, "task_affinity")
    start = losses.flat()
    sums = np.zeros((len(losses.names),) * 2)
    counts = np.zeros_like(sums)
    for batch in batches:
        before, _, gradients = losses.jacobian(batch)
        common = shared(gradients)
        length = step * np.linalg.norm(start[common])
        for i, gradient in enumerate(gradients * common):
            norm = np.linalg.norm(gradient)
            if norm > 0:
                after = losses.at(start - (length / norm * gradient).astype(start.dtype), batch)
                known = before > 0
                sums[i, known] += (1 - after[known] / before[known]) * _num(batch)
                counts[i, known] += _num(batch)
    with np.errstate(invalid="ignore"):
        found = sums / counts
    return pd.DataFrame(found, index=list(losses.names), columns=list(losses.names))


@checks_arguments
class GradientReport(keras.callbacks.Callback):
    """Reports which tasks' gradients are in conflict, at the end of each epoch.

    A table of the pairs on the console, those in conflict first; the cosines as a DataFrame,
    `report.frame`, which `tfmoe.draw_conflict` draws. Training is the same as without it.

    Args:
        data: rows with labels to report on, best the validation rows; the `rows` of
            `gradient_conflict`.
        every: int >= 1; report after every so many epochs.
        num_rows: int >= 1; at most so many rows, always the same.
        console: bool, whether to print, or the `rich.console.Console` to print to.
        tables: bool; whether embedding tables count among the parameters.

    Attributes:
        history: dict by epoch, from 1, of what `gradient_conflict` returns.
        frame: DataFrame of the whole history: `epoch`, `task`, `other`, `cosine`, a line for each
            pair.

    Raises:
        ValueError: if a number is too small; when training begins, if the model has no schema.

    Example:

    >>> report = tfmoe.GradientReport("valid.csv", every=2)
    >>> report.frame.empty
    True
    """

    def __init__(
        self,
        data: Any,
        every: int = 1,
        num_rows: int = 1024,
        console: bool | Console = True,
        tables: bool = True,
    ) -> None:
        super().__init__()
        validation.check_counts("GradientReport", every=(every, 1), num_rows=(num_rows, 1))
        self.data, self.every, self.num_rows, self.tables = data, every, num_rows, tables
        self.console: Any = (Console() if console is True else console) or None
        self.history: dict[int, pd.DataFrame] = {}

    @property
    def frame(self) -> pd.DataFrame:
        """The history as one DataFrame; empty before the first report."""
        lines = [
            (epoch, *pair) for epoch, cosines in self.history.items() for pair in pairs(cosines)
        ]
        return pd.DataFrame(lines, columns=["epoch", "task", "other", "cosine"])

    def on_train_begin(self, logs: Any = None) -> None:
        TaskLosses(self.model, self.tables)  # or its error
        self.history = {}
        self._batches = _batches(
            self.model, self.data, self.num_rows, self.num_rows, 0, "GradientReport"
        )

    def get_state(self) -> dict[str, Any]:
        """What a `tfmoe.Checkpoint` keeps: the history."""
        return {
            str(epoch): {"tasks": list(found.columns), "cosines": found.to_numpy()}
            for epoch, found in self.history.items()
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Called before the first step of a training that goes on."""
        self.history = {
            int(epoch): pd.DataFrame(one["cosines"], one["tasks"], one["tasks"])
            for epoch, one in state.items()
        }

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if (epoch + 1) % self.every:
            return
        # Which variables are trained may change in a callback.
        found = _conflict(TaskLosses(self.model, self.tables), self._batches)
        self.history[epoch + 1] = found
        if self.console is not None and self.params.get("verbose") in (1, "auto"):
            self.console.print()  # Keras's bar has not ended its line yet
            self.console.print(conflict_table(found, f"Gradients after epoch {epoch + 1}"))


def pairs(cosines: pd.DataFrame) -> Iterator[tuple[str, str, float]]:
    """Each two tasks and their cosine."""
    names, values = list(cosines), cosines.to_numpy()
    for i, task in enumerate(names):
        for j in range(i + 1, len(names)):
            yield task, names[j], float(values[i, j])


def conflict_table(cosines: pd.DataFrame, title: str) -> Table:
    """A `rich.table.Table` of the pairs of tasks, the smallest cosine first; of many the first 8.

    Args:
        cosines: of `gradient_conflict`.
        title: str.
    """
    table = plain_table(title)
    table.min_width = min(len(title) + 2, 78)
    for name in ("task", "other"):
        table.add_column(name, overflow="fold")
    table.add_column("cosine", justify="right", no_wrap=True)
    found = sorted(pairs(cosines), key=lambda pair: (np.isnan(pair[2]), pair[2]))
    for task, other, cosine in found[:_MOST_PAIRS]:
        table.add_row(task, other, "" if np.isnan(cosine) else f"{cosine:+.3f}")
    below = sum(cosine < 0 for *_, cosine in found)
    table.caption = f"{below} of {len(found)} pairs in conflict"
    return table


def draw_conflict(frame: pd.DataFrame, path: PathLike) -> None:
    """Draws the cosines of the last epoch as a map, and each pair's over the epochs.

    Of more than 8 pairs those are told apart that are lowest on average.

    Args:
        frame: `GradientReport.frame`.
        path: file to write, `.png` or another format that matplotlib can write.

    Raises:
        ValueError: if the frame is empty.
        ImportError: if matplotlib is not installed.
        FileExistsError: if the file is there already.
    """
    if frame.empty:
        raise ValueError(
            "draw_conflict draws pairs of tasks over epochs. Received an empty frame. Pass "
            "`GradientReport.frame` after a fit of a model with two tasks or more."
        )
    epoch = frame["epoch"].max()
    last = frame[frame["epoch"] == epoch]
    names = list(dict.fromkeys([*last["task"], *last["other"]]))
    square = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
    for row in last.itertuples():
        square.loc[row.task, row.other] = square.loc[row.other, row.task] = row.cosine
    side = _side(len(names)) + 0.09 * max(len(_short(name)) for name in names)
    figure = _figure(side + 6.6, max(side + 0.6, 3.4))
    left, right = figure.subplots(1, 2, width_ratios=(side + 0.8, 5.2))
    _draw_square(figure, left, square, names, limits=(-1, 1))
    left.set_title(f"after epoch {epoch}", loc="left", fontsize="medium")
    over = frame.assign(pair=frame["task"] + " / " + frame["other"])
    over = over.pivot(index="epoch", columns="pair", values="cosine")
    lowest = over.mean().nsmallest(_MOST_PAIRS).index
    right.plot(over.drop(columns=lowest), color="tab:gray", linewidth=0.6, alpha=0.5)
    for pair in lowest:
        right.plot(over[pair], marker="o", markersize=3, label=_short(pair, 40))
    right.axhline(0, color="black", linewidth=0.8)
    right.set_xlabel("epoch")
    right.xaxis.get_major_locator().set_params(integer=True)
    right.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small", frameon=False)
    right.grid(alpha=0.3)
    figure.suptitle("Cosine of two tasks' gradients: below 0 in conflict", x=0.01, ha="left")
    _save(figure, path)


def _draw_square(
    figure: Any, axis: Any, square: pd.DataFrame, names: Sequence[str], limits: tuple[float, float]
) -> None:
    """A heat map of tasks by tasks, blue above 0 and red below."""
    picture = axis.imshow(square, cmap="RdBu", vmin=limits[0], vmax=limits[1])
    _label(axis.set_yticks, [_short(name) for name in names])
    _label(axis.set_xticks, [_short(name) for name in names])
    axis.tick_params(axis="x", labelrotation=90 if len(names) > 3 else 0)
    if square.size <= MOST_NUMBERS:
        for (i, j), value in np.ndenumerate(square.to_numpy()):
            dark = abs(value) > 0.6 * limits[1]
            axis.text(
                *(j, i, f"{value:.2f}"),
                **{"ha": "center", "va": "center", "fontsize": 7},
                color="white" if dark else "black",
            )
    figure.colorbar(picture, ax=axis, shrink=0.8)


def _batches(
    model: Any, rows: Any, num_rows: Any, batch_size: Any, seed: Any, owner: str
) -> list[Batch]:
    """Some rows as batches of features, labels and weights."""
    num_rows = integer(owner, "num_rows", num_rows, 1)
    size = integer(owner, "batch_size", batch_size, 1)
    generator = np.random.default_rng(integer(owner, "seed", seed, 0))
    whole = drawn(model, frame_of(model.schema, rows), num_rows, generator)
    num = _num(whole)
    return [
        keras.tree.map_structure(lambda array, at=at: array[at : at + size], whole)
        for at in range(0, num, size)
    ]


def _num(batch: Batch) -> int:
    return len(keras.tree.flatten(batch)[0])
