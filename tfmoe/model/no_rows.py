"""Predictions of no rows, such as those of a selection in which nothing was left."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tfmoe.data.read.source import open_source
from tfmoe.model.inputs import is_frame, is_path, symbols

if TYPE_CHECKING:
    from tfmoe.model.model import MultiTaskModel


def has_no_rows(x: Any) -> bool:
    """Whether raw rows, files or a dict of arrays hold none; of files no more is read than tells.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    if is_frame(x):
        return len(x) == 0
    if isinstance(x, list) and not x:
        return True
    if isinstance(x, Mapping):
        return any(np.shape(values)[:1] == (0,) for values in x.values())
    return is_path(x) and not any(map(_any_rows, open_source(x).fragments()))


def _any_rows(fragment: Any) -> bool:
    first = dict.fromkeys(itertools.islice(fragment.names, 1), "text")
    # A file of no records names no column.
    return bool(first) and any(
        len(values) for chunk in fragment.read(first) for values in chunk.values()
    )


def predictions_of_none(model: MultiTaskModel) -> dict[str, np.ndarray]:
    """Dict by task of arrays without entries, of the types and widths of the model's."""
    row = {
        name: np.zeros((1, *symbol.shape[1:]), symbol.dtype)
        for name, symbol in symbols(model.schema, model.lengths).items()
    }
    return {name: values[:0] for name, values in model.predict_on_batch(row).items()}
