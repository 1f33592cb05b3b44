"""Gradients of several replicas are clipped, and looked at, as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from tfmoe.compute.replicas import num_replicas, sum_over_replicas
from tfmoe.keras_private import clip_otherwise
from tfmoe.optimizers.by_part import nested


def clip_together(optimizer: Any) -> None:
    """Has an optimizer, and those inside it, clip the gradient of a batch and not of its parts.

    Keras clips what each replica has, and adds up after that.
    """
    for one in nested(optimizer):
        clips = (getattr(one, name, None) for name in ("clipnorm", "clipvalue", "global_clipnorm"))
        if any(limit is not None for limit in clips):
            clip_otherwise(one, _together)


def agree_on_overflow(optimizer: Any) -> None:
    """Has an optimizer that scales the loss leave out a step in which any replica overflows.

    Keras asks the first replica alone, and would add up what the others have.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        # The class's, so that a second one takes the place of the first.
        usual = type(optimizer).check_finite

        def fine(gradients: list[Any]) -> Any:
            bad = keras.ops.cast(~usual(optimizer, gradients), "float32")
            return sum_over_replicas(bad) == 0

        optimizer.check_finite = fine


def check_accumulates_nothing(optimizer: Any, why: str) -> None:
    """Raises ValueError if an optimizer, or one inside it, adds up gradients of several batches.

    Args:
        optimizer: Keras optimizer.
        why: str, why it must not.
    """
    for one in nested(optimizer):
        steps = one.gradient_accumulation_steps
        if steps:
            raise ValueError(
                f"{why}. Received gradient_accumulation_steps={steps} in {type(one).__name__}. "
                f"Take batches {steps} times as large instead."
            )


def _together(gradients: list[Any], clip: Callable[[list[Any]], list[Any]]) -> list[Any]:
    num = num_replicas()
    if num == 1:
        return clip(gradients)
    clipped = clip([None if one is None else sum_over_replicas(one) for one in gradients])
    # The optimizer adds up what all replicas have, which is the same now.
    return [None if one is None else _divided(one, num) for one in clipped]


def _divided(gradient: Any, num: int) -> Any:
    import tensorflow as tf

    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(gradient.values / num, gradient.indices, gradient.dense_shape)
    return gradient / num
