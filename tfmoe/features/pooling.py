"""A list's vectors as one."""

from __future__ import annotations

from collections.abc import Mapping

from keras import ops

from tfmoe.compute.math import narrowed, wide_dtype
from tfmoe.compute.types import Tensor
from tfmoe.schema.columns import PADDING_ID, Column


def last_place(present: Tensor) -> Tensor:
    """The place of the last True in each row `(b, l)`, int `(b, 1)`; -1 without any."""
    places = ops.arange(1, ops.shape(present)[1] + 1, dtype="int32")
    return ops.max(ops.where(present, places, 0), axis=1, keepdims=True) - 1


def pooled(vectors: Tensor, ids: Tensor, pooling: str, weights: Tensor | None = None) -> Tensor:
    """Lists' vectors `(b, length, d)` and ids `(b, length)` to `(b, d)`.

    Args:
        vectors: float tensor.
        ids: int tensor, 0 at padding, which does not count.
        pooling: `"mean"`, `"sum"`, `"max"` or `"last"`.
        weights: float tensor `(b, length)` of the values in a mean, `sum(w v) / sum(|w|)`, or a
            sum, `sum(w v)`; or None. Where all are 0 the mean is 0.

    Sums are made in float32 at least: in half precision long lists lose most of what they hold,
    and large weights are infinite.
    """
    if pooling == "last":
        places = ops.arange(ops.shape(ids)[1], dtype="int32")
        last = ops.cast(places == last_place(ids != PADDING_ID), vectors.dtype)
        return ops.einsum("bl,bld->bd", last, vectors)
    present = ops.expand_dims(ids != PADDING_ID, -1)
    if pooling == "max":
        lowest = ops.full_like(vectors, -6e4)  # finite in half precision too
        highest = ops.max(ops.where(present, vectors, lowest), axis=1)
        return ops.where(ops.any(present, axis=1), highest, ops.zeros_like(highest))
    dtype = wide_dtype(vectors)
    mask = ops.cast(present, dtype)
    if weights is not None:
        mask = mask * ops.cast(weights, dtype)[..., None]
    total = ops.sum(ops.cast(vectors, dtype) * mask, axis=1)
    if pooling == "mean":
        total = total / nonzero(ops.sum(ops.abs(mask), axis=1))
    return narrowed(total, vectors.dtype)


def nonzero(sizes: Tensor) -> Tensor:
    """Tensor with 1 in the place of 0, to be divided by."""
    return ops.where(sizes == 0, ops.ones_like(sizes), sizes)


def weights_of(column: Column, features: Mapping[str, Tensor]) -> Tensor | None:
    """The weights of a list's values, `(b, length)`, if it has any."""
    names = column.feature_names[1:]
    return features[names[0]] if names else None
