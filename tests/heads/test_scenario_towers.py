"""Towers that every scenario has in a form of its own."""

import numpy as np
import pytest

import tfmoe
from tests.experts.test_experts import shake
from tests.experts.test_star import stars
from tests.features.test_epnet import rows
from tests.oracles import reference

OUTPUTS, SCENARIOS = (1, 3), 4


def built(hidden_units):
    towers = tfmoe.ScenarioTowers(OUTPUTS, SCENARIOS, hidden_units)
    towers.build((None, 2, 5))
    shake(towers)
    return towers


def expected(towers, x, scenario):
    """Logits `(b, t, 3)` by loops; what a task has no outputs for is not looked at."""
    hidden, last = (stars(part) for part in (towers.hidden, towers.last))
    found = np.zeros((len(x), 2, 3))
    for b, s in enumerate(scenario):
        for t in range(2):
            pair = t * SCENARIOS + s
            ((kernel, bias),) = last[pair]
            found[b, t] = reference.network(x[b, t], hidden[pair]) @ kernel + bias
    return found


@pytest.mark.parametrize("hidden_units", [(6,), (6, 4)])
def test_scenario_towers_match_reference(hidden_units):
    towers, x, scenario = built(hidden_units), rows(9, 2, 5), np.arange(9) % SCENARIOS
    want = expected(towers, x, scenario)
    for t, (got, size) in enumerate(zip(towers(x, scenario=scenario), OUTPUTS, strict=True)):
        np.testing.assert_allclose(got, want[:, t, :size], rtol=1e-4, atol=1e-5)


def test_without_hidden_layers_the_last_one_is_the_scenarios():
    towers, x, scenario = tfmoe.ScenarioTowers(OUTPUTS, SCENARIOS, ()), rows(9, 2, 5), [3] * 9
    towers.build((None, 2, 5))
    shake(towers)
    ((kernel, bias),) = stars(towers.last)[3]
    np.testing.assert_allclose(
        towers(x, scenario=np.array(scenario))[0], (x[:, 0] @ kernel + bias)[:, :1], rtol=1e-4
    )


def test_a_row_of_one_task_gets_its_own_tower():
    towers, x, scenario = built((6, 4)), rows(9, 1, 5), np.arange(9) % SCENARIOS
    task = np.arange(9, dtype="int32") % 2
    want = expected(towers, np.repeat(x, 2, axis=1), scenario)
    got = towers(x, task=task, scenario=scenario).numpy()
    for b, t in enumerate(task):
        np.testing.assert_allclose(
            got[b, : OUTPUTS[t]], want[b, t, : OUTPUTS[t]], rtol=1e-4, atol=1e-5
        )


def test_gates_multiply_hidden_units():
    towers, x, scenario = built((6,)), rows(9, 2, 5), np.arange(9) % SCENARIOS
    plain = towers(x, scenario=scenario)
    ones = towers(x, scenario=scenario, gates=[np.ones((9, 2, 6), "float32")])
    np.testing.assert_allclose(ones[1], plain[1], rtol=1e-5, atol=1e-6)
    none = towers(x, scenario=scenario, gates=[np.zeros((9, 2, 6), "float32")])
    biases = np.array([stars(towers.last)[s][0][1][0] for s in scenario])
    np.testing.assert_allclose(none[0][:, 0], biases, rtol=1e-5, atol=1e-6)
