"""Arguments of gates that change during training."""

import json

import keras
import numpy as np
import pytest
from keras.optimizers import schedules

import tfmoe
from tfmoe.gates.schedules import steps_to_rest

FEATURES, STEPS = 4, 8
X = np.ones((4, FEATURES), "float32")
# What to give as `entropy_reg`, and what it should be at a step.
CASES = {
    "constant": (0.3, lambda step: 0.3),
    "linear": (schedules.PolynomialDecay(0.0, 5, 0.5), lambda step: 0.1 * min(step, 5)),
    "exponential": (schedules.ExponentialDecay(0.4, 2, 0.5), lambda step: 0.4 * 0.5 ** (step / 2)),
    # Keras changes a value after the boundary.
    "by step": (
        schedules.PiecewiseConstantDecay([2, 4], [0.0, 0.2, 0.1]),
        lambda step: 0.0 if step <= 2 else 0.2 if step <= 4 else 0.1,
    ),
}
each_case = pytest.mark.parametrize(("given", "expected"), CASES.values(), ids=CASES)


def gate_of(entropy_reg, **options):
    keras.utils.set_random_seed(0)
    gate = tfmoe.DSelectKGate(2, 5, 2, entropy_reg=entropy_reg, router="static", **options)
    gate.build(X.shape)
    return gate


def entropy(**options):
    gate = gate_of(1.0, **options)
    gate(X, training=True)
    return float(gate.losses[0])


def model_of(gate, **options):
    """Its loss is the gate's alone, and its weights do not move."""
    symbol = keras.Input((FEATURES,))
    model = keras.Model(symbol, gate(symbol))
    model.compile(keras.optimizers.SGD(0.0), "mse", loss_weights=0.0, **options)
    return model


def fit(model, steps):
    """Loss of each step."""
    y = np.zeros((len(X), 2, 5))
    return model.fit(X, y, batch_size=len(X), epochs=steps, verbose=0).history["loss"]


@pytest.mark.quick(4)
@each_case
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "float64"])
def test_a_schedule_counts_training_calls(given, expected, dtype):
    gate, total = gate_of(given, dtype=dtype), entropy(dtype=dtype)
    for step in range(STEPS):
        gate(X, training=True)
        loss = float(sum(gate.losses))
        assert loss == pytest.approx(expected(step) * total, rel=1e-5, abs=1e-6)
        gate(X)
    assert hasattr(gate, "steps") == isinstance(given, schedules.LearningRateSchedule)


@pytest.mark.slow
@each_case
def test_a_schedule_runs_in_fit_and_goes_on_after_saving(given, expected, tmp_path):
    total = entropy()
    model = model_of(gate_of(given), jit_compile=True)
    first = fit(model, 3)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    steps = [expected(step) * total for step in range(STEPS)]
    np.testing.assert_allclose(first + fit(model, STEPS - 3), steps, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(first + fit(again, STEPS - 3), steps, rtol=1e-4, atol=1e-6)


@each_case
def test_a_schedule_is_data(given, expected):
    gate = gate_of(given)
    saved = json.dumps(keras.saving.serialize_keras_object(gate))
    again = keras.saving.deserialize_keras_object(json.loads(saved))
    assert json.dumps(keras.saving.serialize_keras_object(again)) == saved
    for step in (0, 3):
        assert float(again.now(again.entropy_reg)) == pytest.approx(expected(step), abs=1e-6)
        if hasattr(again, "steps"):
            again.steps.assign(3)


@pytest.mark.parametrize(
    ("given", "received"),
    [
        (-0.1, "Received entropy_reg=-0.1"),
        (np.nan, "Received entropy_reg=nan"),
        (True, "Received entropy_reg=True"),
        ("linear", "Received entropy_reg='linear'"),
        (None, "Received entropy_reg=None"),
        (lambda step: 0.1, "Received entropy_reg=<function"),
        (schedules.PolynomialDecay(0, 5, 0.5), r"PolynomialDecay with \[0\]. Write 0.0 for 0"),
        (
            schedules.PiecewiseConstantDecay([2], [0, 0.5]),
            r"PiecewiseConstantDecay with \[0.0, 0, 0.5\]",
        ),
    ],
)
def test_what_is_no_schedule_is_named(given, received):
    with pytest.raises(ValueError, match=rf"DSelectKGate takes .*`entropy_reg`.*{received}"):
        tfmoe.DSelectKGate(entropy_reg=given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0.3, 0),
        (schedules.PolynomialDecay(0.0, 5, 0.5), 5),
        (schedules.PolynomialDecay(0.0, 5, 0.5, cycle=True), 0),
        (schedules.CosineDecay(0.0, 5, warmup_target=0.4, warmup_steps=3), 8),
        (schedules.PiecewiseConstantDecay([2, 4], [0.0, 0.2, 0.1]), 4),
        # These go on for ever.
        (schedules.ExponentialDecay(0.4, 1000, 0.5), 0),
        (schedules.InverseTimeDecay(0.4, 1000, 0.5), 0),
        (schedules.CosineDecayRestarts(0.4, 1000), 0),
    ],
)
def test_steps_until_a_schedule_rests_are_those_that_are_left(given, expected):
    gate = gate_of(given)
    assert steps_to_rest([gate_of(0.1), gate]) == expected
    gate(X, training=True)
    assert steps_to_rest([gate]) == max(expected - 1, 0)
