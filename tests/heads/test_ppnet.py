"""Towers weighed by the ids that personalise."""

import numpy as np
import pytest

import tfmoe
from tests.experts.test_experts import networks, shake
from tests.features.test_epnet import rows
from tests.oracles import reference

OUTPUTS, UNITS = (1, 3), (6, 4)


def built():
    gate = tfmoe.PPNet(["user"], (5,), num_tasks=2, tower_units=UNITS)
    towers = tfmoe.Towers(OUTPUTS, UNITS)
    gate.build((None, 7), (None, 3))
    towers.build((None, 2, 7))
    shake(gate)
    shake(towers)
    return gate, towers


def gates_of(gate, x, prior):
    """For each row and task the weights of both hidden layers, one after the other."""
    given = np.concatenate([prior, x], axis=1)
    hidden = reference.experts(given, networks(gate.hidden))[:, 0]
    scores = np.einsum("bh,ths->bts", hidden, gate.kernel.numpy()) + gate.bias.numpy()
    return 2 / (1 + np.exp(-scores))


def expected(gate, towers, x, prior, hidden):
    """Logits of every row and task: by loops."""
    factors = gates_of(gate, x, prior)
    found = []
    for t, size in enumerate(OUTPUTS):
        layers = networks(towers.hidden)[t]
        logits = []
        for row, factor in zip(hidden[:, t], factors[:, t], strict=True):
            start = 0
            for layer, units in zip(layers, UNITS, strict=True):
                row = reference.network(row, [layer]) * factor[start : start + units]
                start += units
            kernel, bias = towers.kernel.numpy()[t], towers.bias.numpy()[t]
            logits.append((row @ kernel + bias)[:size])
        found.append(np.array(logits))
    return found


def test_gated_towers_match_reference():
    gate, towers = built()
    x, prior, hidden = rows(6, 7), rows(6, 3, seed=1), rows(6, 2, 7, seed=2)
    gates = gate(x, prior)
    assert [tuple(one.shape) for one in gates] == [(6, 2, 6), (6, 2, 4)]
    for got, want in zip(
        towers(hidden, gates=gates), expected(gate, towers, x, prior, hidden), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_row_of_one_task_gets_its_own_gate(one_by_one, monkeypatch):
    gate, towers = built()
    monkeypatch.setattr(tfmoe.Towers, "_dispatch_pays", lambda self: one_by_one)
    x, prior, hidden = rows(6, 7), rows(6, 3, seed=1), rows(6, 1, 7, seed=2)
    task = np.array([0, 1, 1, 0, 1, 0], "int32")
    got = towers(hidden, task=task, gates=gate(x, prior)).numpy()
    want = expected(gate, towers, x, prior, np.repeat(hidden, 2, axis=1))
    for row, t in enumerate(task):
        np.testing.assert_allclose(got[row, : OUTPUTS[t]], want[t][row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": []}, "names of columns that personalise"),
        ({"columns": ["user"], "hidden_units": ()}, "at least one hidden layer"),
        ({"columns": ["user"], "tower_units": ()}, "without any. Give them some"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfmoe.PPNet(**arguments)
