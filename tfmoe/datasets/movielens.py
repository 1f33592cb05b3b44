"""MovieLens with two tasks: will the user watch the movie, and how will they rate it?"""

import numpy as np
import pandas as pd

from tfmoe import files
from tfmoe.datasets.movielens_files import tables_of
from tfmoe.datasets.synthetic import Split
from tfmoe.schema.columns import Categorical, Column, MultiCategorical, Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Regression
from tfmoe.validation import check_choice, integer

#: How `movielens` splits, for records: of the test part alone until November 2026.
SPLIT = "both parts stratified"


def movielens(
    name_or_path: files.PathLike = "ml-1m", negatives: str = "uniform", seed: int = 0
) -> Split:
    """MovieLens ratings as a table with the labels `watch` and `rating`.

    Every rating is a row with `watch` 1. For each user as many movies again, drawn
    from the rated-by-somebody movies that this user has not rated (or all of those, if
    they are fewer), are rows with `watch` 0 and no rating. 10 % of the rows are the test part,
    and 12.5 % of the rest the validation part, both stratified by `watch`.

    The protocol is that of the DSelect-k and COMET papers, reconstructed: its counts
    for ml-1m are 1,574,602 / 224,944 / 199,950 rows, and the rated movies of each part are those
    that COMET's authors publish. Of what was not watched users agree, but movies do not: ours
    depend on `seed`. The split itself does not.

    Args:
        name_or_path: `"ml-1m"` or `"ml-latest-small"`, or the path or URL of a folder that
            holds the files of either. A name is looked for in the folder
            `$TFMOE_DATA/<name>`, then in the cache `~/.cache/tfmoe/<name>`
            (`$XDG_CACHE_HOME/tfmoe/<name>` if that variable is set), and else
            downloaded from GroupLens, checked and kept in the cache.
        negatives: `"uniform"` draws the movies a user did not watch with equal
            chances, which makes `watch` largely a question of popularity;
            `"popularity"` draws them in proportion to their number of ratings.
        seed: int, of the negatives.

    Returns:
        A `Split`. Columns: `user_id`, `movie_id`, `genres` (parted by `|`, empty where
        none are listed), `year` of the movie (NaN where its title has none), for ml-1m
        also `gender`, `age` (the code of a range) and `occupation` (a code); `watch`
        (0 or 1) and `rating` (1 to 5, ml-latest-small 0.5 to 5; NaN where not watched).

    Raises:
        ValueError: if the folder holds no MovieLens files or `negatives` is unknown.
        FileNotFoundError: if there is no such folder.
        ConnectionError: if the data has to be downloaded and cannot be.
        OSError: if what was downloaded is not the known archive. Nothing is kept.

    MovieLens may be used for research, not commercially, and must be cited:
    Harper and Konstan, 2015, https://doi.org/10.1145/2827872.
    """
    check_choice("movielens", "negatives", negatives, ("uniform", "popularity"))
    seed = integer("movielens", "seed", seed, 0)
    ratings, movies, users = tables_of(name_or_path)
    rows = pd.concat([ratings, draw_negatives(ratings, negatives, seed)], ignore_index=True)
    rows = rows.merge(movies, how="left", on="movie_id")
    columns: list[Column] = [
        Categorical("user_id", dim=32, dtype="int"),
        Categorical("movie_id", dim=32, dtype="int"),
        MultiCategorical("genres", separator="|"),
        Numeric("year"),
    ]
    if users is not None:
        rows = rows.merge(users, how="left", on="user_id")
        columns += [
            Categorical("gender", dim=4, dtype="string"),
            Categorical("age", dim=4, dtype="int"),
            Categorical("occupation", dim=8, dtype="int"),
        ]
    labels = ["watch", "rating"]
    rows = rows[[column.raw_name for column in columns] + labels]
    # The published weights of the two losses are of raw squared errors.
    rating = Regression("rating", where="watch", standardize=False)
    schema = Schema(columns, [Binary("watch"), rating])
    train, valid, test = _split(rows)
    return Split(train, valid, test, schema)


def floors(split: Split) -> dict[str, float]:
    """What a table's two tasks come to without any model; a model must do better.

    Args:
        split: `Split` with the columns `user_id`, `movie_id`, `watch`, `rating`.

    Returns:
        Dict of floats, fitted on the training part and measured on the test part:
        `rating_mse_constant`, the mean rating for everyone; `rating_mse_bias`, mean
        plus a user's and a movie's offset, each shrunk towards 0 as by 5 further
        ratings of offset 0; `watch_auc` and `watch_log_loss`, the share of a movie's
        rows that were watched, smoothed by one row of either kind.
    """
    from sklearn.metrics import log_loss, roc_auc_score

    counts = split.train.groupby("movie_id")["watch"].agg(["sum", "count"])
    share = (counts["sum"] + 1) / (counts["count"] + 2)
    popularity = split.test["movie_id"].map(share).fillna(split.train["watch"].mean())

    train = split.train[split.train["watch"] == 1]
    test = split.test[split.test["watch"] == 1]
    mean = train["rating"].mean()
    of_user, of_movie = _offsets(train, train["rating"] - mean)
    predicted = (
        mean + test["user_id"].map(of_user).fillna(0.0) + test["movie_id"].map(of_movie).fillna(0.0)
    )
    return {
        "rating_mse_constant": float(np.mean((test["rating"] - mean) ** 2)),
        "rating_mse_bias": float(np.mean((test["rating"] - predicted) ** 2)),
        "watch_auc": float(roc_auc_score(split.test["watch"], popularity)),
        "watch_log_loss": float(log_loss(split.test["watch"], popularity)),
    }


def _offsets(train, residual, shrinkage=5.0, rounds=10):
    """Ridge offsets of users and movies, each fitted in turn given the other."""
    keys = {name: train[name] for name in ("user_id", "movie_id")}
    offsets = {name: pd.Series(dtype=float) for name in keys}
    for _ in range(rounds):
        for name, other in (("movie_id", "user_id"), ("user_id", "movie_id")):
            left = residual - keys[other].map(offsets[other]).fillna(0.0)
            groups = left.groupby(keys[name])
            offsets[name] = groups.sum() / (groups.count() + shrinkage)
    return offsets["user_id"], offsets["movie_id"]


def draw_negatives(ratings: pd.DataFrame, how: str, seed: int) -> pd.DataFrame:
    """Rows of movies that a user did not rate, users in ascending order; see `movielens`."""
    rng = np.random.default_rng(seed)
    movies, counts = np.unique(ratings["movie_id"], return_counts=True)
    rated = np.searchsorted(movies, ratings["movie_id"])
    users, starts, sizes = np.unique(
        np.sort(ratings["user_id"].to_numpy()), return_index=True, return_counts=True
    )
    by_user = rated[np.argsort(ratings["user_id"].to_numpy(), kind="stable")]
    drawn = []
    for start, size in zip(starts, sizes, strict=True):
        unrated = np.ones(len(movies), bool)
        unrated[by_user[start : start + size]] = False
        pool = np.flatnonzero(unrated)
        odds = counts[pool] / counts[pool].sum() if how == "popularity" else None
        drawn.append(rng.choice(pool, min(size, len(pool)), replace=False, p=odds))
    return pd.DataFrame(
        {
            "user_id": np.repeat(users, [len(pool) for pool in drawn]),
            "movie_id": movies[np.concatenate(drawn)],
            "watch": 0,
            "rating": np.nan,
        }
    )


def _split(rows):
    from sklearn.model_selection import train_test_split

    rest, test = train_test_split(rows, train_size=0.9, stratify=rows["watch"], random_state=0)
    train, valid = train_test_split(rest, test_size=0.125, stratify=rest["watch"], random_state=0)
    return [part.reset_index(drop=True) for part in (train, valid, test)]
