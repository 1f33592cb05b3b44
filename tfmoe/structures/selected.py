"""Experts' outputs weighed for tasks, of all experts or only of those that have a weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfmoe.compute.dispatch import pays, shapes_follow_data
from tfmoe.compute.math import mix
from tfmoe.compute.types import Tensor


def selecting_pays(experts: Any, most: int, certain: bool) -> bool:
    """Whether computing `most` of these `Experts` of each row is faster than all, see `pays`."""
    num_weights = sum(math.prod(kernel.shape[1:]) for kernel in experts.kernels)
    return pays(most, experts.num_experts, num_weights, certain)


def mix_selected(
    experts: Any,
    inputs: Tensor,
    weights: Tensor,
    exact: Tensor,
    most: int | None,
    certain: bool,
    training: bool,
    draws: bool = False,
    mixing: Callable[[Tensor, Tensor], Tensor] = mix,
) -> Tensor:
    """`sum_e weights[b, t, e] * experts(inputs)[b, e]`.

    Args:
        experts: `Experts`, or with `most=None` any layer `(b, f) -> (b, e, u)`.
        inputs: `(b, f)`.
        weights: `(b, t, e)` or `(1, t, e)`.
        exact: the same in float32, where small weights have not become 0.
        most: int, how many experts of a row are computed, if no row weighs more; None for all.
        certain: bool; False if a row may weigh more, and each batch is to be looked at first.
        training: bool.
        draws: bool; whether the experts draw random numbers in training.
        mixing: what weighs outputs `(b, e, u)` by weights `(b, t, e)`.

    Returns:
        `(b, t, u)`.
    """

    def dense() -> Tensor:
        return mixing(experts(inputs, training=training), weights)

    # XLA takes no rows out of none.
    if most is None or inputs.shape[0] == 0:
        return dense()
    used = ops.any(exact != 0, axis=1)

    def sparse() -> Tensor:
        # Used experts come first; where a row has fewer, unused ones fill it up.
        marks, chosen = ops.top_k(ops.cast(used, "float32"), most)
        if weights.shape[0] == 1:
            outputs = experts(inputs, chosen=chosen[0], training=training)
        else:
            absent = ops.where(marks > 0, chosen, experts.num_experts)
            outputs = experts(inputs, chosen=absent, training=training)
        taken = ops.take_along_axis(weights, chosen[:, None], axis=-1)
        return mixing(outputs, taken * ops.cast(marks[:, None], taken.dtype))

    if certain:
        return sparse()
    if training and draws and keras.backend.backend() == "jax":
        # Both branches would draw from one generator, which JAX cannot have.
        return dense()
    if inputs.shape[0] is None and not shapes_follow_data():
        # XLA cannot compile the gradient of a choice between shapes that are only
        # known when it runs.
        return dense()
    most_used = ops.max(ops.sum(ops.cast(used, "int32"), -1), initial=0)
    return ops.cond(most_used <= most, sparse, dense)
