"""What an evaluation is shown as: means over tasks first and, of many tasks, the worst and best."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from tfmoe.schema.tasks import Task

# The numbers of more tasks cannot be looked through.
MOST_TASKS = 12
# So many of the worst are shown then, and so many of the best.
FEW = 4
# By what the tasks of a class are ordered, and whether more is better. An error is in its label's
# unit, so that those of several labels are not compared, but the losses of what is standardised.
_RANKED = {"Binary": ("auc", True), "Multiclass": ("accuracy", True), "Regression": ("loss", False)}


def metrics_table(
    values: Mapping[str, float],
    title: str | None = None,
    tasks: "Sequence[Task]" = (),
    every: bool = False,
) -> "Table":
    """A `rich.table.Table` of a model's metrics, by name.

    Args:
        values: dict of float by metric, such as `click_auc`; those by scenario come last.
        title: str, or None.
        tasks: the tasks that they are of. Of two or more of a kind the means come first, those in
            a label's unit only if they have one label.
        every: whether to show all metrics of more than 12 tasks, instead of the worst and best
            few of each kind.
    """
    from tfmoe.reports.tables import plain_table

    values = {n: float(value) for n, value in values.items() if not _is_doubled(n, values)}
    own = {name for task in tasks for name in task.reported_names if name in values}
    owners = [one for task in tasks for one in (task.name, *task.further_outputs)]
    own |= {name for owner in owners for name in values if _is_measure(name, owner)}
    strange = sorted(set(values) - own)
    by_scenario = [name for name in strange if any(name.startswith(f"{one}_") for one in own)]
    others = {name: values[name] for name in strange if name not in by_scenario}
    first = _means(values, tasks) | others
    sections = [("", first)]
    if len(tasks) > MOST_TASKS and not every:
        sections += _extremes(values, tasks).items()
    else:
        sections.append(("", {name: values[name] for name in sorted(own)}))
    if by_scenario:
        sections.append(("by scenario", {name: values[name] for name in by_scenario}))
    table = plain_table(title)
    table.min_width = len(title or "") + 2  # or its words would stand in several lines
    table.add_column("metric", overflow="fold")
    table.add_column("value", justify="right")
    for heading, rows in sections:
        if rows and table.row_count:
            table.add_section()
        if rows and heading:
            table.add_row(heading, "")
        for name, value in rows.items():
            table.add_row(name, f"{value:.5f}")
    hidden = len(own.difference(*(rows for _, rows in sections)))
    if hidden:
        table.caption = f"and {hidden} more numbers: `tfmoe evaluate --all` shows them"
    return table


# What else is measured of a task; some have a number behind them.
_MEASURES = re.compile(
    r"(normalized_entropy|calibration|gauc|gauc_share|mrr|(ndcg|recall)@\d+|"
    r"(precision|recall)_above_\d.*)"
)


def _is_measure(name: str, owner: str) -> bool:
    before, _, measure = name.partition(f"{owner}_")
    return not before and _MEASURES.fullmatch(measure) is not None


def segments_table(segments: "pd.DataFrame", column: str, whole: str) -> "Table":
    """A `rich.table.Table` of each segment's metrics; of many the first 24 lines.

    Args:
        segments: `tfmoe.Measures.segments` of one column; not empty.
        column: str, its name.
        whole: where all are to be found, for the line below a table of many.
    """
    from tfmoe.reports.tables import MOST_ROWS, plain_table

    table = plain_table(f"By {column}")
    table.min_width = len(column) + 5
    for name in ("segment", "task"):
        table.add_column(name, overflow="fold")
    for name in ("rows", "mean label", "metric", "value", "calibration"):
        table.add_column(name, justify="left" if name == "metric" else "right", no_wrap=True)
    for row in segments[:MOST_ROWS].itertuples():
        numbers = (f"{row.label:.4g}", row.metric, f"{row.value:.4f}", f"{row.calibration:.3f}")
        shown = ["" if number == "nan" else str(number) for number in numbers]
        table.add_row(str(row.segment), str(row.task), f"{row.rows:,}", *shown)
    if len(segments) > MOST_ROWS:
        table.caption = f"and {len(segments) - MOST_ROWS} more lines: {whole}"
    return table


def _is_doubled(name: str, values: Mapping[str, float]) -> bool:
    """The loss of a binary task is its log loss, unless it has another."""
    loss = values.get(f"{name.removesuffix('_log_loss')}_loss")
    return name.endswith("_log_loss") and (loss == values[name] or _are_nan(loss, values[name]))


def _are_nan(*numbers: float | None) -> bool:
    return all(number is not None and math.isnan(number) for number in numbers)


def _means(values: Mapping[str, float], tasks: "Sequence[Task]") -> dict[str, float]:
    """Means over the tasks of a kind, without those of which nothing is known."""
    means = {}
    for kind in _RANKED:
        alike = [task for task in tasks if type(task).__name__ == kind]
        one_unit = kind != "Regression" or len({task.raw_name for task in alike}) == 1
        for metric in (*alike[0].metrics, "loss") if alike else ():
            found = [values.get(f"{task.name}_{metric}", math.nan) for task in alike]
            found = [value for value in found if not math.isnan(value)]
            if len(found) > 1 and (one_unit or metric == "loss"):
                name = f"mean {metric} of {len(found)} {kind.lower()} tasks"
                means[name] = sum(found) / len(found)
    return means


def _extremes(values: Mapping[str, float], tasks: "Sequence[Task]") -> dict[str, dict[str, float]]:
    """The worst and the best few of each kind of task, the worst first."""
    sections: dict[str, dict[str, float]] = {}
    for kind, (metric, more_is_better) in _RANKED.items():
        names = [f"{task.name}_{metric}" for task in tasks if type(task).__name__ == kind]
        known = [name for name in names if not math.isnan(values.get(name, math.nan))]
        known.sort(key=values.__getitem__, reverse=not more_is_better)
        ends = {"worst": known[:FEW], "best": known[-FEW:]}
        if len(known) <= 2 * FEW:
            ends = {"worst to best": known}
        for end, some in ends.items():
            sections[f"{end} by {metric}"] = {name: values[name] for name in some}
        unknown = [name for name in names if name in values and name not in known]
        if unknown:
            sections[f"without {metric}"] = {name: values[name] for name in unknown[:FEW]}
    return sections
