import numpy as np
import pytest

import tfmoe
from tests.oracles import funnel
from tfmoe.heads.extended import towers_of
from tfmoe.heads.tower_links import AttentionLink, ConcatLink, links_of

CHAIN = [
    tfmoe.Binary("refund", given="buy", link="dbmtl"),
    tfmoe.Binary("click"),
    tfmoe.Binary("like"),
    tfmoe.Binary("buy", given="click", link="aitm"),
]


def hidden(num, units=6, seed=0):
    return np.random.default_rng(seed).normal(size=(5, num, units)).astype("float32")


def test_links_come_in_the_order_of_the_chain():
    assert list(links_of(CHAIN).items()) == [("3", ("aitm", 1)), ("0", ("dbmtl", 3))]


def test_attention_along_the_chain_matches_reference():
    link = AttentionLink()
    own, parent = hidden(2)[:, 0], hidden(2)[:, 1]
    found = np.asarray(link(own, parent))
    names = ("info", "info_bias", "key", "query", "value")
    weights = [np.asarray(getattr(link, name), "float64") for name in names]
    expected = [funnel.attention_link(o, p, *weights) for o, p in zip(own, parent, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_tower_that_reads_its_parents_matches_reference():
    link = ConcatLink()
    own, parent = hidden(2)[:, 0], hidden(2)[:, 1]
    found = np.asarray(link(own, parent))
    expected = np.maximum(np.concatenate([own, parent], 1) @ np.asarray(link.kernel), 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_towers_of_some_tasks_keep_their_links():
    towers = towers_of(CHAIN, 0, hidden_units=(4,))
    inputs = hidden(4)
    whole = towers(inputs)
    rows = [1, 3]
    part = towers_of([CHAIN[row] for row in rows], 0, hidden_units=(4,))
    part.build((None, 2, 6))
    part.copy_from(towers, rows)
    for found, row in zip(part(inputs[:, rows]), rows, strict=True):
        np.testing.assert_allclose(found, whole[row], rtol=1e-5, atol=1e-6)


def test_only_linked_towers_read_others():
    towers = towers_of(CHAIN, 0, hidden_units=(4,))
    before = towers(hidden(4))
    changed = hidden(4)
    changed[:, 1] += 1  # the click's
    after = towers(changed)
    moved = [not np.allclose(a, b) for a, b in zip(before, after, strict=True)]
    assert moved == [True, True, False, True]


def test_links_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r'scenario_towers=True\. Use link="esmm"'):
        towers_of(CHAIN, 0, num_scenarios=3)
    with pytest.raises(ValueError, match="tower of a task that add_task adds stands apart"):
        towers_of([CHAIN[1], CHAIN[3]], 1)
