"""A small table with every kind of column and task, for tests of the whole."""

import numpy as np
import pandas as pd

import tfmoe

SCHEMA = tfmoe.Schema(
    columns=[
        tfmoe.Categorical("user_id", dim=4),
        tfmoe.Categorical("movie_id", dim=4, dtype="string"),
        tfmoe.Categorical("device", dim=2, hash_buckets=5),
        tfmoe.MultiCategorical("genres", dim=3, separator="|"),
        tfmoe.MultiCategorical("tags", dim=2, pooling="max", hash_buckets=4, max_length=2),
        tfmoe.Sequence("history", share="movie_id", max_length=3),
        tfmoe.Numeric("age"),
        tfmoe.Numeric("plays", transform="log"),
        tfmoe.Numeric("price", transform="buckets", num_buckets=4, dim=2),
        tfmoe.Numeric("bias", transform="none", fill=1.0),
    ],
    tasks=[
        tfmoe.Binary("watch"),
        tfmoe.Regression("rating", where="watch", weight=0.5),
        tfmoe.Multiclass("mood", classes=("bad", "good", "so-so")),
    ],
)


def rows(num_rows=300, seed=0):
    """Raw rows with gaps; the labels can be learned from the ids."""
    generator = np.random.default_rng(seed)
    user, movie = generator.integers(0, 12, num_rows), generator.integers(0, 9, num_rows)
    watch = ((user + movie) % 2).astype(float)
    watch[generator.random(num_rows) < 0.1] = np.nan
    genres = [
        "|".join(generator.choice(["Action", "Comedy", "Drama"], generator.integers(0, 3)))
        for _ in range(num_rows)
    ]
    lists = [
        [f"m{i}" for i in generator.integers(0, 12, generator.integers(0, 6))]
        for _ in range(num_rows)
    ]
    moods = np.array(["bad", "good", "so-so"], object)[(user + movie) % 3]
    moods[generator.random(num_rows) < 0.2] = None
    return pd.DataFrame(
        {
            "user_id": user,
            "movie_id": [f"m{i}" for i in movie],
            "device": generator.choice(["phone", "tv", "web"], num_rows),
            "genres": genres,
            "tags": [[f"t{i}" for i in range(n)] for n in generator.integers(0, 4, num_rows)],
            "history": lists,
            "age": np.where(generator.random(num_rows) < 0.1, np.nan, 20 + 3.0 * user),
            "plays": np.expm1(generator.random(num_rows) * 8),
            "price": generator.normal(10, 3, num_rows).round(2),
            "bias": generator.random(num_rows),
            "watch": watch,
            "rating": np.where(watch == 1, 1.0 + movie % 5, np.nan),
            "mood": moods,
        }
    )


def fitted(df=None):
    return tfmoe.Preprocessor(SCHEMA).fit(rows() if df is None else df, progress=False)


def small_model(preprocessor, gate=None, **kwargs):
    mixture = tfmoe.MMoE(num_experts=3, hidden_units=(8, 4), gate=gate)
    return tfmoe.MultiTaskModel(preprocessor, mixture, tower_units=(4,), **kwargs)
