"""How much each task's predictions lean on each column: permutation importance."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from tfmoe.files import PathLike, new_folder
from tfmoe.model.inputs import frame_of
from tfmoe.model.model import MultiTaskModel
from tfmoe.objectives.exact import by_task, own_metric, rows_of_tasks
from tfmoe.reports.pictures import _save, _short
from tfmoe.reports.quality import panels
from tfmoe.reports.rows import drawn
from tfmoe.schema.columns import PADDING_ID, Column, MultiCategorical
from tfmoe.validation import checks_arguments, integer

_BLUE = "#1f5fa8"
# Columns of a picture's panel.
_MOST_COLUMNS = 16


@checks_arguments
def permutation_importance(
    model: MultiTaskModel,
    rows: Any,
    repeats: int = 5,
    seed: int = 0,
    num_rows: int | None = 10_000,
    batch_size: int = 4096,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """How much worse each task is predicted when a column's values are permuted among the rows.

    A task that loses nothing does without the column, or has what it says from another one: of two
    columns that say the same each is of little importance alone. Take rows that the model was not
    trained on. Inputs that read one raw column are permuted together, a `Crossed` with each of its
    parts, a list with its weights; the weights alone among lists of one length. Where rows have one
    task each, values stay among the rows of their task.

    The model predicts `1 + repeats * columns` times.

    Args:
        model: `MultiTaskModel`.
        rows: raw rows with labels, the triple of `Preprocessor.arrays`, or a dataset, of which the
            first rows are taken.
        repeats: int >= 1, permutations of each column.
        seed: int >= 0, of the permutations and of the draw of rows.
        num_rows: int >= 2, so many rows at most, drawn from all; or None for all, which are held
            in memory.
        batch_size: int >= 1.
        progress: called with the number of columns that are done, and of all; or None.

    Returns:
        DataFrame with a line for each task and raw column, the most important first: `task`,
        `column`, `metric`, `base` (its value on the rows as they are), `drop` (by how much AUC or
        accuracy is lower, or the RMSE higher: the mean over the repeats), `spread` (their standard
        deviation; NaN of a single one).

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> import pandas as pd
    >>> columns = [tfmoe.Numeric("age", transform="none"), tfmoe.Numeric("size", transform="none")]
    >>> model = tfmoe.MultiTaskModel(
    ...     tfmoe.Schema(columns, [tfmoe.Binary("click")]), tfmoe.SharedBottom())
    >>> rows = pd.DataFrame({"age": [1.0, 2, 3], "size": [4.0, 2, 3], "click": [0, 1, 1]})
    >>> sorted(tfmoe.permutation_importance(model, rows)["column"])
    ['age', 'size']

    Source: Breiman, 2001, section 10, https://doi.org/10.1023/A:1010933404324.
    """
    owner = "permutation_importance"
    repeats = integer(owner, "repeats", repeats, 1)
    num_rows = integer(owner, "num_rows", num_rows, 2, optional=True)
    generator = np.random.default_rng(integer(owner, "seed", seed, 0))
    schema = model.schema
    features, labels, weights = drawn(model, frame_of(schema, rows), num_rows, generator)
    task = features[schema.task_column] if schema.task_column else None

    def values() -> dict[str, tuple[str, float]]:
        scores = model.predict(features, batch_size=batch_size, verbose=0)
        found = rows_of_tasks(by_task(schema, features, labels, weights, scores))
        return {t.name: own_metric(t, *found[t.name]) for t in schema.tasks if t.name in found}

    base = values()
    names = {raw: _features_of(raw, readers) for raw, readers in schema.readers.items()}
    lines = []
    for done, (raw, own) in enumerate(names.items()):
        kept = {name: features[name] for name in own}
        among = [] if task is None else [task]
        among += [
            _lengths(features, column) for column in schema.readers[raw] if _weighs(raw, column)
        ]
        drops: dict[str, list[float]] = {name: [] for name in base}
        for _ in range(repeats):
            order = _permutation(len(next(iter(features.values()))), among, generator)
            features |= {name: array[order] for name, array in kept.items()}
            for name, (metric, value) in values().items():
                worse = value - base[name][1] if metric == "rmse" else base[name][1] - value
                drops[name].append(worse)
        features |= kept
        for name, (metric, value) in base.items():
            spread = float(np.std(drops[name], ddof=1)) if repeats > 1 else float("nan")
            lines.append((name, raw, metric, value, float(np.mean(drops[name])), spread))
        if progress is not None:
            progress(done + 1, len(names))
    frame = pd.DataFrame(lines, columns=["task", "column", "metric", "base", "drop", "spread"])
    place = {name: number for number, name in enumerate(schema.task_names)}
    # Of equal drops the schema's order stays.
    frame = frame.sort_values("drop", ascending=False, kind="stable")
    return frame.sort_values("task", key=lambda t: t.map(place), kind="stable", ignore_index=True)


def _features_of(raw: str, readers: list[Column]) -> list[str]:
    """The features that a raw column decides: of one that weighs a list the weights alone."""
    return [
        name
        for column in readers
        for name in column.feature_names[1 if _weighs(raw, column) else 0 :]
    ]


def _weighs(raw: str, column: Column) -> bool:
    return isinstance(column, MultiCategorical) and raw == column.weights != column.raw_name


def _lengths(features: dict[str, np.ndarray], column: Column) -> np.ndarray:
    """Of each row how many values its list has, of which each has a weight."""
    return np.count_nonzero(features[column.name] != PADDING_ID, axis=1)


def _permutation(num: int, among: list[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """An order of rows, each of which stays among those that are like it by all of some keys."""
    if not among:
        return generator.permutation(num)
    order = np.empty(num, np.int64)
    order[np.lexsort(among)] = np.lexsort((generator.random(num), *among))
    return order


def draw_importance(frame: pd.DataFrame, path: PathLike) -> None:
    """Draws the drop of each task's metric by column, with its spread.

    Args:
        frame: of `permutation_importance`.
        path: file to write, `.png` or another format that matplotlib can write.

    Raises:
        ImportError: if matplotlib is not installed.
        FileExistsError: if the file is there already.
    """
    tasks = list(dict.fromkeys(frame["task"]))
    most = min(frame["column"].nunique(), _MOST_COLUMNS)
    figure, axes, shown = panels(tasks, 3.4, 0.9 + 0.22 * most)
    for axis, task in zip(axes, shown, strict=True):
        own = frame[frame["task"] == task][:most]
        spread = own["spread"].fillna(0)
        axis.barh(
            range(len(own)), own["drop"], xerr=spread, color=_BLUE, ecolor="black", height=0.7
        )
        axis.set_yticks(range(len(own)), [_short(name) for name in own["column"]])
        axis.set_ylim(most - 0.4, -0.6)
        metric = own["metric"].iloc[0]
        what = "rise" if metric == "rmse" else "drop"
        axis.set_title(f"{_short(task)}: {what} of {metric}", loc="left", fontsize="medium")
        axis.axvline(0, color="black", linewidth=0.8)
        axis.grid(axis="x", alpha=0.3)
    left = frame["column"].nunique() - most
    words = f", the first {most} of {most + left}" if left else ""
    if len(shown) < len(tasks):
        words += f" ({len(shown)} of {len(tasks)} tasks)"
    figure.suptitle(f"Columns permuted one by one{words}", x=0.01, ha="left")
    _save(figure, path)


def write_importance(frame: pd.DataFrame, folder: PathLike) -> None:
    """Writes a folder with `importance.csv` and `importance.png`.

    Args:
        frame: of `permutation_importance`.
        folder: path that is not there yet.

    Raises: see `draw_importance`.
    """
    with new_folder(folder) as draft:
        frame.to_csv(draft / "importance.csv", index=False)
        draw_importance(frame, draft / "importance.png")


def tasks_of(frame: pd.DataFrame, most: int) -> Iterable[tuple[str, pd.DataFrame]]:
    """Each task and its lines, of the first `most` tasks."""
    names = list(dict.fromkeys(frame["task"]))[:most]
    return ((name, frame[frame["task"] == name]) for name in names)
