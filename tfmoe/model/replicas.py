"""A model on several replicas of `tf.distribute`: where it is compiled, who predicts a batch."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import keras


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
