import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.embedding import Embedding
from tfmoe.optimizers import Adam


def trained(optimizer, jit_compile, **embedding):
    """Weights of a small model after six steps."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((3,), dtype="int32")
    hidden = keras.layers.Flatten()(Embedding(20, 4, **embedding)(ids))
    model = keras.Model(ids, keras.layers.Dense(1)(hidden))
    model.compile(optimizer, "mse", jit_compile=jit_compile)
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 20, (48, 3)), generator.normal(size=(48, 1))
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1, "clipnorm": 0.5, "use_ema": True}])
def test_steps_are_those_of_keras(jit_compile, settings):
    arguments = {"learning_rate": 0.05, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3, **settings}
    ours = trained(Adam(**arguments), jit_compile)
    keras_own = trained(keras.optimizers.Adam(**arguments), jit_compile)
    for weight, expected in zip(ours, keras_own, strict=True):
        np.testing.assert_allclose(weight, expected, rtol=2e-5, atol=1e-6)


def test_what_does_not_fit_the_kernel_is_kerass(monkeypatch):
    monkeypatch.setattr("tfmoe.embedding.DENSE_ROWS", 5)  # slices instead of a table
    for settings in ({}, {"amsgrad": True}):
        ours = trained(Adam(0.05, **settings), False)
        expected = trained(keras.optimizers.Adam(0.05, **settings), False)
        for weight, other in zip(ours, expected, strict=True):
            np.testing.assert_allclose(weight, other, rtol=2e-5, atol=1e-6)


def test_runs_under_a_strategy():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        weights = trained(Adam(0.05), False)
    for weight, expected in zip(weights, trained(Adam(0.05), False), strict=True):
        np.testing.assert_allclose(weight, expected, rtol=2e-5, atol=1e-6)


def test_config_round_trip():
    optimizer = Adam(0.1, beta_1=0.5, amsgrad=True, clipnorm=1.0)
    config = keras.saving.serialize_keras_object(optimizer)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is Adam
    assert again.get_config() == optimizer.get_config()
