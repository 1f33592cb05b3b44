"""ReLU of 16 bits: the same as Keras's, value and gradient, for every normal number."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.compute.dense import activated
from tfmoe.experts.mlp import Experts

EVERY = np.arange(2**16).astype("uint16")
TINY = np.finfo("float32").tiny  # TensorFlow takes for 0 what is below


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_equals_keras(dtype, jit_compile):
    numbers = tf.bitcast(tf.constant(EVERY), dtype)
    upstream = tf.cast(tf.range(2**16) % 7 - 3, dtype)

    def of(relu):
        @tf.function(jit_compile=jit_compile)
        def both(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = relu(x)
            return y, tape.gradient(y, x, upstream)

        return [tf.cast(found, "float32").numpy() for found in both(numbers)]

    ours, gradient = of(lambda x: activated(keras.activations.relu, x))
    theirs, their_gradient = of(keras.activations.relu)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TINY)  # NaN where NaN is
    same = ~np.isnan(theirs) & ((ours == 0) | (ours >= TINY))
    assert np.mean(same) > 0.9
    np.testing.assert_array_equal(gradient[same], their_gradient[same])


def test_other_activations_and_types_are_as_they_were():
    x = tf.constant([-1.0, 0.0, 2.0])
    for activation in (keras.activations.relu, keras.activations.gelu, lambda x: x + 1):
        np.testing.assert_array_equal(activated(activation, x), activation(x))
    half = tf.cast(x, "bfloat16")
    gelu = keras.activations.gelu
    np.testing.assert_array_equal(
        tf.cast(activated(gelu, half), "float32"), tf.cast(gelu(half), "float32")
    )


@pytest.mark.parametrize(
    ("policy", "activation", "quick"),
    [
        ("mixed_bfloat16", "relu", True),
        ("mixed_bfloat16", "gelu", False),
        ("float32", "relu", False),
    ],
)
def test_experts_that_were_saved_take_it(policy, activation, quick):
    experts = Experts(2, (3,), activation=activation, dtype=policy)
    experts = Experts.from_config(experts.get_config())
    graph = tf.function(experts).get_concrete_function(tf.TensorSpec((None, 4), dtype="float32"))
    assert ("Bitcast" in {op.type for op in graph.graph.get_operations()}) == quick
