"""Does a model learn a task that it has not seen from few rows? 32, 128, 512, 2,048 of them.

Three ways, of equal active compute (`contestants.py`):

- from scratch: a model of that task alone;
- fine-tuned shared bottom: one that has learned all other tasks gets a new tower, and all of
  it is trained on;
- task-aware routing: a task-aware sparse mixture that has learned all other tasks gets the
  new one by `add_task`: its experts stay as they are, and only an embedding in the router and
  a tower are learned. The three tasks that it starts `like` are those whose scores, of the
  new task's own rows, correlate most with the labels.

The best epoch is found on validation rows, the score is of test rows, tests are paired by
seed, as in `transfer`. Claim: task-aware routing beats the other two.
"""

import functools
import itertools

import keras
import numpy as np

from benchmarks import contestants, studies
from benchmarks.worlds import QUICK, WORLDS, Y_LABELS, only

SEEDS = 10
ROWS = (32, 128, 512, 2048)
SCRATCH, TUNED, ROUTED = "from scratch", "fine-tuned shared bottom", "task-aware routing"
# Tuned like `contestants.SETTINGS`.
FINE_TUNING_RATE = {"grouped": 3e-3, "census": 1e-3}
ROUTING_RATE = {"grouped": 1e-2, "census": 1e-2}
NUM_ALIKE = 3


def run(quick):
    """A row for each set, number of rows and way; a row for each claim."""
    worlds = QUICK if quick else WORLDS
    sizes = ROWS[:1] if quick else ROWS
    cells = [
        cell_of(name, worlds[name], way, seed, rows)
        # The sizes last, so that a model of the other tasks serves for all of them.
        for name, seed, way, rows in itertools.product(
            worlds, range(2 if quick else SEEDS), (SCRATCH, TUNED, ROUTED), sizes
        )
    ]
    runs = studies.Grid("unseen", functools.partial(one_run, worlds), quick).run(cells)
    rows = studies.score_rows(runs, "score", "set", "rows")
    for where in studies.conditions(runs, "set", "rows"):
        metric = WORLDS[where["set"]].metric
        ours = studies.by_seed(runs, "score", model=ROUTED, **where)
        for rival in (SCRATCH, TUNED):
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
    base = {SCRATCH: contestants.SINGLE, TUNED: contestants.SHARED}
    base = base.get(way, contestants.TASK_AWARE)
    cell = contestants.cell(name, world, base, seed, rows=rows)
    rates = {TUNED: FINE_TUNING_RATE, ROUTED: ROUTING_RATE}
    own_rate = rates[way][name] if way in rates else cell["learning_rate"]
    return cell | {"model": way, "own_rate": own_rate}


def one_run(worlds, cell):
    """Scores of the unseen task on its test rows, and on its validation rows."""
    world = worlds[cell["set"]]
    split = _split(world, cell["seed"], cell["rows"])
    own = cell | {"learning_rate": cell["own_rate"]}
    if cell["model"] == SCRATCH:
        mixture = contestants.mixture_of(contestants.SINGLE, split.schema, 1)
        model = contestants.train(split, mixture, own)
    else:
        seen = _SEEN.of(world, cell)
        keras.utils.set_random_seed(cell["seed"])
        model = contestants.fit(_extended(seen, split, cell["model"]), split, own)
    return {
        part: contestants.scores(model, table, world.metric)[world.target]
        for part, table in {"score": split.test, "valid": split.valid}.items()
    }


def _split(world, seed, num_rows):
    """Few rows of the target alone."""
    rows = dict.fromkeys(world.tasks, world.rows) | {world.target: num_rows}
    return only(world.make(seed, rows, num_test_rows=world.num_test_rows), [world.target])


class _Seen:
    """The model of all tasks but the target that was made last.

    Runs that differ in the rows of the target alone have the same.
    """

    key = model = None

    def of(self, world, cell):
        key = {name: value for name, value in cell.items() if name not in ("rows", "own_rate")}
        if key != self.key:
            self.key, self.model = key, _trained_on_others(world, cell)
        return self.model


_SEEN = _Seen()


def _trained_on_others(world, cell):
    rows = dict.fromkeys(world.tasks, world.rows)
    split = world.make(cell["seed"], rows, num_test_rows=world.num_test_rows)
    split = only(split, [task for task in world.tasks if task != world.target])
    kind = contestants.SHARED if cell["model"] == TUNED else contestants.TASK_AWARE
    mixture = contestants.mixture_of(kind, split.schema, cell["num_experts"])
    return contestants.train(split, mixture, cell)


def _extended(seen, split, way):
    """The model with the new task, ready to be trained on its rows."""
    (task,) = split.schema.tasks
    model = seen.add_task(task, like=most_alike(seen, split.train))
    if way == TUNED:
        model.encoder.trainable = model.mixture.trainable = True
    return model


def most_alike(model, rows):
    """The seen tasks whose scores of a new task's rows correlate most with the labels."""
    rows = rows.iloc[:512]
    labels = rows["label"].to_numpy()
    fits = {}
    for task in model.schema.task_names:
        features = model.preprocessor.arrays(rows.assign(task=task), labels=False)
        scores = contestants.predict(model, features)
        varies = scores.std() > 0 and labels.std() > 0
        fits[task] = np.corrcoef(scores, labels)[0, 1] if varies else 0.0
    return sorted(fits, key=lambda task: -fits[task])[:NUM_ALIKE]
