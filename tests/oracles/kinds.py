"""A small table with every kind of column, those of `tables` and the rest."""

import numpy as np
import pandas as pd

import tfmoe
from tests.oracles import tables

VECTORS = {f"m{i}": [float(i), 0.5, -0.1 * i] for i in range(12)}
COLUMNS = [
    *tables.SCHEMA.columns,
    tfmoe.Vector("emb"),
    tfmoe.Vector("raw_emb", source="emb", size=3, standardize=False),
    tfmoe.Timestamp("seen", time_zone="America/New_York", parts=["hour", "weekday", "age"]),
    tfmoe.Timestamp("seen_ids", source="seen", cyclic=False, dim=2),
    tfmoe.Crossed("where", columns=["user_id", "device"], hash_buckets=50, dim=3),
    tfmoe.Crossed("three", columns=["movie_id", "device", "user_id"], hash_buckets=20, dim=2),
    tfmoe.MultiCategorical("words", weights="scores", dim=2, max_length=3),
    tfmoe.Sequence(
        "path", weights="path_scores", separator=" ", dim=2, max_length=2, pooling="sum"
    ),
    tfmoe.Pretrained("film", source="movie_id", vectors=VECTORS),
    tfmoe.Pretrained("film_2", source="movie_id", vectors=VECTORS, projection=2, trainable=True),
    tfmoe.Sequence("films", source="history", share="film", max_length=3),
    tfmoe.Categorical("film_3", source="movie_id", share="film_2"),
    tfmoe.Sequence("visited", share="movie_id", max_length=3),
    tfmoe.Sequence("stay", aligned_with="visited", boundaries=(-1.0, 0.5, 5.0), dim=2),
    tfmoe.Text("title", ngrams=2, hash_buckets=30, dim=3, max_length=4),
]
SCHEMA = tfmoe.Schema(COLUMNS, tables.SCHEMA.tasks)


def rows(num_rows=200, seed=0):
    """Rows of `tables`, with cells of the other kinds beside them."""
    generator = np.random.default_rng(seed)
    df = tables.rows(num_rows, seed)
    df.loc[::11, "movie_id"] = None
    emb = generator.normal(2.0, 3.0, (num_rows, 3))
    emb[generator.random((num_rows, 3)) < 0.1] = np.nan
    words = [
        [f"w{i}" for i in generator.integers(0, 6, n)] for n in generator.integers(0, 5, num_rows)
    ]
    paths = [" ".join(cell) for cell in words]
    scores = [list(generator.choice([0.5, 2.0, -1.0, np.nan], len(cell))) for cell in words]
    titles = ["The best of Ärger", "the BEST, of all", "", "one", "x-y z 42"]
    more = {
        "emb": pd.Series([None if i % 9 == 0 else list(emb[i]) for i in range(num_rows)]),
        "seen": pd.to_datetime(1_700_000_000 + generator.integers(0, 10**7, num_rows), unit="s"),
        "words": words,
        "scores": pd.Series([None if i % 7 == 0 else s for i, s in enumerate(scores)]),
        "path": paths,
        "path_scores": scores,
        "title": generator.choice(titles, num_rows),
        "visited": [[f"m{word[1:]}" for word in cell] for cell in words],
        "stay": pd.Series(
            [None if i % 5 == 0 else [10 * s for s in c] for i, c in enumerate(scores)]
        ),
    }
    return df.assign(**more)


def fitted():
    return tfmoe.Preprocessor(SCHEMA).fit(rows(), progress=False)
