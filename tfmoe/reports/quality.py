"""How good predictions are, shown: reliability curves, metrics by segment, a folder with both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tfmoe.files import PathLike, new_folder
from tfmoe.model.measure import Measures
from tfmoe.reports.pictures import MOST_LABELS, MOST_PANELS, _figure, _save, _short

_BLUE, _GRAY = "#1f5fa8", "#9aa3ad"
# Predictions that differ by more than this factor are shown on a logarithmic scale.
_WIDE = 20.0


def panels(names: Sequence[str], width: float, height: float) -> tuple[Any, list[Any], list[str]]:
    """A figure with a panel for each name, of at most 12, four in a line.

    Returns:
        Figure, its axes, and the names that they are of, evenly chosen of more.
    """
    places = np.linspace(0, len(names) - 1, min(len(names), MOST_PANELS), dtype=int)
    shown = [names[place] for place in places]
    columns = min(len(shown), 4)
    rows = -(-len(shown) // columns)
    figure = _figure(0.6 + width * columns, 0.5 + height * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    return figure, axes[: len(shown)], shown


def draw_reliability(deciles: pd.DataFrame, path: PathLike) -> None:
    """Draws each binary task's mean label over its mean prediction, by decile of the prediction.

    Of right probabilities the dots lie on the diagonal. Scales are logarithmic where the
    predictions differ by more than twenty times, and a decile without positives is then left out.

    Args:
        deciles: `Measures.deciles`, not empty.
        path: file to write, `.png` or another format that matplotlib can write.

    Raises:
        ImportError: if matplotlib is not installed.
        FileExistsError: if the file is there already.
    """
    tasks = list(dict.fromkeys(deciles["task"]))
    figure, axes, shown = panels(tasks, 3.2, 3.1)
    for axis, task in zip(axes, shown, strict=True):
        own = deciles[deciles["task"] == task]
        x, y = own["prediction"].to_numpy(), own["label"].to_numpy()
        wide = x.min() > 0 and x.max() > _WIDE * x.min()
        ends = np.array([min(x.min(), y.min()), max(x.max(), y.max())])
        if wide:
            axis.set_xscale("log")
            axis.set_yscale("log")
            ends[0] = min(x.min(), y[y > 0].min(initial=x.min()))
            x, y = x[y > 0], y[y > 0]  # of no positives there is no logarithm
        axis.plot(ends, ends, color=_GRAY, linewidth=1, linestyle="--")
        axis.plot(x, y, color=_BLUE, marker="o", markersize=4)
        positives = (own["weight"] * own["label"]).sum()
        total = (own["weight"] * own["prediction"]).sum() / positives if positives else np.nan
        words = f"{total:.3f}" if positives else "no positives"
        axis.set_title(f"{_short(task)}: {words}", loc="left", fontsize="medium")
        axis.grid(alpha=0.3)
    figure.suptitle(
        "Reliability, and predictions / labels in all" + _of(shown, tasks), x=0.01, ha="left"
    )
    figure.supxlabel("mean prediction of a tenth of the rows", fontsize="medium")
    figure.supylabel("mean label", fontsize="medium")
    _save(figure, path)


def draw_segments(segments: pd.DataFrame, path: PathLike) -> None:
    """Draws each task's metric by segment, those with the most rows first, and over all of them.

    Args:
        segments: `Measures.segments` of one column, not empty.
        path: see `draw_reliability`.

    Raises: see `draw_reliability`.
    """
    column = segments["column"].iloc[0]
    tasks = list(dict.fromkeys(segments["task"]))
    names = list(dict.fromkeys(segments["segment"]))
    drawn = names[:MOST_LABELS]
    figure, axes, shown = panels(tasks, 3.4, 0.9 + 0.24 * len(drawn))
    most = segments["rows"].max()
    places = {name: place for place, name in enumerate(drawn)}
    for axis, task in zip(axes, shown, strict=True):
        own = segments[(segments["task"] == task) & segments["segment"].isin(drawn)]
        y = own["segment"].map(places)
        sizes = 12 + 60 * own["rows"] / most
        axis.scatter(own["value"], y, s=sizes, color=_BLUE, zorder=3)
        axis.set_yticks(range(len(drawn)), [_short(name) for name in drawn])
        axis.set_ylim(len(drawn) - 0.4, -0.6)
        title = f"{_short(task)}, {own['metric'].iloc[0]}" if len(own) else _short(task)
        axis.set_title(title, loc="left", fontsize="medium")
        axis.grid(alpha=0.3)
    more = f", {len(drawn)} of {len(names)}" if len(drawn) < len(names) else ""
    words = f"By {_short(column, 60)}{more}; larger dots have more rows"
    figure.suptitle(words + _of(shown, tasks), x=0.01, ha="left")
    _save(figure, path)


def write_measures(measures: Measures, folder: PathLike) -> None:
    """Writes a folder with what was measured.

    `numbers.csv`; `deciles.csv` and `reliability.png` if there are binary tasks; `segments.csv`
    and `by_<column>.png` of each column by which rows were segmented.

    Args:
        measures: `Measures`.
        folder: path that is not there yet.

    Raises:
        FileExistsError: if the folder is there already.
        ImportError: if matplotlib is not installed.
    """
    with new_folder(folder) as draft:
        numbers = pd.DataFrame(measures.numbers.items(), columns=["measure", "value"])
        numbers.to_csv(draft / "numbers.csv", index=False)
        if len(measures.deciles):
            measures.deciles.to_csv(draft / "deciles.csv", index=False)
            draw_reliability(measures.deciles, draft / "reliability.png")
        if len(measures.segments):
            measures.segments.to_csv(draft / "segments.csv", index=False)
        taken: Counter[str] = Counter()
        for column, own in measures.segments.groupby("column", sort=False):
            name = f"by_{_file_name(str(column))}"
            taken[name] += 1
            number = f"_{taken[name]}" if taken[name] > 1 else ""
            draw_segments(own, Path(draft) / f"{name}{number}.png")


def _file_name(column: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "_-" else "_" for letter in column)


def _of(shown: Sequence[str], tasks: Sequence[str]) -> str:
    return f" ({len(shown)} of {len(tasks)} tasks)" if len(shown) < len(tasks) else ""
