"""A loss of those rows of a table that a batch looks up."""

from __future__ import annotations

from keras import ops

from tfmoe.compute.replicas import rows_of_replicas
from tfmoe.compute.types import Tensor
from tfmoe.schema.columns import PADDING_ID


def square_norm(ids: Tensor, vectors: Tensor) -> Tensor:
    """`sum ||vector||^2` over distinct ids but padding, of ids and their vectors `(..., d)`.

    Of the ids of all replicas, each once.

    Sorted, the first of equal ids is seen without a tensor as long as the table, and in shapes
    that XLA knows. The gradient goes through the look-up that there is, so that it stays one.
    """
    flat = rows_of_replicas(ops.reshape(ids, (-1,)))
    squares = ops.reshape(ops.sum(ops.square(ops.cast(vectors, "float32")), axis=-1), (-1,))
    squares = rows_of_replicas(squares)
    order = ops.argsort(flat)
    ordered = ops.take(flat, order)
    before = ops.concatenate([ops.full_like(ordered[:1], PADDING_ID), ordered[:-1]])
    # Padding, the smallest id, is never another than the one before it.
    return ops.sum(ops.where(ordered != before, ops.take(squares, order), 0.0))
