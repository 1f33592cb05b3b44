"""Does a task with few labels learn from others? One task's labels are cut to 0.1, 1, 10 %.

The other tasks keep theirs. The models have equal active compute (`contestants.py`). The
task-aware sparse mixture learns the cut task in two ways: with the others, as the rest do, or
after them, by `add_task` to a mixture whose experts then stay as they are (`added.py`); the
task that it starts like is found by the cut task's own rows.

The best epoch is found on validation rows of the cut task, the score is of its test rows.
Seeds draw the world (the census: its rows), the weights and the order, and all models of a
seed see the same rows, so that tests are paired by seed.

Claims: the task-aware sparse mixture, in either way, beats each of the others.
"""

import functools
import itertools

from benchmarks import added, contestants, studies
from benchmarks.worlds import QUICK, WORLDS, Y_LABELS, only
from tfmoe.data.batch.task_mixer import TaskMixer

# Not 0 to 9: those had a first form of `grouped`, of fewer rows, whose test scores were seen.
SEEDS = range(100, 110)
FRACTIONS = (0.001, 0.01, 0.1)
RIVALS = (contestants.SINGLE, contestants.SHARED, contestants.WIDE, contestants.DENSE)
AFTER = "task-aware, added after"
OURS = (contestants.TASK_AWARE, AFTER)
# Between the tasks' sizes and equal shares: else one row in ten thousand is of the cut task,
# or each of its ten rows comes hundreds of times.
MIXER = TaskMixer("temperature", temperature=2.0)


def run(quick):
    """A row for each set, fraction and model; a row for each claim."""
    worlds = QUICK if quick else WORLDS
    fractions = FRACTIONS[-1:] if quick else FRACTIONS
    rivals = RIVALS[:1] if quick else RIVALS
    cells = [
        cell_of(name, worlds[name], model, seed, fraction)
        # The fractions last, so that a model of the other tasks serves for all of them.
        for name, seed, model, fraction in itertools.product(
            worlds, range(2) if quick else SEEDS, (*rivals, *OURS), fractions
        )
    ]
    others = added.Others(contestants.TASK_AWARE)
    runs = studies.Grid("transfer", functools.partial(one_run, worlds, others), quick).run(cells)
    rows = studies.score_rows(runs, "score", "set", "fraction")
    for where in studies.conditions(runs, "set", "fraction"):
        metric = WORLDS[where["set"]].metric
        for name, rival in itertools.product(OURS, rivals):
            ours, theirs = (
                studies.by_seed(runs, "score", model=model, **where) for model in (name, rival)
            )
            rows.append(studies.claim(f"{name}, beats {rival}", ours, theirs, metric, **where))
    return rows


def headline(rows):
    """In how many of the conditions each claim holds."""
    return studies.headline(rows)


def draw(rows, path):
    """Scores over the share of labels that is left."""
    studies.draw_lines(rows, "fraction", path, "share of the task's labels", Y_LABELS)


def cell_of(name, world, model, seed, fraction):
    """All that determines a run."""
    if model == AFTER:
        cell = added.cell_of(name, world, contestants.TASK_AWARE, seed, fraction=fraction)
    else:
        cell = contestants.cell(name, world, model, seed, fraction=fraction)
    return cell | {"model": model, "target_rows": world.target_rows}


def one_run(worlds, others, cell):
    """Scores of the cut task on its test rows, and on its validation rows."""
    world, model = worlds[cell["set"]], cell["model"]
    rows = dict.fromkeys(world.tasks, world.rows)
    rows[world.target] = round(cell["fraction"] * world.target_rows)
    split = world.make(cell["seed"], rows, num_test_rows=world.num_test_rows)
    alone = model in (contestants.SINGLE, AFTER)
    if alone:
        split = only(split, [world.target])
    if model == AFTER:
        trained = added.train_added(others.of(world, cell), split, cell)
    else:
        mixture = contestants.mixture_of(model, split.schema, cell["num_experts"])
        mixer = None if alone else MIXER
        trained = contestants.train(split, mixture, cell, [world.target], mixer)
    found = {}
    for part, table in {"score": split.test, "valid": split.valid}.items():
        own = table[table["task"] == world.target]
        found[part] = contestants.scores(trained, own, world.metric)[world.target]
    return found
