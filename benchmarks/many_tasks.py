"""Real tables with many tasks: is a sparse mixture better, and what is it for the same compute?

`delicious` has 128 yes-or-no tasks, the tags of a page, of which a row has all labels; `school` has
139 regressions, the schools of pupils, of which a row has one (`tfmoe.datasets`). Contestants
(`many_tasks_models.py`), all of one layer and with towers of one:

- single tasks, a network each, and a shared bottom: each with no more parameters than the experts
  and towers of a mixture have;
- a wide shared bottom, which multiplies no more for a row than MMoE does;
- MMoE with softmax gates that read the inputs, plain and noisy Top-k, DSelect-k: 16 experts, of
  which the sparse gates select 2. Those are static or read the inputs, which is searched. An expert
  has 32 units, and 8 on `school`, where a task has few rows.

Each gets 16 random trials, of the learning rate, dropout and what a gate has to be set; of
DSelect-k its gate's learning rate too, 0.03 to 1 times the others'. The two with the least loss on
validation rows are tried again with two further seeds, and the better one is run with 20 fresh
seeds, which draw weights and order; the parts of the tables are always the same. Of each run the
best epoch on validation rows counts, of the second half, when entropies have their last weight.

- `score`, on test rows: the AUC, mean over the tasks; of `school` the share of the scores' variance
  that is explained, and `rmse`, in points.
- `used`, `row_used`: how many experts a task weighs in a row, and all tasks of the row together.
- `multiplications` of a row with all labels that it has, and `task_multiplications` of one task
  alone, as a model that was extracted for it computes; only experts with weight count.

Rows `naive Bayes`, `school means` and `linear` are what no network is needed for.

The set `compute` is Delicious again, for the curve of AUC against multiplications: 4 to 64 experts
in MMoE; in a mixture of which one gate selects 2 for all tasks of a row, so that the others are not
computed, by Top-k or by DSelect-k; and side by side in one network. Each point gets 8 trials and 5
seeds, and nothing is claimed of them.

A row `A - B` has the mean difference over the seeds, its 95 % bounds and its `p`.

Six primary claims, named before the first run was recorded, by Holm's correction of six tests: on
each of the two tables DSelect-k scores higher than plain Top-k, than the shared bottom, and than
the wide shared bottom. All else in the rows is for looking.
"""

import functools
import itertools
import re

import keras

from benchmarks import search, studies
from benchmarks.gate_choices import DSELECT_K, NOISY_TOP_K, TOP_K
from benchmarks.many_tasks_models import (
    DENSE,
    GATE_OF,
    JOINED,
    ONE_DSELECT_K,
    ONE_TOP_K,
    SHARED,
    SINGLE,
    WIDE,
    build,
    multiplications,
    scores_of,
    steps_of,
    structure_of,
    train,
    use_of,
)
from benchmarks.many_tasks_tables import floors, table
from benchmarks.synthetic import GATES

MODELS = (SINGLE, SHARED, WIDE, DENSE, TOP_K, NOISY_TOP_K, DSELECT_K)
CURVES = (JOINED, DENSE, ONE_TOP_K, ONE_DSELECT_K)
TABLES = ("delicious", "school")
COMPUTE = "compute"
NUMBERS = (4, 8, 16, 32, 64)
OPTIONS = {
    "sets": (str, ",".join((*TABLES, COMPUTE)), "which of them, names with commas between them"),
    "numbers": (str, ",".join(map(str, NUMBERS)), "of experts, on the curve"),
}
EXPERTS = {"experts": 16, "chosen": 2, "units": 32}
SIZES = {
    "delicious": {"epochs": 6, "batch_size": 256} | EXPERTS,
    "school": {"epochs": 12, "batch_size": 256} | EXPERTS | {"units": 8},
}
SIZES[COMPUTE] = SIZES["delicious"]
BUDGET = search.Budget(trials=16)
POINT = search.Budget(trials=8, finalists=1, again=0, seeds=5)
SPACE = {
    "learning_rate": search.log_uniform(3e-4, 1e-2),
    "dropout": search.one_of(0.0, 0.25, 0.5),
}
# Of DSelect-k. Smaller gammas than elsewhere, for a bit must travel gamma / 2 within few steps.
DECIDING = {"gamma": search.log_uniform(0.1, 10.0), "gate_rate": search.log_uniform(0.03, 1.0)}


def run(quick, sets=OPTIONS["sets"][1], numbers=OPTIONS["numbers"][1]):
    """Rows of each set: floors, contestants, comparisons; of the curve a row for each point."""
    counts = (2, 4) if quick else tuple(int(number) for number in numbers.split(","))
    total = sum(_runs(name, counts) for name in sets.split(","))
    grid = studies.Grid("many_tasks", functools.partial(one_run, quick), quick, total)
    rows = []
    for name in sets.split(","):
        rows += _curve(grid, quick, counts) if name == COMPUTE else _compared(grid, quick, name)
    return rows


def _runs(name, counts):
    if name == COMPUTE:
        return len(CURVES) * len(counts) * POINT.runs
    return len(MODELS) * BUDGET.runs


def _compared(grid, quick, name):
    """Rows of a table."""
    found = {}
    for model in (SHARED, DSELECT_K) if quick else MODELS:
        base = {"set": name, "model": model} | SIZES[name]
        budget = search.QUICK if quick else BUDGET
        found[model] = search.winner(grid, base, space_of(model), budget)
    rows = [{"name": floor, "set": name, "score": score} for floor, score in floors(quick, name)]
    rows += [_row(runs, settings) for runs, settings in found.values()]
    runs = {model: own for model, (own, _) in found.items()}
    return rows + [
        studies.difference(DSELECT_K, rival, runs, ("score",), set=name)
        for rival in runs
        if rival != DSELECT_K
    ]


def _curve(grid, quick, counts):
    """Rows of the curve."""
    rows = []
    for model, number in itertools.product((JOINED, ONE_TOP_K) if quick else CURVES, counts):
        base = {"set": COMPUTE, "model": model} | SIZES[COMPUTE] | {"experts": number}
        budget = search.QUICK if quick else POINT
        rows.append(_row(*search.winner(grid, base, space_of(model), budget)))
    return rows


def space_of(model):
    """What is searched for a contestant."""
    gate = GATE_OF.get(model, model)
    if gate not in GATES:
        return SPACE
    space = SPACE | GATES[gate].space
    if model not in CURVES:
        # One static gate for all tasks would select the same for all rows.
        space |= {"router": search.one_of("static", "linear")}
    if gate == DSELECT_K:
        space |= DECIDING
    return space


def _row(runs, settings):
    first = runs[0]
    row = {"name": first["model"], "set": first["set"], "num_experts": first["experts"]}
    if first["set"] != COMPUTE:
        del row["num_experts"]
    score, error = studies.mean(studies.by_seed(runs, "score"))
    row |= {"score": score, "standard_error": error}
    measures = ("rmse", "valid", "used", "row_used", "multiplications", "task_multiplications")
    for key in (key for key in measures if key in first):
        row[key] = studies.mean(studies.by_seed(runs, key))[0]
    return row | {"parameters": first["parameters"], "seeds": len(runs), **settings}


def one_run(quick, cell):
    """Scores of the best epoch, what a row costs, and how large the model is."""
    keras.backend.clear_session()
    rows = table(quick, "delicious" if cell["set"] == COMPUTE else cell["set"])
    keras.utils.set_random_seed(cell["seed"])
    cell = cell | ({"epochs": 1, "units": 4, "batch_size": 40} if quick else {})
    built = build(structure_of(cell, rows, steps_of(cell, rows)), rows)
    train(built, cell, rows)
    of_task, of_row = use_of(built, rows)
    whole, one = multiplications(built, rows, of_task, of_row)
    return scores_of(built, rows) | {
        "used": of_task,
        "row_used": of_row,
        "multiplications": whole,
        "task_multiplications": one,
        "parameters": built.model.count_params(),
    }


def headline(rows):
    """For each table the contestant that is best on validation rows, its score, and DSelect-k's."""
    parts = []
    for name in dict.fromkeys(row["set"] for row in rows):
        own = {row["name"]: row for row in rows if "valid" in row and row["set"] == name}
        if name == COMPUTE:
            parts.append(f"{name}_points={sum(row['set'] == name for row in rows)}")
            continue
        chosen = min(own, key=lambda model: own[model]["valid"])
        parts.append(f"{name}_chosen={re.sub(r'[^0-9A-Za-z]+', '_', chosen)}")
        parts.append(f"{name}_score={own[chosen]['score']:.4f}")
        parts.append(f"{name}_dselect_k={own[DSELECT_K]['score']:.4f}")
    return " ".join(parts)


def draw(rows, path):
    """A panel for each table, scores of contestants; and one of the curve of AUC by compute."""
    from matplotlib.figure import Figure

    sets = list(dict.fromkeys(row["set"] for row in rows))
    figure = Figure(figsize=(5.5 * len(sets), 4), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets, strict=True):
        shown = [row for row in rows if row["set"] == name and "seeds" in row]
        if name == COMPUTE:
            for model in dict.fromkeys(row["name"] for row in shown):
                own = [row for row in shown if row["name"] == model]
                along, scores, errors = (
                    [row[key] for row in own]
                    for key in ("multiplications", "score", "standard_error")
                )
                axis.errorbar(along, scores, errors, marker="o", capsize=3, label=model)
            axis.set_xscale("log")
            axis.set(xlabel="multiplications of a row", ylabel="AUC on test rows")
            axis.set(title="Delicious: quality for compute")
            axis.grid(alpha=0.3)
            axis.legend()
            continue
        studies.points(axis, shown, "score", "standard_error")
        axis.invert_yaxis()
        what = "AUC, mean of 128 tasks" if name == "delicious" else "explained share of variance"
        axis.set(xlabel=f"{what}, on test rows", title=name)
    studies.save(figure, path)
