"""What do 1, 4, 16 unrelated tasks take from the others? The change of the old tasks' scores.

The old tasks are sixteen in two groups, or those of the census; each unrelated task has as
many rows as an old one, and what it asks has nothing to do with the others
(`benchmarks/worlds.py`). The models have equal active compute (`contestants.py`) and do not
grow. A row of an old task is seen as often as without the others. The best epoch is found on
validation rows of the old tasks, the score is the mean over their test rows, tests are
paired by seed.

Claims: the task-aware sparse mixture, and Mod-Squad, lose less than a shared bottom, of two
layers or of one, and than a dense MMoE.
"""

import functools
import itertools

import numpy as np

from benchmarks import contestants, studies
from benchmarks.worlds import QUICK, WORLDS, Y_LABELS

SEEDS = 10
UNRELATED = (0, 1, 4, 16)
RIVALS = (contestants.SHARED, contestants.WIDE, contestants.DENSE)
OURS = (contestants.TASK_AWARE, contestants.MOD_SQUAD)
# Learning rates for so few tasks (`tuning.py`), where they are not those of `SETTINGS`.
RATES = {
    ("census", contestants.WIDE): 3e-3,
    ("census", contestants.DENSE): 3e-3,
    ("census", contestants.TASK_AWARE): 3e-3,
}
# Fewer tasks and rows than in `transfer`: the unrelated ones come on top.
OLD = {
    "grouped": {"num_tasks": 16, "task_rows": 1000, "epochs": 30, "batch_size": 512},
    "census": {"num_tasks": 12},
}


def run(quick):
    """A row for each set, number of unrelated tasks and model; a row for each claim."""
    worlds = QUICK if quick else WORLDS
    models = (RIVALS[0], OURS[0]) if quick else (*RIVALS, *OURS)
    cells = [
        cell_of(name, worlds[name], model, seed, unrelated, quick)
        for name, unrelated, seed, model in itertools.product(
            worlds, (0, 4) if quick else UNRELATED, range(2 if quick else SEEDS), models
        )
    ]
    runs = studies.Grid("robust", functools.partial(one_run, worlds), quick).run(cells)
    rows = studies.score_rows(runs, "score", "set", "unrelated")
    for row in rows:
        lost = _loss(runs, row["name"], row["set"], row["unrelated"])
        row["change"], row["change_error"] = studies.mean(lost)
    for where in studies.conditions(runs, "set", "unrelated"):
        if where["unrelated"]:
            for ours, rival in itertools.product(OURS, RIVALS):
                if {ours, rival} <= set(models):
                    losses = [_loss(runs, model, **where) for model in (ours, rival)]
                    name = f"{ours} loses less than {rival}"
                    rows.append(studies.claim(name, *losses, "loss", **where))
    return rows


def _loss(runs, model, set, unrelated):
    """How much worse the old tasks are than without the others, by seed."""
    with_, without = (
        studies.by_seed(runs, "score", model=model, set=set, unrelated=num)
        for num in (unrelated, 0)
    )
    return without - with_ if WORLDS[set].metric == "auc" else with_ - without


def headline(rows):
    """In how many of the conditions each claim holds."""
    return studies.headline(rows)


def draw(rows, path):
    """What is lost over the number of unrelated tasks."""
    changes = [
        row | {"score": row["change"], "standard_error": row["change_error"]}
        for row in rows
        if "change" in row
    ]
    y_labels = {name: f"old tasks' loss of {label}" for name, label in Y_LABELS.items()}
    studies.draw_lines(changes, "unrelated", path, "unrelated tasks", y_labels, log=False)


def cell_of(name, world, model, seed, unrelated, quick):
    """All that determines a run."""
    cell = contestants.cell(name, world, model, seed, unrelated=unrelated)
    if quick:
        return cell
    return cell | OLD[name] | {"learning_rate": RATES.get((name, model), cell["learning_rate"])}


def one_run(worlds, cell):
    """Mean scores of the old tasks on their test rows, and on their validation rows."""
    world = worlds[cell["set"]]
    tasks = world.tasks[: cell["num_tasks"]]
    rows = dict.fromkeys(tasks, cell["task_rows"])
    split = world.make(cell["seed"], rows, cell["unrelated"], world.num_test_rows)
    mixture = contestants.mixture_of(cell["model"], split.schema, cell["num_experts"])
    model = contestants.train(split, mixture, cell, tasks)
    found = {}
    for part, table in {"score": split.test, "valid": split.valid}.items():
        old = table[table["task"].isin(tasks)]
        found[part] = float(np.mean([*contestants.scores(model, old, world.metric).values()]))
    return found
