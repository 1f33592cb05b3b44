"""Rows that the devices of `keras.distribution` share: each gets an equal part of every batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np


def parts_of_batch() -> int:
    """Into how many parts JAX cuts a batch, under the distribution that is set."""
    if keras.backend.backend() != "jax":
        return 1
    distribution = keras.distribution.distribution()
    if distribution is None or distribution.batch_dim_name is None:
        return 1
    mesh = distribution.device_mesh
    return int(mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)])


def check_parts(batch_size: int | None, validation_split: float) -> None:
    """Raises ValueError if a training's batches cannot be cut into parts."""
    parts = parts_of_batch()
    rows = 32 if batch_size is None else batch_size
    if rows % parts:
        raise ValueError(
            f"{parts} devices each get an equal part of a batch. Received batch_size={rows}. Take "
            f"a multiple of {parts}."
        )
    if parts > 1 and validation_split:
        raise ValueError(
            "Rows that Keras holds out leave batches that devices cannot share equally. Received "
            f"validation_split={validation_split}. Pass them as `validation_data`."
        )


def shared_size(batch_size: int | None) -> int | None:
    """The next batch size that can be cut into parts, where nothing depends on it."""
    parts = parts_of_batch()
    return batch_size if parts == 1 else -(-(batch_size or 32) // parts) * parts


def filled(x: Any, y: Any = None, sample_weight: Any = None) -> tuple[Any, Any, Any]:
    """Arrays with as many rows as can be cut into parts; anything else as it is.

    The rows that come behind are copies of the first, without labels and of weight 0.
    """
    parts = parts_of_batch()
    if parts == 1 or not isinstance(x, Mapping) or not x:
        return x, y, sample_weight
    missing = -len(next(iter(x.values()))) % parts
    if not missing:
        return x, y, sample_weight

    def longer(values: Any, last: Any, dtype: Any = None) -> np.ndarray:
        known = np.asarray(values, dtype)
        more = np.full((missing, *known.shape[1:]), last, known.dtype)
        return np.concatenate([known, more])

    def every(values: Any, last: float) -> Any:
        return keras.tree.map_structure(lambda own: longer(own, last, "float32"), values)

    features = {name: longer(own, np.asarray(own)[:1]) for name, own in x.items()}
    labels = None if y is None else every(y, np.nan)
    return features, labels, None if sample_weight is None else every(sample_weight, 0.0)
