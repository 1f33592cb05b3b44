"""A made-up world of movies in which the two tasks pull some users apart."""

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tfmoe.schema.columns import Categorical, MultiCategorical, Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Regression
from tfmoe.validation import check_counts, number

_GENRES = (
    "Action", "Adventure", "Animation", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Horror", "Musical", "Romance", "Western",
)  # fmt: skip
_OCCUPATIONS = (
    "artist", "clerk", "doctor", "driver", "engineer", "farmer", "gardener", "homemaker",
    "lawyer", "nurse", "retired", "sales", "scientist", "student", "teacher", "writer",
)  # fmt: skip
_OWN = 0.1  # share of a taste's variance that is the user's (the movie's) own
_NOISE = 0.5  # standard deviation of a rating before it is rounded
_THREE_YEARS = 3 * 365 * 24 * 3600


@dataclass(frozen=True, eq=False)
class Split:
    """A table in three parts, and what its columns mean.

    Args:
        train, valid, test: pandas DataFrames with the same columns.
        schema: `tfmoe.Schema` of those columns. Columns that it does not name are no
            inputs.
    """

    train: pd.DataFrame
    valid: pd.DataFrame
    test: pd.DataFrame
    schema: Schema


def synthetic_ratings(
    num_rows: int = 200_000,
    num_users: int = 1000,
    num_movies: int = 500,
    conflict: float = 0.5,
    seed: int = 0,
) -> Split:
    """A table like MovieLens, made up: who watched what, and how they rated it.

    A row is a movie that was shown to a user. Users have a taste in genres, which
    depends on their occupation and a little on themselves. Taste decides whether they
    `watch`; for most users it also decides their `rating`. The users of some
    occupations are in conflict: they rate low what drew them to watch, and high what a
    second taste of theirs asks for. Layers that both tasks share must keep these users
    apart, which takes two thirds of what sharing gains over single tasks
    (the study `conflict`). Young users prefer new movies.

    At the default arguments, on the test part:

    ================  ============  ==============
    predictions       AUC of watch  RMSE of rating
    ================  ============  ==============
    constant                 0.500           1.066
    the truth itself         0.897           0.554
    ================  ============  ==============

    Args:
        num_rows: int >= 10, at most `num_users * num_movies`: no user is shown a movie
            twice.
        num_users, num_movies: int >= 1. About 100 rows a user are needed to learn
            their own taste.
        conflict: float in [0, 1], share of the 16 occupations whose users are in
            conflict.
        seed: int. The same arguments give the same table.

    Returns:
        A `Split`: the first 80 % of the rows in time, the next 10 %, the last 10 %.
        Columns: `user_id`, `movie_id` (integers from 1), `genres` (parted by `|`),
        `year` of the movie, `age`, `occupation`, `timestamp` (seconds since 1970, no
        input), `watch` (0 or 1), `rating` (1 to 5, NaN where not watched).

    Raises:
        ValueError: if an argument is out of its range.

    Example:
    >>> split = synthetic_ratings(num_rows=1000)
    >>> len(split.train), len(split.valid), len(split.test)
    (800, 100, 100)
    """
    rows, _ = _draw(num_rows, num_users, num_movies, conflict, seed)
    schema = Schema(
        [
            Categorical("user_id", dim=16, dtype="int"),
            Categorical("movie_id", dim=16, dtype="int"),
            MultiCategorical("genres", separator="|"),
            Numeric("year"),
            Numeric("age"),
            Categorical("occupation", dim=8, dtype="string"),
        ],
        [Binary("watch"), Regression("rating", where="watch", standardize=False)],
    )
    ends = [0, int(0.8 * num_rows), int(0.9 * num_rows), num_rows]
    parts = [rows.iloc[start:end].reset_index(drop=True) for start, end in itertools.pairwise(ends)]
    train, valid, test = parts
    return Split(train, valid, test, schema)


def _draw(num_rows, num_users, num_movies, conflict, seed):
    """The rows in time, and the truth behind them, which no model sees.

    Returns:
        The table, and a DataFrame with a row for each of its rows: `in_conflict`;
        `watch_affinity` and `rating_affinity` of the user to the movie; `watch`, the
        probability; `rating`, the mean before rounding.
    """
    check_counts(
        "synthetic_ratings",
        num_rows=(num_rows, 10),
        num_users=(num_users, 1),
        num_movies=(num_movies, 1),
    )
    number("synthetic_ratings", "conflict", conflict, least=0, most=1)
    if num_rows > num_users * num_movies:
        raise ValueError(
            "synthetic_ratings shows no movie twice to a user, so `num_rows` must be at most "
            f"num_users * num_movies = {num_users * num_movies}. Received num_rows={num_rows}. "
            "Raise `num_users` or `num_movies` for more rows."
        )
    rng = np.random.default_rng(seed)
    num_genres, num_occupations = len(_GENRES), len(_OCCUPATIONS)

    def blend(common, own):
        return np.sqrt(1 - _OWN) * common + np.sqrt(_OWN) * own

    has = rng.random((num_movies, num_genres)) < 0.15
    has[np.arange(num_movies), rng.integers(num_genres, size=num_movies)] = True
    movie = has / np.sqrt(has.sum(axis=1, keepdims=True))
    movie = blend(movie, rng.normal(size=movie.shape) / np.sqrt(num_genres))
    year = rng.integers(1960, 2026, size=num_movies)
    appeal, quality = 0.5 * rng.normal(size=num_movies), 0.2 * rng.normal(size=num_movies)

    occupation = rng.integers(num_occupations, size=num_users)
    age = rng.integers(16, 80, size=num_users)
    mildness = 0.3 * rng.normal(size=num_users)
    first, second = (
        blend(rng.normal(size=(num_occupations, num_genres))[occupation],
              rng.normal(size=(num_users, num_genres)))
        for _ in range(2)
    )  # fmt: skip
    opposed = rng.permutation(num_occupations) < round(conflict * num_occupations)
    in_conflict = opposed[occupation]
    # 0.6 and 0.8, of squares that sum to 1, keep the spread of ratings in a conflict.
    rating_taste = np.where(in_conflict[:, None], -0.6 * first + 0.8 * second, first)

    shown = rng.choice(num_users * num_movies, num_rows, replace=False)
    user, item = np.divmod(shown, num_movies)
    watch_affinity = np.einsum("rg,rg->r", first[user], movie[item])
    rating_affinity = np.einsum("rg,rg->r", rating_taste[user], movie[item])
    newer = (year[item] - 1993) / 19 * (48 - age[user]) / 18
    probability = 1 / (1 + np.exp(-(2.5 * watch_affinity + appeal[item] + 0.5 * newer)))
    mean = 3.3 + rating_affinity + quality[item] + mildness[user]

    watch = rng.random(num_rows) < probability
    rating = np.clip(np.rint(mean + _NOISE * rng.normal(size=num_rows)), 1, 5)
    names = np.array(["|".join(np.array(_GENRES)[row]) for row in has], dtype=object)
    rows = pd.DataFrame(
        {
            "user_id": user + 1,
            "movie_id": item + 1,
            "genres": names[item],
            "year": year[item],
            "age": age[user],
            "occupation": np.array(_OCCUPATIONS, dtype=object)[occupation[user]],
            "timestamp": 1_600_000_000 + np.sort(rng.integers(_THREE_YEARS, size=num_rows)),
            "watch": watch.astype("int64"),
            "rating": np.where(watch, rating, np.nan),
        }
    )
    truth = pd.DataFrame(
        {
            "in_conflict": in_conflict[user],
            "watch_affinity": watch_affinity,
            "rating_affinity": rating_affinity,
            "watch": probability,
            "rating": mean,
        }
    )
    return rows, truth
