"""Some rows with labels, of whatever has rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from keras import tree

from tfmoe.model.model import MultiTaskModel

_AT_ONCE = 65_536


def drawn(
    model: MultiTaskModel, rows: Any, num_rows: int | None, generator: np.random.Generator
) -> tuple[dict[str, np.ndarray], Mapping[str, np.ndarray], Any]:
    """Features, labels and weights of at most `num_rows` rows, in their order.

    Args:
        model: `MultiTaskModel`.
        rows: raw rows, or the triple of `Preprocessor.arrays`; or a dataset, of which they are the
            first.
        num_rows: int, or None for all.
        generator: of NumPy.
    """
    if hasattr(rows, "element_spec"):
        return _first(rows, num_rows)
    kept: Any = None
    keys = np.zeros(0)
    for part in _parts(model, rows):
        keys = np.concatenate([keys, generator.random(len(tree.flatten(part)[0]))])
        both = [part] if kept is None else [kept, part]
        kept = tree.map_structure(lambda *arrays: np.concatenate(arrays), *both)
        # The rows with the smallest random keys are a uniform sample of all, in their order.
        chosen = np.sort(np.argsort(keys, kind="stable")[:num_rows])
        kept, keys = tree.map_structure(lambda array, own=chosen: array[own], kept), keys[chosen]
    features, labels, weights = kept
    return dict(features), labels, weights


def _parts(model: MultiTaskModel, rows: Any) -> Iterator[Any]:
    if isinstance(rows, tuple) and len(rows) == 3:
        yield rows
    else:
        yield from model.preprocessor.batches(rows, _AT_ONCE)


def _first(dataset: Any, num_rows: int | None) -> tuple[Any, Any, Any]:
    parts: list[Any] = []
    num = 0
    for batch in dataset.as_numpy_iterator():
        parts.append(batch)
        num += len(tree.flatten(batch)[0])
        if num_rows is not None and num >= num_rows:
            break
    whole = tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
    features, labels, weights = tree.map_structure(lambda array: array[:num_rows], whole)
    return dict(features), labels, weights
