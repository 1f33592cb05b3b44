"""The shop in many markets is what it says it is."""

import numpy as np
import pandas as pd
import pytest

from tfmoe.datasets.markets import REGIONS, synthetic_markets


@pytest.fixture(scope="module")
def world():
    return synthetic_markets(markets_per_region=2, num_rows=300, num_test_rows=2000, seed=3)


def test_parts_have_as_many_rows_of_each_market(world):
    names = world.split.schema.task_names
    assert len(names) == len(world.regions) == 16
    assert [name.split("_")[0] for name in names] == list(world.regions)
    assert dict.fromkeys(world.regions) == dict.fromkeys(REGIONS)
    parts = (world.split.train, world.split.valid, world.split.test)
    for part, size in zip(parts, (300, 1000, 2000), strict=True):
        assert part["market"].value_counts().to_dict() == dict.fromkeys(names, size)
        assert part.columns[0] == "market"
        assert "probability" not in part
        assert set(part["bought"]) == {0, 1}


def test_the_same_arguments_give_the_same_table(world):
    again = synthetic_markets(markets_per_region=2, num_rows=300, num_test_rows=2000, seed=3)
    pd.testing.assert_frame_equal(again.split.train, world.split.train)
    np.testing.assert_array_equal(again.probability, world.probability)
    other = synthetic_markets(markets_per_region=2, num_rows=300, num_test_rows=2000, seed=4)
    assert not other.split.train.equals(world.split.train)


def test_labels_are_drawn_by_the_true_probability(world):
    bought, p = world.split.test["bought"].to_numpy(), world.probability
    assert len(p) == len(bought)
    for low in np.arange(0, 1, 0.1):
        own = (p >= low) & (p < low + 0.1)
        spread = np.sqrt(np.sum(p[own] * (1 - p[own])))
        assert abs(np.sum(bought[own] - p[own])) < 4 * spread


def test_markets_of_one_region_like_the_same_products(world):
    found = world.split.test.assign(p=world.probability)
    liked = found.pivot_table(index="product", columns="market", values="p")
    alike = liked[list(world.split.schema.task_names)].corr().to_numpy()
    same = np.equal.outer(world.regions, world.regions) & ~np.eye(16, dtype=bool)
    assert alike[same].mean() > alike[~same & ~np.eye(16, dtype=bool)].mean() + 0.2


@pytest.mark.parametrize("name", ["markets_per_region", "num_rows", "num_test_rows"])
def test_numbers_that_are_too_small_are_told(name):
    with pytest.raises(ValueError, match=f"{name}=0"):
        synthetic_markets(**{name: 0})
