"""All that is measured of a task's scores: numbers, deciles of the prediction, segments of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfmoe.objectives.calibration import (
    binned,
    calibration,
    normalized_entropy,
    precision_and_recall,
)
from tfmoe.objectives.exact import own_metric
from tfmoe.objectives.grouped import grouped_auc, ranking
from tfmoe.schema.tasks import Binary, Task

_Array = np.ndarray
# Of a column of numbers with more values than these, segments are its deciles.
MOST_NUMBERS = 20
_DECILES = 10


def measured_tasks(tasks: Sequence[Task]) -> list[Task]:
    """What is measured: the served tasks, and what is predicted where a task's parent happened.

    Of the latter a `Binary` of its name, `buy_given_click`.
    """
    found: list[Task] = []
    for task in tasks:
        if task.served:
            found.append(task)
        if task.served and isinstance(task, Binary) and task.given is not None:
            found += [Binary(name) for name in task.further_outputs]
    return found


def of_whole_table(task: Task, labels: _Array, weights: _Array) -> _Array:
    """Weights `(n,)` with which rows stand for the table that negatives were sampled from.

    Predictions are of that table, see `Binary(negatives_kept=...)`.
    """
    if not isinstance(task, Binary) or task.negatives_kept == 1:
        return weights
    return np.where(labels == 0, weights / task.negatives_kept, weights)


def numbers_of(
    task: Task,
    labels: _Array,
    scores: _Array,
    weights: _Array,
    groups: _Array | None = None,
    k: int = 10,
    threshold: float | None = None,
) -> dict[str, float]:
    """A task's numbers over all its rows, by name without the task's.

    Args:
        task: `Task`.
        labels, scores, weights: `(n,)`; scores of a multiclass task `(n, c)`. NaN labels are
            missing.
        groups: int `(n,)`, codes of the rows' groups, -1 of none; or None.
        k: int >= 1, the rows of a group that NDCG and recall look at.
        threshold: float, above which a row counts as predicted; or None.

    Returns:
        Dict of the task's own first metric; of a `Binary` also of `normalized_entropy`,
        `calibration`, with groups `gauc`, `gauc_share`, `ndcg@<k>`, `recall@<k>`, `mrr`, and with
        a threshold `precision_above_<threshold>`, `recall_above_<threshold>`.
    """
    metric, value = own_metric(task, labels, scores, weights)
    found = {metric: value}
    if not isinstance(task, Binary):
        return found
    whole = of_whole_table(task, labels, weights)
    found["normalized_entropy"] = normalized_entropy(labels, scores, whole)
    found["calibration"] = calibration(labels, scores, whole)
    if threshold is not None:
        both = precision_and_recall(labels, scores, threshold, whole)
        names = (f"precision_above_{threshold:g}", f"recall_above_{threshold:g}")
        found |= dict(zip(names, both, strict=True))
    if groups is not None:
        area = grouped_auc(labels, scores, groups, weights)
        found |= {"gauc": area.value, "gauc_share": area.share}
        first = ranking(labels, scores, groups, k, weights)
        found |= {f"ndcg@{k}": first["ndcg"], f"recall@{k}": first["recall"], "mrr": first["mrr"]}
    return found


def deciles_of(task: Task, labels: _Array, scores: _Array, weights: _Array) -> list[dict[str, Any]]:
    """Rows of a table of a binary task's calibration, one for each decile of its prediction.

    Returns:
        List of dicts with `task`, `decile`, `rows`, `weight`, `prediction`, `label` and
        `calibration`; empty of other tasks.
    """
    if not isinstance(task, Binary):
        return []
    numbers, found = binned(labels, scores, of_whole_table(task, labels, weights))
    return [
        {
            "task": task.name,
            "decile": int(number) + 1,
            "rows": int(rows),
            "weight": weight,
            "prediction": prediction,
            "label": label,
            "calibration": prediction / label if label else float("nan"),
        }
        for number, rows, weight, prediction, label in zip(numbers, *found, strict=True)
    ]


def segments_of(
    task: Task,
    labels: _Array,
    scores: _Array,
    weights: _Array,
    column: str,
    codes: _Array,
    names: Mapping[int, str],
) -> list[dict[str, Any]]:
    """Rows of a table of a task's first metric by segment, of those that have labelled rows.

    Args:
        task, labels, scores, weights: see `numbers_of`.
        column: str, what the segments are of.
        codes: int `(n,)`, each row's segment; those that `names` lacks are left out.
        names: dict of the segments' names by code, in the order of the table.

    Returns:
        List of dicts with `task`, `column`, `segment`, `rows` (labelled ones), `weight`, `label`
        (the mean; NaN of classes), `metric`, `value`, and of a binary task `calibration`.
    """
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], list(names))
    ends = np.searchsorted(codes[order], list(names), side="right")
    found = []
    for name, start, end in zip(names.values(), bounds, ends, strict=True):
        own = order[start:end]
        y, p, w = labels[own], scores[own], of_whole_table(task, labels[own], weights[own])
        counts = ~np.isnan(y) & (w > 0)
        if not counts.any():
            continue
        metric, value = own_metric(task, y, p, w)
        is_class = scores.ndim > 1
        found.append(
            {
                "task": task.name,
                "column": column,
                "segment": name,
                "rows": int(counts.sum()),
                "weight": float(w[counts].sum()),
                "label": float("nan") if is_class else np.average(y[counts], weights=w[counts]),
                "metric": metric,
                "value": value,
                "calibration": calibration(y, p, w) if isinstance(task, Binary) else float("nan"),
            }
        )
    return found


def segments(
    texts: Sequence[str],
    counts: _Array,
    most: int,
    numbers: _Array | None = None,
    are_amounts: bool = False,
) -> tuple[_Array, dict[int, str]]:
    """What the segments of a column are.

    A column of more than 20 numbers, some of them fractions, has deciles of its rows as segments;
    any other its values, of many those with the most rows.

    Args:
        texts: sequence of str, the column's values by code.
        counts: int `(v + 1,)`, rows of each value; last those where it is missing.
        most: int >= 1, segments at most.
        numbers: float64 `(v,)`, the values as numbers, NaN for those that stand for a missing one;
            None if some are none.
        are_amounts: bool; whether it holds amounts, whose values are never segments one by one
            where there are many, without fractions too.

    Returns:
        The segment of each code, int `(v + 1,)`, -1 for one that is left out; names by segment.
    """
    num = len(texts)
    of_code = np.arange(num + 1)
    if numbers is not None:
        known = np.isfinite(numbers)
        if not known.all():
            # Markers of missing numbers are one segment, with the empty cells.
            of_code[:num][~known] = num
            counts = np.append(counts[:num] * known, counts[num] + counts[:num][~known].sum())
        own = numbers[known]
        if len(own) > MOST_NUMBERS and (are_amounts or np.any(own != np.floor(own))):
            of_known, names = _deciles(own, counts[:num][known])
            of_code[:num][known] = of_known
            of_code[of_code == num] = _DECILES
            return of_code, {**names, _DECILES: "missing"}
    largest = np.argsort(-counts, kind="stable")[:most]
    words = dict(enumerate([*texts, "missing"]))
    if "missing" in texts:
        words[num] = "(missing)"
    return of_code, {int(code): words[int(code)] for code in largest if counts[code]}


def _deciles(numbers: _Array, counts: _Array) -> tuple[_Array, dict[int, str]]:
    """The decile of each of some different numbers, and what each decile is called."""
    order = np.argsort(numbers, kind="stable")
    middle = np.cumsum(counts[order]) - counts[order] / 2
    total = max(counts.sum(), 1)
    decile = np.minimum((_DECILES * middle / total).astype(int), _DECILES - 1)
    of_number = np.empty(len(numbers), int)
    of_number[order] = decile
    ends = {one: numbers[order][decile == one][[0, -1]] for one in np.unique(decile).tolist()}
    for digits in (4, 6, 9, 17):  # as many as tell them apart
        names = {one: f"{a:.{digits}g} to {b:.{digits}g}" for one, (a, b) in ends.items()}
        bounds = {f"{end:.{digits}g}" for pair in ends.values() for end in pair}
        if len(bounds) == len({end for pair in ends.values() for end in pair.tolist()}):
            break
    return of_number, names
