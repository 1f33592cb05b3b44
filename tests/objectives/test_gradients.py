"""Combinations of gradients against loops over the Jacobian, and the laws that each obeys."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from tests.oracles import gradients as oracles
from tfmoe.objectives.gradients import balance, descent


def nash(gram):
    """Of length 1, as `NashMTL` has it."""
    num = ops.sum(ops.cast(ops.diagonal(gram) > 0, gram.dtype))
    return descent.nash_mtl(gram) / ops.sqrt(ops.maximum(num, 1))


def of_norms(gram):
    return balance.dual_balancing(ops.sqrt(ops.diagonal(gram)))


def in_order(gram):
    return balance.pcgrad(gram, ops.arange(gram.shape[0]))


METHODS = {
    "mgda": (descent.mgda, oracles.mgda),
    "cagrad": (lambda gram: descent.cagrad(gram, 0.4), lambda j: oracles.cagrad(j, 0.4)),
    "cagrad_1.5": (lambda gram: descent.cagrad(gram, 1.5), lambda j: oracles.cagrad(j, 1.5)),
    "upgrad": (descent.upgrad, oracles.upgrad),
    "nash_mtl": (nash, oracles.nash_mtl),
    "aligned_mtl": (balance.aligned_mtl, oracles.aligned_mtl),
    "imtl_g": (balance.imtl_g, oracles.imtl_g),
    "pcgrad": (in_order, lambda j: oracles.pcgrad(j, range(len(j)))),
    "dual_balancing": (of_norms, oracles.dual_balancing),
}
each_method = pytest.mark.parametrize("name", METHODS)
seeds = st.integers(0, 10_000)


@functools.cache
def graph_of(name):
    return tf.function(METHODS[name][0])


def combined(name, jacobian, dtype="float64"):
    """A method's combination `(n,)`."""
    gram = ops.convert_to_tensor((jacobian @ jacobian.T).astype(dtype))
    return np.asarray(graph_of(name)(gram), "float64") @ jacobian


def jacobian_of(seed, num=None, size=12):
    """Rows of different lengths, of which some are at odds."""
    rng = np.random.default_rng(seed)
    num = num or int(rng.integers(1, 5))
    rows = rng.normal(size=(num, size))
    rows -= 0.7 * rng.random() * rows.mean(axis=0)
    return rows * rng.uniform(0.3, 3, (num, 1))


@pytest.mark.quick(5)
@each_method
@given(seed=seeds)
def test_combination_matches_a_loop_over_the_jacobian(name, seed):
    jacobian = jacobian_of(seed)
    expected = METHODS[name][1](jacobian)
    atol = 1e-5 * np.abs(jacobian).max()
    np.testing.assert_allclose(combined(name, jacobian), expected, rtol=1e-4, atol=atol)


@pytest.mark.quick(3)
@each_method
@given(seed=seeds)
def test_single_precision_is_enough(name, seed):
    jacobian = jacobian_of(seed)
    atol = 2e-3 * np.abs(jacobian).max()
    exact = combined(name, jacobian)
    np.testing.assert_allclose(combined(name, jacobian, "float32"), exact, rtol=5e-3, atol=atol)


@pytest.mark.parametrize("name", ["cagrad", "cagrad_1.5"])
def test_cagrad_of_single_precision_is_exact_to_its_rounding(name):
    for seed in range(40):
        jacobian = jacobian_of(seed)
        expected = METHODS[name][1](jacobian)
        away = np.linalg.norm(combined(name, jacobian, "float32") - expected)
        assert away < 2e-6 * np.linalg.norm(expected), seed


@pytest.mark.quick(3)
@pytest.mark.parametrize("name", [name for name in METHODS if name != "pcgrad"])
@given(seed=seeds)
def test_the_order_of_tasks_does_not_matter(name, seed):
    jacobian = jacobian_of(seed)
    shuffled = np.random.default_rng(seed).permutation(jacobian)
    expected = combined(name, jacobian)
    np.testing.assert_allclose(combined(name, shuffled), expected, rtol=1e-5, atol=1e-6)


@given(seed=seeds)
def test_pcgrad_goes_by_the_order(seed):
    jacobian = jacobian_of(seed, num=4)
    order = np.random.default_rng(seed).permutation(4)
    gram = ops.convert_to_tensor(jacobian @ jacobian.T)
    found = np.asarray(balance.pcgrad(gram, ops.convert_to_tensor(order))) @ jacobian
    np.testing.assert_allclose(found, oracles.pcgrad(jacobian, order), rtol=1e-6, atol=1e-9)


@each_method
@pytest.mark.parametrize("length", [1e-6, 1.0, 1e6])
def test_a_single_task_gives_its_gradient(name, length):
    jacobian = length * jacobian_of(3, num=1)
    factor = {"cagrad": 1.4, "cagrad_1.5": 2.5, "nash_mtl": 1 / np.linalg.norm(jacobian)}
    expected = factor.get(name, 1) * jacobian[0]
    np.testing.assert_allclose(combined(name, jacobian, "float32"), expected, rtol=1e-4)


@pytest.mark.quick(6)
@each_method
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_alike_gradients_give_their_direction(name, dtype):
    row = jacobian_of(5, num=1)[0]
    found = combined(name, np.stack([row] * 4), dtype)
    cosine = found @ row / np.linalg.norm(found) / np.linalg.norm(row)
    assert cosine == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", ["mgda", "imtl_g"])
@given(seed=seeds)
def test_a_task_that_is_there_twice_changes_nothing(name, seed):
    jacobian = jacobian_of(seed, num=3)
    twice = np.concatenate([jacobian, jacobian[:1]])
    expected = combined(name, jacobian)
    np.testing.assert_allclose(combined(name, twice), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["upgrad", "mgda", "nash_mtl", "cagrad_1.5"])
@given(seed=seeds)
def test_no_task_gets_worse(name, seed):
    jacobian = jacobian_of(seed)
    found = combined(name, jacobian)
    lengths = np.linalg.norm(jacobian, axis=1) * np.linalg.norm(found)
    assert np.min(jacobian @ found / np.maximum(lengths, 1e-30)) > -1e-6


def test_others_may_make_a_task_worse():
    for name in ("pcgrad", "aligned_mtl"):
        worst = min(
            np.min(jacobian @ combined(name, jacobian))
            for jacobian in (jacobian_of(seed, num=4, size=4) for seed in range(30))
        )
        assert worst < 0, name


@pytest.mark.quick(3)
@each_method
@given(seed=seeds)
def test_an_absent_task_changes_nothing(name, seed):
    jacobian = jacobian_of(seed, num=3)
    absent = np.insert(jacobian, seed % 4, 0, axis=0)
    expected = combined(name, jacobian)
    np.testing.assert_allclose(combined(name, absent), expected, rtol=1e-5, atol=1e-7)
    weights = np.asarray(METHODS[name][0](ops.convert_to_tensor(absent @ absent.T)))
    assert weights[seed % 4] == 0


@each_method
def test_no_task_at_all_gives_numbers(name):
    weights = METHODS[name][0](ops.zeros((3, 3), "float32"))
    np.testing.assert_array_equal(weights, np.zeros(3))


@pytest.mark.quick(3)
@pytest.mark.parametrize("name", [name for name in METHODS if name != "nash_mtl"])
@given(seed=seeds, power=st.sampled_from([-12, 15]))
def test_the_unit_of_losses_only_scales(name, seed, power):
    jacobian = jacobian_of(seed)
    found = combined(name, 2.0**power * jacobian, "float32") / 2.0**power
    atol = 1e-3 * np.abs(jacobian).max()
    np.testing.assert_allclose(found, combined(name, jacobian, "float32"), rtol=2e-3, atol=atol)


@each_method
def test_gradients_that_cancel_give_numbers(name):
    row = jacobian_of(7, num=1)[0]
    found = combined(name, np.stack([row, -row]), "float32")
    assert np.all(np.isfinite(found))
    if name in ("mgda", "upgrad", "pcgrad"):
        np.testing.assert_allclose(found, 0, atol=1e-3)


@pytest.mark.slow
def test_they_run_compiled():
    gram = tf.constant(jacobian_of(1, num=3) @ jacobian_of(1, num=3).T, "float32")

    def all_of(gram):
        return [method(gram) for method in (descent.mgda, descent.upgrad, balance.imtl_g)]

    compiled = tf.function(all_of, jit_compile=True)(gram)
    for found, expected in zip(compiled, all_of(gram), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
