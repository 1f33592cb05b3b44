"""Quantiles of columns that are too long to hold: they repeat, merge and are stored."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfmoe import Binary, Numeric, Preprocessor, Schema
from tfmoe.data.fit import sketches
from tfmoe.data.fit.sketches import RANK_ERROR, Quantiles


def sketch(values, parts=1):
    made = Quantiles()
    for part in np.array_split(np.asarray(values, "float64"), parts):
        made.add(part)
    return made


def lognormal(rows=50_000, seed=0):
    return np.random.default_rng(seed).lognormal(size=rows)


def worst(made, values, num=64):
    """The largest error of a rank, as a share of the rows; of equal numbers the nearest counts."""
    values, cuts = np.sort(values), made.boundaries(num)
    wanted = np.arange(1, num) / num
    low, high = (
        np.searchsorted(values, cuts, side=side) / len(values) for side in ("left", "right")
    )
    gaps = np.maximum(low[None] - wanted[:, None], wanted[:, None] - high[None])
    return np.maximum(gaps, 0).min(axis=1).max()


def test_two_fits_of_one_table_are_equal(tmp_path):
    schema = Schema([Numeric("x", transform="buckets", num_buckets=50)], [Binary("y")])
    rows = pd.DataFrame({"x": lognormal(), "y": 0})
    rows.to_parquet(tmp_path / "rows.parquet", row_group_size=7_000)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    # Cut into other chunks, too.
    sources = (rows, rows, tmp_path / "rows.parquet", tmp_path / "rows.csv")
    fits = [Preprocessor(schema).fit(source, progress=False) for source in sources]
    for one in fits[1:]:
        np.testing.assert_array_equal(one.numeric["x"].boundaries, fits[0].numeric["x"].boundaries)
    fits[0].save(tmp_path / "saved")
    merged = [
        a.merge(b).numeric["x"].boundaries
        for a, b in ((fits[0], fits[1]), (fits[1], Preprocessor.load(tmp_path / "saved")))
    ]
    np.testing.assert_array_equal(*merged)


def test_boundaries_are_what_they_were():
    """In another process, on another day."""
    found = sketch(lognormal()).boundaries(5)
    np.testing.assert_allclose(found, BOUNDARIES, rtol=1e-12)


BOUNDARIES = [0.4292723645199011, 0.7734563779208821, 1.293691117616442, 2.3281909172822637]


@pytest.mark.parametrize("kind", ["spread", "sorted", "few values", "one value", "in turns"])
@pytest.mark.parametrize("parts", [1, 30])
def test_ranks_are_within_the_stated_error(kind, parts):
    values = lognormal(150_000)
    values = {
        "spread": values,
        "sorted": np.sort(values),
        "few values": np.round(values),
        "one value": np.full(150_000, 3.0),
        "in turns": np.resize(np.sort(values[:1000]), 150_000),
    }[kind]
    assert worst(sketch(values), values) < RANK_ERROR
    merged = Quantiles()
    for part in np.array_split(values, parts):
        merged = merged.merge(sketch(part))
    assert worst(merged, values) < RANK_ERROR
    assert sketch(values, parts).to_bytes() == sketch(values).to_bytes()


@given(st.lists(st.floats(allow_nan=True), max_size=40), st.integers(2, 9))
def test_few_numbers_are_not_halved(values, num):
    kept = np.sort([value for value in values if np.isfinite(value)])
    places = np.floor(np.arange(1, num) / num * len(kept)).astype(int)
    found = sketch(values).boundaries(num)
    np.testing.assert_array_equal(found, np.unique(kept[places]) if len(kept) else [])


def test_a_sketch_holds_no_more_than_its_buffers(monkeypatch):
    monkeypatch.setattr(sketches, "_BUFFER", 64)
    made = sketch(lognormal(20_000))
    assert sum(map(len, made._levels)) < 64 * 10
    again = Quantiles.from_bytes(made.to_bytes())
    assert again.to_bytes() == made.to_bytes()
    assert again.merge(made).to_bytes() == made.merge(again).to_bytes()


def test_sketches_of_earlier_versions_go_on():
    datasketches = pytest.importorskip("datasketches")
    values = lognormal(100_000)
    theirs = datasketches.kll_doubles_sketch(4096)
    theirs.update(values)
    read = Quantiles.from_bytes(theirs.serialize())
    assert worst(read, values) < 4 * RANK_ERROR
    more = lognormal(60_000, seed=1)
    assert worst(read.merge(sketch(more)), np.r_[values, more]) < 4 * RANK_ERROR
    assert (
        len(Quantiles.from_bytes(datasketches.kll_doubles_sketch(4096).serialize()).boundaries(4))
        == 0
    )


@pytest.mark.parametrize(
    "change", [lambda b: b[:-1], lambda b: b[:20], lambda b: b"nothing", lambda b: b + b"0"]
)
def test_bytes_that_are_no_sketch_are_refused(change):
    with pytest.raises(ValueError, match=r"bytes that are none\. Fit and save again"):
        Quantiles.from_bytes(change(sketch(lognormal(100)).to_bytes()))
