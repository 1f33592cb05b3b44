"""What is measured after training from all scores at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tfmoe.objectives.metrics import exact_auc
from tfmoe.schema.schema import Schema


def exact_aucs(
    model: Any,
    names: Sequence[str],
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    batch_size: int | None = None,
    steps: int | None = None,
) -> dict[str, float]:
    """AUC of binary tasks from all scores, sorted.

    Args:
        model: `MultiTaskModel`.
        names: the tasks.
        x, y, sample_weight, batch_size, steps: as for `keras.Model.evaluate`. Labels and
            weights may be dicts by task; NaN labels are missing.

    Returns:
        Dict `{"<task>_auc": float}` of the tasks that have labels.
    """
    if not names:
        return {}
    if y is None:
        scored: Iterable[Any] = _scored_batches(model, x, steps)
    else:
        size = batch_size or 32
        if steps is not None:
            x, y, sample_weight = keras.tree.map_structure(
                lambda v: None if v is None else v[: steps * size], (x, y, sample_weight)
            )
        scored = [(x, y, sample_weight, model.predict(x, batch_size=size, verbose=0))]
    columns: dict[str, tuple[list[Any], ...]] = {name: ([], [], []) for name in names}
    for features, labels, weights, scores in scored:
        for name, row in _by_task(model.schema, features, labels, weights, scores):
            for values, value in zip(columns.get(name, ()), row, strict=False):
                values.append(value.reshape(-1))
    return {
        f"{name}_auc": exact_auc(*map(np.concatenate, parts))
        for name, parts in columns.items()
        if parts[0]
    }


def _by_task(
    schema: Schema, features: Any, labels: Any, weights: Any, scores: Any
) -> Iterator[tuple[str, tuple[np.ndarray, ...]]]:
    """For each task with labels: its name, and its labels, scores and weights."""
    outputs = schema.output_names
    labels = labels if isinstance(labels, dict) else {outputs[0]: labels}
    for output in set(outputs) & set(labels):
        own = weights.get(output) if isinstance(weights, dict) else weights
        own = np.ones(len(scores[output])) if own is None else np.asarray(own)
        row = (np.asarray(labels[output]), scores[output], own)
        if not schema.task_column:
            yield output, row
            continue
        task = np.reshape(np.asarray(features[schema.task_column]), (-1,))
        for index, name in enumerate(schema.task_names):
            yield name, tuple(values[task == index] for values in row)


def _scored_batches(
    model: Any, batches: Iterable[Any], steps: int | None
) -> Iterator[tuple[Any, Any, Any, Any]]:
    for step, batch in enumerate(batches):
        if steps is not None and step >= steps:
            return
        x, labels, weights = keras.utils.unpack_x_y_sample_weight(batch)
        yield x, labels, weights, model.predict_on_batch(x)
