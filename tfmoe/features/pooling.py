"""A list's vectors as one."""

from __future__ import annotations

from keras import ops

from tfmoe.compute.types import Tensor
from tfmoe.schema.columns import PADDING_ID


def pooled(vectors: Tensor, ids: Tensor, pooling: str, weights: Tensor | None = None) -> Tensor:
    """Lists' vectors `(b, length, d)` and ids `(b, length)` to `(b, d)`.

    Args:
        vectors: float tensor.
        ids: int tensor, 0 at padding, which does not count.
        pooling: `"mean"`, `"sum"` or `"max"`.
        weights: float tensor `(b, length)` of the values in a mean, `sum(w v) / sum(|w|)`, or a
            sum, `sum(w v)`; or None. Where all are 0 the mean is 0.
    """
    present = ops.expand_dims(ids != PADDING_ID, -1)
    if pooling == "max":
        lowest = ops.full_like(vectors, -6e4)  # finite in half precision too
        highest = ops.max(ops.where(present, vectors, lowest), axis=1)
        return ops.where(ops.any(present, axis=1), highest, ops.zeros_like(highest))
    mask = ops.cast(present, vectors.dtype)
    if weights is not None:
        mask = mask * ops.cast(weights, vectors.dtype)[..., None]
    total = ops.sum(vectors * mask, axis=1)
    if pooling == "sum":
        return total
    if weights is None:
        return total / ops.maximum(ops.sum(mask, axis=1), 1)
    size = ops.sum(ops.abs(mask), axis=1)
    return total / ops.where(size == 0, ops.ones_like(size), size)
