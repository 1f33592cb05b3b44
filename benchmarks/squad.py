"""Does the mutual-information loss match experts to tasks? With it and without it.

Two forms: `perceptrons`, an MMoE with a top-k gate, and `transformer`, `ModSquad` over one
token a column; each row has one task, of 16 (the census has 12). What is measured:

- `information`: mutual information of tasks and experts on test rows, mean over the gates,
  as a share of its bound, the logarithm of the number of tasks;
- `needed`: the share of the experts, those that a task selected most, that it needs to stay
  within 2 % of its mean squared error, or 0.002 of its AUC, on validation rows; the others
  are silenced;
- `score` on test rows, mean over the tasks;
- standalone models of two tasks, `tfmoe.extract(model, [task], by="usage")` of experts that
  more than 2 % of a task's rows (or tokens) select: `standalone_loss`, what they lose on test
  rows; `parameters`, `file` and `latency`, as shares of the whole model's. The latency is
  of a compiled call on 1,024 rows, in turns with the whole's.

The matrices in the picture are of the first seed: the share of each task's rows that select an
expert, tasks in their order, experts in that of the task that uses them most.

Claims: with the loss the information is higher, fewer experts are needed and the score is
better; what a standalone model loses is less than 2 % of the mean squared error, or 0.002 of
the AUC (the effect is what is left of that).
"""

import functools
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
from keras import ops

from benchmarks import contestants, studies
from benchmarks.worlds import QUICK, WORLDS
from tfmoe.extraction.extract import extract
from tfmoe.structures.base import gates_inside
from tfmoe.structures.mmoe import MMoE
from tfmoe.structures.mod_squad import ModSquad

SEEDS = 10
PERCEPTRONS, TRANSFORMER = "perceptrons", "transformer"
WITH, WITHOUT = "with the loss", "without"
NUM_TASKS = 16
# A task's rows to train and to test, epochs and experts: a transformer takes longer.
SIZES = {
    ("grouped", PERCEPTRONS): (1000, 1000, 20, 32),
    ("grouped", TRANSFORMER): (600, 300, 10, 16),
    ("census", PERCEPTRONS): (4000, 4000, 8, 32),
    ("census", TRANSFORMER): (600, 300, 6, 16),
}
BATCH_SIZE, DIM = 512, 16
# Chosen in single trials on the seeds of `tuning.py`.
RATES = {
    ("grouped", PERCEPTRONS): 5e-3,
    ("grouped", TRANSFORMER): 5e-3,
    ("census", PERCEPTRONS): 3e-3,
    ("census", TRANSFORMER): 3e-3,
}
# Chosen there too: of 0.3, 1 and 3 the one with the best score of `perceptrons` on `grouped`.
INFORMATION = 1.0
# How many tasks are looked at where that takes time, and how many are extracted.
LOOKED_AT, EXTRACTED = 4, 2
THRESHOLD = 0.02
LATENCY_ROWS, TURNS = 1024, 7
MEASURES = ("score", "information", "needed", "standalone_loss", "parameters", "file", "latency")


def run(quick):
    """A row for each set, form and loss; a row for each claim."""
    worlds = QUICK if quick else WORLDS
    forms = (TRANSFORMER,) if quick else (PERCEPTRONS, TRANSFORMER)
    cells = [
        cell_of(name, worlds[name], form, loss, seed, quick)
        for name, form, seed, loss in itertools.product(
            worlds, forms, range(2 if quick else SEEDS), (WITH, WITHOUT)
        )
    ]
    runs = studies.Grid("squad", functools.partial(one_run, worlds), quick).run(cells)
    rows = []
    for where in studies.conditions(runs, "set", "form", "model"):
        own = [run for run in runs if run.items() >= where.items()]
        row = {"name": where["model"], "set": where["set"], "form": where["form"]}
        row |= {key: studies.mean(studies.by_seed(own, key))[0] for key in MEASURES}
        rows.append(row | {"seeds": len(own), "usage": own[0]["usage"]})
    for where in studies.conditions(runs, "set", "form"):
        metric = WORLDS[where["set"]].metric
        for name, key, better in (
            ("higher information", "information", "auc"),
            ("fewer experts needed", "needed", "loss"),
            ("better score", "score", metric),
        ):
            ours, others = (
                studies.by_seed(runs, key, model=loss, **where) for loss in (WITH, WITHOUT)
            )
            rows.append(studies.claim(name, ours, others, better, **where))
        allowed, lost = (
            studies.by_seed(runs, key, model=WITH, **where)
            for key in ("allowed_loss", "standalone_loss")
        )
        rows.append(studies.claim("standalone keeps quality", lost, allowed, "loss", **where))
    return rows


def headline(rows):
    """In how many of the forms each claim holds."""
    return studies.headline(rows)


def draw(rows, path):
    """Which task selects which expert of the last gate, with and without the loss."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if "usage" in row]
    lines = -(-len(shown) // 2)
    figure = Figure(figsize=(9, 3 * lines), layout="constrained")
    axes = figure.subplots(lines, 2, squeeze=False).ravel()
    for axis, row in zip(axes, shown, strict=True):
        usage = np.array(row["usage"])
        order = np.argsort(np.argmax(usage, axis=0), kind="stable")
        image = axis.imshow(usage[:, order], aspect="auto", vmin=0, vmax=1, cmap="viridis")
        axis.set_title(f"{row['set']}, {row['form']}, {row['name']}", fontsize=9)
        axis.set(xlabel="expert", ylabel="task")
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.colorbar(image, ax=axes.tolist(), label="share of rows", shrink=0.6)
    studies.save(figure, path)


def cell_of(name, world, form, loss, seed, quick):
    """All that determines a run."""
    rows, test_rows, epochs, num_experts = SIZES[name, form]
    world = world._replace(tasks=world.tasks[:NUM_TASKS])
    if not quick:
        world = world._replace(rows=rows, epochs=epochs, batch_size=BATCH_SIZE)
    return contestants.cell(name, world, contestants.MOD_SQUAD, seed, form=form) | {
        "model": loss,
        "learning_rate": RATES[name, form],
        "test_rows": world.num_test_rows if quick else test_rows,
        "num_experts": contestants.CHOSEN + 1 if quick else num_experts,
        "information": INFORMATION if loss == WITH else 0.0,
        "looked_at": 1 if quick else LOOKED_AT,
        "extracted": 1 if quick else EXTRACTED,
        "turns": 1 if quick else TURNS,
    }


def one_run(worlds, cell):
    """Everything that is measured of one model."""
    world = worlds[cell["set"]]
    tasks = world.tasks[: cell["num_tasks"]]
    split = world.make(
        cell["seed"], dict.fromkeys(tasks, cell["task_rows"]), num_test_rows=cell["test_rows"]
    )
    model = contestants.train(split, _mixture(cell), cell)
    found = contestants.scores(model, split.test, world.metric)
    return {
        "score": float(np.mean([*found.values()])),
        "information": information(model, split.test),
        "needed": _needed(model, split.valid, tasks[: cell["looked_at"]], world.metric),
        **_standalone(model, split, tasks[: cell["extracted"]], found, world.metric, cell["turns"]),
        "usage": np.round(gates_inside(model.mixture)[-1].usage, 3).tolist(),
    }


def _mixture(cell):
    gate = contestants.mod_squad_gate()
    if cell["form"] == TRANSFORMER:
        return ModSquad(
            dim=DIM, num_blocks=1, num_experts=cell["num_experts"], gate=gate, mlp_ratio=2.0
        )
    return MMoE(num_experts=cell["num_experts"], hidden_units=(16, 8), gate=gate)


def information(model, rows):
    """Mutual information of tasks and experts over its bound, mean over the gates."""
    rows = rows.groupby("task", sort=False).head(LATENCY_ROWS // 4)
    features = model.preprocessor.arrays(rows, labels=False)
    num_tasks, found = len(model.schema.tasks), []
    for record in model.forward_pass(features).aux:
        probabilities = ops.convert_to_numpy(record.probabilities)[:, 0].astype("float64")
        marks = np.eye(num_tasks)[ops.convert_to_numpy(record.task)]
        joint = marks.T @ probabilities
        joint /= joint.sum()
        apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
        some = joint > 0
        found.append(np.sum(joint[some] * np.log(joint[some] / apart[some])))
    return float(np.mean(found) / np.log(num_tasks))


def _needed(model, rows, tasks, metric):
    """Mean share of the experts that these tasks need to keep their quality."""
    weights = _silencing_weights(model.mixture)
    whole = [[ops.convert_to_numpy(w) for w in of_gate] for of_gate in weights]
    gates = gates_inside(model.mixture)
    shares = []
    for task in tasks:
        own = rows[rows["task"] == task]
        features, labels = model.preprocessor.arrays(own, labels=False), own["label"].to_numpy()
        place = model.schema.task_names.index(task)
        orders = [np.argsort(-gate.usage[place], kind="stable") for gate in gates]

        def score(num, features=features, labels=labels, orders=orders):
            for of_gate, values, order in zip(weights, whole, orders, strict=True):
                for weight, value in zip(of_gate, values, strict=True):
                    cut = value.copy()
                    cut[order[num:]] = 0
                    weight.assign(cut)
            return contestants.score(labels, contestants.predict(model, features), metric)

        least, most = 0, gates[0].num_experts
        best = score(most)
        while most - least > 1:  # `most` are enough, `least` are not
            middle = (least + most) // 2
            if _loss(score(middle), best, metric) <= _allowed(best, metric):
                most = middle
            else:
                least = middle
        score(gates[0].num_experts)
        shares.append(most / gates[0].num_experts)
    return float(np.mean(shares))


def _loss(score, best, metric):
    return best - score if metric == "auc" else score - best


def _allowed(score, metric):
    """What may be lost of a score without losing quality."""
    return 0.002 if metric == "auc" else 0.02 * score


def _silencing_weights(mixture):
    """For each gate weights `(e, ...)` whose zeros are an expert that adds nothing."""

    def last(experts):
        return [experts.kernels[-1], experts.biases[-1]]

    if isinstance(mixture, MMoE):
        return [last(mixture.experts)]
    pairs = [([block.attention.outputs], last(block.mlp)) for block in mixture.blocks]
    return [weights for pair in pairs for weights in pair]


def _standalone(model, split, tasks, whole_scores, metric, turns):
    """Standalone models of some tasks against the whole, means over the tasks."""
    found = []
    whole_bytes = _bytes(model)
    for task in tasks:
        own = {n: t[t["task"] == task] for n, t in (("valid", split.valid), ("test", split.test))}
        alone = extract(model, [task], THRESHOLD, own["valid"], tolerance=np.inf, by="usage")
        score = contestants.scores(alone, own["test"], metric)[task]
        found.append(
            {
                "standalone_loss": _loss(score, whole_scores[task], metric),
                "allowed_loss": _allowed(whole_scores[task], metric),
                "parameters": alone.count_params() / model.count_params(),
                "file": _bytes(alone) / whole_bytes,
                "latency": _latency(alone, model, own["test"].iloc[:LATENCY_ROWS], turns),
            }
        )
    return {key: float(np.mean([one[key] for one in found])) for key in found[0]}


def _bytes(model):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.stat().st_size


def _latency(alone, whole, rows, turns):
    """Time of a call on these rows over the whole model's; median over turns."""
    features = whole.preprocessor.arrays(rows, labels=False)
    batches = (alone, alone.preprocessor.arrays(rows, labels=False)), (whole, features)
    ratios = []
    for turn in range(turns + 1):
        seconds = []
        for model, batch in batches:
            start = time.perf_counter()
            model.predict_on_batch(batch)
            seconds.append(time.perf_counter() - start)
        if turn:
            ratios.append(seconds[0] / seconds[1])
    return float(np.median(ratios))
