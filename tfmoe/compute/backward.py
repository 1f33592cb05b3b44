"""Functions with a backward pass of their own, on every backend alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from tfmoe.compute.types import Tensor


def with_backward(
    function: Callable[..., tuple[Tensor, ...]],
    backward: Callable[..., tuple[Tensor, ...]],
    *inputs: Tensor,
) -> tuple[Tensor, ...]:
    """`function(*inputs)`, whose gradients are what `backward` says.

    `keras.ops.custom_gradient` would do but for two things: on torch it takes functions of one
    output, and on JAX its backward runs apart, so that nothing it sees may be kept.

    Args:
        function: maps tensors to a tuple of at least two.
        backward: maps the tuple of inputs, and the gradient of each output, to the gradients of
            the inputs. It may close over no tensor.
        *inputs: float tensors.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _on_tensorflow(function, backward, inputs)
    if backend == "jax":
        return _on_jax(function, backward, inputs)
    return _on_torch(function, backward, inputs)


def _on_tensorflow(function: Any, backward: Any, inputs: tuple[Tensor, ...]) -> Any:
    import tensorflow as tf

    @tf.custom_gradient
    def run(*inputs: Tensor) -> Any:
        return function(*inputs), lambda *upstream: backward(inputs, *upstream)

    return run(*inputs)


def _on_jax(function: Any, backward: Any, inputs: tuple[Tensor, ...]) -> Any:
    import jax

    run = jax.custom_vjp(function)
    run.defvjp(
        lambda *inputs: (function(*inputs), inputs),
        lambda inputs, upstream: tuple(backward(inputs, *upstream)),
    )
    return run(*inputs)


def _on_torch(function: Any, backward: Any, inputs: tuple[Tensor, ...]) -> Any:
    import torch

    class Run(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Tensor) -> Any:
            ctx.save_for_backward(*inputs)
            return function(*inputs)

        @staticmethod
        def backward(ctx: Any, *upstream: Tensor) -> Any:
            return backward(ctx.saved_tensors, *upstream)

    return Run.apply(*inputs)
