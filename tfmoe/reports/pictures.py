"""What gates select, shown: pictures, and a folder with pictures and numbers."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tfmoe.files import PathLike, check_new, new_file, new_folder
from tfmoe.reports.gate_use import GateUse, gate_use
from tfmoe.validation import checks_arguments

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

# More than this cannot be read in a picture.
MOST_LABELS = 32
MOST_NUMBERS = 256
MOST_PANELS = 12
MOST_COLORS = 10


@checks_arguments
def draw_gates(uses: Mapping[str, GateUse], task_names: Sequence[str], path: PathLike) -> None:
    """Draws heat maps of mean gate weights, task by expert, side by side.

    Args:
        uses: dict of `GateUse` by title.
        task_names: sequence of str, the rows of each map.
        path: file to write, `.png` or another format that matplotlib can write.

    Raises:
        ImportError: if matplotlib is not installed.
        FileExistsError: if the file is there already.
    """
    _save(_heat_maps(uses, task_names), path)


def heat_map_png(use: GateUse) -> bytes:
    """One gate's heat map as the bytes of a PNG file."""
    held = io.BytesIO()
    _heat_maps({use.gate: use}, use.tasks).savefig(held, format="png", dpi=100)
    return held.getvalue()


def draw_curves(use: GateUse, path: PathLike) -> None:
    """Draws the cumulative share of each task's weight that its most used experts have.

    The curve of a task that needs two experts reaches 1 at the second.

    Args:
        use: of one gate.
        path: see `draw_gates`.

    Raises: see `draw_gates`.
    """
    num_tasks, num_experts = use.mean_weight.shape
    figure = _figure(6.4, 4.2)
    axis: Any = figure.subplots()
    total = np.maximum(use.mean_weight.sum(axis=1, keepdims=True), 1e-12)
    curves = np.cumsum(-np.sort(-use.mean_weight / total, axis=1), axis=1)
    seen = ~np.isnan(use.num_used)
    ranks = range(1, num_experts + 1)
    if num_tasks <= MOST_COLORS:
        for task, curve in zip(use.tasks, curves, strict=True):
            axis.plot(ranks, curve, marker="o", markersize=3, label=task)
    else:
        axis.plot(ranks, curves[seen].T, color="tab:gray", linewidth=0.6, alpha=0.5)
        axis.plot(ranks, np.median(curves[seen], axis=0), linewidth=2.5, label="median task")
    axis.axhline(0.9, color="black", linewidth=0.8, linestyle=":")
    axis.set_xlabel("experts, each task's most used first")
    axis.set_ylabel("share of the mean weight")
    axis.set_ylim(0, 1.03)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(loc="lower right", frameon=False)
    _save(figure, path)


def draw_history(frame: pd.DataFrame, path: PathLike) -> None:
    """Draws each task's mean weight of every expert over the epochs.

    Args:
        frame: `GateReport.frame`, of one gate.
        path: see `draw_gates`.

    Raises: see `draw_gates`.
    """
    tasks = list(dict.fromkeys(frame["task"]))
    shown = [
        tasks[i] for i in np.linspace(0, len(tasks) - 1, min(len(tasks), MOST_PANELS), dtype=int)
    ]
    columns = min(len(shown), 4)
    rows = -(-len(shown) // columns)
    figure = _figure(1.2 + 3 * columns, 0.6 + 2.3 * rows)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    few = frame["expert"].nunique() <= MOST_COLORS
    for axis, task in zip(axes, shown, strict=False):
        ours = frame[frame["task"] == task]
        weights = ours.pivot(index="epoch", columns="expert", values="mean_weight")
        # Of many experts only those are coloured that the task uses most at some epoch.
        largest = sorted(weights.columns if few else weights.max().nlargest(4).index)
        axis.plot(weights.drop(columns=largest), color="tab:gray", linewidth=0.6, alpha=0.5)
        for expert in largest:
            axis.plot(weights[expert], label=str(expert))
        axis.set_title(_short(task), loc="left", fontsize="medium")
        axis.xaxis.get_major_locator().set_params(integer=True)
        if not few:
            axis.legend(
                title="expert",
                loc="upper left",
                fontsize="x-small",
                title_fontsize="x-small",
                frameon=False,
            )
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    if few:
        figure.legend(
            *axes[0].get_legend_handles_labels(),
            title="expert",
            loc="outside right upper",
            frameon=False,
        )
    left_out = f" of {len(shown)} of {len(tasks)} tasks" if len(shown) < len(tasks) else ""
    figure.suptitle(f"Mean weights{left_out} over the epochs", x=0.01, ha="left")
    figure.supxlabel("epoch", fontsize="medium")
    _save(figure, path)


@checks_arguments
def draw_weights(history: Any, path: PathLike) -> None:
    """Draws each task's weight over the epochs of a training with `compile(weighting=...)`.

    Args:
        history: what `fit` returned, or its dict `history`.
        path: see `draw_gates`.

    Raises:
        ValueError: if no weights are in it, for they were fixed.
        ImportError, FileExistsError: see `draw_gates`.
    """
    epochs = getattr(history, "history", history)
    # A task's loss is reported under its name too, a metric that is called so is not.
    found = {
        name.removesuffix("_weight"): values
        for name, values in epochs.items()
        if name.endswith("_weight") and name.removesuffix("_weight") + "_loss" in epochs
    }
    if not found:
        raise ValueError(
            "draw_weights draws what a weighting has chosen. Received a history of "
            f"{sorted(epochs)}, without `<task>_weight`. Compile the model with weighting=..."
        )
    figure = _figure(6.4, 4.2)
    axis: Any = figure.subplots()
    some = len(found) <= MOST_COLORS
    for task, values in found.items():
        style = {"label": task} if some else {"color": "tab:gray", "linewidth": 0.6}
        axis.plot(range(1, len(values) + 1), values, marker="o", markersize=3, **style)
    axis.set_xlabel("epoch")
    axis.set_ylabel("mean weight of the task")
    axis.xaxis.get_major_locator().set_params(integer=True)
    if some:
        axis.legend(frameon=False)
    _save(figure, path)


@checks_arguments
def write_report(
    model: keras.Model, source: Any, folder: PathLike, history: pd.DataFrame | None = None
) -> list[GateUse]:
    """Writes a folder that shows what a model's gates select on some rows.

    For each gate a heat map `<gate>.png` and the curves of `draw_curves`,
    `<gate>_curves.png`; with `history` also `<gate>_history.png`; and the numbers of all,
    `gates.csv`.

    Args:
        model, source: see `gate_use`.
        folder: path that is not there yet.
        history: DataFrame such as `GateReport.frame`, or None.

    Returns:
        List of `GateUse`.

    Raises:
        FileExistsError: if the folder is there already.
        ImportError: if matplotlib is not installed.
        ValueError: if the model has no gate, or `history` lacks columns of `GateReport.frame`.
    """
    require_matplotlib()
    # Before the model runs, which may take long.
    check_new(folder)
    if history is not None and not {"epoch", "gate", "task", "expert", "mean_weight"} <= set(
        history
    ):
        raise ValueError(
            "The history is a table that `GateReport.frame.to_csv(path, index=False)` writes. "
            f"Received one with columns {list(history)}."
        )
    uses = gate_use(model, source)
    if not uses:
        raise ValueError(
            f"A report shows gates. Received model={model.name!r}, which has none. Build it "
            "with a mixture such as tfmoe.MMoE."
        )
    with new_folder(folder) as draft:
        _draw_all(uses, history, draft)
    return uses


def _draw_all(uses: Sequence[GateUse], history: pd.DataFrame | None, folder: Path) -> None:
    for use in uses:
        name = use.gate.replace("/", "_")
        draw_gates({use.gate: use}, use.tasks, folder / f"{name}.png")
        draw_curves(use, folder / f"{name}_curves.png")
        if history is not None:
            ours = history[history["gate"] == use.gate]
            if len(ours):
                draw_history(ours, folder / f"{name}_history.png")
    pd.concat([use.frame() for use in uses]).to_csv(folder / "gates.csv", index=False)


def _heat_maps(uses: Mapping[str, GateUse], task_names: Sequence[str]) -> Figure:
    sizes = [_side(use.mean_weight.shape[1]) for use in uses.values()]
    height = 1.6 + _side(len(task_names))
    labels = 0.09 * max(len(_short(name)) for name in task_names)
    figure = _figure(1.6 + labels + sum(sizes) + 0.3 * len(sizes), height)
    axes = figure.subplots(1, len(uses), squeeze=False, width_ratios=sizes)[0]
    # With many experts each weight is small; weights all alike are still shown pale.
    highest = max(max(4 / u.mean_weight.shape[1], np.nanmax(u.mean_weight)) for u in uses.values())
    for axis, (title, use) in zip(axes, uses.items(), strict=True):
        # A gate for all tasks has one row.
        rows = np.broadcast_to(use.mean_weight, (len(task_names), use.mean_weight.shape[1]))
        picture = axis.imshow(rows, vmin=0, vmax=highest, cmap="Blues", aspect="auto")
        axis.set_title(_short(title, 60), loc="left")
        axis.set_xlabel("expert")
        _label(axis.set_xticks, [str(expert) for expert in use.experts])
        _label(axis.set_yticks, [_short(name) for name in task_names])
        axis.tick_params(labelleft=axis is axes[0])
        if rows.size <= MOST_NUMBERS:
            for (t, e), value in np.ndenumerate(rows):
                if value > 0.005:
                    color = "white" if value > 0.5 * highest else "black"
                    axis.text(
                        e, t, f"{value:.2f}", ha="center", va="center", color=color, fontsize=7
                    )
    figure.colorbar(picture, ax=axes, label="mean weight", shrink=0.9, aspect=10 * height)
    return figure


def require_matplotlib() -> None:
    """Raises ImportError, with what to do, if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("Pictures need matplotlib: pip install 'tfmoe[plot]'") from error


def _figure(width: float, height: float) -> Figure:
    require_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _side(cells: int) -> float:
    """Inches for so many cells of a heat map: large enough for a number, or bounded."""
    return 0.5 * max(cells, 3) if cells <= 16 else min(max(0.2 * cells, 8), 12)


def _label(set_ticks: Callable[..., Any], names: Sequence[str]) -> None:
    step = -(-len(names) // MOST_LABELS)
    set_ticks(range(0, len(names), step), names[::step])


def _short(name: str, most: int = 24) -> str:
    """A name for a picture, in which what stands between two dollars would be mathematics."""
    cut = name if len(name) <= most else name[: most - 1] + "…"
    return cut.replace("$", r"\$")


def _save(figure: Figure, path: PathLike) -> None:
    with new_file(path) as draft:
        figure.savefig(draft, dpi=150)
