"""Bodies of ranking models in front of two structures, against torch-rechub's single-task models.

MovieLens-1M by time (`tfmoe.datasets.movielens_histories`), one user of 16: a user's last tenth
of ratings is the test part, the tenth before that the validation part; a history holds the last 30
movies that were rated before. User, movie, gender, age and occupation are ids into embeddings of
16, the history shares the movies' table. Bodies: `DeepFM` (`FM` and a first-order term), `DCN-v2`
(`Cross`), `DIN` and `BST` (`TargetAttention` and `BST` over the history), `AutoInt` and `FiBiNET`
(which have no history here, for torch-rechub's take none). In front of a shared bottom of 128 and
64 units, or an MMoE of four such experts, both with layer norm and the tasks `watch` and `rating`,
which weighs 0.1. torch-rechub 0.9 trains each body with an MLP of 128 and 64 units, which has batch
norm, on `watch` alone; the feed-forward part of its `BST` is cut from 2,048 units to our 64.
Embeddings start with a deviation of 1e-4, as its own do.

Adam at 0.001 or 0.003, which each contestant's validation rows decide with the first seed, batches
of 1,024. A training ends after two epochs without a higher validation AUC of `watch`, the highest
of which counts, or after twelve; five seeds. `score` is the AUC of `watch` on test rows. Runs of
one body and seed come one after the other: `rows_per_s` is the fastest epoch's, median over seeds,
and `speed_ratio` ours divided by torch-rechub's, the median of the seeds' ratios.

Claim: no body of ours is behind torch-rechub's: the lower end of the 95 % interval of the mean
difference over seeds is above -0.001.
"""

import functools
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import roc_auc_score

from benchmarks import studies
from benchmarks.rivals import taking_part
from benchmarks.rivals.process import Process
from benchmarks.rivals.ranking_job import Job
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.datasets.movielens_histories import movielens_histories
from tfmoe.datasets.synthetic import Split
from tfmoe.features.interactions.auto_int import AutoInt
from tfmoe.features.interactions.cross import Cross
from tfmoe.features.interactions.fibinet import FiBiNET
from tfmoe.features.interactions.fm import FM
from tfmoe.model.model import MultiTaskModel
from tfmoe.schema.columns import Categorical, Sequence
from tfmoe.schema.poolings import BST, TargetAttention
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Regression
from tfmoe.structures.mmoe import MMoE
from tfmoe.structures.shared_bottom import SharedBottom

RIVAL = "torch-rechub"
STRUCTURES = {
    "shared bottom": lambda: SharedBottom(hidden_units=(128, 64), layer_norm=True),
    "MMoE": lambda: MMoE(num_experts=4, hidden_units=(128, 64), layer_norm=True),
}
# What stands between the encoder and the structure, and how the history is pooled.
BODIES = {
    "DeepFM": (lambda: {"interactions": [FM()], "wide": True}, "mean"),
    "DCN-v2": (lambda: {"interactions": [Cross(2)]}, "mean"),
    "DIN": (dict, TargetAttention("movie_id", (32,))),
    "BST": (dict, BST("movie_id", 2)),
    "AutoInt": (lambda: {"interactions": [AutoInt(2, 2, 8)]}, None),
    "FiBiNET": (lambda: {"interactions": [FiBiNET(3, "interaction")]}, None),
}
PLAIN = ("user_id", "movie_id", "gender", "age", "occupation")
EPOCHS, PATIENCE, LENGTH, DIM, BATCH = 12, 2, 30, 16, 1024
RATES = (1e-3, 3e-3)
# A rating's squared error is several times as large as what is to be learnt of watching.
TASK_WEIGHTS = {"watch": 1.0, "rating": 0.1}
# Worse than that nobody should be.
MARGIN = 0.001
OPTIONS = {
    "every": (int, 16, "one user of so many is taken"),
    "seeds": (int, 5, "runs of each contestant"),
}


def run(quick, every=16, seeds=5):
    """A row for each contestant, and one for each claim."""
    rivals = [] if quick else taking_part({RIVAL: "rechub"}, quick)
    contestants = ["shared bottom"] if quick else [*STRUCTURES, *rivals]
    bodies = ("DeepFM", "DIN") if quick else tuple(BODIES)
    with tempfile.TemporaryDirectory() as folder:
        one = functools.partial(one_run, _Tables(quick, every, folder))
        grid = studies.Grid("ranking", one, quick)
        cells = [
            {"set": body, "model": name, "every": every, "epochs": EPOCHS}
            for body in bodies
            for name in contestants
        ]
        chosen = [_with_best_rate(grid, cell) for cell in cells]
        runs = grid.run(
            [{**cell, "seed": seed} for seed in range(1 if quick else seeds) for cell in chosen]
        )
    rows = [_row(runs, body, name) for body in bodies for name in contestants]
    pairs = [(b, n) for b in bodies for n in contestants if n != RIVAL and RIVAL in contestants]
    return rows + [_claim(runs, *pair) for pair in pairs]


def _with_best_rate(grid, cell):
    """The cell with the rate that is best on validation rows, of the first seed."""
    runs = grid.run([{**cell, "learning_rate": rate, "seed": 0} for rate in RATES])
    best = max(runs, key=lambda run: run["valid"])
    return {**cell, "learning_rate": best["learning_rate"]}


class _Tables:
    """The rows, read once, and what each body fits of them."""

    def __init__(self, quick, every, folder):
        self.quick, self.every, self.folder = quick, every, folder

    @functools.cached_property
    def split(self):
        if self.quick:
            return _made_up()
        whole = movielens_histories("ml-1m", max_length=LENGTH)
        parts = (part[part["user_id"] % self.every == 0] for part in _parts(whole))
        return Split(*(part.reset_index(drop=True) for part in parts), whole.schema)

    @functools.cache  # noqa: B019
    def fitted(self, pooling):
        """A `Preprocessor`."""
        columns = [Categorical(name, dim=DIM) for name in PLAIN]
        if pooling is not None:
            seen = Sequence("seen", share="movie_id", max_length=LENGTH, pooling=pooling)
            columns.append(seen)
        tasks = [Binary("watch"), Regression("rating", where="watch")]
        return Preprocessor(Schema(columns, tasks)).fit(self.split.train, progress=False)

    @functools.cache  # noqa: B019
    def job(self):
        """The encoded rows in files, for torch-rechub; what all its runs share."""
        prep = self.fitted("mean")
        for name, part in zip(("train", "valid", "test"), _parts(self.split), strict=True):
            features, labels, _ = prep.arrays(part)
            watch = labels["watch"].astype("float32")
            np.savez(Path(self.folder) / f"{name}.npz", **features, watch=watch)
        return asdict(Job(self.folder, prep.table_sizes, "", 0, EPOCHS, PATIENCE))


def _parts(split):
    return split.train, split.valid, split.test


def _made_up():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({name: rng.integers(0, 9, 300) for name in PLAIN})
    rows["seen"] = [rng.integers(0, 9, rng.integers(0, 5)).tolist() for _ in range(300)]
    rows["watch"] = rng.integers(0, 2, 300)
    rows["rating"] = np.where(rows["watch"] == 1, rng.integers(1, 6, 300), np.nan)
    return Split(rows[:200], rows[200:250], rows[250:], None)


def one_run(tables, cell):
    """Scores of the best epoch on validation rows."""
    if cell["model"] == RIVAL:
        own = {"body": cell["set"], "seed": cell["seed"], "learning_rate": cell["learning_rate"]}
        job = Job(**{**tables.job(), **own})
        with Process("rechub", "ranking_rechub", job.to_json()) as process:
            return process.ready()
    keras.backend.clear_session()
    keras.utils.set_random_seed(cell["seed"])
    body, pooling = BODIES[cell["set"]]
    prep, split = tables.fitted(pooling), tables.split
    small = keras.initializers.RandomNormal(stddev=1e-4)
    structure = STRUCTURES[cell["model"]]()
    model = MultiTaskModel(prep, structure, embeddings_initializer=small, **body())
    model.compile(keras.optimizers.Adam(cell["learning_rate"]), loss_weights=TASK_WEIGHTS)
    speed = _Speed(len(split.train))
    best = keras.callbacks.EarlyStopping(
        "val_watch_auc", patience=PATIENCE, mode="max", restore_best_weights=True
    )
    model.fit(
        prep.dataset(split.train, BATCH, shuffle=True, seed=cell["seed"]),
        validation_data=prep.dataset(split.valid, 8192),
        epochs=1 if tables.quick else cell["epochs"],
        callbacks=[speed, best],
        verbose=0,
    )
    found = model.predict(prep.dataset(split.test, 8192, labels=False), verbose=0)
    rated = split.test["rating"].notna().to_numpy()
    errors = found["rating"][rated] - split.test["rating"].to_numpy()[rated]
    return {
        "epochs_run": len(speed.found),
        "valid": float(best.best),
        "score": float(roc_auc_score(split.test["watch"], found["watch"])),
        "rating_rmse": float(np.sqrt(np.mean(errors**2))),
        "rows_per_s": max(speed.found),
        "parameters": model.count_params(),
    }


class _Speed(keras.callbacks.Callback):
    """Rows a second of each epoch's training, without its validation."""

    def __init__(self, num_rows):
        super().__init__()
        self.num_rows, self.found = num_rows, []

    def on_epoch_begin(self, epoch, logs=None):
        self.start, self.seconds = time.perf_counter(), None

    def on_train_batch_end(self, batch, logs=None):
        self.seconds = time.perf_counter() - self.start

    def on_epoch_end(self, epoch, logs=None):
        self.found.append(self.num_rows / self.seconds)


def _row(runs, body, name):
    def values(key):
        return studies.by_seed(runs, key, set=body, model=name)

    score, error = studies.mean(values("score"))
    row = {"name": name, "set": body, "score": score, "standard_error": error}
    row |= {"valid": studies.mean(values("valid"))[0], "seeds": len(values("score"))}
    row["learning_rate"] = float(values("learning_rate")[0])
    row["parameters"] = int(values("parameters")[0])
    row["epochs_run"] = float(values("epochs_run").mean())
    row["rows_per_s"] = round(float(np.median(values("rows_per_s"))))
    if name == RIVAL:
        return row
    row["rating_rmse"], row["rating_rmse_error"] = studies.mean(values("rating_rmse"))
    theirs = studies.by_seed(runs, "rows_per_s", set=body, model=RIVAL)
    if len(theirs):
        row["speed_ratio"] = float(np.median(values("rows_per_s") / theirs))
    return row


def _claim(runs, body, name):
    ours, theirs = (
        studies.by_seed(runs, "score", set=body, model=model) for model in (name, RIVAL)
    )
    effect, error = studies.mean(ours - theirs)
    half = error * float(stats.t.ppf(0.975, len(ours) - 1))
    p = float(stats.ttest_rel(ours, theirs).pvalue)
    test = {"name": f"{name} is not behind {RIVAL}", "set": body}
    test |= {"effect": effect, "effect_error": error, "p": p, "margin": MARGIN}
    test |= {"lower": effect - half, "upper": effect + half}
    return test | {"holds": "yes" if effect - half > -MARGIN else "no"}


def headline(rows):
    """In how many bodies each structure is not behind, and the range of the ratios of speed."""
    claims = [row for row in rows if "holds" in row]
    parts = []
    for name in dict.fromkeys(row["name"] for row in claims):
        own = [row["holds"] == "yes" for row in claims if row["name"] == name]
        parts.append(f"{name.replace(' ', '_').replace('-', '_')}={sum(own)}/{len(own)}")
    ratios = [row["speed_ratio"] for row in rows if "speed_ratio" in row]
    if ratios:
        parts.append(f"speed_ratio={min(ratios):.2f}..{max(ratios):.2f}")
    return " ".join(parts) or f"watch_auc={rows[0]['score']:.4f}"


def draw(rows, path):
    """The AUC of each contestant by body, with its standard error."""
    from matplotlib.figure import Figure

    found = [row for row in rows if "score" in row]
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axis = figure.subplots()
    bodies = list(dict.fromkeys(row["set"] for row in found))
    names = list(dict.fromkeys(row["name"] for row in found))
    for place, name in enumerate(names):
        own = [row for row in found if row["name"] == name]
        x = np.array([bodies.index(row["set"]) for row in own]) + 0.18 * (place - len(names) / 2)
        axis.errorbar(
            x,
            [row["score"] for row in own],
            [row["standard_error"] for row in own],
            fmt="o",
            capsize=3,
            label=name,
        )
    axis.set_xticks(range(len(bodies)), bodies)
    axis.set_ylabel("AUC of watch, test rows")
    axis.grid(alpha=0.3)
    axis.legend()
    studies.save(figure, path)
