"""Gradients of tasks at the parameters that they share, of a backward pass for each task.

Where no tensor is read by all tasks alike (`shared.py`), their gradients meet in parameters alone.
A parameter is one number: of a kernel with a slice for each task none is shared. It is shared in a
step if the losses of at least two tasks have a gradient there that is not 0; all others learn from
the sum of the losses, as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from tfmoe.compute.replicas import num_replicas, sum_over_replicas
from tfmoe.compute.shared import Combination
from tfmoe.compute.types import Tensor


class _Stack(NamedTuple):
    """The gradients of all losses by one variable.

    Attributes:
        values: `(t, ...)`, or `(t, i, ...)` of the rows `indices`.
        indices: int `(i,)`, each once, or None where all rows are here.
    """

    values: Tensor
    indices: Tensor | None = None


def combined(
    combination: Combination, by_loss: Sequence[Sequence[Any]], scale: Tensor
) -> list[Any]:
    """The gradients that an optimizer gets, one a variable.

    Args:
        combination: `Combination`, which learns the inner products and the weights.
        by_loss: for each task, and perhaps for what is added to their losses, the gradient by
            each variable: a tensor, `tf.IndexedSlices`, or None where the loss does not reach it.
        scale: scalar, by which all gradients were multiplied under mixed precision.

    Returns:
        A list of the same kinds; None where no loss reaches a variable.
    """
    stacks = [_stacked(list(own)) for own in zip(*by_loss, strict=True)]
    if num_replicas() > 1:
        stacks = _of_all_replicas(stacks)
    masks: list[Tensor | None] = []
    num = combination.num_tasks
    gram = ops.zeros((num, num), "float32")
    for stack in stacks:
        if stack is None:
            masks.append(None)
            continue
        own = stack.values[:num]
        mask = ops.sum(ops.cast(own != 0, "int32"), axis=0) > 1
        masks.append(mask)
        rows = ops.reshape(ops.where(mask[None], ops.cast(own, "float32"), 0.0), (num, -1))
        gram = gram + ops.matmul(rows, ops.transpose(rows))
    one = ops.reshape(scale, (1,))
    received = one if combination.sent is None else ops.concatenate([one, scale * combination.sent])
    # All replicas have the same, which are added up.
    weights = combination.decide(gram / num_replicas(), received)
    # A task that shares nothing in this batch learns as ever.
    weights = ops.where(ops.diagonal(gram) == 0, ops.ones_like(weights), weights)
    combination.weights = weights
    return [
        None if stack is None or mask is None else _weighed(stack, mask, weights)
        for stack, mask in zip(stacks, masks, strict=True)
    ]


def _weighed(stack: _Stack, mask: Tensor, weights: Tensor) -> Any:
    """One gradient of all: where tasks share, of the weighed ones."""
    num = weights.shape[0]
    own, others = stack.values[:num], stack.values[num:]
    by = ops.reshape(ops.cast(weights, own.dtype), (num, *[1] * (len(own.shape) - 1)))
    found = ops.where(mask, ops.sum(by * own, axis=0), ops.sum(own, axis=0))
    found = (found + ops.sum(others, axis=0)) / num_replicas()
    if stack.indices is None:
        return found
    import tensorflow as tf

    return tf.IndexedSlices(found, stack.indices)


def _stacked(gradients: list[Any]) -> _Stack | None:
    """The gradients by one variable, in one tensor; None where there is none."""
    some = [gradient for gradient in gradients if gradient is not None]
    if not some:
        return None
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if num_replicas() == 1 and all(isinstance(one, tf.IndexedSlices) for one in some):
            return _of_rows(gradients)
        some = [tf.convert_to_tensor(one) for one in some]
    found = iter(some)
    zeros = ops.zeros_like(some[0])
    return _Stack(ops.stack([zeros if one is None else next(found) for one in gradients]))


def _of_rows(gradients: list[Any]) -> _Stack:
    """The same, of the rows of a table that a batch has read."""
    import tensorflow as tf

    some = [one for one in gradients if one is not None]
    # Rows may have been read in another order by each task, and more than once.
    indices, places = tf.unique(tf.concat([one.indices for one in some], axis=0))
    num, sizes = tf.size(indices), [tf.shape(one.indices)[0] for one in some]
    of_each = iter(tf.split(places, sizes, num=len(some)))
    zeros = tf.zeros(tf.concat([[num], some[0].values.shape[1:]], axis=0), some[0].values.dtype)
    rows = [
        zeros if one is None else tf.math.unsorted_segment_sum(one.values, next(of_each), num)
        for one in gradients
    ]
    return _Stack(tf.stack(rows), indices)


def _of_all_replicas(stacks: list[_Stack | None]) -> list[_Stack | None]:
    """Sums over replicas, of which each has the gradients of its rows."""
    return [None if stack is None else _Stack(sum_over_replicas(stack.values)) for stack in stacks]
