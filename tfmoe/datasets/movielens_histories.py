"""MovieLens in the order that ratings were made in: what a user saw before."""

import numpy as np
import pandas as pd

from tfmoe import files
from tfmoe.datasets.movielens import draw_negatives
from tfmoe.datasets.movielens_files import tables_of
from tfmoe.datasets.synthetic import Split
from tfmoe.schema.columns import Categorical, Column, MultiCategorical, Numeric, Sequence
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Regression
from tfmoe.validation import check_choice, integer

_NO_KIND = "none"


def movielens_histories(
    name_or_path: files.PathLike = "ml-1m",
    negatives: str = "uniform",
    seed: int = 0,
    max_length: int = 50,
) -> Split:
    """MovieLens ratings with what each user had seen before, split by time.

    Every rating is a row with `watch` 1, and for each user as many movies that they have not rated
    are rows with `watch` 0, as in `movielens`. Of a user's ratings in the order that they were made
    in the last tenth is the test part, and the tenth before that the validation part. A row with
    `watch` 0 stands at the place of a rating of its user, each at another one, in time and in its
    part. `seen` has the movies that the user rated before that place, the last `max_length` of
    them, never the one of the row: how long a history is says nothing of `watch` within a user.

    Args:
        name_or_path, negatives, seed: see `movielens`.
        max_length: int >= 1.

    Returns:
        A `Split`. Columns: `user_id`, `movie_id`, `genres` (parted by `|`), `kind`, the first
        genre, `year`; `seen`, ids of movies, oldest first, and `seen_kinds`, their kinds; for
        ml-1m also `gender`, `age` and `occupation`; `watch` and `rating`, see `movielens`; and
        `place`, how many movies the user had rated before, which is no input of the schema. There
        `seen` shares the table of `movie_id` and is pooled to its mean.

    Raises:
        ValueError, FileNotFoundError, ConnectionError, OSError: as `movielens`.
    """
    check_choice("movielens_histories", "negatives", negatives, ("uniform", "popularity"))
    seed = integer("movielens_histories", "seed", seed, 0)
    max_length = integer("movielens_histories", "max_length", max_length, 1)
    ratings, movies, users = tables_of(name_or_path, in_order=True)
    kind = movies["genres"].str.split("|").str[0].replace("", _NO_KIND)
    movies = movies.assign(kind=kind)
    ratings["place"] = ratings.groupby("user_id").cumcount()
    missed = draw_negatives(ratings, negatives, seed)
    missed["place"] = _places(missed["user_id"], ratings, np.random.default_rng([seed, 1]))
    rows = pd.concat([ratings, missed], ignore_index=True)
    rows = rows.merge(movies, how="left", on="movie_id")
    columns: list[Column] = [
        Categorical("user_id", dim=32, dtype="int"),
        Categorical("movie_id", dim=32, dtype="int"),
        MultiCategorical("genres", separator="|"),
        Categorical("kind", dim=8, dtype="string"),
        Numeric("year"),
        Sequence("seen", share="movie_id", max_length=max_length),
        Sequence("seen_kinds", share="kind", aligned_with="seen"),
    ]
    if users is not None:
        rows = rows.merge(users, how="left", on="user_id")
        columns += [
            Categorical("gender", dim=4, dtype="string"),
            Categorical("age", dim=4, dtype="int"),
            Categorical("occupation", dim=8, dtype="int"),
        ]
    rows = _with_histories(rows, ratings, movies, max_length)
    sizes = ratings["user_id"].value_counts()
    left = rows["user_id"].map(sizes) - 1 - rows["place"]
    tenth = rows["user_id"].map(sizes) // 10
    names = [column.raw_name for column in columns]
    rows = rows[[*names, "place", "watch", "rating"]]
    parts = (left >= 2 * tenth, (left < 2 * tenth) & (left >= tenth), left < tenth)
    # The published weights of the two losses are of raw squared errors.
    rating = Regression("rating", where="watch", standardize=False)
    schema = Schema(columns, [Binary("watch"), rating])
    train, valid, test = (rows[part].reset_index(drop=True) for part in parts)
    return Split(train, valid, test, schema)


def _places(users, ratings, rng):
    """Different places of each user's ratings, for as many rows as `users` says."""
    sizes = ratings["user_id"].value_counts()
    counts = users.value_counts()
    drawn = [rng.permutation(sizes[user])[: counts[user]] for user in users.unique()]
    return np.concatenate(drawn)


def _with_histories(rows, ratings, movies, max_length):
    """Rows with the movies, and their kinds, that were rated before their places."""
    order = ratings["movie_id"].to_numpy()
    kinds = ratings["movie_id"].map(movies.set_index("movie_id")["kind"]).to_numpy(object)
    starts = ratings.groupby("user_id")["place"].idxmin()
    ends = rows["user_id"].map(starts).to_numpy() + rows["place"].to_numpy()
    firsts = ends - np.minimum(rows["place"].to_numpy(), max_length)
    pairs = [*zip(firsts.tolist(), ends.tolist(), strict=True)]
    found = {"seen": order, "seen_kinds": kinds}
    for name, values in found.items():
        # Parts of one array, of which none is copied.
        rows[name] = pd.Series([values[first:end] for first, end in pairs], dtype=object)
    return rows
