"""Does a task with few labels learn from others? One task's labels are cut to 0.1, 1, 10 %.

The other tasks keep theirs. The models have equal active compute (`contestants.py`); each
is trained with its best epoch found on validation rows of the cut task, and scored on its
test rows. Seeds draw the world (the census: its rows), the weights and the order, and all
models of a seed see the same rows, so that tests are paired by seed.

Claim: the task-aware sparse mixture beats each of the other three.
"""

import functools
import itertools

from benchmarks import contestants, studies
from benchmarks.worlds import QUICK, WORLDS, Y_LABELS, only
from tfmoe.data.mixer import TaskMixer

SEEDS = 10
FRACTIONS = (0.001, 0.01, 0.1)
MODELS = (
    contestants.SINGLE,
    contestants.SHARED,
    contestants.DENSE,
    contestants.TASK_AWARE,
)
# Between the tasks' sizes and equal shares: else one row in ten thousand is of the cut task,
# or each of its ten rows comes hundreds of times.
MIXER = TaskMixer("temperature", temperature=2.0)


def run(quick):
    """A row for each set, fraction and model; a row for each claim."""
    worlds = QUICK if quick else WORLDS
    fractions = FRACTIONS[-1:] if quick else FRACTIONS
    cells = [
        cell_of(name, worlds[name], model, seed, fraction)
        for name, fraction, seed, model in itertools.product(
            worlds, fractions, range(2 if quick else SEEDS), MODELS
        )
    ]
    runs = studies.Grid("transfer", functools.partial(one_run, worlds), quick).run(cells)
    rows = studies.score_rows(runs, "score", "set", "fraction")
    for where in studies.conditions(runs, "set", "fraction"):
        metric = WORLDS[where["set"]].metric
        ours = studies.by_seed(runs, "score", model=MODELS[-1], **where)
        for rival in MODELS[:-1]:
            theirs = studies.by_seed(runs, "score", model=rival, **where)
            rows.append(studies.claim(f"beats {rival}", ours, theirs, metric, **where))
    return rows


def cell_of(name, world, model, seed, fraction):
    """All that determines a run."""
    more = {"fraction": fraction, "target_rows": world.target_rows}
    return contestants.cell(name, world, model, seed, **more)


def one_run(worlds, cell):
    """Scores of the cut task on its test rows, and on its validation rows."""
    world = worlds[cell["set"]]
    rows = dict.fromkeys(world.tasks, world.rows)
    rows[world.target] = round(cell["fraction"] * world.target_rows)
    split = world.make(cell["seed"], rows, num_test_rows=world.num_test_rows)
    alone = cell["model"] == contestants.SINGLE
    if alone:
        split = only(split, [world.target])
    mixture = contestants.mixture_of(cell["model"], split.schema, cell["num_experts"])
    losses = contestants.losses_of(cell["model"])
    mixer = None if alone else MIXER
    trained = contestants.train(split, mixture, cell, [world.target], mixer, losses)
    found = {}
    for part, table in {"score": split.test, "valid": split.valid}.items():
        own = table[table["task"] == world.target]
        found[part] = contestants.scores(trained, own, world.metric)[world.target]
    return found


def headline(rows):
    """In how many of the conditions each claim holds."""
    return studies.headline(rows)


def draw(rows, path):
    """Scores over the share of labels that is left."""
    studies.draw_lines(rows, "fraction", path, "share of the task's labels", Y_LABELS)
