"""What is known of the labels of a task that came later."""

from collections.abc import Sequence
from typing import Any

from tfmoe.data.batch.chunks import raw_chunks
from tfmoe.data.encode.rows import label_columns
from tfmoe.data.fit.fitted import Fitted, known_means, label_moments, mean_label
from tfmoe.data.fit.statistics import Statistics
from tfmoe.data.read.source import open_source
from tfmoe.schema.tasks import Regression


def new_labels(schema, task, rows, mean, std):
    """Mean and moments of a new task's labels, both by task; and what was counted of them, or None
    without rows."""
    if (mean is None) != (std is None) or (std is not None and not 0 < std < float("inf")):
        raise ValueError(
            "Labels are standardised by `mean` and `std`, which is above 0. Received "
            f"mean={mean!r}, std={std!r}. Give both, or `rows` to fit them on."
        )
    given = {} if mean is None else {task.name: (float(mean), float(std))}
    if rows is not None:
        statistics = Statistics(schema, 1)
        chunks = raw_chunks(open_source(rows), lambda names: label_columns(schema, names, task))
        for chunk in chunks:
            statistics.add_labels(chunk)
        # The columns are fitted already, of vectors that may be known to that fit alone.
        moments = label_moments(statistics)
        seen = {name: moments[name] for name in {task.name} & {*moments}}
        counted = statistics.labels[task.name]
        return {task.name: mean_label(counted)}, {**seen, **given}, counted
    if isinstance(task, Regression) and task.standardize and not given:
        raise ValueError(
            "The labels of a regression are standardised by their mean and standard deviation, "
            f"which nobody has told. Received task={task.name!r} without `rows`. Give rows with "
            "its labels, or `mean` and `std`, or declare Regression(..., standardize=False)."
        )
    return ({} if mean is None else {task.name: float(mean)}), given, None


def told_labels(
    merged: Fitted, parts: Sequence[Fitted]
) -> tuple[dict[str, Any], dict[str, tuple[float, float]]]:
    """Means and moments of labels, by task, that the parts of a merged fit have and counts do not.

    They were given in place of rows, or in an earlier version. Moments on which all parts agree
    may have been given beside rows, and stay. Where parts differ the first one's hold.
    """
    means: dict[str, Any] = {}
    moments: dict[str, tuple[float, float]] = {}
    for part in reversed(parts):
        means |= known_means(part.label_means)
        # Those of tasks that were left out are still there.
        moments |= {t: pair for t, pair in part.label_moments.items() if t in merged.label_means}
    known = known_means(merged.label_means)
    return (
        {task: mean for task, mean in means.items() if task not in known},
        {
            task: pair
            for task, pair in moments.items()
            if task not in merged.label_moments
            or all(part.label_moments.get(task) == pair for part in parts)
        },
    )
