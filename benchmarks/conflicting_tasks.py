"""Is a mixture that knows the task better where tasks conflict? Few labels, new and foreign tasks.

The three claims of task-aware sparse mixtures, on two stages of forty tasks in four groups that see
their inputs otherwise (`conflicting_worlds.py`), one task a row. `conflicting_models.py` says who
is compared, at equal compute and at equal parameters. The questions:

- `others`: the 36 tasks that are no targets, 1,000 rows each, learned together;
- `transfer`: the four targets, one of each group, with 64 labels each, learned with the others;
- `unseen`: the same, but they come when the others have been learned (`conflicting_added.py`):
  to a model that stays `frozen`, but for a new tower and, in a task-aware gate, an embedding; or
  of which then everything is `tuned`;
- `robust`: the others again, beside 16 unrelated tasks of as many rows; `change` is how much worse
  they are than in `others`.

Single tasks are networks of their own: of 1,000 rows in `others`, of 64 in `transfer` and `unseen`.

The contestants of `others` get the same budget on each stage: 8 random trials of the learning rate,
of the mixtures also of the weight of what keeps their experts in use (mutual information of tasks
and experts, or the importance of experts), on one world, the same for all. The two with the least
loss on validation rows of the others are tried again on another world, and the better one is run
with 20 fresh seeds, which draw world, targets, rows, weights and order. `transfer` and `robust` use
those settings, and no further search; `unseen` and single tasks of 64 rows have a learning rate of
their own, with the same budget. The best epoch is found on validation rows of the tasks that are
scored.

`score` is the mean over tasks of the AUC (`permuted`) or of the squared error (`rotated`, whose
noise floor is 0.01) on test rows; that of a run that diverged is that of no knowledge.
`multiplications` are those of a row. A row `A - B` has the mean differences over the seeds, their
95 % bounds and their `p`.

Six primary claims, named before the first run was recorded, three on each stage; by Holm's
correction of six tests. A task-aware mixture

1. scores targets better in `transfer` than a shared bottom of equal compute (two stages);
2. and frozen, in `unseen`, than such a bottom that is frozen and gets new towers (two stages);
3. loses less in `robust` than such a bottom (two stages).

All else in the rows is for looking, not for claiming.
"""

import functools
import math
import re

import keras

from benchmarks import conflicting_models as models
from benchmarks import search, studies
from benchmarks.conflicting_added import FROZEN, TUNED, Others, add, learn
from benchmarks.conflicting_models import BY_ROW, COMPUTE, PARAMETERS, SINGLE, TASK_AWARE
from benchmarks.conflicting_worlds import PERMUTED, ROTATED, world

OPTIONS = {"sets": (str, f"{PERMUTED},{ROTATED}", "the stages")}
OTHERS, TRANSFER, UNSEEN, ROBUST, ALONE = "others", "transfer", "unseen", "robust", "alone"
TOGETHER = (TASK_AWARE, BY_ROW, COMPUTE, PARAMETERS)
WAYS = (FROZEN, TUNED)
VALID_ROWS, TEST_ROWS = 200, 500  # of each task
BUDGET = search.Budget(trials=8, finalists=2, again=1, seeds=20)
SIZES = {"rows": 1000, "batch_size": 512, "experts": 16, "units": 16}
STAGES = {
    PERMUTED: SIZES | {"epochs": 10},
    ROTATED: SIZES | {"epochs": 20},
}
FEW = {"few": 64, "own_epochs": 20, "own_batch_size": 64}
UNRELATED = {"unrelated": 16}
QUICK_SIZES = {"rows": 8, "batch_size": 100, "experts": 4, "epochs": 1, "units": 4}
QUICK_FEW = {"few": 4, "own_epochs": 1, "own_batch_size": 32}
RATE = {"learning_rate": search.log_uniform(1e-3, 3e-2)}
SPACES = {
    TASK_AWARE: {"information": search.log_uniform(0.01, 0.3)},
    BY_ROW: {"balance": search.log_uniform(1e-3, 0.1)},
}
OWN_RATE = search.log_uniform(1e-3, 0.1)


def run(quick, sets=OPTIONS["sets"][1]):
    """A row for each stage, question and contestant; a row for each comparison."""
    names, together = sets.split(",")[: 1 if quick else None], TOGETHER
    if quick:
        together = (TASK_AWARE, COMPUTE)
    budget = search.QUICK if quick else BUDGET
    # Others, single tasks twice, two ways of new tasks; transfer and robust without a search.
    searched = len(together) * (1 + len(WAYS)) + 2
    total = len(names) * (searched * budget.runs + 2 * len(together) * budget.seeds)
    function = functools.partial(one_run, quick, Others())
    grid = studies.Grid("conflicting_tasks", function, quick, total)
    rows = []
    for name in names:
        found = _runs(grid, quick, name, together, budget)
        rows += [_row(question, *key, *runs) for (question, *key), runs in found.items()]
        rows += _comparisons(name, found)
    return rows


def _runs(grid, quick, stage, together, budget):
    """Runs and settings by question and name."""
    sizes = QUICK_SIZES if quick else STAGES[stage]
    few, unrelated = QUICK_FEW if quick else FEW, {"unrelated": 2} if quick else UNRELATED
    found = {}
    for model in (*together, SINGLE):
        base = {"set": stage, "question": OTHERS, "model": model} | sizes
        runs, settings = search.winner(grid, base, RATE | SPACES.get(model, {}), budget)
        found[OTHERS, model] = runs, settings
        base |= settings
        if model == SINGLE:
            continue
        seeds = [{"seed": seed, "world": seed} for seed in range(budget.seeds)]
        for question, more in ((TRANSFER, {"few": few["few"]}), (ROBUST, unrelated)):
            cells = [base | {"question": question} | more | seed for seed in seeds]
            found[question, model] = grid.run(cells), settings
        _tell_change(stage, found[ROBUST, model][0], runs)
        for way in WAYS[: 1 if quick else None]:
            base |= {"question": UNSEEN, "way": way} | few
            runs, own = search.winner(grid, base, {"own_rate": OWN_RATE}, budget)
            found[UNSEEN, f"{model}, {way}"] = runs, settings | own
    base = {"set": stage, "question": ALONE, "model": SINGLE} | sizes | few
    alone = search.winner(grid, base, {"own_rate": OWN_RATE}, budget)
    return found | {(question, SINGLE): alone for question in (TRANSFER, UNSEEN)}


def _tell_change(stage, runs, before):
    """Adds to runs how much worse they are than those of the same seeds before."""
    was = dict(zip([run["seed"] for run in before], [run["score"] for run in before], strict=True))
    for one in runs:
        change = one["score"] - was[one["seed"]]
        one["change"] = -change if stage == PERMUTED else change


def _row(question, name, runs, settings):
    first = runs[0]
    row = {"name": name, "set": first["set"], "question": question}
    for key in (key for key in ("score", "change") if key in first):
        row[key], row[f"{key}_error"] = studies.mean(studies.by_seed(runs, key))
    row |= {key: first[key] for key in ("multiplications", "parameters")}
    return row | {"seeds": len(runs), **settings}


def _comparisons(stage, found):
    """Rows of the task-aware mixture against each rival, by question."""
    rows = []
    for question in (OTHERS, TRANSFER, UNSEEN, ROBUST):
        own = {name: runs for (asked, name), (runs, _) in found.items() if asked == question}
        ours = [name for name in own if name.startswith(TASK_AWARE)]
        pairs = [(name, rival) for name in ours for rival in own if rival not in ours]
        pairs += [(ours[0], other) for other in ours[1:]]
        measures = ("score", "change") if question == ROBUST else ("score",)
        rows += [
            studies.difference(*pair, own, measures, set=stage, question=question) for pair in pairs
        ]
    return rows


def one_run(quick, others, cell):
    """Scores of the tasks that are asked for, and how large the model is."""
    keras.backend.clear_session()
    stage, question = cell["set"], cell["question"]
    rows = _world(stage, cell["world"], cell["rows"], cell.get("unrelated", 0), quick)
    tasks = rows.old if question in (OTHERS, ROBUST) else rows.targets
    if question == UNSEEN:
        built = others.of(cell, rows)
        add(built, cell, rows)
    else:
        keras.utils.set_random_seed(cell["seed"])
        alone = cell["model"] == SINGLE
        built = models.build(cell, rows.features, len(tasks) if alone else rows.tasks)
        _learn(built, cell, rows)
        if question == OTHERS and cell["seed"] == cell["world"]:
            others.keep(built, cell)
    width = models.width_of(cell["model"], rows.features, cell["units"], cell["experts"])
    size = (cell["model"], rows.features, width, cell["experts"])
    return {
        "score": models.scores(built, stage, rows.test, tasks)["score"],
        "valid": models.scores(built, stage, rows.valid, tasks)["loss"],
        "multiplications": models.multiplications(*size),
        "parameters": sum(
            math.prod(weight.shape) for weight in built.model.weights if weight.name != "joint"
        ),
    }


def _learn(built, cell, rows):
    """Trains a model as its question asks."""
    question = cell["question"]
    if question == ALONE:
        sizes = {"learning_rate": cell["own_rate"], "epochs": cell["own_epochs"]}
        own = cell | sizes | {"batch_size": cell["own_batch_size"]}
        learn(built, own, rows, rows.targets, number=cell["few"])
    elif question == TRANSFER:
        learn(built, cell, rows, rows.old, few=rows.targets, watched=rows.targets)
    else:
        more = rows.unrelated if question == ROBUST else ()
        learn(built, cell, rows, (*rows.old, *more), watched=rows.old)


@functools.lru_cache(maxsize=2)
def _world(stage, seed, rows, unrelated, quick):
    if quick:
        return world(stage, seed, (rows, 4, 4), unrelated, digits=2, quick=True)
    return world(stage, seed, (rows, VALID_ROWS, TEST_ROWS), unrelated)


def headline(rows):
    """What the task-aware mixture has more than the shared bottom of equal compute."""
    parts = []
    for row in rows:
        ours, _, rival = row["name"].partition(" - ")
        ways = [name.partition(", frozen") for name in (ours, rival)]
        if [way[0] for way in ways] == [TASK_AWARE, COMPUTE] and ways[0][1:] == ways[1][1:]:
            name = re.sub(r"\W+", "_", f"{row['set']} {row['question']}")
            key = "change" if row["question"] == ROBUST else "score"
            parts.append(f"{name}={row[key]:.4f}")
    return " ".join(parts)


def draw(rows, path):
    """A row of panels for each stage, a panel for each question; with standard errors."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if "seeds" in row]
    sets = list(dict.fromkeys(row["set"] for row in shown))
    figure = Figure(figsize=(20, 3.5 * len(sets)), layout="constrained")
    panels = figure.subplots(len(sets), 4, squeeze=False)
    for stage, axes in zip(sets, panels, strict=True):
        for axis, question in zip(axes, (OTHERS, TRANSFER, UNSEEN, ROBUST), strict=True):
            own = [row for row in shown if (row["set"], row["question"]) == (stage, question)]
            key = "change" if question == ROBUST else "score"
            studies.points(axis, own, key, f"{key}_error")
            axis.invert_yaxis()
            measure = "AUC" if stage == PERMUTED else "mean squared error"
            label = "loss to unrelated tasks" if question == ROBUST else measure
            axis.set(title=f"{stage}: {question}", xlabel=label)
    studies.save(figure, path)
