"""Rows in two parts, drawn by a seed: the same in every epoch and from every source."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfmoe import Binary, Numeric, Preprocessor, Schema
from tfmoe.data.batch.part import Part

SCHEMA = Schema([Numeric("x", transform="none")], [Binary("click")])


def table(num_rows=1000):
    return pd.DataFrame({"x": np.arange(num_rows, dtype=float), "click": 0.0})


def values(dataset):
    return np.concatenate([features["x"] for features, *_ in dataset.as_numpy_iterator()])


@given(
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31),
    fragment=st.integers(0, 99),
    cut=st.integers(0, 500),
)
def test_every_row_is_in_one_part_wherever_its_chunk_begins(share, seed, fragment, cut):
    held, rest = (Part(share, seed, side) for side in (True, False))
    whole = held.mask(fragment, 0, 500)
    np.testing.assert_array_equal(whole, ~rest.mask(fragment, 0, 500))
    pieces = [held.mask(fragment, 0, cut), held.mask(fragment, cut, 500 - cut)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_a_part_has_its_share():
    masks = [Part(0.1, 0, True).mask(fragment, 0, 100_000) for fragment in range(3)]
    assert [mask.mean() for mask in masks] == pytest.approx([0.1] * 3, abs=0.005)
    assert not np.array_equal(masks[0], masks[1])


@pytest.mark.parametrize("kind", ["frame", "csv", "parquet"])
def test_parts_are_disjoint_complete_and_the_same_in_each_epoch(kind, tmp_path):
    rows = table()
    source = rows
    if kind != "frame":
        source = tmp_path
        for i, part in enumerate(np.array_split(np.arange(1000), 3)):
            write = rows.iloc[part].to_csv if kind == "csv" else rows.iloc[part].to_parquet
            write(tmp_path / f"{i}.{kind}", index=False)
    train, valid = Preprocessor(SCHEMA).split(source, batch_size=64, share=0.2)
    first, second = values(train), values(train)
    held = values(valid)
    assert 100 < len(held) < 300
    np.testing.assert_array_equal(np.sort(np.concatenate([first, held])), rows["x"])
    np.testing.assert_array_equal(np.sort(first), np.sort(second))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(values(valid), held)


@pytest.mark.parametrize("share", [0, 1, 1.5])
def test_a_share_is_part_of_the_rows(share):
    with pytest.raises(ValueError, match="share"):
        Preprocessor(SCHEMA).split(table(), share=share)
