"""What the studies of gates on made-up tasks share: contestants, a run, rows and tests.

Each row has the labels of all tasks. The gates are those of an `MMoE` of as many experts as there
are in truth, of two small layers; all contestants have linear towers. Beside the gates stand

- `single tasks`, a network each, as wide as the experts that a sparse gate selects;
- `shared bottom`, two layers, with as many parameters as the mixture and its towers;
- `shared bottom, one layer`, as wide as it may be to cost a row of one task no more
  multiplications than the experts that a sparse gate selects, with the router.

The loss is the sum of the tasks' squared errors, as a gate's own loss is a sum over tasks. Gates
learn at a rate of their own, a searched multiple of the experts' (`gate_rate`). Under SGD the
experts' rate is divided by the number of tasks, so that they go down the tasks' mean loss while a
gate and a tower, which are one task's, go down that task's.
"""

import functools
import itertools
import math
import re
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from benchmarks import gate_choices, search, studies
from benchmarks.contestants import SHARED, WIDE
from benchmarks.gate_choices import COMET, DSELECT_K, NOISY_TOP_K, TOP_K, Choice
from tfmoe.data import selection_scores
from tfmoe.experts.mlp import Experts
from tfmoe.heads.towers import Towers
from tfmoe.optimizers import Adam, ByPart
from tfmoe.structures.mmoe import MMoE
from tfmoe.structures.shared_bottom import SharedBottom

FEATURES, UNITS, NOISE = 10, (16, 8), 0.1
SINGLE = "single tasks"
_ALL = gate_choices.gates(gate_choices.OWN)
GATES = _ALL | {
    TOP_K: Choice(functools.partial(_ALL[TOP_K].make, noisy=False), {}),
    NOISY_TOP_K: Choice(functools.partial(_ALL[TOP_K].make, noisy=True), {}),
}
DECIDE = (DSELECT_K, COMET)  # only by and by
ADAM, SGD = "adam", "sgd"
RATES = {ADAM: search.log_uniform(1e-3, 5e-2), SGD: search.log_uniform(1e-2, 1.0)}
GATE_RATE = {"gate_rate": search.log_uniform(0.03, 1.0)}
BUDGET = search.Budget(trials=8, finalists=2, again=1, seeds=20)
QUICK_SIZES = {"rows": 80, "epochs": 1, "batch_size": 40}
MOMENTUM = 0.9  # of SGD, which is not there yet without it
STEPS_AT_ONCE = 16  # Equal results, and less time between the steps.
USED = 1e-6  # An expert's weight for a row, above which it counts as used.
# Whether more is better; None where neither is.
MEASURES = {
    "score": False,
    "experts": None,
    "jaccard": True,
    "precision": True,
    "recall": True,
    "f1": True,
}


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
    return rows + [comparison(*pair, found, **where) for pair in pairs]


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


def structure_of(study, cell):
    """A contestant's layer `(b, f)` to `(b, t, u)`."""
    model, num_tasks = cell["model"], cell["tasks"]
    if model == SINGLE:
        return Experts(num_tasks, (study.chosen * UNITS[0], UNITS[1]))
    if model in (SHARED, WIDE):
        return SharedBottom(num_tasks, bottom_units(study, model, num_tasks))
    steps = cell["epochs"] * cell["rows"] // cell["batch_size"] // 2
    gate = gate_choices.gate_of(GATES, cell, study.chosen, study.router, steps)
    return MMoE(num_tasks, study.experts, UNITS, gate_choices.biased(gate))


def bottom_units(study, model, num_tasks):
    """Units of a shared bottom's layers; see the module."""
    first, last = UNITS
    router = study.experts * FEATURES if study.router == "linear" else 0
    if model == WIDE:
        expert = FEATURES * first + first * last + last  # its share in the mix, too
        return ((study.chosen * expert + last + router) // (FEATURES + 1),)
    within = parameters((first, last), study.experts)
    within += num_tasks * (router + study.experts + last + 1)
    widths = range(2, 1000, 2)
    sizes = {w: parameters((w, w // 2)) + num_tasks * (w // 2 + 1) for w in widths}
    width = max(w for w, size in sizes.items() if size <= within)
    return width, width // 2


def parameters(units, number=1):
    """Those of so many networks."""
    pairs = itertools.pairwise((FEATURES, *units))
    return number * sum((inputs + 1) * outputs for inputs, outputs in pairs)


def trained(cell, world, structure):
    """A Keras model `(b, f)` to `(b, t)` with the weights of its best epoch."""
    inputs = keras.Input((FEATURES,))
    towers = Towers((1,) * cell["tasks"], hidden_units=())
    model = keras.Model(inputs, ops.concatenate(towers(structure(inputs)), axis=1))
    model.compile(
        optimizer_of(cell, structure, towers),
        squared_errors,
        jit_compile=False,
        steps_per_execution=STEPS_AT_ONCE,
    )
    # A step that creates variables is traced twice.
    model.optimizer.build(model.trainable_variables)
    epochs = cell["epochs"]
    best = keras.callbacks.EarlyStopping(
        patience=epochs, restore_best_weights=True, start_from_epoch=epochs // 2
    )
    model.fit(
        *world.train,
        batch_size=cell["batch_size"],
        epochs=epochs,
        validation_data=world.valid,
        validation_batch_size=4096,
        callbacks=[best],
        verbose=0,
    )
    return model


def optimizer_of(cell, structure, towers):
    """The optimizer of a run, whose parts have rates of their own."""
    rate, gates = cell["learning_rate"], getattr(structure, "gates", [])
    is_sgd, alone = cell["set"] == SGD, cell["model"] == SINGLE
    kind = functools.partial(keras.optimizers.SGD, momentum=MOMENTUM) if is_sgd else Adam
    optimizer = ByPart(
        {
            "gates": kind(rate * cell.get("gate_rate", 1.0)),
            "towers": kind(rate),
            "experts": kind(rate / cell["tasks"] if is_sgd and not alone else rate),
        }
    )
    of_gates = [weight for gate in gates for weight in gate.weights]
    routing = {id(weight) for weight in of_gates}
    experts = [weight for weight in structure.weights if id(weight) not in routing]
    optimizer.route({"gates": of_gates, "towers": towers.weights, "experts": experts})
    return optimizer


def squared_errors(labels, predictions):
    """Sum over the tasks."""
    return ops.sum(ops.square(predictions - labels), axis=-1)


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


def comparison(ours, theirs, found, **where):
    """How much more `ours` has of each measure than `theirs`, and between what bounds."""
    row = {"name": f"{ours} - {theirs}", **where}
    for key in MEASURES:
        pair = [studies.by_seed(found[name], key) for name in (ours, theirs)]
        tested = studies.paired(*pair)
        row |= {key: tested["effect"], f"{key}_error": tested["effect_error"]}
        row[f"{key}_low"], row[f"{key}_high"] = studies.interval(*pair)
        row[f"{key}_p"] = tested["p"]
    return row


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
