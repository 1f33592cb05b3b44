"""Which gate learns tasks in groups best, and finds the groups? 16 to 128 tasks.

The tasks are `grouped_tasks`: 16 true experts in four groups; a task is made of the four of
its group. Every row has all labels. The model is an `MMoE` of 16 experts under linear towers,
with each of the gates in two forms: `static`, one selection a task for all examples, as in the
truth, and `per example`. Sparse gates select four.

Every gate gets the same budget, with each form and number of tasks: 20 random trials of the
learning rate and of what the gate has to be set (`gate_choices.py`), on one world, the same for
all gates, as the learning rates are. The two with the least error on validation rows are tried
again on two further worlds, and the better one is run with 20 fresh seeds, which draw world,
weights and order. The loss is the sum of the tasks' squared errors, so that a gate's own loss,
a sum over tasks too, weighs the same whatever their number. Per example there are fewer epochs of
smaller batches. Entropies and temperatures reach their last value half-way; the best epoch is one
of the second half.

DSelect-k and COMET weigh more than four experts while they have not decided, and validation rows
may like them best so. `at most 4` are the same trials, of which those come first that use, on
validation rows, at most four experts a task on average (up to 5 % more), and then those with
less error.

- `score`: mean squared error on test rows, mean over the tasks; the noise floor is 0.01.
- `experts`: how many a task weighs above 1e-6 for an example.
- `jaccard`, `precision`, `recall`, `f1`: `tfmoe.data.selection_scores` of the experts whose
  mean weight is above 0.01.

The first rows of a number of tasks have what the last four of these measures are for all experts
and for any four: `jaccard` and `recall` reward a gate that does not decide.

A row `A - B` has the mean differences of each measure over the seeds, and `p` of them. The claim
is that DSelect-k is better than Top-k of the same form in each measure at p < 0.01; `better` and
`worse` name those in which the difference is so certain, one by one, without a correction for
their number. To use fewer experts than there are in truth is neither.
"""

import functools
import itertools
import math
import re

import keras
import numpy as np
from keras import ops

from benchmarks import gate_choices, search, studies
from benchmarks.gate_choices import COMET, DSELECT_K, NOISY_TOP_K, TOP_K, Choice
from tfmoe.data import grouped_tasks, selection_scores
from tfmoe.heads.towers import Towers
from tfmoe.optimizers import Adam
from tfmoe.reports.gate_use import gate_use
from tfmoe.structures.mmoe import MMoE

OPTIONS = {
    "tasks": (str, "16,32,64,128", "numbers of tasks"),
    "forms": (str, "static,per example", "forms of the gates"),
}
EXPERTS, CHOSEN, FEATURES, UNITS = 16, 4, 10, (16, 8)
QUICK_SIZES = {"rows": 80, "epochs": 1, "batch_size": 40}
USED = 0.01
GATES = gate_choices.gates(gate_choices.OWN)
TOP_KS = {
    TOP_K: Choice(functools.partial(GATES[TOP_K].make, noisy=False), {}),
    NOISY_TOP_K: Choice(functools.partial(GATES[TOP_K].make, noisy=True), {}),
}
GATES = GATES | TOP_KS
DECIDE = (DSELECT_K, COMET)  # only by and by
FORMS = {"static": "static", "per example": "linear"}
# An epoch of gates per example takes several times as long.
SIZES = {
    "static": {"rows": 8000, "epochs": 40, "batch_size": 256},
    "per example": {"rows": 8000, "epochs": 15, "batch_size": 128},
}
STEPS_AT_ONCE = 16  # Equal results, and less time between the steps.
LEARNING_RATE = search.log_uniform(1e-3, 5e-2)
# Whether more is better; None where neither is.
MEASURES = {
    "score": False,
    "experts": None,
    "jaccard": True,
    "precision": True,
    "recall": True,
    "f1": True,
}
SIGNIFICANT = 0.01


def run(quick, tasks="16,32,64,128", forms="static,per example"):
    """A row for each number of tasks, form and gate; a row for each comparison."""
    numbers = [16] if quick else [int(number) for number in tasks.split(",")]
    gates = (TOP_K, DSELECT_K) if quick else tuple(GATES)
    budget = search.QUICK if quick else search.Budget()
    grid = studies.Grid("synthetic", one_run, quick)
    rows = []
    chosen_forms = forms.split(",")[: 1 if quick else None]
    for num_tasks, form in itertools.product(numbers, chosen_forms):
        if form == chosen_forms[0]:
            rows += floors(num_tasks, budget.seeds)
        found = {}
        for gate in gates:
            base = {"tasks": num_tasks, "form": form, "model": gate, "chosen": CHOSEN}
            base |= QUICK_SIZES if quick else SIZES[form]
            space = {"learning_rate": LEARNING_RATE} | GATES[gate].space
            ranks = {gate: search.by_loss}
            if gate in DECIDE:
                ranks[f"{gate}, at most {CHOSEN}"] = by_size
            for name, rank in ranks.items():
                found[name], settings = search.winner(grid, base, space, budget, rank)
                rows.append(_row(name, found[name], settings))
        ours = [name for name in found if name.startswith(DSELECT_K)]
        theirs = [name for name in TOP_KS if name in found]
        for pair in itertools.product(ours, theirs):
            rows.append(_comparison(*pair, found, tasks=num_tasks, set=form))
    return rows


def floors(num_tasks, seeds):
    """The measures of a selection of all experts, and of any four: a row for each."""
    rows = []
    for name, size in {"all experts": EXPERTS, f"{CHOSEN} at random": CHOSEN}.items():
        scores = []
        for seed in range(seeds):
            rows_of_world = QUICK_SIZES["rows"]  # the tasks' groups are all that counts
            world = grouped_tasks(num_tasks, EXPERTS, CHOSEN, FEATURES, rows_of_world, seed=seed)
            places = np.tile(np.arange(EXPERTS), (num_tasks, 1))
            selected = np.random.default_rng(seed).permuted(places, axis=1) < size
            scores.append(selection_scores(selected, world))
        row = {"name": name, "tasks": num_tasks, "set": "", "score": None, "experts": size}
        means = np.mean(scores, axis=0).tolist()
        rows.append(row | dict(zip(scores[0]._fields, means, strict=True)))
    return rows


def by_size(run):
    """First those that use no more experts than they may, then by loss; failed ones last."""
    (loss,) = search.by_loss(run)
    return math.isinf(loss), max(0.0, run["valid_experts"] - 1.05 * CHOSEN), loss


def one_run(cell):
    """Error on validation and test rows, and how well the groups are found."""
    world = grouped_tasks(
        cell["tasks"], EXPERTS, CHOSEN, FEATURES, cell["rows"] * 10 // 8, seed=cell["world"]
    )
    keras.backend.clear_session()
    keras.utils.set_random_seed(cell["seed"])
    epochs = cell["epochs"]
    steps = epochs * cell["rows"] // cell["batch_size"] // 2
    gate = gate_choices.gate_of(GATES, cell, CHOSEN, FORMS[cell["form"]], steps)
    model = build(gate, cell["tasks"])
    model.compile(
        Adam(cell["learning_rate"]),
        squared_errors,
        jit_compile=False,
        steps_per_execution=STEPS_AT_ONCE,
    )
    # A step that creates variables is traced twice.
    model.optimizer.build(model.trainable_variables)
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
    (valid_use,) = gate_use(model, world.valid[0], similarity=False)
    (use,) = gate_use(model, world.test[0], similarity=False)
    found = selection_scores(use.mean_weight > USED, world)
    return {
        "score": _error(model, world.test),
        "valid": _error(model, world.valid),
        "valid_experts": float(np.mean(valid_use.num_used)),
        "experts": float(np.mean(use.num_used)),
        **found._asdict(),
    }


def squared_errors(labels, predictions):
    """Sum over the tasks."""
    return ops.sum(ops.square(predictions - labels), axis=-1)


def build(gate, num_tasks):
    """A Keras model `(b, f)` to `(b, t)`."""
    inputs = keras.Input((FEATURES,))
    mixed = MMoE(num_tasks, num_experts=EXPERTS, hidden_units=UNITS, gate=gate)(inputs)
    outputs = Towers((1,) * num_tasks, hidden_units=())(mixed)
    return keras.Model(inputs, ops.concatenate(outputs, axis=1))


def _error(model, part):
    x, y = part
    return float(np.mean((ops.convert_to_numpy(model(x)) - y) ** 2))


def _row(name, runs, settings):
    row = {"name": name, "tasks": runs[0]["tasks"], "set": runs[0]["form"]}
    for key in MEASURES:
        row[key], row[f"{key}_error"] = studies.mean(studies.by_seed(runs, key))
    return row | {"seeds": len(runs), **settings}


def _comparison(ours, theirs, found, **where):
    """How much more `ours` has of each measure than `theirs`."""
    row, certain = {"name": f"{ours} - {theirs}", **where}, {"better": [], "worse": []}
    for key, more_is_better in MEASURES.items():
        tested = studies.paired(*(studies.by_seed(found[name], key) for name in (ours, theirs)))
        row |= {key: tested["effect"], f"{key}_error": tested["effect_error"]}
        row[f"{key}_p"] = tested["p"]
        if more_is_better is not None and tested["p"] < SIGNIFICANT:
            good = (tested["effect"] > 0) == more_is_better
            certain["better" if good else "worse"].append(key)
    row |= {key: ", ".join(names) for key, names in certain.items()}
    return row


def headline(rows):
    """In how many of the measures DSelect-k is certainly better, by rival, form and tasks."""
    parts, ranked = [], sum(better is not None for better in MEASURES.values())
    for row in rows:
        if "better" in row:
            name = re.sub(r"\W+", "_", f"{row['name']} {row['set']} {row['tasks']}")
            parts.append(f"{name}={len(row['better'].split())}/{ranked}")
    return " ".join(parts)


def draw(rows, path):
    """F1 of the experts against the error: a row for each number, a column for each form."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if "seeds" in row]
    numbers = list(dict.fromkeys(row["tasks"] for row in shown))
    forms = [form for form in FORMS if any(row["set"] == form for row in shown)]
    size = len(numbers), len(forms)
    figure = Figure(figsize=(5 * size[1] + 2, 4 * size[0]), layout="constrained")
    panels = itertools.product(numbers, forms)
    for axis, panel in zip(figure.subplots(*size, squeeze=False).flat, panels, strict=True):
        own = [row for row in shown if (row["tasks"], row["set"]) == panel]
        if not own:  # not run
            axis.remove()
            continue
        for row in own:
            axis.errorbar(
                row["score"],
                row["f1"],
                xerr=row["score_error"],
                yerr=row["f1_error"],
                marker="o",
                label=f"{row['name']} ({row['experts']:.3g} experts)",
            )
        axis.set(title="{} tasks, {}".format(*panel), xlabel="mean squared error")
        axis.set(ylabel="F1 of the experts")
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    studies.save(figure, path)
