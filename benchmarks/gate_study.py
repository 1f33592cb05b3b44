"""What the studies of gates on made-up tasks share: the search, a run, rows and comparisons.

Each row has the labels of all tasks. The contestants are those of `gate_models.py`.
"""

import functools
import itertools
import math
import re
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from benchmarks import search, studies
from benchmarks.contestants import SHARED, WIDE
from benchmarks.gate_choices import COMET, DSELECT_K, NOISY_TOP_K, TOP_K
from benchmarks.gate_models import ADAM, GATES, SGD, SINGLE, structure_of, trained
from tfmoe.data import selection_scores

NOISE = 0.1
DECIDE = (DSELECT_K, COMET)  # only by and by
RATES = {ADAM: search.log_uniform(1e-3, 5e-2), SGD: search.log_uniform(1e-2, 1.0)}
GATE_RATE = {"gate_rate": search.log_uniform(0.03, 1.0)}
BUDGET = search.Budget(trials=8, finalists=2, again=1, seeds=20)
QUICK_SIZES = {"rows": 80, "epochs": 1, "batch_size": 40}
USED = 1e-6  # An expert's weight for a row, above which it counts as used.
MEASURES = ("score", "experts", "jaccard", "precision", "recall", "f1")


class Study(NamedTuple):
    """What a study has of its own.

    Attributes:
        name: str.
        experts: int.
        chosen: int, experts that a sparse gate selects.
        router: "static" or "linear".
        gates: tuple of str.
        world: function `(num_tasks, rows_to_train, seed)` to the tasks.
        selected: function `(world, weights, x)` to a bool array: which experts are selected, as
            `selection_scores` takes it, where a model weighs them `(b, t, e)` on rows `x`; `b`
            is 1 where all rows have the same.
        sizes: dict from an optimizer to rows, epochs and rows of a batch.
    """

    name: str
    experts: int
    chosen: int
    router: str
    gates: tuple
    world: object
    selected: object
    sizes: dict


def contest(study, quick, num_tasks, optimizer):
    """Searches and runs all contestants, with one number of tasks and one optimizer.

    Returns:
        A row for each of them, one for each comparison of DSelect-k with a Top-k gate.
    """
    grid = studies.Grid(study.name, functools.partial(one_run, study), quick)
    gates = (TOP_K, DSELECT_K) if quick else study.gates
    rows, found = [], {}
    for model in (*gates, SHARED) if quick else (*gates, SINGLE, SHARED, WIDE):
        base = {"tasks": num_tasks, "set": optimizer, "model": model, "chosen": study.chosen}
        base |= QUICK_SIZES if quick else study.sizes[optimizer]
        space = {"learning_rate": RATES[optimizer]}
        if model in GATES:
            space |= GATE_RATE | GATES[model].space
        ranks = {model: search.by_loss}
        if model in DECIDE:
            few = functools.partial(by_size, most=study.chosen)
            ranks[at_most(model, study.chosen)] = few
        for name, rank in ranks.items():
            budget = search.QUICK if quick else BUDGET
            found[name], settings = search.winner(grid, base, space, budget, rank)
            rows.append(_row(name, found[name], settings))
    ours = [name for name in found if name.startswith(DSELECT_K)]
    theirs = [name for name in (TOP_K, NOISY_TOP_K) if name in found]
    where = {"tasks": num_tasks, "set": optimizer}
    pairs = itertools.product(ours, theirs)
    return rows + [studies.difference(*pair, found, MEASURES, **where) for pair in pairs]


def at_most(model, number):
    """The name of a gate that is kept to so many experts."""
    return f"{model}, at most {number}"


def by_size(run, most):
    """First those that use no more experts than they may, then by loss; failed ones last."""
    (loss,) = search.by_loss(run)
    return math.isinf(loss), max(0.0, run["valid_experts"] - 1.05 * most), loss


def floors(study, quick, num_tasks):
    """The measures of a selection of all experts, and of as many as are right at random."""
    rows = []
    for name, size in {
        "all experts": study.experts,
        f"{study.chosen} at random": study.chosen,
    }.items():
        scores = []
        for seed in range((search.QUICK if quick else BUDGET).seeds):
            # What experts the tasks are made of does not depend on the rows.
            world = study.world(num_tasks, QUICK_SIZES["rows"], seed)
            places = np.broadcast_to(np.arange(study.experts), world.weights.shape)
            selected = np.random.default_rng(seed).permuted(places, axis=-1) < size
            scores.append(selection_scores(selected, world))
        row = {"name": name, "tasks": num_tasks, "set": "", "score": None, "experts": size}
        means = np.mean(scores, axis=0).tolist()
        rows.append(row | dict(zip(scores[0]._fields, means, strict=True)))
    return rows


def one_run(study, cell):
    """Error on validation and test rows, and how well the experts are found."""
    world = study.world(cell["tasks"], cell["rows"], cell["world"])
    keras.backend.clear_session()
    keras.utils.set_random_seed(cell["seed"])
    structure = structure_of(study, cell)
    model = trained(cell, world, structure)
    scores = {"score": _error(model, world.test), "valid": _error(model, world.valid)}
    if not math.isfinite(scores["score"]):
        # One would rather take the mean label.
        scores["score"] = float(np.mean(np.var(world.test[1], axis=0)))
    if cell["model"] not in GATES:
        return scores
    valid, test = (weights_of(structure, x) for x, _ in (world.valid, world.test))
    selected = study.selected(world, test, world.test[0])
    scores |= {"valid_experts": used(valid), "experts": used(test)}
    return scores | selection_scores(selected, world)._asdict()


def weights_of(structure, x):
    """What the gate weighs the experts with, `(b, t, e)`; with a static router `b` is 1."""
    _, (record,) = structure(x, return_aux=True)
    return ops.convert_to_numpy(record.weights)


def used(weights):
    """How many experts a task uses for a row, on average."""
    return float(np.mean(np.sum(weights > USED, axis=-1)))


def _error(model, part):
    x, y = part
    return float(np.mean((ops.convert_to_numpy(model(x)) - y) ** 2))


def _row(name, runs, settings):
    row = {"name": name, "tasks": runs[0]["tasks"], "set": runs[0]["set"]}
    for key in (key for key in MEASURES if key in runs[0]):
        row[key], row[f"{key}_error"] = studies.mean(studies.by_seed(runs, key))
    return row | {"seeds": len(runs), **settings}


def headline(rows):
    """The difference in error and in F1 of each comparison, by tasks and optimizer."""
    parts = []
    for row in rows:
        if "score_p" in row:
            name = re.sub(r"\W+", "_", f"{row['name']} {row['set']} {row['tasks']}")
            parts += [f"{name}_error={row['score']:.4f}", f"{name}_f1={row['f1']:.3f}"]
    return " ".join(parts)


def draw(rows, path):
    """F1 against the error: a row for each number of tasks, a column for each optimizer.

    What has no gate is a line at its error.
    """
    from matplotlib.figure import Figure

    shown = [row for row in rows if "seeds" in row]
    numbers = list(dict.fromkeys(row["tasks"] for row in shown))
    optimizers = [name for name in RATES if any(row["set"] == name for row in shown)]
    size = len(numbers), len(optimizers)
    figure = Figure(figsize=(5 * size[1] + 2, 4 * size[0]), layout="constrained")
    panels = itertools.product(numbers, optimizers)
    for axis, panel in zip(figure.subplots(*size, squeeze=False).flat, panels, strict=True):
        own = [row for row in shown if (row["tasks"], row["set"]) == panel]
        if not own:  # not run
            axis.remove()
            continue
        for i, row in enumerate(own):
            if row.get("f1") is None:
                axis.axvline(row["score"], color=f"C{i}", linestyle=":", label=row["name"])
                continue
            axis.errorbar(
                row["score"],
                row["f1"],
                xerr=row["score_error"],
                yerr=row["f1_error"],
                marker="o",
                color=f"C{i}",
                label=f"{row['name']} ({row['experts']:.3g} experts)",
            )
        axis.set(title="{} tasks, {}".format(*panel), xlabel="mean squared error")
        axis.set(ylabel="F1 of the experts")
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    studies.save(figure, path)
