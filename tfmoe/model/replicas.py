"""A model on several replicas of `tf.distribute`: where it is compiled, who predicts a batch, what
its variables hold."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops


def scope_of(model: Any) -> contextlib.AbstractContextManager:
    """The scope of the strategy under which a model was made, on TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    return model.distribute_strategy.scope()


def in_scope(method: Callable[..., Any]) -> Callable[..., Any]:
    """Lets a method of a model make its variables where those of the model are."""

    @functools.wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        with scope_of(self):
            return method(self, *args, **kwargs)

    return called


def replicas_of(model: Any) -> int:
    """How many replicas a model's steps run on."""
    strategy = getattr(model, "distribute_strategy", None)
    return 1 if strategy is None else strategy.num_replicas_in_sync


def has_workers(model: Any) -> bool:
    """Whether other processes take part in a model's steps."""
    return replicas_of(model) > 1 and (
        replicas_of(model) > len(model.distribute_strategy.extended.worker_devices)
    )


def check_workers(model: Any) -> None:
    """Raises ValueError if other processes take part in the steps of a model not made for that."""
    if has_workers(model) and not model.trains_on_workers:
        raise ValueError(
            "Several workers train a tfmoe.MultiWorkerModel, for Keras's `fit` does not run there. "
            f"Received a {type(model).__name__} in the scope of "
            f"{type(model.distribute_strategy).__name__}. Make it as MultiWorkerModel."
        )


def own_batches(model: Any, batches: Iterable[Any]) -> Iterator[Any]:
    """Batches of a dataset; of one that replicas share, the parts of this process's replicas."""
    if not is_shared(batches):
        yield from batches
        return
    strategy = model.distribute_strategy
    for batch in batches:
        local = [strategy.experimental_local_results(leaf) for leaf in keras.tree.flatten(batch)]
        for leaves in zip(*local, strict=True):
            if len(leaves[0]):
                yield keras.tree.pack_sequence_as(batch, leaves)


def is_shared(data: Any) -> bool:
    """Whether it is a dataset that replicas share, each with its part of a batch."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return isinstance(data, tf.distribute.DistributedDataset)


def predict_alone(model: Any) -> Callable[[Any], Any]:
    """A function from a batch's features to the predictions of the first replica.

    Keras would have every replica predict the whole batch, and put all of that together.
    """
    import tensorflow as tf

    @tf.function(autograph=False, reduce_retracing=True)
    def predicted(x: Any) -> Any:
        return model.predict_step((x,))

    def predict(x: Any) -> Any:
        x = keras.tree.map_structure(tf.convert_to_tensor, x)
        return keras.tree.map_structure(lambda values: values.numpy(), predicted(x))

    return predict


def value_of(variable: Any) -> np.ndarray:
    """What a variable holds; where each replica has a part, as of a metric, all parts together.

    Of several workers all must call it, for they add up their parts.
    """
    return np.asarray(ops.convert_to_numpy(ops.convert_to_tensor(variable)))


def set_value(variable: Any, value: np.ndarray) -> None:
    """Sets a variable, on all replicas, so that `value_of` is the value again."""
    variable.assign(value)
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    own = variable.value
    if (
        not isinstance(own, tf.distribute.DistributedValues)
        or own.synchronization is not tf.VariableSynchronization.ON_READ
        or own.aggregation is not tf.VariableAggregation.SUM
    ):
        return
    # TensorFlow has given each replica an equal part, which rounds; so the first has all of it.
    strategy = own.distribute_strategy
    first = strategy.extended.should_checkpoint
    for part in strategy.experimental_local_results(own):
        part.assign(tf.cast(value if first else tf.zeros_like(value), part.dtype))
        first = False
