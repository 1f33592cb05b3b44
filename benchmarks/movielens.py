"""MovieLens-1M whole: do gated experts have less loss than a shared bottom, and at what cost?

Which movie was watched, and how was it rated: all 1,574,602 training rows of
`tfmoe.datasets.movielens` with seed 0, configured as `tfmoe demo --data ml-1m` is: seven columns,
experts of one layer, towers of 64, Adam, batches of 4,096, at most eight epochs, of which the best
on validation rows counts, and no more than two without a better one. Single tasks have a best epoch
each. `loss` is what is trained on, the log loss of `watch` plus the squared error of
`rating`, on test rows. `movielens_models.py` says how large each contestant is.

**The contest** (`--part whole`): sixteen experts of 64 units, together as wide as the demo's eight
of 128; each task selects two. Each of the seven
contestants gets eight random trials: of the learning rate, log-uniform in [1e-3, 1e-2] and the same
for all; of a gate's own, as a multiple of it in [0.03, 1]; of the softmax's temperature; of
DSelect-k's gamma and entropy. The best on validation rows is run with ten fresh seeds, of the
weights and of the order: the rows, and the movies that were not watched, are the same.

A row `A - B` has the mean difference over the seeds, its 95 % bounds and its `p`.

Six primary claims, named before the first run was recorded, by Holm's correction of six tests:
DSelect-k has less loss than Top-k; than noisy Top-k; than a shared bottom of equal compute. MMoE
has less loss than a shared bottom of equal parameters; than single tasks. Noisy Top-k has less loss
than a shared bottom of equal compute.

**Quality per compute** (`--part compute`): 4 to 64 experts of 32 units, beside a shared bottom as
wide as all of them, each with two trials and three seeds of at most three epochs. Nothing is
tested.

- `multiplications`: of a row, mean over test rows, from the encoded columns to both scores, of
  those experts (`computed`) that have weight for one of its tasks. It is what sparse compute costs
  where no row of a batch weighs more experts than its tasks select; until then all are computed.
- `seconds`: of a run, which may have had a part of a core: no measurement of speed.
"""

import functools

import numpy as np

from benchmarks import search, studies
from benchmarks.gate_choices import DSELECT_K, NOISY_TOP_K, TOP_K
from benchmarks.movielens_models import (
    BOTTOM,
    COMPUTE,
    GATES,
    MEASURES,
    MMOE,
    PARAMETERS,
    PER_COMPUTE,
    SINGLE,
    WHOLE,
    one_run,
    table,
)
from tfmoe.datasets.movielens import SPLIT, floors

MEANS = "popularity; user and movie means"
MODELS = {
    WHOLE: (SINGLE, PARAMETERS, COMPUTE, MMOE, TOP_K, NOISY_TOP_K, DSELECT_K),
    PER_COMPUTE: (BOTTOM, MMOE, TOP_K, DSELECT_K),
}
CLAIMED = (
    (DSELECT_K, TOP_K),
    (DSELECT_K, NOISY_TOP_K),
    (DSELECT_K, COMPUTE),
    (MMOE, PARAMETERS),
    (MMOE, SINGLE),
    (NOISY_TOP_K, COMPUTE),
)
SIZES = {
    WHOLE: {"units": 64, "epochs": 8, "batch_size": 4096},
    PER_COMPUTE: {"units": 32, "epochs": 3, "batch_size": 4096},
}
QUICK_SIZES = {"units": 4, "epochs": 1, "batch_size": 512}
EXPERTS = {WHOLE: (16,), PER_COMPUTE: (4, 8, 16, 32, 64)}
BUDGETS = {
    WHOLE: search.Budget(trials=8, finalists=1, again=0, seeds=10),
    PER_COMPUTE: search.Budget(trials=2, finalists=1, again=0, seeds=3),
}
LEARNING_RATE = {"learning_rate": search.log_uniform(1e-3, 1e-2)}
GATE_RATE = {"gate_rate": search.log_uniform(0.03, 1.0)}
ALL = "all"
OPTIONS = {
    "part": (str, WHOLE, "the contest, `whole`, or quality per compute, `compute`"),
    "models": (
        str,
        ALL,
        "some of the contestants, semicolons between. With --no-save: their runs are kept, of "
        "which a last call for all makes the rows",
    ),
}


def run(quick, part=WHOLE, models=ALL):
    """A row for each floor, contestant and size; a row for each comparison."""
    grid = studies.Grid("movielens", functools.partial(one_run, quick), quick)
    if quick:
        return _contest(grid, True, (COMPUTE, NOISY_TOP_K)) + _sizes(grid, True, (TOP_K,))
    chosen = MODELS[part] if models == ALL else _named(models, MODELS[part])
    return {WHOLE: _contest, PER_COMPUTE: _sizes}[part](grid, False, chosen)


def _named(text, known):
    """Names out of a text; some have commas."""
    names = [name.strip() for name in text.split(";")]
    if not set(names) <= set(known):
        raise SystemExit(f"--models takes some of {'; '.join(known)!r}. Received {text!r}.")
    return names


def _contest(grid, quick, models):
    found = {name: _runs(grid, quick, WHOLE, name, EXPERTS[WHOLE][0]) for name in models}
    rows = _floors(quick) + [_row(runs) for runs in found.values()]
    return rows + comparisons(found)


def _sizes(grid, quick, models):
    numbers = EXPERTS[PER_COMPUTE][:1] if quick else EXPERTS[PER_COMPUTE]
    return [
        _row(_runs(grid, quick, PER_COMPUTE, name, number)) for name in models for number in numbers
    ]


def _runs(grid, quick, part, name, experts):
    base = {"set": part, "model": name, "experts": experts}
    base |= QUICK_SIZES if quick else SIZES[part]
    runs, _ = search.winner(grid, base, space_of(name), search.QUICK if quick else BUDGETS[part])
    return runs


def space_of(name):
    """What is searched of a contestant."""
    return LEARNING_RATE | (GATE_RATE | GATES[name].space if name in GATES else {})


def comparisons(found):
    """A row for each claim whose contestants were run.

    Args:
        found: dict from a contestant to its runs.
    """
    return [
        studies.difference(*pair, found, MEASURES, set=WHOLE)
        for pair in CLAIMED
        if all(name in found for name in pair)
    ]


def _row(runs):
    last = runs[-1]
    row = {"name": last["model"], "set": last["set"], "experts": last["experts"]}
    for key in MEASURES:
        row[key], row[f"{key}_error"] = studies.mean(studies.by_seed(runs, key))
    for key in ("valid", "computed", "multiplications", "seconds"):
        if key in last:
            row[key] = float(np.mean([run[key] for run in runs]))
    row |= {"parameters": last["parameters"], "seeds": len(runs)}
    return row | {name: last[name] for name in space_of(last["model"])}


def _floors(quick):
    found = floors(table(quick))
    both = {} if quick else {"split": SPLIT}
    return [
        {"name": "constant", "set": WHOLE, "watch_auc": 0.5}
        | {"rating_mse": found["rating_mse_constant"]}
        | both,
        {"name": MEANS, "set": WHOLE, "loss": found["watch_log_loss"] + found["rating_mse_bias"]}
        | {"watch_auc": found["watch_auc"], "watch_log_loss": found["watch_log_loss"]}
        | {"rating_mse": found["rating_mse_bias"]}
        | both,
    ]


def headline(rows):
    """For each part the contestant that is best on validation rows."""
    parts = []
    for part in MODELS:
        own = [row for row in rows if row["set"] == part and "valid" in row]
        if own:
            best = min(own, key=lambda row: row["valid"])
            name = best["name"].replace(",", "").replace(" ", "_")
            parts += [f"best_in_{part}={name}", f"{part}_loss={best['loss']:.4f}"]
    return " ".join(parts)


def draw(rows, path):
    """Loss of each contestant; loss against multiplications, a line for each kind of model."""
    from matplotlib.figure import Figure

    parts = [part for part in MODELS if any(row["set"] == part for row in rows)]
    figure = Figure(figsize=(6 * len(parts), 4), layout="constrained")
    for axis, part in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
        shown = [row for row in rows if row["set"] == part and "valid" in row]
        if part == WHOLE:
            studies.points(axis, shown, "loss", "loss_error")
            axis.invert_yaxis()
            axis.set(xlabel="loss on test rows", title="sixteen experts")
            continue
        for name in dict.fromkeys(row["name"] for row in shown):
            own = [row for row in shown if row["name"] == name]
            axis.errorbar(
                [row["multiplications"] for row in own],
                [row["loss"] for row in own],
                [row["loss_error"] for row in own],
                marker="o",
                capsize=3,
                label=name,
            )
        axis.set_xscale("log")
        axis.set(xlabel="multiplications a row", ylabel="loss on test rows")
        axis.set(title="4 to 64 experts of 32 units")
        axis.grid(alpha=0.3)
        axis.legend()
    studies.save(figure, path)
