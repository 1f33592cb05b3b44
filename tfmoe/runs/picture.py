"""What mattered in a search, as a picture."""

from __future__ import annotations

from collections.abc import Mapping

from tfmoe.files import PathLike, replaced


def draw_importances(importances: Mapping[str, float], path: PathLike) -> bool:
    """Draws bars of what keys of a run had a share in, the largest on top.

    Args:
        importances: dict by key, see `Tuned`.
        path: file to write, in the place of one that is there.

    Returns:
        Whether it was drawn: not where there is nothing to draw, or matplotlib is missing.
    """
    if not importances:
        return False
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    names = list(importances)[::-1]
    figure = Figure(figsize=(6, 1 + 0.3 * len(names)), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.barh(names, [importances[name] for name in names])
    axes.set_xlabel("share in how the numbers of trials differ")
    with replaced(path) as draft:
        figure.savefig(draft)
    return True
