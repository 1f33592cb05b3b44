"""The learned permutation of CometGate, on its own."""

from itertools import permutations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

import tfmoe
from tests.gates.test_gates import TASKS
from tests.oracles import reference


def temperatures(layer, step):
    """Of each iteration, as the docstring has it."""
    (high, low), (first, last) = layer.temperature, layer.num_iterations
    progress = min(step / layer.num_steps, 1)
    present = high * (low / high) ** progress
    count = int(first + (last - first) * progress) - 20
    spread = max(max(row) - min(row) for row in layer.log_weights.numpy())
    return [spread * (present / spread) ** ((i + 1) / count) for i in range(count)] + 20 * [present]


def learned(size, *arguments, step=0, seed=0, scale=0.05, dtype="float32", **options):
    layer = tfmoe.LearnedPermutation(*arguments, **options, dtype=dtype)
    layer.build((None, TASKS, size))
    rng = np.random.default_rng(seed)
    layer.log_weights.assign(scale * rng.normal(size=(size, size)))
    layer.steps.assign(step)
    return layer


@pytest.mark.quick(6)
@pytest.mark.parametrize("size", [2, 5, 16])
@pytest.mark.parametrize("step", [0, 3, 10, 99])
def test_soft_permutation_matches_reference(size, step):
    layer = learned(size, 10, (0.1, 0.01), (20, 40), step=step)
    expected = reference.sinkhorn(layer.log_weights.numpy(), temperatures(layer, step))
    np.testing.assert_allclose(layer.matrix(), expected, atol=1e-5)
    x = np.random.default_rng(1).uniform(size=(4, TASKS, size)).astype("float32")
    np.testing.assert_allclose(layer(x), x @ expected, atol=1e-5)


def test_soft_permutation_has_the_entropy_as_its_loss():
    layer = learned(5, 10, (0.1, 0.01), entropy_reg=0.5, step=3)
    p = layer.matrix().numpy()
    x = np.ones((1, 1, 5), "float32")
    layer(x, training=True)
    assert int(layer.steps) == 4
    expected = 0.5 * reference.entropy_loss(p[None])
    assert float(sum(layer.losses)) == pytest.approx(expected, rel=1e-5)
    layer(x)
    assert layer.losses == []
    assert int(layer.steps) == 4


@pytest.mark.parametrize("step", [0, 5])
def test_gradients_of_a_soft_permutation_match_finite_differences(step):
    layer = learned(6, 10, (0.05, 0.02), (40, 80), step=step, dtype="float64")
    value = layer.log_weights.numpy()
    along, towards = np.random.default_rng(1).normal(size=(2, 6, 6))

    def loss(size=0.0):
        layer.log_weights.assign(value + size * along)
        return ops.sum(layer.matrix() * towards)

    with tf.GradientTape() as tape:
        total = loss()
    slope = np.sum(tape.gradient(total, layer.log_weights.value).numpy() * along)
    expected = (float(loss(1e-6)) - float(loss(-1e-6))) / 2e-6
    assert abs(expected) > 1
    # The gradient leaves out all but the last 20 iterations.
    assert slope == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
@given(
    size=st.integers(2, 12),
    step=st.integers(0, 20),
    scale=st.sampled_from([0.0, 0.05, 5.0]),
    seed=st.integers(0, 1000),
)
def test_at_any_temperature_rows_sum_to_1_and_gradients_are_finite(size, step, scale, seed):
    layer = learned(size, 20, step=step, seed=seed, scale=scale)
    with tf.GradientTape() as tape:
        matrix = layer.matrix()
        loss = ops.sum(matrix * np.arange(size, dtype="float32"))
    np.testing.assert_allclose(ops.sum(matrix, axis=1), 1, atol=1e-5)
    assert np.isfinite(tape.gradient(loss, layer.log_weights.value)).all()


@pytest.mark.parametrize("seed", range(4))
def test_harden_takes_the_nearest_permutation_for_good(seed):
    layer = learned(5, 10, step=2, seed=seed)
    p = layer.matrix().numpy()
    nearest = max(permutations(range(5)), key=lambda order: sum(p[range(5), order]))
    layer.harden()
    x = np.random.default_rng(0).normal(size=(3, TASKS, 5)).astype("float32")
    expected = np.zeros_like(x)
    expected[..., list(nearest)] = x
    np.testing.assert_array_equal(layer(x), expected)
    with tf.GradientTape() as tape:
        loss = ops.sum(layer(x, training=True) * p[0]) + sum(layer.losses)
    gradient = tape.gradient(loss, layer.log_weights.value)
    assert gradient is None or not np.any(gradient)
    layer.log_weights.assign(-layer.log_weights)
    layer.harden()
    np.testing.assert_array_equal(layer(x), expected)


def test_once_cold_the_matrix_is_near_a_permutation():
    # Not always: a draw may have all but a tie, which training breaks.
    worst = [
        ops.sum(learned(16, 10, step=10, seed=s).matrix(), axis=0).numpy().max() for s in range(10)
    ]
    assert np.mean(worst) < 1.2


@pytest.mark.slow
def test_a_permutation_is_learned_and_handed_over_in_fit():
    keras.utils.set_random_seed(0)
    size, wanted = 4, [2, 0, 3, 1]
    x = np.random.default_rng(0).uniform(size=(256, 1, size)).astype("float32")
    y = np.empty_like(x)
    y[..., wanted] = x
    symbol = keras.Input((1, size))
    permutation = tfmoe.LearnedPermutation(48, (0.1, 1e-3))
    model = keras.Model(symbol, permutation(symbol))
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    hardened = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: hardened.append(bool(permutation.is_hard()))
    )
    callbacks = [tfmoe.HardenPermutations(), watch]
    model.fit(x, y, batch_size=16, epochs=4, verbose=0, callbacks=callbacks)
    # 16 steps an epoch, and 48 to learn in.
    assert hardened == [False, False, True, True]
    np.testing.assert_allclose(model(x), y, atol=1e-6)
