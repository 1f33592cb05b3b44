"""Where gradients of tasks meet: what they are there, and what becomes of them."""

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tfmoe.compute.math import mix
from tfmoe.compute.shared import Combination, combining, fan_out, mix_shared, shared_outputs

B, T, E, U = 6, 3, 4, 5
RNG = np.random.default_rng(0)
OUTPUTS = RNG.normal(size=(B, E, U)).astype("float32")
WEIGHTS = RNG.random(size=(B, T, E)).astype("float32")
UPSTREAM = RNG.normal(size=(B, T, U)).astype("float32")
CHOSEN = np.array([0.5, -2.0, 3.0], "float32")
TASK = np.array([2, 0, 2, 1, 0, 2], "int32")


def backward(function, values, upstream, scale=1.0, sent=None):
    """A step's combination, and the gradients of values."""
    seen = {}

    def weigh(gram, received):
        seen["received"] = np.asarray(received)
        return ops.convert_to_tensor(CHOSEN)

    combination = Combination(T, weigh, 0 if sent is None else len(sent))
    values = [tf.constant(value) for value in values]
    with tf.GradientTape() as tape, combining(combination):
        tape.watch(values)
        found = function(*values)
        loss = ops.sum(ops.cast(found, "float32") * upstream)
        loss = scale * (loss + combination.linked(None if sent is None else ops.array(sent)))
    return combination, [np.asarray(g) for g in tape.gradient(loss, values)], seen, found


def gradients_of(weights):
    """Each task's gradient at the experts' outputs, `(t, b * e * u)`."""
    own = np.zeros((T, B, E, U))
    for t in range(T):
        for b in range(B):
            for e in range(E):
                own[t, b, e] = weights[b if len(weights) > 1 else 0, t, e] * UPSTREAM[b, t]
    return own.reshape(T, -1)


@pytest.mark.parametrize("rows", [B, 1])
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_a_mix_combines_what_comes_to_the_outputs(rows, scale):
    weights = WEIGHTS[:rows]
    combination, found, _, outputs = backward(mix_shared, [OUTPUTS, weights], UPSTREAM, scale)
    np.testing.assert_allclose(outputs, mix(OUTPUTS, weights), rtol=1e-6)
    jacobian = gradients_of(weights)
    np.testing.assert_allclose(combination.gram, jacobian @ jacobian.T, rtol=1e-4)
    expected = (CHOSEN @ jacobian).reshape(B, E, U)
    np.testing.assert_allclose(found[0] / scale, expected, rtol=1e-4, atol=1e-5)
    plain = np.einsum("btu,beu->bte", UPSTREAM, OUTPUTS)
    plain = plain if rows > 1 else plain.sum(axis=0, keepdims=True)
    np.testing.assert_allclose(found[1] / scale, plain, rtol=1e-4, atol=1e-5)


def test_outputs_that_are_alike_are_combined_too():
    shared = OUTPUTS[:, 0]
    for function in (
        lambda z: shared_outputs(ops.repeat(z[:, None], T, axis=1)),
        lambda z: fan_out(z, T),
    ):
        combination, (found,), _, outputs = backward(function, [shared], UPSTREAM)
        np.testing.assert_array_equal(outputs, np.repeat(shared[:, None], T, axis=1))
        jacobian = UPSTREAM.transpose(1, 0, 2).reshape(T, -1)
        np.testing.assert_allclose(combination.gram, jacobian @ jacobian.T, rtol=1e-4)
        np.testing.assert_allclose(found, np.einsum("btu,t->bu", UPSTREAM, CHOSEN), rtol=1e-4)


def test_a_tensor_of_any_rank_may_be_shared():
    upstream = RNG.normal(size=(B, T, E, U)).astype("float32")
    combination, (found,), _, _ = backward(lambda z: fan_out(z, T), [OUTPUTS], upstream)
    jacobian = upstream.transpose(1, 0, 2, 3).reshape(T, -1)
    np.testing.assert_allclose(combination.gram, jacobian @ jacobian.T, rtol=1e-4)
    expected = np.einsum("bteu,t->beu", upstream, CHOSEN)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rows", [B, 1])
def test_rows_of_one_task_each_have_orthogonal_gradients(rows):
    weights, upstream = WEIGHTS[:rows, :1], UPSTREAM[:, :1]

    def mixed(outputs, weights):
        return mix_shared(outputs, weights, ops.convert_to_tensor(TASK))

    combination, found, _, _ = backward(mixed, [OUTPUTS, weights], upstream)
    jacobian = np.zeros((T, B, E, U))
    for b, t in enumerate(TASK):
        jacobian[t, b] = weights[b % rows, 0][:, None] * upstream[b, 0]
    jacobian = jacobian.reshape(T, -1)
    np.testing.assert_allclose(combination.gram, jacobian @ jacobian.T, rtol=1e-4)
    expected = (CHOSEN @ jacobian).reshape(B, E, U)
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-6)
    plain = np.einsum("btu,beu->bte", upstream, OUTPUTS)
    plain = plain if rows > 1 else plain.sum(axis=0, keepdims=True)
    np.testing.assert_allclose(found[1], plain, rtol=1e-4, atol=1e-5)

    def slices(z):
        return fan_out(z, T, ops.convert_to_tensor(TASK))

    combination, (found,), _, outputs = backward(slices, [OUTPUTS[:, 0]], upstream)
    assert outputs.shape == (B, 1, U)
    np.testing.assert_allclose(found, CHOSEN[TASK][:, None] * upstream[:, 0], rtol=1e-5)


def test_numbers_come_to_the_backward_pass_whatever_the_scale():
    sent = np.array([3.0, -0.25, 1e-3], "float32")
    _, _, seen, _ = backward(mix_shared, [OUTPUTS, WEIGHTS], UPSTREAM, 4096.0, sent)
    np.testing.assert_allclose(seen["received"], sent, rtol=1e-6)


def test_a_gradient_that_is_not_finite_stays_so():
    upstream = UPSTREAM.copy()
    upstream[0, 0, 0] = np.inf
    asked = []

    def weigh(gram, received):
        asked.append(np.asarray(gram))
        return ops.convert_to_tensor(CHOSEN)

    combination, value = Combination(T, weigh), tf.constant(OUTPUTS[:, 0])
    with tf.GradientTape() as tape, combining(combination):
        tape.watch(value)
        loss = ops.sum(fan_out(value, T) * upstream) + combination.linked(None)
    assert not np.any(np.isfinite(tape.gradient(loss, value)))
    np.testing.assert_array_equal(asked[0], np.zeros((T, T)))


def test_only_one_tensor_is_shared():
    with combining(Combination(T, lambda gram, _: gram[0])):
        fan_out(OUTPUTS, T)
        with pytest.raises(ValueError, match="Received a second call in one step"):
            fan_out(OUTPUTS, T)


def test_without_a_combination_nothing_is_added():
    np.testing.assert_array_equal(mix_shared(OUTPUTS, WEIGHTS), mix(OUTPUTS, WEIGHTS))
    assert shared_outputs(OUTPUTS) is OUTPUTS
