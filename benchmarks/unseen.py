"""Does a model learn a task that it has not seen from few rows? 32, 128, 512, 2,048 of them.

The ways, of equal active compute (`contestants.py`):

- from scratch: a model of that task alone;
- fine-tuned shared bottom, of two layers or of one: a model that has learned all other tasks
  gets a new tower, and all of it is trained on;
- task-aware routing: a task-aware sparse mixture that has learned all other tasks gets the
  new one by `add_task`: its experts stay as they are, and only an embedding in the router and
  a tower are learned (`added.py`).

The tower, and the embedding, start like those of the task whose scores, of the new task's own
rows, correlate most with the labels. The best epoch is found on validation rows, the score is
of test rows, tests are paired by seed, as in `transfer`.

Claim: task-aware routing beats each of the others.
"""

import functools
import itertools

from benchmarks import added, contestants, studies
from benchmarks.worlds import QUICK, WORLDS, Y_LABELS, only

# Not 0 to 9: those had a first form of `grouped`, of fewer rows, whose test scores were seen.
SEEDS = range(100, 110)
ROWS = (32, 128, 512, 2048)
SCRATCH, ROUTED = "from scratch", "task-aware routing"
TUNED, TUNED_WIDE = "fine-tuned shared bottom", "fine-tuned, one layer"
KINDS = {
    SCRATCH: contestants.SINGLE,
    TUNED: contestants.SHARED,
    TUNED_WIDE: contestants.WIDE,
    ROUTED: contestants.TASK_AWARE,
}


def run(quick):
    """A row for each set, number of rows and way; a row for each claim."""
    worlds = QUICK if quick else WORLDS
    ways = (SCRATCH, TUNED, ROUTED) if quick else tuple(KINDS)
    sizes = ROWS[:1] if quick else ROWS
    cells = [
        cell_of(name, worlds[name], way, seed, rows)
        # The sizes last, so that a model of the other tasks serves for all of them.
        for name, seed, way, rows in itertools.product(
            worlds, range(2) if quick else SEEDS, ways, sizes
        )
    ]
    others = {way: added.Others(KINDS[way]) for way in ways}
    runs = studies.Grid("unseen", functools.partial(one_run, worlds, others), quick).run(cells)
    rows = studies.score_rows(runs, "score", "set", "rows")
    for where in studies.conditions(runs, "set", "rows"):
        metric = WORLDS[where["set"]].metric
        ours = studies.by_seed(runs, "score", model=ROUTED, **where)
        for rival in ways[:-1]:
            theirs = studies.by_seed(runs, "score", model=rival, **where)
            rows.append(studies.claim(f"beats {rival}", ours, theirs, metric, **where))
    return rows


def headline(rows):
    """In how many of the conditions each claim holds."""
    return studies.headline(rows)


def draw(rows, path):
    """Scores over the number of rows of the new task."""
    studies.draw_lines(rows, "rows", path, "rows of the unseen task", Y_LABELS)


def cell_of(name, world, way, seed, rows):
    """All that determines a run."""
    make = contestants.cell if way == SCRATCH else added.cell_of
    return make(name, world, KINDS[way], seed, rows=rows) | {"model": way}


def one_run(worlds, others, cell):
    """Scores of the unseen task on its test rows, and on its validation rows."""
    world, way = worlds[cell["set"]], cell["model"]
    rows = dict.fromkeys(world.tasks, world.rows) | {world.target: cell["rows"]}
    split = world.make(cell["seed"], rows, num_test_rows=world.num_test_rows)
    split = only(split, [world.target])
    if way == SCRATCH:
        mixture = contestants.mixture_of(KINDS[way], split.schema, cell["num_experts"])
        model = contestants.train(split, mixture, cell)
    else:
        model = others[way].of(world, cell)
        model = added.train_added(model, split, cell, whole=way != ROUTED)
    return {
        part: contestants.scores(model, table, world.metric)[world.target]
        for part, table in {"score": split.test, "valid": split.valid}.items()
    }
