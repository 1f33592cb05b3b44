"""Is it worth it to train a model on, with new ids, rather than anew?

The 487,650 ratings of MovieLens-1M of users 1 to 2999, whose times are known here. A model is
trained on those before 20 November 2000; then, week by week to the end of the year, each contestant
takes the week's ratings in, and is measured on the next week's. Contestants: `grown`, the model
before with new rows that start as the table does (`Preprocessor.grow`, `MultiTaskModel.grow`) and
an epoch on the week's rows; `grown, from unknown`, whose new rows start as that of the unknown
value; `from scratch`, fitted and trained on all ratings so far; `hashing`, in which users and
movies share a fixed number of rows, trained on as the grown one; `unchanged`, the first model.

Tasks: `like`, a rating of 4 or 5, and `rating`. A shared bottom of 64 units on embeddings of 16,
Adam at 0.001, batches of 512; two epochs where all rows are read, one of a week's. `seconds` are
those of taking a week in, fitting ids included, `new_ids` the values that got a row of their own.
Means over weeks and seeds.
"""

import itertools
import time

import keras
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from benchmarks import studies
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.datasets import movielens_files
from tfmoe.model.model import MultiTaskModel
from tfmoe.schema.columns import Categorical, MultiCategorical
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Regression
from tfmoe.structures.shared_bottom import SharedBottom

GROWN, UNKNOWN = "grown", "grown, from unknown"
SCRATCH, HASHING, UNCHANGED = "from scratch", "hashing", "unchanged"
NAMES = (GROWN, UNKNOWN, SCRATCH, HASHING, UNCHANGED)
START, WEEKS, LAST_USER = pd.Timestamp("2000-11-20"), 6, 2999
DIM, BATCH, EPOCHS = 16, 512, 2
# Of users and movies, of which there are 997 and 3,272 at first, and 2,993 and 3,582 by the end:
# about as many rows together as the first model has.
BUCKETS = {"user_id": 2000, "movie_id": 2000}
OPTIONS = {"seeds": (int, 5, "runs of each contestant")}


def run(quick, seeds=5):
    """A row for each contestant and week, and one for its mean over the weeks."""
    weeks = _made_up() if quick else _weeks()
    grid = studies.Grid("growth", lambda cell: one_run(weeks, cell, quick), quick)
    # Of one seed all contestants run together, for they begin with the same first model.
    cells = [{"model": "all", "seed": seed} for seed in range(1 if quick else seeds)]
    runs = grid.run(cells)
    rows = []
    for name in NAMES:
        own = [_mean([run[name][week] for run in runs]) for week in range(len(weeks) - 2)]
        rows += [
            {"name": name, "week": week, **found, "seeds": len(runs)}
            for week, found in enumerate(own, 1)
        ]
        rows.append({"name": name, "week": "all", **_mean(own), "seeds": len(runs)})
    return rows


def _mean(found):
    return {key: float(np.mean([one[key] for one in found])) for key in found[0]}


def headline(rows):
    """The mean AUC and seconds of growing and of training anew."""
    whole = {row["name"]: row for row in rows if row["week"] == "all"}
    ratio = whole[SCRATCH]["seconds"] / whole[GROWN]["seconds"]
    words = {name: name.replace(", ", "_").replace(" ", "_") for name in NAMES}
    aucs = " ".join(f"{words[name]}={whole[name]['like_auc']:.4f}" for name in NAMES)
    return f"{aucs} times_faster_than_scratch={ratio:.1f}"


def draw(rows, path):
    """AUC and seconds of each contestant over the weeks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axis, (key, label) in zip(
        figure.subplots(1, 2),
        (("like_auc", "AUC of next week's likes"), ("seconds", "seconds a week")),
        strict=True,
    ):
        for name in NAMES:
            own = [row for row in rows if row["name"] == name and row["week"] != "all"]
            if key == "seconds" and name == UNCHANGED:
                continue
            axis.plot([row["week"] for row in own], [row[key] for row in own], "o-", label=name)
        axis.set(xlabel="week", ylabel=label)
        axis.grid(alpha=0.3)
    figure.axes[1].set_yscale("log")
    figure.axes[0].legend()
    studies.save(figure, path)


def one_run(weeks, cell, quick):
    """For each contestant a list of dicts, one for each week."""
    first, *later = weeks
    seed = cell["seed"]
    models = {hashes: _trained(first, hashes, seed, quick) for hashes in (False, True)}
    grown = {GROWN: models[False], UNKNOWN: models[False]}
    found = {name: [] for name in NAMES}
    hashing = models[True]
    for place, (week, after) in enumerate(itertools.pairwise(later)):
        for name in NAMES:
            start, new_ids = time.perf_counter(), 0
            if name in grown:
                before = grown[name].training_preprocessor
                prep = before.grow(week, progress=False)
                new_ids = sum(one.added for one in prep.growth.values())
                new_rows = "unknown" if name == UNKNOWN else "initializer"
                model = grown[name] = grown[name].grow(prep, new_rows=new_rows)
                _fit(model, week, 1, seed, quick)
            elif name == HASHING:
                model = hashing
                _fit(model, week, 1, seed, quick)
            elif name == SCRATCH:
                model = _trained(pd.concat(weeks[: place + 2]), False, seed, quick)
            else:
                model = models[False]
            seconds = time.perf_counter() - start
            sizes = model.encoder.table_sizes
            rows = {"new_ids": new_ids, "table_rows": sizes["user_id"] + sizes["movie_id"]}
            found[name].append({**_scores(model, after), "seconds": seconds, **rows})
    return found


def _trained(rows, hashes, seed, quick):
    keras.utils.set_random_seed(seed)
    columns = [
        Categorical(name, dim=DIM, hash_buckets=BUCKETS[name])
        if hashes
        else Categorical(name, dim=DIM, unknown_rate=0.05)
        for name in BUCKETS
    ]
    columns += [
        *(Categorical(name, dim=DIM) for name in ("gender", "age", "occupation")),
        MultiCategorical("genres", separator="|", dim=DIM, max_length=6),
    ]
    schema = Schema(columns, [Binary("like"), Regression("rating")])
    prep = Preprocessor(schema).fit(rows, progress=False)
    model = MultiTaskModel(prep, SharedBottom(hidden_units=(64,)), tower_units=())
    model.compile("adam", jit_compile=False, metrics={"like": [], "rating": []})
    _fit(model, rows, 1 if quick else EPOCHS, seed, quick)
    return model


def _fit(model, rows, epochs, seed, quick):
    batch = 64 if quick else BATCH
    data = model.training_preprocessor.dataset(rows, batch, shuffle=True, seed=seed)
    model.fit(data, epochs=epochs, verbose=0)


def _scores(model, rows):
    features, labels, _ = model.preprocessor.arrays(rows)
    found = model.predict(features, batch_size=8192, verbose=0)
    error = float(np.sqrt(np.mean((found["rating"] - labels["rating"]) ** 2)))
    return {"like_auc": float(roc_auc_score(labels["like"], found["like"])), "rmse": error}


def _weeks():
    """Ratings before the start, and those of each week from then on, as DataFrames."""
    folder = movielens_files.folder_of("ml-1m")
    _, movies, users = movielens_files.read(folder)
    names = ["user_id", "movie_id", "rating", "timestamp"]
    if (folder / "ratings.dat").is_file():
        whole = pd.read_csv(folder / "ratings.dat", sep="::", names=names, engine="python")
    else:
        whole = pd.read_csv(folder / "ratings_reconstructed.csv.gz")[names]
    rows = whole[whole["user_id"] <= LAST_USER].merge(movies, on="movie_id").merge(users)
    rows["like"] = (rows["rating"] >= 4).astype(int)
    rows["when"] = pd.to_datetime(rows.pop("timestamp"), unit="s")
    rows = rows.sort_values("when", kind="stable", ignore_index=True)
    week = (rows.pop("when") - START) // pd.Timedelta(days=7)
    return [rows[week < 0], *(rows[week == number] for number in range(WEEKS + 1))]


def _made_up():
    """Four weeks in which users and movies come."""
    rng = np.random.default_rng(0)

    def rows(most):
        ids = {"user_id": rng.integers(0, most, 300), "movie_id": rng.integers(0, most, 300)}
        ratings = 1 + (ids["user_id"] + ids["movie_id"]) % 5
        more = {"gender": "F", "age": 25, "occupation": 1, "genres": "Drama|War"}
        return pd.DataFrame({**ids, **more, "rating": ratings, "like": (ratings >= 4).astype(int)})

    return [rows(most) for most in (20, 30, 40, 50)]
