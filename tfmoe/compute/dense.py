"""One layer of several networks side by side: their matmuls, as fast as a backend has them."""

import math

import keras
from keras import ops

# On a CPU, TensorFlow multiplies the matrices of a few networks faster one by one, with
# bias and activation in the same operation; many would make the graph long. All at once is
# faster where kernels are large (0.87 of the time of 8 experts of 429 -> 256 -> 128).
MOST_UNROLLED = 16
LARGE_KERNEL = 2**16


def is_unrolled(num, kernel_shape=()):
    """Whether so many networks run one after the other rather than batched.

    Args:
        num: int.
        kernel_shape: shape of a network's first kernel, or `()` if it has none.
    """
    if keras.backend.backend() != "tensorflow" or num > MOST_UNROLLED:
        return False
    return num <= 2 or not kernel_shape or math.prod(kernel_shape) < LARGE_KERNEL


def apart(inputs, num):
    """One input for each network, from `(b, f)` or `(b, e, f)`: list of `(b, f)`."""
    return [inputs] * num if len(inputs.shape) == 2 else ops.unstack(inputs, num, axis=1)


def stacked_dense(inputs, kernel, bias):
    """`inputs[:, e] @ kernel[e] + bias[e]` for every `e`.

    Args:
        inputs: `(b, e, f)`.
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
    outputs = affine(ops.transpose(inputs, (1, 0, 2)), kernel, bias)
    return ops.unstack(outputs, num)


def affine(inputs, kernel, bias):
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
            of_kernel = tf.matmul(wide_inputs[None], upstream, transpose_a=True)
            of_inputs = tf.unstack(tf.matmul(upstream, kernel, transpose_b=True))
            return tf.add_n(of_inputs), of_kernel[:, :size], of_kernel[:, size]

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
