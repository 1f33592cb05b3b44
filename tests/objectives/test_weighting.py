"""Weightings of losses against closed forms and NumPy loops."""

import json

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

import tfmoe
from tfmoe.objectives.weighting.by_name import WEIGHTINGS, weighting_of
from tfmoe.objectives.weighting.drawn import normals

LOSSES = np.array([0.5, 2.0, 0.01, 1.0])
ALL = np.ones(4)
SOME = np.array([1.0, 0.0, 1.0, 1.0])


def tensors(state):
    return {
        name: ops.convert_to_tensor(np.asarray(value, "float32")) for name, value in state.items()
    }


def weigh(weighting, losses, present, state):
    """Weights of a batch as an array, and the whole state after it."""
    losses = ops.convert_to_tensor(np.asarray(losses * present, "float32"))
    present = ops.convert_to_tensor(np.asarray(present, "float32"))
    weights, new = weighting.weigh(losses, present, tensors(state))
    state = {**state, **{name: np.asarray(value) for name, value in new.items()}}
    return np.asarray(weights), state


def softmax(values, present):
    shares = np.where(present > 0, np.exp(values - np.max(values)), 0)
    return shares / np.sum(shares)


class Adam:
    """With a count of steps for each number."""

    def __init__(self, num, rate):
        self.m, self.v, self.steps, self.rate = np.zeros(num), np.zeros(num), np.zeros(num), rate

    def change(self, gradient, present):
        change = np.zeros(len(gradient))
        for i in np.flatnonzero(present):
            self.steps[i] += 1
            self.m[i] = 0.9 * self.m[i] + 0.1 * gradient[i]
            self.v[i] = 0.999 * self.v[i] + 0.001 * gradient[i] ** 2
            m, v = self.m[i] / (1 - 0.9 ** self.steps[i]), self.v[i] / (1 - 0.999 ** self.steps[i])
            change[i] = -self.rate * m / (np.sqrt(v) + 1e-8)
        return change


def batches(num=12, seed=0):
    """Losses of batches, in some of which a task is missing."""
    rng = np.random.default_rng(seed)
    for _ in range(num):
        present = (rng.random(4) < 0.7).astype(float)
        present[0] = 1
        yield LOSSES * rng.uniform(0.5, 1.5, 4), present


def test_uncertainty_learns_as_a_loop_does():
    weighting = tfmoe.Uncertainty(learning_rate=0.3, limit=1.0)
    state, logs, adam = weighting.start(4), np.zeros(4), Adam(4, 0.3)
    for losses, present in batches():
        weights, state = weigh(weighting, losses, present, state)
        expected = 1 / (2 * np.exp(logs))
        np.testing.assert_allclose(weights, expected, rtol=1e-4)
        logs = np.clip(logs + adam.change(0.5 - losses * expected, present), -1, 1)
    np.testing.assert_allclose(state["logs"], logs, rtol=1e-3, atol=1e-5)
    assert np.min(logs) == -1


def test_uncertainty_comes_to_half_of_one_over_the_loss():
    weighting = tfmoe.Uncertainty(learning_rate=0.1, limit=9.0)
    state = weighting.start(4)
    for _ in range(400):
        weights, state = weigh(weighting, LOSSES, ALL, state)
    np.testing.assert_allclose(weights, 1 / (2 * LOSSES), rtol=0.05)


def test_dwa_weighs_by_the_last_two_epochs():
    weighting = tfmoe.DWA(temperature=0.5)
    state = weighting.start(4)
    epochs = [LOSSES, LOSSES * [0.5, 0.9, 1.1, 0.2], LOSSES * [0.4, 0.9, 1.1, 0.2]]
    expected = [ALL, ALL, 4 * softmax(epochs[1] / epochs[0] / 0.5, ALL)]
    for losses, weights in zip(epochs, expected, strict=True):
        for factor in (0.5, 1.5):
            found, state = weigh(weighting, factor * losses, ALL, state)
            np.testing.assert_allclose(found, weights, rtol=1e-5)
        state |= weighting.end_epoch(state)
    ratios = epochs[2] / epochs[1]
    found, _ = weigh(weighting, LOSSES, SOME, state)
    np.testing.assert_allclose(found, 3 * softmax(ratios / 0.5, SOME), rtol=1e-5)


def test_dwa_keeps_what_it_knows_of_a_task_that_an_epoch_had_no_label_of():
    weighting = tfmoe.DWA()
    state = weighting.start(4)
    for present in (ALL, SOME, ALL):
        _, state = weigh(weighting, LOSSES, present, state)
        state |= weighting.end_epoch(state)
    np.testing.assert_allclose(state["last"], LOSSES, rtol=1e-6)
    np.testing.assert_allclose(state["ratios"], 1, rtol=1e-6)


@pytest.mark.parametrize("present", [ALL, SOME])
def test_rlw_draws_a_softmax_in_each_step(present):
    weighting = tfmoe.RLW(seed=3)
    state, found = weighting.start(4), []
    for step in range(3):
        weights, state = weigh(weighting, LOSSES, present, state)
        np.testing.assert_allclose(weights, softmax(normals(4, 3)[step], present), rtol=1e-5)
        found.append(weights)
    assert not np.allclose(found[0], found[1])
    state["draw"] = np.float32(len(normals(4, 3)) - 1)
    assert weigh(weighting, LOSSES, present, state)[1]["draw"] == 0


@pytest.mark.parametrize("present", [ALL, SOME])
def test_gls_is_the_gradient_of_the_geometric_mean(present):
    weights, _ = weigh(tfmoe.GLS(), LOSSES, present, {})
    some = np.flatnonzero(present)

    def mean(losses):
        return np.prod(losses[some]) ** (1 / len(some))

    for task in some:
        step = 1e-4 * np.eye(4)[task] * LOSSES
        expected = (mean(LOSSES + step) - mean(LOSSES - step)) / 2 / step[task]
        assert weights[task] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("mu", [0.2, 1.0])
def test_stch_is_the_gradient_of_the_smooth_maximum(mu):
    weighting = tfmoe.STCH(mu=mu, warm_up=2)
    state = weighting.start(4)
    for epoch in range(2):
        for factor in (0.5, 1.5):
            weights, state = weigh(weighting, (epoch + 1) * factor * LOSSES, ALL, state)
            np.testing.assert_allclose(weights, 1 / ((epoch + 1) * factor * LOSSES), rtol=1e-5)
        state |= weighting.end_epoch(state)
    losses = LOSSES * [1, 0.5, 2, 1]
    for present in (ALL, SOME):
        some = np.flatnonzero(present)

        def value(losses, some=some):
            ratios = np.log(losses[some] / (2 * LOSSES[some])) / mu
            return len(some) * mu * np.log(np.sum(np.exp(ratios)))

        weights, _ = weigh(weighting, losses, present, state)
        for task in some:
            step = 1e-5 * np.eye(4)[task] * losses
            expected = (value(losses + step) - value(losses - step)) / 2 / step[task]
            assert weights[task] == pytest.approx(expected, rel=1e-3)


def test_famo_learns_as_a_loop_does():
    weighting = tfmoe.FAMO(learning_rate=0.2, decay=0.1, least=0.001)
    state, logits, adam = weighting.start(4), np.zeros(4), Adam(4, 0.2)
    rng = np.random.default_rng(1)
    for losses, present in batches():
        z = softmax(logits, present)
        above = losses - 0.001 + 1e-8
        expected = z / above / np.sum(z / above)
        weights, state = weigh(weighting, losses, present, state)
        np.testing.assert_allclose(weights, expected, rtol=1e-3)
        after = losses * rng.uniform(0.8, 1, 4)
        new = weighting.compare(ops.convert_to_tensor(after.astype("float32")), tensors(state))
        state |= {name: np.asarray(value) for name, value in new.items()}
        delta = np.log(above) - np.log(after - 0.001 + 1e-8)
        jacobian = np.diag(z) - np.outer(z, z)
        gradient = jacobian @ (delta * (present > 0)) + 0.1 * logits
        logits = logits + adam.change(gradient, present)
    np.testing.assert_allclose(state["logits"], logits, rtol=1e-3, atol=1e-4)


def test_gradnorm_learns_as_a_loop_does():
    weighting = tfmoe.GradNorm(alpha=0.7, learning_rate=0.05)
    state, weights, adam = weighting.start(4), np.ones(4), Adam(4, 0.05)
    first, rng = np.full(4, -1.0), np.random.default_rng(2)
    for losses, present in batches():
        found, state = weigh(weighting, losses, present, state)
        np.testing.assert_allclose(found, weights, rtol=1e-4)
        lengths = rng.uniform(0.5, 2, 4) * present  # of the gradients of plain losses
        gram = np.diag((weights * lengths) ** 2)
        new = weighting.learn(ops.convert_to_tensor(gram.astype("float32")), tensors(state))
        state |= {name: np.asarray(value) for name, value in new.items()}
        first = np.where((first < 0) & (present > 0), losses, first)
        some = np.flatnonzero(present)
        left = losses[some] / first[some]
        aim = np.mean((weights * lengths)[some]) * (left / np.mean(left)) ** 0.7
        gradient = np.zeros(4)
        gradient[some] = np.sign((weights * lengths)[some] - aim) * lengths[some] / lengths.max()
        weights = np.maximum(weights + adam.change(gradient, present), 1e-3)
        weights = weights / np.mean(weights)
    np.testing.assert_allclose(state["weights"], weights, rtol=1e-3)


def test_gradnorm_lengthens_the_gradients_of_slow_tasks():
    weighting = tfmoe.GradNorm()
    state = weighting.start(2)
    for step in range(60):
        losses = np.array([1.0, 0.98**step])  # the first does not move
        weights, state = weigh(weighting, losses, np.ones(2), state)
        gram = ops.convert_to_tensor(np.diag(weights**2).astype("float32"))
        new = weighting.learn(gram, tensors(state))
        state |= {name: np.asarray(value) for name, value in new.items()}
    assert weights[0] > 1.2 > 0.8 > weights[1]
    assert np.mean(weights) == pytest.approx(1)


def test_dual_balancing_has_running_means_of_lengths():
    weighting = tfmoe.DualBalancing(decay=0.6)
    state, sums, shares = weighting.start(3), np.zeros(3), np.zeros(3)
    rng = np.random.default_rng(0)
    for _ in range(5):
        norms = rng.uniform(0.5, 2, 3) * (rng.random(3) < 0.8)
        gram = ops.convert_to_tensor(np.diag(norms**2).astype("float32"))
        found = np.asarray(weighting.combine(gram, weighting.send(tensors(state))))
        new = weighting.learn(gram, tensors(state))
        state |= {name: np.asarray(value) for name, value in new.items()}
        some = norms > 0
        sums = np.where(some, 0.6 * sums + 0.4 * norms, sums)
        shares = np.where(some, 0.6 * shares + 0.4, shares)
        means = np.where(some, sums / np.maximum(shares, 1e-9), 0)
        expected = np.where(some, np.max(means) / np.maximum(means, 1e-9), 0)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    weights, _ = weigh(weighting, np.array([0.5, 2.0, 0.0]), np.ones(3), state)
    np.testing.assert_allclose(weights[:2], [2, 0.5], rtol=1e-5)
    assert np.isfinite(weights[2])


@pytest.mark.parametrize("name", WEIGHTINGS)
@given(seed=st.integers(0, 1000))
def test_a_task_without_a_label_changes_no_other(name, seed):
    rng = np.random.default_rng(seed)
    weighting = weighting_of(name)
    losses, absent = rng.uniform(0.1, 2, 3), int(rng.integers(3))
    present = 1 - np.eye(3)[absent]
    state = weighting.start(3)
    found, new = weigh(weighting, losses, present, state)
    assert np.all(np.isfinite(found))
    others = np.where(present > 0, losses, rng.uniform(5, 9))
    again, other = weigh(weighting, others, present, state)
    np.testing.assert_allclose(found * present, again * present, rtol=1e-6)
    for key in new:
        np.testing.assert_allclose(new[key], other[key], err_msg=key)
    if name in ("rlw", "dwa", "famo"):
        assert found[absent] == 0


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_no_label_at_all_gives_numbers(name):
    weighting = weighting_of(name)
    weights, state = weigh(weighting, np.zeros(3), np.zeros(3), weighting.start(3))
    assert np.all(np.isfinite(weights))
    for key, value in state.items():
        np.testing.assert_array_equal(np.isfinite(value), True, err_msg=key)


GIVEN = [
    tfmoe.Uncertainty(0.02, 5.0),
    tfmoe.DWA(3.0),
    tfmoe.RLW(7),
    tfmoe.GLS(),
    tfmoe.STCH(0.5, 2),
    tfmoe.FAMO(0.1, 0.0, 0.2),
    tfmoe.GradNorm(0.5, 0.1),
    tfmoe.PCGrad(5),
    tfmoe.MGDA(),
    tfmoe.CAGrad(1.5),
    tfmoe.AlignedMTL(),
    tfmoe.IMTLG(),
    tfmoe.NashMTL(),
    tfmoe.UPGrad(),
    tfmoe.DualBalancing(0.5),
]


def test_configs_survive_json():
    assert {type(weighting) for weighting in GIVEN} == set(WEIGHTINGS.values())
    for weighting in GIVEN:
        text = json.dumps(keras.saving.serialize_keras_object(weighting))
        again = keras.saving.deserialize_keras_object(json.loads(text))
        assert type(again) is type(weighting)
        assert again.get_config() == weighting.get_config()
        for name, value in weighting.get_config().items():
            assert getattr(weighting, name) == value
            assert type(weighting)().get_config()[name] != value
    assert repr(tfmoe.CAGrad(1.5)) == "CAGrad(c=1.5)"


def test_weightings_are_known_by_name():
    assert weighting_of(None) is weighting_of("fixed") is None
    assert isinstance(weighting_of("pcgrad"), tfmoe.PCGrad)
    assert weighting_of(GIVEN[0]) is GIVEN[0]
    with pytest.raises(ValueError, match=r"Received weighting='pcgrd'. Did you mean 'pcgrad'\?"):
        weighting_of("pcgrd")
    with pytest.raises(
        ValueError, match=r"an object such as tfmoe.PCGrad\(\). Received weighting="
    ):
        weighting_of(tfmoe.PCGrad)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tfmoe.Uncertainty(0), "`learning_rate` to be a finite number above 0"),
        (lambda: tfmoe.Uncertainty(limit=-1), "Received limit=-1"),
        (lambda: tfmoe.DWA(0), "Received temperature=0"),
        (lambda: tfmoe.STCH(mu=0), "Received mu=0"),
        (lambda: tfmoe.STCH(warm_up=0), "Received warm_up=0"),
        (lambda: tfmoe.RLW(-1), "Received seed=-1"),
        (lambda: tfmoe.FAMO(decay=-1), "Received decay=-1"),
        (lambda: tfmoe.FAMO(least=float("nan")), "Received least=nan"),
        (lambda: tfmoe.GradNorm(alpha=-1), "Received alpha=-1"),
        (lambda: tfmoe.CAGrad(-0.1), "Received c=-0.1"),
        (lambda: tfmoe.DualBalancing(1.0), "at least 0 and below 1. Received decay=1.0"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()
