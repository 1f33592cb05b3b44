"""What several replicas of a model compute of the batch that they share.

On TensorFlow each replica of a `tf.distribute.Strategy` sees its part of a batch, and the gradients
of all are added up. Whatever is computed of a whole batch, as a mean loss or the use of experts, is
added up over replicas first by the functions here, and is then the same number on each of them:
that of one device with all the rows.

Backward no replica waits for another: in which order gradients are computed differs between them,
and sums would meet wrong ones. A gradient that comes back is taken for the one that comes back on
all replicas, and is multiplied by their number; of the mean over replicas of a loss that is the
same on all, gradients then add up to those of one device. So what is made of the functions' values
must be the same on all replicas too, or have no gradient.

Elsewhere, and on one replica, they return what they are given. They must not be called inside of
`ops.cond` or a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras


def num_replicas() -> int:
    """How many replicas the step runs on in which this is called."""
    context = _context()
    return 1 if context is None else context.num_replicas_in_sync


def sum_over_replicas(values: Any) -> Any:
    """The sum of a tensor over the replicas of the step in which this is called.

    Args:
        values: tensor, or a sparse gradient.
    """
    context = _context()
    if context is None:
        return values
    import tensorflow as tf

    def summed(values: Any) -> tuple[Any, Callable[[Any], Any]]:
        found = context.all_reduce(tf.distribute.ReduceOp.SUM, values)
        return found, lambda upstream: upstream * context.num_replicas_in_sync

    if isinstance(values, tf.IndexedSlices):
        return summed(values)[0]
    return tf.custom_gradient(summed)(values)


def rows_of_replicas(values: Any) -> Any:
    """The rows `(b, ...)` of all replicas of the step in which this is called, one after the other.

    Replicas may have other numbers of rows, and none.
    """
    context = _context()
    if context is None:
        return values
    import tensorflow as tf

    values = tf.convert_to_tensor(values)
    if not values.dtype.is_floating:
        return context.all_gather(values, axis=0)
    num = tf.shape(values)[0]
    sizes = context.all_gather(num[None], axis=0)
    start = tf.reduce_sum(sizes[: context.replica_id_in_sync_group])

    @tf.custom_gradient
    def gathered(values: Any) -> tuple[Any, Callable[[Any], Any]]:
        def gradient(upstream: Any) -> Any:
            return upstream[start : start + num] * context.num_replicas_in_sync

        return context.all_gather(values, axis=0), gradient

    return gathered(values)


def wait_for_replicas() -> None:
    """While a step is traced, waits until all replicas have come here; computes nothing.

    A layer's `losses` are one list for all replicas, emptied when one of them begins: what another
    has added by then would be lost.
    """
    context = _context()
    if context is not None:
        context.merge_call(lambda strategy: None)


def of_this_replica(tensors: Iterable[Any]) -> list[Any]:
    """Those of some tensors that this replica has computed."""
    if _context() is None:
        return list(tensors)
    import tensorflow as tf

    here = tf.zeros(()).device
    return [one for one in tensors if one.device == here]


def _context() -> Any:
    """Of a step on several replicas; None elsewhere, as where a model is made in a scope."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    several = context is not None and context.num_replicas_in_sync > 1
    return context if several else None
