"""Is a purchase after a click learnt for those who do not click?

On `conversion_funnel` the true P(buy | click) of every row is known, also of those without a
click. `divergence` is the mean Kullback-Leibler divergence from it to what a model says, over all
test rows; `clicked_divergence` over those that were clicked. Contestants are one shared bottom
without towers, linked in six ways: naive (a task that is trained on clicked rows alone), ESMM,
ESCM2 with inverse propensities and doubly robust, AITM, DBMTL. Two sizes: `too small`, of two
units, that cannot follow the bends; `large enough`, of two layers, where the naive way should be
right. Each way gets the same trials of the learning rate, chosen by the divergence on validation
rows, which only a made-up world has, and is then run with fresh seeds, which draw the world too.

Claims: with the small model, inverse propensities have less divergence than the naive way, and so
has the doubly robust way.
"""

import functools

import keras
import numpy as np

from benchmarks import search, studies
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.datasets.funnel import COLUMNS, conversion_funnel
from tfmoe.model.model import MultiTaskModel
from tfmoe.optimizers import Adam
from tfmoe.schema.columns import Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary
from tfmoe.structures.shared_bottom import SharedBottom

NAIVE, IPS, DR = "naive", "ESCM2, inverse propensities", "ESCM2, doubly robust"
LINKS = {
    NAIVE: None,
    "ESMM": "esmm",
    IPS: "escm2-ips",
    DR: "escm2-dr",
    "AITM": "aitm",
    "DBMTL": "dbmtl",
}
CLAIMED = (IPS, DR)
SMALL, LARGE = "too small", "large enough"
HIDDEN = {SMALL: (2,), LARGE: (32, 16)}
ROWS = (20_000, 10_000, 20_000)
SIZES = {"epochs": 10, "batch_size": 256}
BUDGET = search.Budget(trials=4, finalists=1, again=1, seeds=10)
SPACE = {"learning_rate": search.log_uniform(1e-3, 3e-2)}


def run(quick):
    """A row for each size and way; a row for each claim, and for the same with the large model."""
    grid = studies.Grid("funnel", functools.partial(one_run, quick), quick)
    rows = []
    for size in (SMALL,) if quick else HIDDEN:
        found = {}
        for name in (NAIVE, DR) if quick else LINKS:
            base = {"set": size, "model": name} | SIZES
            budget = search.QUICK if quick else BUDGET
            found[name], settings = search.winner(grid, base, SPACE, budget)
            rows.append(_row(found[name], settings))
        naive = studies.by_seed(found[NAIVE], "score")
        for name in (name for name in CLAIMED if name in found):
            ours = studies.by_seed(found[name], "score")
            rows.append(studies.claim(f"{name}, beats {NAIVE}", ours, naive, "mse", set=size))
    return rows


def _row(runs, settings):
    row = {"name": runs[0]["model"], "set": runs[0]["set"]}
    row["divergence"], row["divergence_error"] = studies.mean(studies.by_seed(runs, "score"))
    for key in ("clicked_divergence", "click_divergence"):
        row[key], row[f"{key}_error"] = studies.mean(studies.by_seed(runs, key))
    return row | {"parameters": runs[0]["parameters"], "seeds": len(runs), **settings}


def schema_of(name):
    """The schema of one way to link the tasks."""
    link = LINKS[name]
    buy = Binary("buy", where="click") if link is None else Binary("buy", given="click", link=link)
    columns = [Numeric(column, transform="none") for column in COLUMNS]
    return Schema(columns, [Binary("click"), buy])


def divergence(true, said):
    """Mean Kullback-Leibler divergence from true probabilities to those that a model says."""
    said = np.clip(said.astype("float64"), 1e-6, 1 - 1e-6)
    return float(np.mean(true * np.log(true / said) + (1 - true) * np.log((1 - true) / (1 - said))))


def one_run(quick, cell):
    """Divergences of the best epoch on validation rows."""
    keras.backend.clear_session()
    sizes = (600, 200, 200) if quick else ROWS
    train, valid, test = (
        conversion_funnel(size, seed=1_000_000 + 3 * cell["world"] + i)
        for i, size in enumerate(sizes)
    )
    keras.utils.set_random_seed(cell["seed"])
    prep = Preprocessor(schema_of(cell["model"])).fit(train.rows, progress=False)
    bottom = SharedBottom(hidden_units=HIDDEN[cell["set"]])
    model = MultiTaskModel(prep, bottom, tower_units=())
    model.compile(
        Adam(cell["learning_rate"]),
        metrics={"click": [], "buy": []},
        jit_compile=False,
        steps_per_execution=1 if quick else 20,
    )
    model.fit(
        *prep.arrays(train.rows),
        batch_size=cell["batch_size"],
        epochs=1 if quick else cell["epochs"],
        verbose=0,
    )
    name = "buy" if LINKS[cell["model"]] is None else "buy_given_click"
    scores = {"parameters": model.count_params()}
    for key, part in (("valid", valid), ("score", test)):
        found = model.predict(part.rows, batch_size=8192, verbose=0)
        scores[key] = divergence(part.p_buy_given_click, found[name])
    clicked = test.rows["click"].to_numpy() == 1
    own = divergence(test.p_buy_given_click[clicked], found[name][clicked])
    return scores | {
        "clicked_divergence": own,
        "click_divergence": divergence(test.p_click, found["click"]),
    }


def headline(rows):
    """The divergence of the naive way and of the best of all with the small model."""
    own = {row["name"]: row["divergence"] for row in rows if "divergence" in row}
    small = {
        r["name"]: r["divergence"] for r in rows if r.get("set") == SMALL and "divergence" in r
    }
    best = min(small, key=small.get)
    word = "".join(filter(str.isalnum, best))
    return f"ways={len(own)} naive={small[NAIVE]:.4f} best={word} divergence={small[best]:.4f}"


def draw(rows, path):
    """Divergence of each way, with its standard error; one panel for each size."""
    from matplotlib.figure import Figure

    own = [row for row in rows if "divergence" in row]
    sizes = list(dict.fromkeys(row["set"] for row in own))
    figure = Figure(figsize=(4 * len(sizes) + 2, 3.2), layout="constrained")
    axes = figure.subplots(1, len(sizes), squeeze=False, sharey=True)[0]
    for axis, size in zip(axes, sizes, strict=True):
        shown = [row for row in own if row["set"] == size][::-1]
        studies.points(axis, shown, "divergence", "divergence_error")
        axis.set(title=f"a model that is {size}", xscale="log")
        low, high = axis.get_xlim()
        ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1) if low <= tick <= high]
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.set_xlabel("divergence from the true P(buy | click), all rows")
    studies.save(figure, path)
