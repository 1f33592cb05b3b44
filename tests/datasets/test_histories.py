"""What a user saw before a row, and nothing of the row itself."""

import os

import numpy as np
import pandas as pd
import pytest

import tfmoe
from tests.datasets.test_movielens import whole, write_ml_1m
from tfmoe.datasets import movielens_histories

needs_data = pytest.mark.skipif(
    not os.environ.get("TFMOE_DATA"), reason="set TFMOE_DATA to the folder of the data sets"
)


def within_users(rows, score):
    """The mean over users of the AUC of `watch` by a score, ties half."""
    rows = rows[["user_id", "watch"]].assign(score=score)
    rows["rank"] = rows.groupby("user_id")["score"].rank()
    ones = rows[rows["watch"] == 1].groupby("user_id")["rank"].agg(["sum", "count"])
    num, others = ones["count"], rows.groupby("user_id").size() - ones["count"]
    areas = (ones["sum"] - num * (num + 1) / 2) / (num * others)
    return float(areas[others > 0].mean())


@pytest.fixture(scope="module")
def split():
    return movielens_histories("ml-latest-small", max_length=10_000)


@pytest.mark.parametrize("official", [True, False])
def test_histories_hold_what_was_rated_before(official, tmp_path):
    split = movielens_histories(write_ml_1m(tmp_path / "ml-1m", official))
    rows = whole(split)
    seven = rows[(rows["user_id"] == 7) & (rows["watch"] == 1)].sort_values("place")
    assert seven["movie_id"].tolist() == [1, 2, 3]
    assert [seen.tolist() for seen in seven["seen"]] == [[], [1], [1, 2]]
    assert [kinds.tolist() for kinds in seven["seen_kinds"]] == [
        [],
        ["Animation"],
        ["Animation", "Action"],
    ]
    # Both readers know the order: user 1 rated the second movie first.
    first = rows[(rows["user_id"] == 1) & (rows["watch"] == 1)].sort_values("place")
    assert first["movie_id"].tolist() == [2, 1]


@needs_data
def test_a_histories_length_says_nothing_within_a_user(split):
    rows = whole(split)
    lengths = rows["seen"].map(len)
    assert within_users(rows, lengths) == pytest.approx(0.5, abs=1e-9)
    for part in (split.train, split.valid, split.test):
        assert within_users(part, part["seen"].map(len)) == pytest.approx(0.5, abs=0.002)


@needs_data
def test_a_planted_leak_is_found(split):
    """As if a history had the row's own movie, or rows of 0 came from anywhere."""
    rows = split.test
    own = rows["seen"].map(len) + rows["watch"]
    assert within_users(rows, own) > 0.6
    anywhere = np.where(rows["watch"] == 1, rows["seen"].map(len), 0)
    assert within_users(rows, anywhere) > 0.9


@needs_data
def test_parts_follow_each_other_in_time(split):
    rows = whole(split)
    assert not any(
        movie in seen for movie, seen in zip(rows["movie_id"], rows["seen"], strict=True)
    )
    assert (rows["seen"].map(len) == rows["place"]).all()
    assert (rows["seen_kinds"].map(len) == rows["place"]).all()
    for earlier, later in ((split.train, split.valid), (split.valid, split.test)):
        last = earlier.groupby("user_id")["place"].max()
        first = later.groupby("user_id")["place"].min()
        both = pd.concat([last, first], axis=1, keys=["last", "first"]).dropna()
        assert (both["last"] < both["first"]).all()
    sizes = rows[rows["watch"] == 1].groupby("user_id").size()
    tested = split.test[split.test["watch"] == 1].groupby("user_id").size()
    assert (tested == sizes // 10).all()
    zeros = rows[rows["watch"] == 0]
    assert not zeros.duplicated(["user_id", "place"]).any()
    assert not rows.duplicated(["user_id", "movie_id"]).any()


@needs_data
def test_the_schema_fits_the_table():
    split = movielens_histories("ml-latest-small", max_length=4)
    assert max(map(len, split.train["seen"])) == 4
    rows = split.train.sample(500, random_state=0)
    prep = tfmoe.Preprocessor(split.schema).fit(rows, progress=False)
    features, labels, _ = prep.arrays(rows)
    assert features["seen"].shape == features["seen_kinds"].shape == (500, 4)
    assert not {"place"} & set(features)
    assert np.isnan(labels["rating"]).any()
