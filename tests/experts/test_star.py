"""Networks that scenarios share, with factors of each."""

import numpy as np
import pytest
import tensorflow as tf

from tests.experts.test_experts import inputs, shake
from tests.oracles import reference
from tfmoe.experts.star import StarExperts

NETWORKS, SCENARIOS = 2, 3


def stars(layer):
    """The layer's networks as the oracle has them, one for each pair."""
    shared = [[pair[0].numpy() for pair in pairs] for pairs in layer.parts]
    own = [[pair[1].numpy() for pair in pairs] for pairs in layer.parts]
    return reference.star(shared, own, layer.num_scenarios)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("hidden_units", [(6,), (6, 4)])
def test_star_matches_reference(hidden_units, layer_norm):
    layer = StarExperts(NETWORKS, SCENARIOS, hidden_units, layer_norm=layer_norm)
    layer.build((None, 5))
    shake(layer)
    x = inputs(8, 5)
    chosen = np.random.default_rng(0).permuted(np.tile(np.arange(6), (8, 1)), axis=1)[:, :2]
    every = reference.experts(x, stars(layer))
    expected = np.take_along_axis(every, chosen[..., None], axis=1)
    np.testing.assert_allclose(layer(x, chosen=chosen), expected, rtol=1e-4, atol=1e-5)


def test_scenarios_start_alike_and_are_moved_by_their_own_rows_alone():
    layer = StarExperts(1, SCENARIOS, (6, 4))
    x, chosen = inputs(8, 5), np.array([[0], [1]] * 4)
    first = layer(x, chosen=chosen).numpy()
    # Rows of one scenario are multiplied together: other sizes are rounded otherwise.
    np.testing.assert_allclose(layer(x, chosen=np.full((8, 1), 2)), first, rtol=1e-4, atol=1e-5)
    owned = [own for pairs in layer.parts for _, own in pairs]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x, chosen=chosen) ** 2)
    for gradient in tape.gradient(loss, [own.value for own in owned]):
        moved = np.abs(gradient.numpy()[0]).reshape(SCENARIOS, -1).sum(axis=1) > 0
        assert moved.tolist() == [True, True, False]
