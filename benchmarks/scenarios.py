"""Two labels in scenarios that are age groups or occupations, on a part of MovieLens-1M.

Which film was watched, and how it was rated (`movielens("ml-1m")`), on rows that are drawn once,
the same for all. The scenario is a column of the person: age in seven groups, or occupation, of
which there are 21. Contestants: a shared bottom and MMoE with the scenario as a column among the
others, MMoE behind an EPNet, the same with a PPNet of user and film in the towers (PEPNet), a
shared bottom with towers of each scenario's own, STAR, and a shared bottom for each scenario alone,
trained on its rows in smaller batches, so as to have as many steps. Each gets three random trials
of the learning rate and the units; the best on validation rows is run with fresh seeds, and of each
run the best epoch on validation rows.

`watch_auc` is over all test rows, `within_auc` the mean over the scenarios of the AUC within,
`rating_rmse` over the rows that were watched.

Claims: PEPNet, STAR, and MMoE behind EPNet, have a higher `within_auc` than MMoE with the column.
"""

import functools

import keras
import numpy as np
import pandas as pd
from sklearn.metrics import log_loss, roc_auc_score

from benchmarks import search, studies
from tfmoe.data import Split, movielens
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.features.epnet import EPNet
from tfmoe.heads.ppnet import PPNet
from tfmoe.model.model import MultiTaskModel
from tfmoe.optimizers import Adam
from tfmoe.schema.columns import Categorical, Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Regression
from tfmoe.structures.mmoe import MMoE
from tfmoe.structures.shared_bottom import SharedBottom
from tfmoe.structures.star import STAR

SHARED, COLUMN, EPNET, PEPNET = "shared bottom", "MMoE", "MMoE, EPNet", "PEPNet"
TOWERS, STARS, ALONE = "scenario towers", "STAR", "each alone"
MODELS = (SHARED, COLUMN, EPNET, PEPNET, TOWERS, STARS, ALONE)
CLAIMED = (PEPNET, STARS, EPNET)
SCENARIOS = "age,occupation"
OPTIONS = {"by": (str, SCENARIOS, "names of the columns that are scenarios")}
ROWS = (120_000, 30_000, 60_000)
SIZES = {"epochs": 4, "batch_size": 1024, "experts": 4}
BUDGET = search.Budget(trials=3, finalists=1, again=1, seeds=10)
SPACE = {"learning_rate": search.log_uniform(1e-3, 1e-2), "units": search.one_of(32, 64, 128)}
TASKS = [Binary("watch"), Regression("rating", where="watch")]


def run(quick, by=SCENARIOS):
    """A row for each scenario column and model; a row for each claim."""
    grid = studies.Grid("scenarios", functools.partial(one_run, quick), quick)
    rows = []
    for column in by.split(",")[: 1 if quick else None]:
        found = {}
        for name in (COLUMN, STARS) if quick else MODELS:
            base = {"set": column, "model": name} | SIZES
            budget = search.QUICK if quick else BUDGET
            found[name], settings = search.winner(grid, base, SPACE, budget)
            rows.append(_row(found[name], settings))
        plain = studies.by_seed(found[COLUMN], "within_auc")
        for name in (name for name in CLAIMED if name in found):
            ours = studies.by_seed(found[name], "within_auc")
            rows.append(studies.claim(f"{name} beats {COLUMN}", ours, plain, "auc", set=column))
    return rows


def _row(runs, settings):
    row = {"name": runs[0]["model"], "set": runs[0]["set"]}
    for key in ("within_auc", "watch_auc", "rating_rmse"):
        row[key], row[f"{key}_error"] = studies.mean(studies.by_seed(runs, key))
    row["valid"], _ = studies.mean(studies.by_seed(runs, "valid"))
    return row | {"parameters": runs[0]["parameters"], "seeds": len(runs), **settings}


@functools.cache
def table(quick):
    """Rows of people and films, and a few of nobody in the quick form."""
    if quick:
        rng = np.random.default_rng(0)
        rows = pd.DataFrame({"user_id": rng.integers(0, 9, 300), "age": rng.choice([1, 18], 300)})
        rows["movie_id"] = rng.integers(0, 9, 300)
        rows["year"] = rng.normal(size=300)
        rows["watch"] = (rows["year"] > 0) * 1.0
        rows["rating"] = rng.normal(size=300)
        columns = [
            Categorical("user_id", dim=2),
            Categorical("movie_id", dim=2),
            Categorical("age", dim=2),
            Numeric("year"),
        ]
        parts, sizes = (rows, rows, rows), (200, 50, 50)
    else:
        whole = movielens("ml-1m")
        columns, parts, sizes = whole.schema.columns, _tables(whole), ROWS
    drawn = (
        rows.sample(size, random_state=0).reset_index(drop=True)
        for rows, size in zip(parts, sizes, strict=True)
    )
    return Split(*drawn, Schema(columns, TASKS))


def one_run(quick, cell):
    """Losses on validation rows, and metrics on test rows."""
    split = table(quick)
    column = cell["set"]
    whole = len(split.train)
    found = [_trained(part, cell, len(part.train) / whole) for part in _parts(split, cell)]
    valid, test = (pd.concat([one[i] for one in found]) for i in (0, 1))
    scenarios = split.test[column].loc[test.index]
    labels = split.test.loc[test.index]
    within = [
        roc_auc_score(labels["watch"][scenarios == value], test["watch"][scenarios == value])
        for value in sorted(scenarios.unique())
        if labels["watch"][scenarios == value].nunique() == 2
    ]
    return {
        "valid": _loss(split.valid.loc[valid.index], valid, split.train["rating"].std()),
        "within_auc": float(np.mean(within)),
        "watch_auc": float(roc_auc_score(labels["watch"], test["watch"])),
        "rating_rmse": _rmse(labels, test),
        "parameters": sum(one[2] for one in found),
    }


def _tables(split):
    return split.train, split.valid, split.test


def _parts(split, cell):
    """What each of the contestant's models is trained and measured on."""
    column = cell["set"]
    if cell["model"] != ALONE:
        return [Split(*_tables(split), Schema(split.schema.columns, TASKS, scenario=column))]
    values = sorted(split.train[column].unique())
    return [
        Split(*(rows[rows[column] == value] for rows in _tables(split)), split.schema)
        for value in values
    ]


def _loss(labels, predicted, deviation):
    """Log loss of watching, and squared error of ratings in units of their variance."""
    watch = log_loss(labels["watch"], predicted["watch"].astype("float64"))
    return float(watch + (_rmse(labels, predicted) / deviation) ** 2)


def _rmse(labels, predicted):
    seen = labels["watch"] == 1
    return float(np.sqrt(np.mean((labels["rating"] - predicted["rating"])[seen] ** 2)))


def _trained(split, cell, share):
    """Predictions on validation and test rows, by their index, and the number of parameters.

    Of a share of the rows batches are so much smaller, so that there are as many steps.
    """
    batch_size = max(8, round(cell["batch_size"] * share))
    keras.backend.clear_session()
    keras.utils.set_random_seed(cell["seed"])
    prep = Preprocessor(split.schema).fit(split.train, progress=False)
    model = MultiTaskModel(prep, tower_units=(32,), **_options(cell))
    model.compile(Adam(cell["learning_rate"]), metrics={"watch": [], "rating": []})
    best = keras.callbacks.EarlyStopping(patience=cell["epochs"], restore_best_weights=True)
    model.fit(
        prep.dataset(split.train, batch_size, shuffle=True, seed=cell["seed"]),
        validation_data=prep.dataset(split.valid, 8192),
        epochs=cell["epochs"],
        callbacks=[best],
        verbose=0,
    )
    found = []
    for rows in (split.valid, split.test):
        predicted = model.predict(prep.dataset(rows, 8192, labels=False), verbose=0)
        found.append(pd.DataFrame({task: predicted[task] for task in predicted}, index=rows.index))
    return (*found, model.count_params())


def _options(cell):
    units = {"hidden_units": (cell["units"],)}
    mixture = MMoE(num_experts=cell["experts"], **units)
    return {
        SHARED: {"mixture": SharedBottom(**units)},
        COLUMN: {"mixture": mixture},
        EPNET: {"mixture": mixture, "input_gate": EPNet()},
        PEPNET: {
            "mixture": mixture,
            "input_gate": EPNet(),
            "tower_gate": PPNet(["user_id", "movie_id"]),
        },
        TOWERS: {"mixture": SharedBottom(**units), "scenario_towers": True},
        STARS: {"mixture": STAR(**units)},
        ALONE: {"mixture": SharedBottom(**units)},
    }[cell["model"]]


def headline(rows):
    """The contestant that is best on validation rows, and its AUC within scenarios and MMoE's."""
    parts = []
    for column in dict.fromkeys(row["set"] for row in rows):
        own = {r["name"]: r for r in rows if r["set"] == column and "valid" in r}
        chosen = min(own, key=lambda name: own[name]["valid"])
        name = chosen.replace(", ", "_").replace(" ", "_")
        parts.append(f"by_{column}={name} auc={own[chosen]['within_auc']:.4f}")
        parts.append(f"mmoe={own[COLUMN]['within_auc']:.4f}")
    return " ".join(parts)


def draw(rows, path):
    """AUC within scenarios of each contestant, with its standard error."""
    from matplotlib.figure import Figure

    own = [row for row in rows if "valid" in row]
    columns = list(dict.fromkeys(row["set"] for row in own))
    figure = Figure(figsize=(5 * len(columns) + 1, 3.2), layout="constrained")
    for axis, column in zip(
        figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True
    ):
        shown = [row for row in own if row["set"] == column]
        studies.points(axis, shown, "within_auc", "within_auc_error")
        axis.invert_yaxis()
        axis.set(xlabel="AUC of watching within scenarios, on test rows", title=f"by {column}")
    studies.save(figure, path)
