"""Structures at equal parameters on tables: what `structures` runs beside its made-up world."""

import functools
import time

import keras
import numpy as np
from sklearn.metrics import log_loss, roc_auc_score

from benchmarks import census, scenarios
from tfmoe.data import Split, movielens
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.model.model import MultiTaskModel
from tfmoe.optimizers import Adam
from tfmoe.schema.columns import Categorical
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Regression
from tfmoe.structures.shared_bottom import SharedBottom

# Parameters of structure and towers, and how they are trained.
SIZES = {
    "census income": {"epochs": 4, "batch_size": 1024, "within": 40_000},
    "census college": {"epochs": 4, "batch_size": 1024, "within": 40_000},
    "ml-1m": {"epochs": 2, "batch_size": 4096, "within": 60_000},
}


@functools.cache
def table(quick, name):
    """Rows in three parts, and a few of nobody in the quick form."""
    if name.startswith("census"):
        return census.table(quick, name.split()[1])
    if quick:
        return scenarios.table(True)
    whole = movielens("ml-1m")
    columns = [Categorical("user_id", dim=32), Categorical("movie_id", dim=32)]
    tasks = [Binary("watch"), Regression("rating", where="watch")]
    return Split(whole.train, whole.valid, whole.test, Schema(columns, tasks))


@functools.cache
def _fitted(quick, name, only):
    split = table(quick, name)
    tasks = [task for task in split.schema.tasks if only in (None, task.name)]
    if only is not None:
        tasks = split.schema.select([only]).tasks
    return Preprocessor(Schema(split.schema.columns, tasks)).fit(split.train, progress=False)


def size_of(quick, name):
    """Numbers that a structure reads of a row."""
    prep = _fitted(quick, name, None)
    model = MultiTaskModel(prep, SharedBottom(hidden_units=(1,)))
    rows = table(quick, name).valid.head(2)
    return int(model.encode(prep.arrays(rows, labels=False)).shape[-1])


def one_run(quick, cell, structures):
    """Scores of the best epoch on validation rows.

    Args:
        quick: bool.
        cell: dict, of the run.
        structures: list of structures; one of all tasks, or one for each task alone.
    """
    keras.backend.clear_session()
    split = table(quick, cell["set"])
    names = [task.name for task in split.schema.tasks]
    alone = len(structures) > 1
    start, predictions, parameters = time.perf_counter(), [{}, {}], 0
    for only, structure in zip(names if alone else [None], structures, strict=True):
        prep = _fitted(quick, cell["set"], only)
        model = MultiTaskModel(prep, structure, tower_units=())
        model.compile(Adam(cell["learning_rate"]), metrics={n: [] for n in prep.schema.task_names})
        best = keras.callbacks.EarlyStopping(patience=9, restore_best_weights=True)
        model.fit(
            prep.dataset(split.train, cell["batch_size"], shuffle=True, seed=cell["seed"]),
            validation_data=prep.dataset(split.valid, 8192),
            epochs=1 if quick else cell["epochs"],
            callbacks=[best],
            verbose=0,
        )
        parameters += model.structure.count_params() + model.towers.count_params()
        for found, part in zip(predictions, (split.valid, split.test), strict=True):
            found |= model.predict(prep.dataset(part, 8192, labels=False), verbose=0)
    seconds = time.perf_counter() - start
    speed = round(len(split.train) * cell["epochs"] / seconds)
    scores = {"parameters": parameters, "rows_per_s": speed}
    for key, part, found in zip(
        ("valid", "score"), (split.valid, split.test), predictions, strict=True
    ):
        scores[key] = _loss(split.schema.tasks, part, found, split.train)
    for task in split.schema.tasks:
        name, value = _metric(task, split.test, predictions[1])
        scores[f"{task.name}_{name}"] = value
    return scores


def _labelled(task, rows):
    there = rows[task.name].notna().to_numpy()
    if task.where is not None:
        there = there & (rows[task.where].to_numpy() == 1)
    return there


def _loss(tasks, rows, found, train):
    """The tasks' losses, each as a share of that of the mean label."""
    total = 0.0
    for task in tasks:
        there = _labelled(task, rows)
        label, said = rows[task.name][there], found[task.name][there].astype("float64")
        if not np.isfinite(said).all():
            return np.inf
        if isinstance(task, Binary):
            mean = train[task.name].mean()
            total += log_loss(label, said) / log_loss(label, np.full(len(label), mean))
        else:
            mean = train[task.name][_labelled(task, train)].mean()
            total += np.mean((label - said) ** 2) / np.mean((label - mean) ** 2)
    return float(total / len(tasks))


def _metric(task, rows, found):
    there = _labelled(task, rows)
    label, said = rows[task.name][there], np.nan_to_num(found[task.name][there])
    if isinstance(task, Binary):
        return "auc", float(roc_auc_score(label, said))
    return "rmse", float(np.sqrt(np.mean((label - said) ** 2)))
