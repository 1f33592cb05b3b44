"""Census-Income by the protocol of the MMoE paper, beside the AUC that the paper reports.

Two groups of two tasks (`tfmoe.data.census_income`): the main task is income above 50,000
dollars, or college; the other is never married. Education, marital status and the weight of a
person are no inputs. Models: one a task, shared bottom, one gate for both tasks (OMoE), MMoE,
and MMoE with DSelect-k gates. Every model gets 8 random trials of the learning rate, the
units (a bottom may be as wide as all experts), the number of experts and what its gate has to be
set; the two with the least loss on validation rows are tried again, and the better one is run
with 8 fresh seeds. Validation and test rows are the halves of the paper's test rows, the same
for all.

`main_auc` and `marital_auc` are means over the seeds, on test rows; `best` is the `main_auc` of
the seed that has the best on validation rows. `paper_best` and `paper_mean` are the paper's
(Ma et al., 2018, tables 1 and 2, over 400 initialisations after thousands of trials).

Claims: MMoE, and MMoE with DSelect-k, have a higher `main_auc` than a shared bottom.
"""

import functools

import keras
import numpy as np
import pandas as pd

from benchmarks import search, studies
from benchmarks.gate_choices import DSELECT_K, OWN, gate_of, gates
from tfmoe.data import Split, census_income
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.gates.softmax import SoftmaxGate
from tfmoe.model.model import MultiTaskModel
from tfmoe.optimizers import Adam
from tfmoe.schema.columns import Categorical, Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary
from tfmoe.structures.mmoe import MMoE, OMoE
from tfmoe.structures.shared_bottom import SharedBottom

SINGLE, SHARED, ONE_GATE, MULTI_GATE = "single tasks", "shared bottom", "OMoE", "MMoE"
MODELS = (SINGLE, SHARED, ONE_GATE, MULTI_GATE, DSELECT_K)
MAINS, MARITAL = ("income", "college"), "never_married"
# Best and mean AUC of the main task, and the other's.
PAPER = {
    (SINGLE, "income"): (0.9398, 0.9337, 0.9922),
    (SHARED, "income"): (0.9361, 0.9295, 0.9921),
    (ONE_GATE, "income"): (0.9387, 0.9319, 0.9923),
    (MULTI_GATE, "income"): (0.9410, 0.9359, 0.9927),
    (SINGLE, "college"): (0.8843, 0.8792, 0.9922),
    (SHARED, "college"): (0.8836, 0.8813, 0.9917),
    (ONE_GATE, "college"): (0.8852, 0.8813, 0.9912),
    (MULTI_GATE, "college"): (0.8860, 0.8826, 0.9924),
}
SIZES = {"epochs": 5, "batch_size": 1024}
BUDGET = search.Budget(trials=8, again=1, seeds=8)
CHOSEN = 2
GATES = gates(OWN)
SPACE = {
    "learning_rate": search.log_uniform(1e-3, 1e-2),
    "tower": search.one_of(8, 16, 32),
}
BOTTOM = {"units": search.one_of(32, 64, 128, 256, 512, 1024)}
EXPERTS = {"units": search.one_of(16, 32, 64), "experts": search.one_of(4, 8, 16)}


def run(quick):
    """A row for each group and model; a row for each claim."""
    grid = studies.Grid("census", functools.partial(one_run, quick), quick)
    rows = []
    for main in MAINS[:1] if quick else MAINS:
        found = {}
        for name in (SHARED, MULTI_GATE) if quick else MODELS:
            base = {"set": main, "model": name, "chosen": CHOSEN} | SIZES
            budget = search.QUICK if quick else BUDGET
            found[name], settings = search.winner(grid, base, space_of(name), budget)
            rows.append(_row(main, found[name], settings))
        shared = studies.by_seed(found[SHARED], "main_auc")
        for name in (name for name in (MULTI_GATE, DSELECT_K) if name in found):
            ours = studies.by_seed(found[name], "main_auc")
            rows.append(studies.claim(f"{name} beats {SHARED}", ours, shared, "auc", set=main))
    return rows


def space_of(name):
    """What is searched for a model."""
    if name in (SINGLE, SHARED):
        return SPACE | BOTTOM
    return SPACE | EXPERTS | (GATES[name].space if name in GATES else {})


def _row(main, runs, settings):
    chosen = max(runs, key=lambda run: run["valid_auc"])
    row = {"name": chosen["model"], "set": main}
    for key in ("main_auc", "marital_auc"):
        row[key], row[f"{key}_error"] = studies.mean(studies.by_seed(runs, key))
    row["best"] = chosen["main_auc"]
    paper = PAPER.get((chosen["model"], main), (None,) * 3)
    row |= dict(zip(("paper_best", "paper_mean", "paper_marital_mean"), paper, strict=True))
    return row | {"parameters": chosen["parameters"], "seeds": len(runs), **settings}


@functools.cache
def table(quick, main):
    """The people, and a few of none in the quick form."""
    if not quick:
        return census_income(main=main)
    rng = np.random.default_rng(0)
    people = pd.DataFrame({"age": rng.normal(size=300), "job": rng.choice(list("abc"), 300)})
    people[main] = (people["age"] + rng.normal(size=300) > 1).astype(float)
    people[MARITAL] = (people["job"] == "a").astype(float)
    ends = ((0, 200), (200, 250), (250, 300))
    parts = (people.iloc[start:end].reset_index(drop=True) for start, end in ends)
    columns = [Numeric("age"), Categorical("job", dim=2, dtype="string")]
    return Split(*parts, Schema(columns, [Binary(main), Binary(MARITAL)]))


def one_run(quick, cell):
    """Losses on validation rows, AUC on validation and test rows."""
    split = table(quick, cell["set"])
    tasks = split.schema.tasks
    models = [[task] for task in tasks] if cell["model"] == SINGLE else [tasks]
    found = {}
    for of_model in models:
        found |= _trained(split, of_model, cell)
    main = cell["set"]
    return {
        "valid": found["valid", main, "log_loss"] + found["valid", MARITAL, "log_loss"],
        "valid_auc": found["valid", main, "auc"],
        "main_auc": found["test", main, "auc"],
        "marital_auc": found["test", MARITAL, "auc"],
        "parameters": sum(n for key, n in found.items() if key[0] == "parameters"),
    }


def _trained(split, tasks, cell):
    """Log loss and AUC `{(part, task, metric): value}` of a model of these tasks."""
    from sklearn.metrics import log_loss, roc_auc_score

    keras.backend.clear_session()
    keras.utils.set_random_seed(cell["seed"])
    prep = _fitted(split, tuple(tasks))
    model = MultiTaskModel(prep, _mixture(cell, split), tower_units=(cell["tower"],))
    model.compile(
        Adam(cell["learning_rate"]), metrics={task.name: [] for task in tasks}, jit_compile=False
    )
    rows = prep.dataset(split.train, cell["batch_size"], shuffle=True, seed=cell["seed"])
    valid = prep.dataset(split.valid, 8192)
    best = keras.callbacks.EarlyStopping(patience=cell["epochs"], restore_best_weights=True)
    model.fit(rows, validation_data=valid, epochs=cell["epochs"], callbacks=[best], verbose=0)
    found = {("parameters", *(task.name for task in tasks)): model.count_params()}
    for part in ("valid", "test"):
        table = getattr(split, part)
        predicted = model.predict(prep.dataset(table, 8192, labels=False), verbose=0)
        for task in tasks:
            scores = table[task.name], predicted[task.name].astype("float64")
            if not np.isfinite(scores[1]).all():
                found |= {(part, task.name, "log_loss"): np.inf, (part, task.name, "auc"): 0.0}
                continue
            found[part, task.name, "log_loss"] = float(log_loss(*scores))
            found[part, task.name, "auc"] = float(roc_auc_score(*scores))
    return found


def _fitted(split, tasks):
    return Preprocessor(Schema(split.schema.columns, tasks)).fit(split.train, progress=False)


def _mixture(cell, split):
    units = {"hidden_units": (cell["units"],)}
    if cell["model"] in (SINGLE, SHARED):
        return SharedBottom(**units)
    if cell["model"] == ONE_GATE:
        return OMoE(num_experts=cell["experts"], gate=SoftmaxGate(), **units)
    gate = SoftmaxGate()
    if cell["model"] in GATES:
        # The entropy's weight has risen half-way.
        steps = cell["epochs"] * len(split.train) // cell["batch_size"] // 2
        gate = gate_of(GATES, cell, CHOSEN, "linear", steps)
    return MMoE(num_experts=cell["experts"], gate=gate, **units)


def headline(rows):
    """MMoE's AUC of the main tasks, of the seed chosen on validation rows."""
    found = [row for row in rows if row["name"] == MULTI_GATE and "best" in row]
    return " ".join(f"{row['set']}_auc={row['best']:.4f}" for row in found)


def draw(rows, path):
    """AUC of the main tasks: mean and the chosen seed, beside the paper's."""
    from matplotlib.figure import Figure

    own = [row for row in rows if "best" in row]
    mains = list(dict.fromkeys(row["set"] for row in own))
    figure = Figure(figsize=(5 * len(mains) + 2, 3.2), layout="constrained")
    for axis, main in zip(figure.subplots(1, len(mains), squeeze=False)[0], mains, strict=True):
        shown = [row for row in own if row["set"] == main]
        names = [row["name"] for row in shown]
        values = [row["main_auc"] for row in shown]
        axis.errorbar(
            values, names, xerr=[row["main_auc_error"] for row in shown], fmt="o", label="mean"
        )
        axis.plot([row["best"] for row in shown], names, "x", label="best on validation rows")
        for key, marker in (("paper_mean", "s"), ("paper_best", "D")):
            published = [row for row in shown if row[key] is not None]
            axis.plot(
                [row[key] for row in published],
                [row["name"] for row in published],
                marker,
                fillstyle="none",
                color="grey",
                label=key.replace("_", "'s "),
            )
        axis.invert_yaxis()
        axis.set(title=main, xlabel="AUC on test rows")
        axis.locator_params(axis="x", nbins=5)
        axis.grid(alpha=0.3)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper")
    studies.save(figure, path)
