"""Dropout by 16 bits: its share, its mean, its gradient, and the same under XLA."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.compute.dropout import Dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_drops_a_share_and_scales_the_rest(rate, dtype):
    layer = Dropout(rate, seed=3, dtype=dtype)
    outputs = layer(np.ones((999, 101), dtype), training=True).numpy()  # an odd number of units
    kept = outputs != 0
    deviation = (rate * (1 - rate) / outputs.size) ** 0.5
    assert abs(kept.mean() - (1 - rate)) < 5 * deviation
    np.testing.assert_allclose(outputs[kept], 1 / (1 - rate), rtol=1e-3)
    assert outputs.dtype == dtype
    # Two units that share 32 bits are dropped independently.
    pairs = kept.ravel()[:-1].reshape(-1, 2)
    assert abs(pairs.all(axis=1).mean() - (1 - rate) ** 2) < 0.01


def test_draws_anew_each_time_and_by_the_seed():
    first, second = Dropout(0.5, seed=1), Dropout(0.5, seed=1)
    ones = np.ones((20, 20), "float32")
    drawn = [first(ones, training=True).numpy() for _ in range(2)]
    assert not np.array_equal(*drawn)
    for expected in drawn:
        np.testing.assert_array_equal(second(ones, training=True), expected)


def test_nothing_is_dropped_at_inference_or_at_rate_0():
    ones = np.ones((20, 20), "float32")
    np.testing.assert_array_equal(Dropout(0.5)(ones), ones)
    np.testing.assert_array_equal(Dropout(0.0)(ones, training=True), ones)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_gradient_is_what_was_kept(jit_compile):
    layer = Dropout(0.3, seed=5)

    @tf.function(
        jit_compile=jit_compile, input_signature=[tf.TensorSpec((None, 7, None), tf.float32)]
    )
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, tape.gradient(y, x)

    x = tf.random.stateless_normal((5, 7, 3), (0, 1))
    y, gradient = step(x)
    np.testing.assert_allclose(y, gradient * x, rtol=1e-6)
    assert 0 < np.mean(gradient == 0) < 1


def test_a_given_noise_shape_is_keras_own():
    outputs = Dropout(0.5, noise_shape=(None, 1), seed=2)(np.ones((50, 4)), training=True).numpy()
    assert set(np.ptp(outputs, axis=1)) == {0.0}


def test_the_rate_is_a_config_of_keras():
    layer = Dropout.from_config(Dropout(0.25, seed=1).get_config())
    assert isinstance(layer, keras.layers.Dropout)
    assert layer.rate == 0.25


def test_what_is_dropped_is_0_even_if_it_was_infinite():
    outputs = Dropout(0.5, seed=1)(np.full((50, 4), np.inf, "float32"), training=True).numpy()
    assert set(np.unique(outputs)) == {0.0, np.inf}


def test_rates_next_to_1_are_keras_own():
    outputs = Dropout(0.99999, seed=1, dtype="float16")(np.ones((500, 40)), training=True).numpy()
    assert np.isfinite(outputs).all()
    np.testing.assert_array_equal(Dropout(1.0)(np.ones((5, 4)), training=True), 0)
