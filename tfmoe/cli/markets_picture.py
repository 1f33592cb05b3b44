"""What `tfmoe demo` shows, as one picture: quality, work, size, and who uses which expert."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfmoe.files import PathLike, new_file
from tfmoe.reports.pictures import require_matplotlib

if TYPE_CHECKING:
    from tfmoe.cli.markets import Trained

_GRAY, _BLUE = "#9aa3ad", "#1f5fa8"


def draw(
    trained: "Sequence[Trained]",
    ours: str,
    regions: Sequence[str],
    possible: float,
    sizes: "Sequence[float]",
    path: PathLike,
) -> None:
    """Draws four panels.

    Args:
        trained: of each model; the last is at the bottom.
        ours: str, the name of the one in colour, which has a gate.
        regions: sequence of str, of each market; those of one region stand together.
        possible: float, mean AUC of the truth itself.
        sizes: parameters that serve one market, of each model.
        path: file to write, `.png` or another format that matplotlib can write.

    Raises:
        ImportError: if matplotlib is not installed.
        FileExistsError: if the file is there already.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7.2), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=(1.35, 1))
    quality, work, size = parts[0].subplots(3, 1, height_ratios=(2.2, 1, 1))
    colors = [_BLUE if one.name == ours else _GRAY for one in trained]
    _dots(quality, trained, colors, possible)
    _bars(work, trained, colors, [one.multiplications for one in trained])
    work.set_title("Work: multiplications for one row. Less is better", loc="left")
    _bars(size, trained, colors, sizes)
    size.set_title("Size: parameters to serve one market. Less is better", loc="left")
    (gated,) = (one for one in trained if one.name == ours)
    _heat_map(parts[1].subplots(), gated, regions)
    with new_file(path) as draft:
        figure.savefig(draft, dpi=130)


def _dots(axis: Any, trained: "Sequence[Trained]", colors: Sequence[str], possible: float) -> None:
    """A dot for each market, a line at their mean."""
    rng = np.random.default_rng(0)
    for place, (one, color) in enumerate(zip(trained, colors, strict=True)):
        spread = place + rng.uniform(-0.25, 0.25, len(one.auc))
        axis.scatter(one.auc, spread, s=9, color=color, alpha=0.45, linewidths=0)
        mean = float(np.mean(one.auc))
        axis.plot([mean, mean], [place - 0.36, place + 0.36], color="black", linewidth=2)
        axis.annotate(
            f"{mean:.3f}", (mean, place - 0.37), ha="center", va="bottom", fontsize=9, weight="bold"
        )
    axis.axvline(possible, color="black", linestyle=":", linewidth=1)
    axis.annotate(
        "the most\npossible",
        (possible, -0.75),
        xytext=(-3, -2),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=8,
    )
    axis.set_ylim(len(trained) - 0.4, -0.75)
    axis.set_title(
        f"Quality: AUC in each of {len(trained[0].auc)} markets, and mean. More is better",
        loc="left",
    )
    _name(axis, trained, colors)
    axis.grid(axis="x", alpha=0.3)


def _bars(
    axis: Any, trained: "Sequence[Trained]", colors: Sequence[str], values: Sequence[float]
) -> None:
    axis.barh(range(len(trained)), values, color=colors, height=0.7)
    for place, value in enumerate(values):
        axis.annotate(
            f" {value:,.0f}", (value, place), ha="left", va="center", fontsize=9, weight="bold"
        )
    axis.set_xlim(0, 1.15 * max(values))
    axis.set_ylim(len(trained) - 0.5, -0.5)
    axis.set_xticks([])
    _name(axis, trained, colors)


def _name(axis: Any, trained: "Sequence[Trained]", colors: Sequence[str]) -> None:
    axis.set_yticks(range(len(trained)), [one.name for one in trained])
    axis.tick_params(axis="y", length=0)
    for label, color in zip(axis.get_yticklabels(), colors, strict=True):
        label.set_color(_BLUE if color == _BLUE else "black")
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)


def _heat_map(axis: Any, one: "Trained", regions: Sequence[str]) -> None:
    """Weights of market by expert; experts in the order in which the regions use them."""
    use: Any = one.use
    weights = use.mean_weight
    names = list(dict.fromkeys(regions))
    by_region = np.array([weights[[r == name for r in regions]].sum(axis=0) for name in names])
    order = np.lexsort((-by_region.max(axis=0), by_region.argmax(axis=0)))
    axis.imshow(weights[:, order], cmap="Blues", vmin=0, aspect="auto", interpolation="nearest")
    starts = [i for i in range(len(regions)) if i == 0 or regions[i] != regions[i - 1]]
    ends = [*starts[1:], len(regions)]
    for start in starts[1:]:
        axis.axhline(start - 0.5, color="black", linewidth=0.8)
    middles = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
    axis.set_yticks(middles, [regions[start] for start in starts])
    axis.tick_params(length=0)
    axis.set_xticks(range(len(order)), [str(expert) for expert in order], fontsize=8)
    axis.set_xlabel("expert")
    axis.set_ylabel(f"{len(regions)} markets, a line each, by region")
    axis.set_title(
        f"{one.name}: which experts each market uses.\nNo model is told the regions.", loc="left"
    )
