"""Which gate learns tasks in groups best, and finds the groups? 16 to 128 tasks.

The tasks are `grouped_tasks`: 16 true experts in four groups; a task is made of the four of
its group. Every row has all labels. The model is an `MMoE` of 16 experts under linear towers,
with each of the gates in two forms: `static`, one selection a task for all examples, as in the
truth, and `per example`. Sparse gates select four.

Every gate and form gets the same budget, with each number of tasks: 20 random trials of the
learning rate and of what the gate has to be set (`gate_choices.py`), on one world, the same for
all gates, as the learning rates are. The two with the least error on validation rows are tried
again on two further worlds, and the better one is run with 20 fresh seeds, which draw world,
weights and order. The loss is the sum of the tasks' squared errors, so that a gate's own loss,
a sum over tasks too, weighs the same whatever their number. Entropies and temperatures reach
their last value half-way; the best epoch is one of the second half.

- `score`: mean squared error on test rows, mean over the tasks; the noise floor is 0.01.
- `experts`: how many a task weighs above 1e-6 for an example. DSelect-k and COMET use more
  than four while they have not decided.
- `jaccard`, `precision`, `recall`, `f1`: `tfmoe.data.selection_scores` of the experts whose
  mean weight is above 0.01.

Claims, at p < 0.01: DSelect-k has less error than Top-k of the same form, uses fewer experts,
and has higher Jaccard, precision, recall and F1.
"""

import itertools

import keras
import numpy as np
from keras import ops

from benchmarks import gate_choices, search, studies
from benchmarks.gate_choices import DSELECT_K, TOP_K
from tfmoe.data import grouped_tasks, selection_scores
from tfmoe.gate_use import gate_use
from tfmoe.mixtures import MMoE
from tfmoe.optimizers import Adam
from tfmoe.towers import Towers

OPTIONS = {"tasks": (str, "16,32,64,128", "numbers of tasks")}
EXPERTS, CHOSEN, FEATURES, UNITS = 16, 4, 10, (16, 8)
GATES = gate_choices.gates(gate_choices.OWN)
QUICK_SIZES = {"rows": 80, "epochs": 1, "batch_size": 40}
USED = 0.01
FORMS = {"static": "static", "per example": "linear"}
# A gate per example needs more steps to learn, and more time for an epoch.
SIZES = {
    "static": {"rows": 8000, "epochs": 40, "batch_size": 256},
    "per example": {"rows": 8000, "epochs": 15, "batch_size": 128},
}
LEARNING_RATE = search.log_uniform(1e-3, 5e-2)
MEASURES = ("score", "experts", "jaccard", "precision", "recall", "f1")
CLAIMS = (
    ("less error", "score", "mse"),
    ("fewer experts", "experts", "loss"),
    ("higher Jaccard", "jaccard", "auc"),
    ("higher precision", "precision", "auc"),
    ("higher recall", "recall", "auc"),
    ("higher F1", "f1", "auc"),
)


def run(quick, tasks="16,32,64,128"):
    """A row for each number of tasks, form and gate; a row for each claim."""
    numbers = [16] if quick else [int(number) for number in tasks.split(",")]
    gates = (TOP_K, DSELECT_K) if quick else tuple(GATES)
    budget = search.QUICK if quick else search.Budget()
    grid = studies.Grid("synthetic", one_run, quick)
    rows = []
    for num_tasks, form in itertools.product(numbers, list(FORMS)[:1] if quick else FORMS):
        runs = []
        for gate in gates:
            base = {"tasks": num_tasks, "form": form, "model": gate, "chosen": CHOSEN}
            base |= QUICK_SIZES if quick else SIZES[form]
            space = {"learning_rate": LEARNING_RATE} | GATES[gate].space
            found, settings = search.winner(grid, base, space, budget)
            rows.append(_row(found, settings))
            runs += found
        rows += _claims(runs, tasks=num_tasks, set=form)
    return rows


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
    model.compile(Adam(cell["learning_rate"]), squared_errors, jit_compile=False)
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
    (use,) = gate_use(model, world.test[0], similarity=False)
    found = selection_scores(use.mean_weight > USED, world)
    return {
        "score": _error(model, world.test),
        "valid": _error(model, world.valid),
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


def _row(runs, settings):
    first = runs[0]
    row = {"name": first["model"], "tasks": first["tasks"], "set": first["form"]}
    for key in MEASURES:
        row[key], row[f"{key}_error"] = studies.mean(studies.by_seed(runs, key))
    return row | {"seeds": len(runs), **settings}


def _claims(runs, **where):
    rows = []
    for name, key, metric in CLAIMS:
        ours, theirs = (studies.by_seed(runs, key, model=m) for m in (DSELECT_K, TOP_K))
        name = f"{name} than {TOP_K}"
        rows.append(studies.claim(name, ours, theirs, metric, significant=0.01, **where))
    return rows


def headline(rows):
    """In how many numbers of tasks each claim holds, by form."""
    return studies.headline(rows)


def draw(rows, path):
    """Error and F1 over the number of tasks, by form."""
    y_labels = {"score": "mean squared error", "f1": "F1 of the experts"}
    shown = [
        {"set": f"{row['set']}: {label}", "name": row["name"], "tasks": row["tasks"]}
        | {"score": row[key], "standard_error": row[f"{key}_error"]}
        for row in rows
        for key, label in y_labels.items()
        if "score" in row
    ]
    titles = {f"{form}: {label}": label for form in FORMS for label in y_labels.values()}
    studies.draw_lines(shown, "tasks", path, "tasks", titles)
