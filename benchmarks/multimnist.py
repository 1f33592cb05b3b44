"""Multi-MNIST: experts that are small convolutional networks, two digits in one picture.

The tasks are the top left digit and the bottom right one (`multimnist_pictures.py`). Gates select 2
of 6 experts for each, by the pixels; `multimnist_models.py` says how large the others are. 8,000
pictures to train, 2,000 to validate and 20,000 to test; Adam, batches of 128, 20 epochs, of which
the best on validation pictures counts, of the second half: schedules have done their course then.

Every contestant gets 4 random trials: of the learning rate; of a gate's own, as a multiple of it in
[0.03, 1]; of DSelect-k's gamma and entropy. They are of one draw of pictures, the same for all. The
best on validation pictures is run with 10 fresh seeds, which draw pictures, weights and order.

- `accuracy` on test pictures, mean over the digits.
- `used`, `computed`: the experts that a digit of a picture weighs, and both together.
- `multiplications` of a picture for both digits; of the experts, of those with weight.

A row `A - B` has the mean difference over the seeds, its 95 % bounds and its `p`.

Five primary claims, named before the first run was recorded, by Holm's correction of five tests:
DSelect-k is more accurate than Top-k; than noisy Top-k; than a shared bottom of equal parameters;
than one of equal compute; than single tasks. All else in the rows is for looking.
"""

import functools

import keras

from benchmarks import multimnist_models as models
from benchmarks import search, studies
from benchmarks.gate_choices import DSELECT_K, NOISY_TOP_K, TOP_K
from benchmarks.multimnist_models import COMPUTE, GATES, PARAMETERS, PLACES, SINGLE
from benchmarks.multimnist_pictures import parts

MODELS = (DSELECT_K, TOP_K, NOISY_TOP_K, PARAMETERS, COMPUTE, SINGLE)
LEARNING_RATE = {"learning_rate": search.log_uniform(3e-4, 1e-2)}
GATE_RATE = {"gate_rate": search.log_uniform(0.03, 1.0)}
SIZES = {"pictures": 8000, "epochs": 20, "batch_size": 128, "experts": 6}
QUICK_SIZES = {"pictures": 40, "epochs": 1, "batch_size": 20, "experts": 3}
VALID, TEST = 2000, 20_000
BUDGET = search.Budget(trials=4, finalists=1, again=0, seeds=10)


def run(quick):
    """A row for each contestant; a row for each comparison with DSelect-k."""
    contestants = (DSELECT_K, COMPUTE) if quick else MODELS
    budget = search.QUICK if quick else BUDGET
    total = len(contestants) * budget.runs
    grid = studies.Grid("multimnist", functools.partial(one_run, quick), quick, total)
    found, rows = {}, []
    for name in contestants:
        base = {"model": name} | (QUICK_SIZES if quick else SIZES)
        found[name], settings = search.winner(grid, base, space_of(name), budget)
        rows.append(_row(found[name], settings))
    rows += [
        studies.difference(DSELECT_K, rival, found, ("accuracy",)) for rival in contestants[1:]
    ]
    return rows


def space_of(name):
    """What is searched of a contestant."""
    return LEARNING_RATE | (GATE_RATE | GATES[name].space if name in GATES else {})


def _row(runs, settings):
    first = runs[0]
    row = {"name": first["model"]}
    for key in ("accuracy", *PLACES):
        row[key], row[f"{key}_error"] = studies.mean(studies.by_seed(runs, key))
    for key in (key for key in ("used", "computed", "multiplications") if key in first):
        row[key] = studies.mean(studies.by_seed(runs, key))[0]
    return row | {"parameters": first["parameters"], "seeds": len(runs), **settings}


def one_run(quick, cell):
    """Scores of the best epoch, what a picture costs, and how large the model is."""
    numbers = (cell["pictures"], *((20, 20) if quick else (VALID, TEST)))
    pictures, valid, test = parts(quick, cell["world"], numbers)
    keras.backend.clear_session()
    keras.utils.set_random_seed(cell["seed"])
    # By half of the training DSelect-k's gates should have decided.
    steps = cell["epochs"] * len(pictures.x) // cell["batch_size"] // 2
    model, mixture = models.build(cell, max(1, steps))
    models.train(model, mixture, cell, pictures, valid)
    use = models.use_of(mixture, test)
    return {
        **models.scores(model, valid, test),
        **use,
        "multiplications": models.multiplications(cell, use),
        "parameters": model.count_params(),
    }


def headline(rows):
    """Accuracies of DSelect-k and of Top-k."""
    found = {row["name"]: row["accuracy"] for row in rows if "seeds" in row}
    names = {"dselect_k": DSELECT_K, "top_k": TOP_K}
    return " ".join(f"{key}={found[name]:.4f}" for key, name in names.items() if name in found)


def draw(rows, path):
    """Accuracy of each digit by contestant, and accuracy over multiplications."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if "seeds" in row]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axis, costs = figure.subplots(1, 2)
    for place in PLACES:
        studies.points(axis, shown, place, f"{place}_error")
    axis.invert_yaxis()
    axis.set(xlabel="accuracy on test pictures")
    axis.legend([place.replace("_", " ") for place in PLACES])
    for row in shown:
        point = (row["multiplications"], row["accuracy"])
        costs.errorbar(*point, row["accuracy_error"], marker="o", capsize=3, label=row["name"])
    costs.set(xlabel="multiplications of a picture", ylabel="accuracy, mean of both digits")
    costs.grid(alpha=0.3)
    costs.legend(fontsize="small")
    studies.save(figure, path)
