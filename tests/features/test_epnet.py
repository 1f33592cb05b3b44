"""Inputs weighed by what the scenario makes of them."""

import numpy as np
import pytest
import tensorflow as tf

import tfmoe
from tests.experts.test_experts import networks, shake
from tests.oracles import reference


def rows(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def built(hidden_units=(4,)):
    layer = tfmoe.EPNet(hidden_units)
    layer.build((None, 5), (None, 3))
    shake(layer)
    return layer


def weights(layers, x, prior):
    """`2 sigmoid(MLP([prior; x]))` of every row."""
    given = np.concatenate([prior, x], axis=1)
    hidden = np.array([reference.network(row, layers[:-1]) for row in given])
    return 2 / (1 + np.exp(-(hidden @ layers[-1][0] + layers[-1][1])))


@pytest.mark.parametrize("hidden_units", [(4,), (4, 3)])
def test_epnet_matches_reference(hidden_units):
    layer, x, prior = built(hidden_units), rows(6, 5), rows(6, 3, seed=1)
    expected = x * weights(networks(layer.network)[0], x, prior)
    np.testing.assert_allclose(layer(x, prior), expected, rtol=1e-4, atol=1e-5)


def test_no_gradient_reaches_the_inputs_through_the_weights():
    layer, x, prior = built(), tf.constant(rows(6, 5)), tf.constant(rows(6, 3, seed=1))
    with tf.GradientTape() as tape:
        tape.watch([x, prior])
        outputs = layer(x, prior)
    of_x, of_prior = tape.gradient(outputs, [x, prior])
    np.testing.assert_allclose(of_x, outputs / x, rtol=1e-4, atol=1e-5)
    assert np.abs(of_prior).max() > 0
