"""One layer of several networks side by side, as fast as a backend has it: matmul, bias, ReLU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfmoe.compute import thresholds
from tfmoe.compute.device import on_cpu

# Bits of the number below all NaNs, -infinity, as an int16.
MINUS_INFINITY = {"bfloat16": -0x80, "float16": -0x400}


def is_unrolled(num: int, kernel_shape: tuple = (), training: bool = False) -> bool:
    """Whether so many networks run one after the other rather than batched.

    On a CPU, TensorFlow multiplies the matrices of a few networks faster one by one, with
    bias and activation in the same operation; where all at once is faster, see `Thresholds`.

    Args:
        num: how many.
        kernel_shape: shape of a network's first kernel, or `()` if it has none.
        training: whether gradients will be asked for.
    """
    limits, weights = thresholds.current(), math.prod(kernel_shape)
    is_large = weights >= limits.large_expert
    most = limits.most_unrolled_large if is_large else limits.most_unrolled
    if keras.backend.backend() != "tensorflow" or num > most:
        return False
    at_once = limits.large_kernel if training else limits.large_kernel_inference
    return num <= 2 or not kernel_shape or at_once is None or weights < at_once


def apart(inputs: Any, num: int) -> list:
    """One input for each network, from `(b, f)` or `(b, e, f)`: list of `(b, f)`."""
    return [inputs] * num if len(inputs.shape) == 2 else ops.unstack(inputs, num, axis=1)


def batched_dense(inputs: Any, kernel: Any, bias: Any) -> list:
    """`inputs[:, e] @ kernel[e] + bias[e]` for every `e`.

    Args:
        inputs: `(b, e, f)`, or `(b, f)`, the same for all.
        kernel: `(e, f, u)`.
        bias: `(e, u)`.

    Returns:
        List of `e` tensors `(b, u)`.
    """
    num = kernel.shape[0]
    if is_unrolled(num):
        parts = zip(
            apart(inputs, num), ops.unstack(kernel, num), ops.unstack(bias, num), strict=True
        )
        return [ops.matmul(hidden, k) + b for hidden, k, b in parts]
    shared = len(inputs.shape) == 2
    outputs = affine(inputs if shared else ops.transpose(inputs, (1, 0, 2)), kernel, bias)
    return ops.unstack(outputs, num)


def affine(inputs: Any, kernel: Any, bias: Any) -> Any:
    """`inputs @ kernel[e] + bias[e]` for every `e`, all at once.

    Args:
        inputs: `(b, f)`, the same for all, or `(e, b, f)`.
        kernel: `(e, f, u)`.
        bias: `(e, u)`.

    Returns:
        `(e, b, u)`.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        one = _affine_of_shared if len(inputs.shape) == 2 else _affine_of_own
        return one(*(tf.convert_to_tensor(x) for x in (inputs, kernel, bias)))
    shared = inputs[None] if len(inputs.shape) == 2 else inputs
    return ops.matmul(shared, kernel) + bias[:, None]


def _affine_of_shared(inputs, kernel, bias):
    """`affine` of inputs `(b, f)` on TensorFlow.

    The bias is one more row of the kernel, for a feature that is 1, which saves two walks
    through the outputs; features of 0 fill up to a multiple of 16, which matmuls like.
    """
    import tensorflow as tf

    num, size, units = kernel.shape
    fill = -(size + 1) % 16

    @tf.custom_gradient
    def of(inputs, kernel, bias):
        rows = tf.shape(inputs)[0]
        one, zeros = tf.ones((rows, 1), inputs.dtype), tf.zeros((rows, fill), inputs.dtype)
        wide_inputs = tf.concat([inputs, one, zeros], axis=1)
        zeros = tf.zeros((num, fill, units), kernel.dtype)
        wide_kernel = tf.concat([kernel, bias[:, None], zeros], axis=1)

        def gradient(upstream):
            if size >= thresholds.current().narrow * units:
                # Gradients at the features, one of each network, would be larger than all else.
                upstream = tf.reshape(tf.transpose(upstream, (1, 0, 2)), (rows, num * units))
                flat = tf.reshape(tf.transpose(kernel, (1, 0, 2)), (size, num * units))
                of_inputs = tf.matmul(upstream, flat, transpose_b=True)
                of_kernel = tf.matmul(wide_inputs, upstream, transpose_a=True)
                of_kernel = tf.transpose(tf.reshape(of_kernel, (-1, num, units)), (1, 0, 2))
            else:
                of_inputs = tf.add_n(tf.unstack(tf.matmul(upstream, kernel, transpose_b=True)))
                of_kernel = tf.matmul(wide_inputs[None], upstream, transpose_a=True)
            return of_inputs, of_kernel[:, :size], of_kernel[:, size]

        return tf.matmul(wide_inputs[None], wide_kernel), gradient

    return of(inputs, kernel, bias)


def _affine_of_own(inputs, kernel, bias):
    """`affine` of inputs `(e, b, f)` on TensorFlow; a matmul sums the gradient of the bias."""
    import tensorflow as tf

    @tf.custom_gradient
    def of(inputs, kernel, bias):
        def gradient(upstream):
            ones = tf.ones((kernel.shape[0], 1, tf.shape(upstream)[1]), upstream.dtype)
            return (
                tf.matmul(upstream, kernel, transpose_b=True),
                tf.matmul(inputs, upstream, transpose_a=True),
                tf.matmul(ones, upstream)[:, 0],
            )

        return tf.matmul(inputs, kernel) + bias[:, None], gradient

    return of(inputs, kernel, bias)


def activated(activation: Callable, x: Any) -> Any:
    """`activation(x)`; a ReLU of 16 bits on a CPU in less time than TensorFlow's.

    TensorFlow computes with such numbers one by one, in float32. Read as int16, a number has the
    same sign, and integers are compared many at once: with this ReLU a step of the benchmark
    `step` in bfloat16 took 0.87 of the time. Values and gradients are the same except at NaN,
    under infinite gradients, and at bfloat16's denormal numbers, which TensorFlow takes for 0.
    """
    dtype = keras.backend.standardize_dtype(x.dtype)
    if activation is not keras.activations.relu or dtype not in MINUS_INFINITY or not on_cpu():
        return activation(x)
    import tensorflow as tf

    @tf.custom_gradient
    def relu(x):
        bits, zero = tf.bitcast(x, "int16"), tf.zeros((), x.dtype)
        # A NaN may have a sign too, and stays.
        kept = tf.where(bits > tf.constant(MINUS_INFINITY[dtype], "int16"), x, zero)
        return kept, lambda upstream: tf.where(bits > tf.constant(0, "int16"), upstream, zero)

    return relu(x)
