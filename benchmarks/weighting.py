"""All ways to weigh tasks' losses and to combine their gradients, against tuned fixed weights.

Census-Income with either main task, MovieLens-1M, and the `grouped` world, where every row has the
labels of six regressions. One MMoE with four experts of 32 units and towers of one layer of 16 for
all. Each contestant gets the same number of random trials: of the learning rate, and of fixed
weights those of the tasks too; of the others what they have to choose; `equal` has weights of 1.
The best on validation rows is run with fresh seeds, which draw the grouped world, the rows of the
tables, the weights and the order; of each run the best epoch on validation rows.

`score` is the mean over the tasks of the loss on test rows divided by that of a constant (the
entropy of the base rate, or the variance): 1 knows nothing, less is better, and no weight is in it.
Beside it the loss of each task, and `step_ms`, the median time of a step in the last run, on a
machine that may do other things: it is no measurement of speed.

Claims: uncertainty, DWA, FAMO, PCGrad, UPGrad and DB-MTL have less error than tuned fixed weights,
and than equal ones. Kurin 2022 and Xin 2022 say: no.
"""

import functools
import time

import keras
import numpy as np
import pandas as pd

from benchmarks import census, search, studies
from tfmoe.data import Split, movielens
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.datasets.grouped import grouped_tasks
from tfmoe.model.model import MultiTaskModel
from tfmoe.objectives.weighting.by_name import WEIGHTINGS
from tfmoe.optimizers import Adam
from tfmoe.schema.columns import Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Regression
from tfmoe.structures.mmoe import MMoE

FIXED, EQUAL = "fixed", "equal"
SETS = (*census.MAINS, "ml-1m", "grouped")
METHODS = (FIXED, EQUAL, *WEIGHTINGS)
OPTIONS = {
    "sets": (str, ",".join(SETS), "what is learned, names with commas between them"),
    "methods": (str, ",".join(METHODS), "which of them, fixed first"),
}
ROWS, QUICK_ROWS = (20_000, 5_000, 10_000), (200, 60, 60)
# Some hundred steps for all.
SIZES = {name: {"epochs": 6, "batch_size": 256} for name in SETS}
SIZES["grouped"] = {"epochs": 30, "batch_size": 128}
BUDGET = search.Budget(trials=4, finalists=1, again=1, seeds=10)
SPACE = {"learning_rate": search.log_uniform(1e-3, 1e-2)}
# What is searched beside the learning rate; of fixed weights, those of all tasks but the first.
OWN = {
    "uncertainty": {"rate": search.log_uniform(3e-3, 1e-1)},
    "dwa": {"temperature": search.log_uniform(0.5, 5.0)},
    "stch": {"mu": search.log_uniform(0.1, 2.0)},
    "famo": {"rate": search.log_uniform(3e-3, 1e-1)},
    "gradnorm": {"alpha": search.one_of(0.5, 1.0, 1.5)},
    "cagrad": {"c": search.one_of(0.2, 0.4, 0.8)},
}
GROUPED_TASKS = 6


def run(quick, sets=OPTIONS["sets"][1], methods=OPTIONS["methods"][1]):
    """A row for each set and method; a row for each claim."""
    grid = studies.Grid("weighting", functools.partial(one_run, quick), quick)
    rows = []
    for name in ["grouped"] if quick else sets.split(","):
        found = {}
        for method in (FIXED, "upgrad") if quick else methods.split(","):
            base = {"set": name, "model": method} | SIZES[name]
            budget = search.QUICK if quick else BUDGET
            found[method], settings = search.winner(grid, base, space_of(name, method), budget)
            rows.append(_row(found[method], settings))
        for method in (method for method in found if method not in (FIXED, EQUAL)):
            ours = studies.by_seed(found[method], "score")
            for rival, words in ((FIXED, "tuned fixed weights"), (EQUAL, "equal weights")):
                if rival in found:
                    theirs = studies.by_seed(found[rival], "score")
                    text = f"{method} has less error than {words}"
                    rows.append(studies.claim(text, ours, theirs, "loss", set=name))
    return rows


def space_of(name, method):
    """What is searched for a method on a set."""
    if method != FIXED:
        return SPACE | OWN.get(method, {})
    num = GROUPED_TASKS if name == "grouped" else 2
    return SPACE | {f"weight_{i}": search.log_uniform(0.1, 10.0) for i in range(1, num)}


def _row(runs, settings):
    score, error = studies.mean(studies.by_seed(runs, "score"))
    row = {"name": runs[0]["model"], "set": runs[0]["set"], "score": score}
    row |= {"standard_error": error, "seeds": len(runs), "step_ms": runs[-1]["step_ms"]}
    for key in (key for key in runs[0] if key.startswith("loss_")):
        row[key] = studies.mean(studies.by_seed(runs, key))[0]
    return row | settings


@functools.cache
def _whole(name):
    """A table that is drawn from, its parts apart."""
    return movielens("ml-1m") if name == "ml-1m" else census.table(False, name)


def table(quick, name, seed):
    """Rows of all tasks in three parts."""
    sizes = QUICK_ROWS if quick else ROWS
    if name == "grouped":
        return _grouped(sizes, seed)
    whole = _whole(name)
    parts = (whole.train, whole.valid, whole.test)
    drawn = (
        part.sample(min(size, len(part)), random_state=seed).reset_index(drop=True)
        for part, size in zip(parts, sizes, strict=True)
    )
    return Split(*drawn, whole.schema)


def _grouped(sizes, seed):
    # Few rows, for the tasks are to need each other.
    sizes = [size // 5 for size in sizes]
    world = grouped_tasks(GROUPED_TASKS, 12, 4, num_rows=4 * sum(sizes), seed=seed)
    parts = []
    for (x, y), size in zip((world.train, world.valid, world.test), sizes, strict=True):
        columns = {f"x_{i}": values for i, values in enumerate(x[:size].T)}
        tasks = {f"task_{i}": values for i, values in enumerate(y[:size].T)}
        parts.append(pd.DataFrame(columns | tasks))
    columns = [Numeric(f"x_{i}") for i in range(world.train[0].shape[1])]
    tasks = [Regression(f"task_{i}") for i in range(GROUPED_TASKS)]
    return Split(*parts, Schema(columns, tasks))


def weighting_of(cell):
    """What `compile` takes; None for fixed weights."""
    if cell["model"] in (FIXED, EQUAL):
        return None
    given = {name: cell[name] for name in OWN.get(cell["model"], {})}
    if "rate" in given:
        given["learning_rate"] = given.pop("rate")
    if cell["model"] == "stch":
        given["warm_up"] = max(1, cell["epochs"] // 4)
    return WEIGHTINGS[cell["model"]](**given)


class _Steps(keras.callbacks.Callback):
    """Times of steps, from one batch's beginning to the next one's."""

    def __init__(self):
        super().__init__()
        self.times = []

    def on_train_batch_begin(self, batch, logs=None):
        self.times.append(time.perf_counter())


def one_run(quick, cell):
    """Losses on validation and test rows, of the best epoch on validation rows."""
    keras.backend.clear_session()
    split = table(quick, cell["set"], cell["world"])
    keras.utils.set_random_seed(cell["seed"])
    prep = Preprocessor(split.schema).fit(split.train, progress=False)
    tasks = split.schema.tasks
    model = MultiTaskModel(prep, MMoE(num_experts=4, hidden_units=(32,)), tower_units=(16,))
    weights = {task.name: cell.get(f"weight_{i}", 1.0) for i, task in enumerate(tasks)}
    model.compile(
        Adam(cell["learning_rate"]),
        loss_weights=weights,
        metrics={task.name: [] for task in tasks},
        weighting=weighting_of(cell),
        jit_compile=False,
    )
    train = prep.dataset(split.train, cell["batch_size"], shuffle=True, seed=cell["seed"])
    valid, test = (prep.dataset(rows, 8192) for rows in (split.valid, split.test))
    floors = {task.name: _floor(task, split) for task in tasks}
    best, kept, steps = np.inf, None, _Steps()
    for _ in range(1 if quick else cell["epochs"]):
        model.fit(train, epochs=1, callbacks=[steps], verbose=0)
        score = _score(model, valid, floors)[0]
        if score < best:
            best, kept = score, model.get_weights()
    if kept is not None:
        model.set_weights(kept)
    score, losses = _score(model, test, floors)
    times = np.diff(steps.times)
    return {
        "valid": best,
        "score": score,
        "step_ms": round(1000 * float(np.median(times)), 2) if len(times) else None,
        **{f"loss_{name}": loss for name, loss in losses.items()},
    }


def _floor(task, split):
    """The loss of a constant on the training rows; of a regression in its standardised unit."""
    if isinstance(task, Binary):
        p = split.train[task.name].mean()
        return float(-p * np.log(p) - (1 - p) * np.log(1 - p))
    return 1.0


def _score(model, rows, floors):
    """The mean over tasks of the share of a constant's loss that is left, and each task's."""
    logs = model.evaluate(rows, exact=False, verbose=0)
    losses = {name: float(logs[f"{name}_loss"]) / floor for name, floor in floors.items()}
    return float(np.mean(list(losses.values()))), losses


def headline(rows):
    """In which of the sets each claim holds."""
    return studies.headline(rows)


def draw(rows, path):
    """The score of each method on each set, with its standard error; a line at fixed weights."""
    from matplotlib.figure import Figure

    own = [row for row in rows if "score" in row]
    sets = list(dict.fromkeys(row["set"] for row in own))
    figure = Figure(figsize=(3.4 * len(sets) + 1, 4.2), layout="constrained")
    axes = figure.subplots(1, len(sets), squeeze=False, sharey=True)[0]
    for axis, name in zip(axes, sets, strict=True):
        shown = [row for row in own if row["set"] == name]
        studies.points(axis, shown, "score", "standard_error")
        fixed = next(row["score"] for row in shown if row["name"] == FIXED)
        axis.axvline(fixed, color="black", linewidth=0.8, linestyle=":")
        axis.set(xlabel="share of a constant's loss", title=name)
    axes[0].invert_yaxis()
    studies.save(figure, path)
