import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr
from sklearn.metrics import roc_auc_score

from tfmoe.datasets import synthetic as module
from tfmoe.datasets.synthetic import synthetic_ratings

DEFAULTS = {"num_rows": 200_000, "num_users": 1000, "num_movies": 500, "conflict": 0.5, "seed": 0}


@pytest.fixture(scope="module")
def default():
    return synthetic_ratings()


@pytest.fixture(scope="module")
def world():
    return module._draw(**DEFAULTS)


def whole(split):
    return pd.concat([split.train, split.valid, split.test], ignore_index=True)


def test_columns_are_those_of_the_schema(default):
    schema = default.schema
    inputs = [column.raw_name for column in schema.columns]
    assert set(whole(default).columns) == {*inputs, *schema.task_names, "timestamp"}
    assert schema.where_source(schema.tasks[1]) == "watch"


def test_values_are_in_their_ranges(default):
    rows = whole(default)
    assert rows["user_id"].between(1, 1000).all()
    assert rows["movie_id"].between(1, 500).all()
    assert set(rows["watch"]) == {0, 1}
    assert 0.3 < rows["watch"].mean() < 0.7
    assert set(rows["rating"].dropna()) == {1, 2, 3, 4, 5}
    assert (rows["rating"].isna() == (rows["watch"] == 0)).all()
    assert set("|".join(rows["genres"].unique()).split("|")) == set(module._GENRES)
    assert not rows.drop(columns="rating").isna().any(axis=None)


def test_users_and_movies_are_the_same_in_every_row(default):
    rows = whole(default)
    assert (rows.groupby("user_id")[["age", "occupation"]].nunique() == 1).all(axis=None)
    assert (rows.groupby("movie_id")[["genres", "year"]].nunique() == 1).all(axis=None)


def test_split_is_disjoint_and_in_time(default):
    assert not whole(default).duplicated(["user_id", "movie_id"]).any()
    assert whole(default)["timestamp"].is_monotonic_increasing
    assert [len(default.train), len(default.valid), len(default.test)] == [160_000, 20_000, 20_000]


def test_seed_decides(default):
    small = {"num_rows": 500, "num_users": 40, "num_movies": 30}
    first, again, other = (synthetic_ratings(**small, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(whole(first), whole(again))
    assert not whole(first).equals(whole(other))


@pytest.mark.parametrize("conflict", [0.0, 0.5, 1.0])
def test_conflict_turns_the_rating_against_the_watching(conflict):
    _, truth = module._draw(**{**DEFAULTS, "conflict": conflict})
    assert truth["in_conflict"].mean() == pytest.approx(conflict, abs=0.1)
    agreement = {
        kind: rows["watch_affinity"].corr(rows["rating_affinity"])
        for kind, rows in truth.groupby("in_conflict")
    }
    assert agreement.get(False, 1.0) == pytest.approx(1.0)
    assert agreement.get(True, -0.6) == pytest.approx(-0.6, abs=0.1)


def test_labels_follow_the_truth(world):
    rows, truth = world
    calibrated = rows["watch"].groupby(truth["watch"].round(1)).mean()
    np.testing.assert_allclose(calibrated, calibrated.index, atol=0.03)
    watched = rows["watch"] == 1
    inner = watched & truth["rating"].between(2, 4)  # far from where ratings are cut off
    error = rows["rating"] - truth["rating"]
    assert error[inner].mean() == pytest.approx(0, abs=0.01)
    # Rounding adds a variance of 1/12.
    assert error[inner].std() == pytest.approx((module._NOISE**2 + 1 / 12) ** 0.5, abs=0.01)


def test_docstring_states_the_floors_and_the_best(default, world):
    _, truth = world
    truth = truth.iloc[-len(default.test) :].reset_index(drop=True)
    watched = default.test["watch"] == 1
    rating = default.test.loc[watched, "rating"]
    # The expected rating is the sum of the chances to reach 2, 3, 4 and 5, plus 1.
    above = [(truth["rating"] - step) / module._NOISE for step in (1.5, 2.5, 3.5, 4.5)]
    expected = 1 + sum(ndtr(z) for z in above)[watched]
    figures = {
        "constant": (0.5, np.sqrt(np.mean((rating - default.train["rating"].mean()) ** 2))),
        "the truth itself": (
            roc_auc_score(default.test["watch"], truth["watch"]),
            np.sqrt(np.mean((rating - expected) ** 2)),
        ),
    }
    lines = synthetic_ratings.__doc__.splitlines()
    for name, (auc, rmse) in figures.items():
        (line,) = [line for line in lines if line.strip().startswith(name)]
        assert line.split()[-2:] == [f"{auc:.3f}", f"{rmse:.3f}"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"num_rows": 9}, "at least 10. Received num_rows=9"),
        ({"num_users": 3}, "num_movies = 1500. Received num_rows=200000. Raise `num_users`"),
        ({"conflict": 1.5}, "at least 0 and of at most 1. Received conflict=1.5"),
    ],
)
def test_errors(argument, message):
    with pytest.raises(ValueError, match=message):
        synthetic_ratings(**argument)
