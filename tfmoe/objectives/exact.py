"""What is measured after training from all scores at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmoe.objectives.metrics import exact_auc
from tfmoe.objectives.objective import sampling_weights
from tfmoe.schema.columns import FIRST_ID, MISSING_ID, UNKNOWN_ID
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Multiclass, Task

# Metrics are told of the scenarios with the most rows.
MOST_SCENARIOS = 100


def exact_metrics(
    model: Any,
    names: Sequence[str],
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    batch_size: int | None = None,
    steps: int | None = None,
) -> dict[str, float]:
    """AUC of binary tasks from all scores, sorted, and one metric of each task by scenario.

    Args:
        model: `MultiTaskModel`.
        names: the tasks with an AUC of their own.
        x, y, sample_weight, batch_size, steps: as for `keras.Model.evaluate`. Labels and
            weights may be dicts by task; NaN labels are missing.

    Returns:
        Dict `{"<task>_auc": float}` of the tasks that have labels. If the schema names a
        `scenario`, also `"<task>_auc_<scenario>"` of each binary task, `"<task>_rmse_<scenario>"`
        of a regression, `"<task>_accuracy_<scenario>"` of a multiclass task, of the 100 scenarios
        with the most rows; those of which it is not defined are left out.

    Raises:
        ValueError: if two of these would have one name.
    """
    scenario = model.schema.scenario
    if not names and scenario is None:
        return {}
    served = [task.name for task in model.schema.tasks if task.served]
    wanted = names if scenario is None else [*served, *names]
    rows = rows_of_tasks(
        (task, row)
        for features, labels, weights, scores in _scored(
            model, x, y, sample_weight, batch_size, steps
        )
        for task, row in by_task(
            model.schema,
            features,
            labels,
            weights,
            scores,
            () if scenario is None else (features[scenario],),
        )
        if task in wanted
    )
    rows = model.rows_of_all(rows)
    found = {f"{name}_auc": exact_auc(*rows[name][:3]) for name in names if name in rows}
    if scenario is not None:
        found |= _by_scenario(model, rows)
    return found


def _by_scenario(model: Any, rows: dict[str, tuple[np.ndarray, ...]]) -> dict[str, float]:
    """A metric of each task and scenario.

    Args:
        model: `MultiTaskModel`.
        rows: dict by task of labels, scores, weights and ids of the scenario.
    """
    vocabulary = model.preprocessor.vocabulary(model.schema.scenario).to_pylist()
    values = list(map(str, vocabulary))
    words = dict(enumerate(values, FIRST_ID))
    for one, word in ((MISSING_ID, "missing"), (UNKNOWN_ID, "unknown")):
        words[one] = f"({word})" if word in values else word
    ids, counts = np.unique(np.concatenate([own[3] for own in rows.values()]), return_counts=True)
    most = ids[np.argsort(-counts, kind="stable")[:MOST_SCENARIOS]]
    found: dict[str, float] = {}
    for task in (task for task in model.schema.tasks if task.name in rows):
        for one in sorted(most):
            labels, scores, weights, _ = (
                part[rows[task.name][3] == one] for part in rows[task.name]
            )
            metric, value = own_metric(task, labels, scores, weights)
            name = f"{task.name}_{metric}_{words[one]}"
            if name in found:
                raise ValueError(
                    "Metrics by scenario are called by task, metric and scenario, no two of them "
                    f"alike. Received {name!r} twice. Choose another name for a task."
                )
            if not np.isnan(value):
                found[name] = value
    return found


def own_metric(
    task: Task, labels: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> tuple[str, float]:
    """Name and value of a task's first metric, of rows with and without its label."""
    if isinstance(task, Binary):
        return "auc", exact_auc(labels, scores, weights)
    present = ~np.isnan(labels) & (weights > 0)
    labels, scores, weights = labels[present], scores[present], weights[present]
    if not len(labels):
        return ("accuracy" if isinstance(task, Multiclass) else "rmse"), float("nan")
    if isinstance(task, Multiclass):
        return "accuracy", float(np.average(scores.argmax(-1) == labels, weights=weights))
    return "rmse", float(np.sqrt(np.average((scores - labels) ** 2, weights=weights)))


def _scored(
    model: Any, x: Any, y: Any, sample_weight: Any, batch_size: int | None, steps: int | None
) -> Iterable[Any]:
    """Features, labels, weights and scores, in one piece or by batch."""
    if y is None:
        return _scored_batches(model, x, steps)
    size = batch_size or 32
    if steps is not None:
        x, y, sample_weight = keras.tree.map_structure(
            lambda v: None if v is None else v[: steps * size], (x, y, sample_weight)
        )
    return [(x, y, sample_weight, model.predict(x, batch_size=size, verbose=0))]


def by_task(
    schema: Schema, features: Any, labels: Any, weights: Any, scores: Any, more: Sequence[Any] = ()
) -> Iterator[tuple[str, tuple[np.ndarray, ...]]]:
    """For each task with labels: its name, and its labels, scores and weights.

    Args:
        schema: `Schema`.
        features, labels, weights: of some rows, as for `keras.Model.evaluate`.
        scores: dict by output.
        more: arrays `(b,)` whose rows come along, behind the weights.
    """
    outputs = schema.output_names
    labels = labels if isinstance(labels, dict) else {outputs[0]: labels}
    labels = {name: ops.convert_to_numpy(own) for name, own in labels.items()}
    for output in (name for name in outputs if name in labels and name in scores):
        num = len(scores[output])
        own = weights.get(output) if isinstance(weights, dict) else weights
        own = np.ones(num) if own is None else _row(own)
        sampled = sampling_weights(schema, labels, output)
        own = own if sampled is None else own * ops.convert_to_numpy(sampled)
        row = (_row(labels[output]), np.asarray(scores[output]), own, *map(_row, more))
        if not schema.task_column:
            yield output, row
            yield from _given(schema, output, row, labels, scores)
            continue
        task = np.reshape(np.asarray(features[schema.task_column]), (-1,))
        for index, name in enumerate(schema.task_names):
            yield name, tuple(values[task == index] for values in row)


def rows_of_tasks(
    parts: Iterable[tuple[str, tuple[np.ndarray, ...]]],
) -> dict[str, tuple[np.ndarray, ...]]:
    """What `by_task` yields of all batches, together by task."""
    columns: dict[str, list[tuple[np.ndarray, ...]]] = {}
    for name, row in parts:
        columns.setdefault(name, []).append(row)
    return {
        name: tuple(map(np.concatenate, zip(*rows, strict=True))) for name, rows in columns.items()
    }


def _given(
    schema: Schema, name: str, row: tuple[np.ndarray, ...], labels: Any, scores: Any
) -> Iterator[tuple[str, tuple[np.ndarray, ...]]]:
    """Where a task is given another: what is predicted of it where that happened."""
    parent = schema.parent(schema.task(name))
    if parent is not None and parent.name in labels:
        (further,) = schema.task(name).further_outputs
        happened = _row(labels[parent.name]) == 1
        yield further, (np.where(happened, row[0], np.nan), np.asarray(scores[further]), *row[2:])


def _row(values: Any) -> np.ndarray:
    return np.reshape(np.asarray(values), (-1,))


def _scored_batches(
    model: Any, batches: Iterable[Any], steps: int | None
) -> Iterator[tuple[Any, Any, Any, Any]]:
    for step, batch in enumerate(model.batches_of(batches)):
        if steps is not None and step >= steps:
            return
        x, labels, weights = keras.utils.unpack_x_y_sample_weight(batch)
        yield x, labels, weights, model.predict_on_batch(x)
