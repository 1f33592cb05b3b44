"""Structures at equal parameters: on a world with real conflict (`rotated.py`), and on tables.

Every structure is a stack of two layers as wide as keeps it, without towers, within one number of
parameters; single tasks are a network each, within the same number together. Towers are one layer
for all. Each gets the same number of random trials of the learning rate, and of what is its own
(experts of a gated one); the best on validation rows is run with fresh seeds, which draw the world
too. `score` is the mean squared error over the tasks on test rows, of labels of deviation 1, at the
epoch that was best on validation rows; `rows_per_s` is of training, of the last seed and on a
machine that may do other things: it is no measurement of speed.

The tables are both groups of Census-Income, and MovieLens-1M whole (watched, and the rating). There
towers are a layer each, six contestants get three trials of the learning rate and their own, and
`score` is the mean over tasks of the loss on test rows as a share of that of the mean label.

Claims: PLE, AdaTT, MMoE, and MMoE with static DSelect-k gates, have less error than a shared bottom
of equal parameters.
"""

import functools
import re
import time

import keras
import numpy as np

from benchmarks import search, structures_tables, studies
from benchmarks.rotated import SIZE, TASKS, rotated
from tfmoe.experts.mlp import Experts
from tfmoe.gates.dselect_k import DSelectKGate
from tfmoe.heads.towers import Towers
from tfmoe.optimizers import Adam
from tfmoe.structures.adatt import AdaTT
from tfmoe.structures.cgc import CGC
from tfmoe.structures.cross_stitch import CrossStitch
from tfmoe.structures.mmoe import MMoE, OMoE
from tfmoe.structures.mtan import MTAN
from tfmoe.structures.ple import PLE
from tfmoe.structures.shared_bottom import SharedBottom
from tfmoe.structures.snr import SNR

SINGLE, SHARED = "single tasks", "shared bottom"
DSELECT_K = "MMoE, static DSelect-k"
CLAIMED = ("PLE", "AdaTT", "MMoE", DSELECT_K)
SIZES = {"epochs": 30, "batch_size": 128, "within": 20_000}
ROWS = (5_000, 2_000, 2_000)
BUDGET = search.Budget(trials=4, finalists=1, again=1, seeds=10)
EXPERTS = {"experts": search.one_of(4, 8, 16)}
OWN = {"own": search.one_of(1, 2), "common": search.one_of(1, 4)}


def _dselect_k(cell, units, tasks):
    # By half of the training the gates have decided.
    rows = ROWS[0]
    if cell["set"] != "rotated":
        rows = len(structures_tables.table(False, cell["set"]).train)
    steps = max(1, cell["epochs"] * rows // cell["batch_size"] // 2)
    decided = keras.optimizers.schedules.PolynomialDecay(0.0, steps, 0.1)
    gate = DSelectKGate(num_nonzeros=2, router="static", gamma=10.0, entropy_reg=decided)
    return MMoE(tasks, cell["experts"], (units, units), gate)


# For each name what it makes of a cell, units and tasks, and what is searched beside the
# learning rate.
MODELS = {
    SINGLE: (lambda cell, units, tasks: Experts(tasks, (units, units)), {}),
    SHARED: (lambda cell, units, tasks: SharedBottom(tasks, (units, units)), {}),
    "OMoE": (lambda cell, units, tasks: OMoE(tasks, cell["experts"], (units, units)), EXPERTS),
    "MMoE": (lambda cell, units, tasks: MMoE(tasks, cell["experts"], (units, units)), EXPERTS),
    DSELECT_K: (_dselect_k, EXPERTS),
    "CGC": (
        lambda cell, units, tasks: CGC(tasks, cell["own"], cell["common"], (units, units)),
        OWN,
    ),
    "PLE": (
        lambda cell, units, tasks: PLE(tasks, 2, cell["own"], cell["common"], (units,)),
        OWN,
    ),
    "AdaTT": (
        lambda cell, units, tasks: AdaTT(tasks, 2, cell["own"], cell["common"] % 4, (units,)),
        OWN,
    ),
    "CrossStitch": (lambda cell, units, tasks: CrossStitch(tasks, (units, units)), {}),
    "SNR": (
        lambda cell, units, tasks: SNR(
            tasks, cell["experts"], (units, units), penalty=cell["penalty"]
        ),
        {**EXPERTS, "penalty": search.log_uniform(1e-6, 1e-3)},
    ),
    "MTAN": (lambda cell, units, tasks: MTAN(tasks, (units, units), 8), {}),
}
ON_TABLES = (SINGLE, SHARED, "MMoE", DSELECT_K, "PLE", "AdaTT")
OPTIONS = {"sets": (str, "rotated", "rotated, census income, census college, ml-1m; comma between")}


def run(quick, sets="rotated"):
    """A row for each set and structure, and one for each claim."""
    grid = studies.Grid("structures", functools.partial(one_run, quick), quick)
    rows = []
    for name in ("rotated", "census income") if quick else sets.split(","):
        rows += _of_set(grid, quick, name.strip())
    return rows


def _of_set(grid, quick, where):
    on_table = where != "rotated"
    sizes, budget = SIZES, BUDGET
    if on_table:
        sizes, budget = structures_tables.SIZES[where], BUDGET._replace(trials=3)
    names = (SHARED, "PLE") if quick else ON_TABLES if on_table else tuple(MODELS)
    found = {}
    for name in names:
        base = {"set": where, "model": name} | sizes
        space = {"learning_rate": search.log_uniform(1e-3, 1e-2), **MODELS[name][1]}
        found[name], _ = search.winner(grid, base, space, search.QUICK if quick else budget)
    rows = [_row(runs) for runs in found.values()]
    shared = studies.by_seed(found[SHARED], "score")
    for name in (name for name in CLAIMED if name in found):
        ours = studies.by_seed(found[name], "score")
        text = f"{name} has less error than {SHARED}"
        rows.append(studies.claim(text, ours, shared, "mse", set=where))
    return rows


def _row(runs):
    score, error = studies.mean(studies.by_seed(runs, "score"))
    valid, _ = studies.mean(studies.by_seed(runs, "valid"))
    row = {"name": runs[0]["model"], "set": runs[0]["set"], "score": score}
    row |= {"standard_error": error, "valid": valid, "seeds": len(runs)}
    last = runs[-1]
    for name in (name for name in last if name.endswith(("_auc", "_rmse"))):
        row[name], row[f"{name}_error"] = studies.mean(studies.by_seed(runs, name))
    shown = ("units", "parameters", "rows_per_s", "learning_rate", *MODELS[row["name"]][1])
    return row | {name: last[name] for name in shown}


def units_of(make, within, size=SIZE, tasks=TASKS):
    """The most units of a structure's layers, and its parameters with its towers, in a number."""

    def parameters(units):
        structure = make(units, tasks)
        structure.build((None, size))
        return structure.count_params() + tasks * (units + 1)

    low, high = 1, 1
    while parameters(high) <= within:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parameters(middle) <= within else (low, middle)
    return low, parameters(low)


def one_run(quick, cell):
    """Errors of the best epoch on validation rows."""
    if cell["set"] != "rotated":
        return _on_table(quick, cell)
    keras.backend.clear_session()
    make = functools.partial(MODELS[cell["model"]][0], cell)
    units, parameters = (4, 0) if quick else units_of(make, cell["within"])
    train, valid, test = rotated(cell["world"], (300, 100, 100) if quick else ROWS)
    keras.utils.set_random_seed(cell["seed"])
    inputs = keras.Input((SIZE,))
    outputs = Towers((1,) * TASKS)(make(units, TASKS)(inputs))
    model = keras.Model(inputs, keras.layers.Concatenate()(outputs))
    adam = Adam(cell["learning_rate"])
    # Of so small a model, more time would go into starting steps than into them.
    model.compile(adam, "mse", jit_compile=False, steps_per_execution=20)
    best = keras.callbacks.EarlyStopping(patience=6, restore_best_weights=True)
    start, epochs = time.perf_counter(), 2 if quick else cell["epochs"]
    fitted = model.fit(
        *train,
        validation_data=tuple(valid),
        epochs=epochs,
        batch_size=cell["batch_size"],
        callbacks=[best],
        verbose=0,
    )
    seconds = time.perf_counter() - start
    found = {}
    for name, rows in (("valid", valid), ("score", test)):
        predicted = model.predict(rows.x, batch_size=4096, verbose=0)
        found[name] = float(np.mean((predicted - rows.y) ** 2))
    speed = round(len(fitted.epoch) * len(train.x) / seconds)
    return found | {"units": units, "parameters": parameters, "rows_per_s": speed}


def _on_table(quick, cell):
    make = functools.partial(MODELS[cell["model"]][0], cell)
    units = 4
    if not quick:
        size = structures_tables.size_of(quick, cell["set"])
        units, _ = units_of(make, cell["within"], size, 2)
    if cell["model"] == SINGLE:
        structures = [SharedBottom(hidden_units=(units, units)) for _ in range(2)]
    else:
        structures = [make(units, None)]
    return structures_tables.one_run(quick, cell, structures) | {"units": units}


def headline(rows):
    """For each set the structure that is best on validation rows, its error, a shared bottom's."""
    parts = []
    for where in dict.fromkeys(row["set"] for row in rows):
        own = {row["name"]: row for row in rows if "valid" in row and row["set"] == where}
        chosen = min(own, key=lambda name: own[name]["valid"])
        score, shared = own[chosen]["score"], own[SHARED]["score"]
        chosen, where = (re.sub(r"\W+", "_", text) for text in (chosen, where))
        parts += [f"{where}_chosen={chosen}", f"{where}_error={score:.4f}"]
        parts.append(f"{where}_shared_bottom={shared:.4f}")
    return " ".join(parts)


def draw(rows, path):
    """Error of each structure, with its standard error; a panel for each set."""
    from matplotlib.figure import Figure

    own = sorted((row for row in rows if "valid" in row), key=lambda row: row["score"])
    sets = list(dict.fromkeys(row["set"] for row in rows))
    columns = min(2, len(sets))
    lines = -(-len(sets) // columns)
    figure = Figure(figsize=(6 * columns, 3.8 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes[len(sets) :]:
        axis.remove()
    for axis, where in zip(axes, sets, strict=False):
        shown = [row for row in own if row["set"] == where]
        studies.points(axis, shown, "score", "standard_error")
        axis.invert_yaxis()
        words = "squared error on test rows, of labels of deviation 1"
        if where != "rotated":
            words = "loss on test rows, as a share of the mean label's"
        axis.set(xlabel=words, title=where)
    studies.save(figure, path)
