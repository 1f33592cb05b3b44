"""One network of which every scenario has a form of its own."""

import keras
import numpy as np
import pytest

import tfmoe
from tests.experts.test_experts import inputs, networks, shake
from tests.experts.test_star import stars
from tests.oracles import reference

TASKS, SCENARIOS = 2, 4


def built(**options):
    structure = tfmoe.STAR(TASKS, SCENARIOS, (6, 4), (3,), **options)
    structure.build((None, 5))
    shake(structure)
    return structure


@pytest.mark.parametrize("layer_norm", [False, True])
def test_star_matches_reference(layer_norm):
    structure, x = built(layer_norm=layer_norm), inputs(9, 5)
    scenario = np.arange(9) % SCENARIOS
    own = reference.experts(x, stars(structure.network))[np.arange(9), scenario]
    (layers,) = networks(structure.auxiliary)
    hidden = np.array([reference.network(row, layers[:-1]) for row in x])
    common = hidden @ layers[-1][0] + layers[-1][1]
    expected = np.repeat(np.concatenate([own, common], axis=1)[:, None], TASKS, axis=1)
    given = {"scenario": scenario}
    outputs, records = structure(x, context=given, return_aux=True)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    assert (records, structure.gates, structure.shared_point()) == ([], [], "outputs")
    one = structure(x, task=np.zeros(9, "int32"), context=given)
    np.testing.assert_allclose(one, expected[:, :1], rtol=1e-4, atol=1e-5)


def test_a_row_without_a_scenario_is_refused():
    with pytest.raises(ValueError, match="name its column by Schema"):
        built()(inputs(2, 5))


def test_counts_are_checked():
    with pytest.raises(ValueError, match="num_scenarios"):
        tfmoe.STAR(2, 0)
    with pytest.raises(ValueError, match="num_scenarios"):
        tfmoe.STAR(2)(inputs(2, 5), context={"scenario": np.zeros(2, "int32")})


def test_the_auxiliary_network_starts_as_it_is_told():
    ones = keras.initializers.Constant(0.5)
    star = tfmoe.STAR(2, 3, hidden_units=(4,), kernel_initializer=ones)
    star(np.ones((2, 5)), context={"scenario": np.array([0, 1])})
    assert all((kernel.numpy() == 0.5).all() for kernel in star.auxiliary.kernels)
