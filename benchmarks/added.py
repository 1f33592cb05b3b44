"""A task added to a model of all others, which the runs that differ in its rows share."""

import keras
import numpy as np
import pandas as pd

from benchmarks import contestants
from benchmarks.worlds import only

# Learning rates: of the model of all other tasks, where it is not that of `SETTINGS`, chosen in
# single trials with 128 rows of the new task on the seeds of `tuning.py`; and of what is then
# trained on the new task's rows, chosen there.
OTHERS_RATES = {("grouped", contestants.TASK_AWARE): 2e-2}
OWN_RATES = {
    ("grouped", contestants.SHARED): 1e-2,
    ("grouped", contestants.WIDE): 1e-3,
    ("grouped", contestants.TASK_AWARE): 3e-2,
    ("census", contestants.SHARED): 1e-2,
    ("census", contestants.WIDE): 1e-2,
    ("census", contestants.TASK_AWARE): 3e-2,
}
# Of a cell, what the model of the others does not depend on.
_OWN = ("rows", "fraction", "own_rate")


class Others:
    """The model of all tasks but the target that was made last.

    Args:
        kind: the model, of `contestants`.
    """

    def __init__(self, kind):
        self.kind, self.key, self.model = kind, None, None

    def of(self, world, cell):
        """The trained model for a cell of the study."""
        key = {name: value for name, value in cell.items() if name not in _OWN}
        if key != self.key:
            self.model = self._train(world, cell)
            self.key = key
        return self.model

    def _train(self, world, cell):
        rows = dict.fromkeys(world.tasks, world.rows)
        split = world.make(cell["seed"], rows, num_test_rows=world.num_test_rows)
        split = only(split, [task for task in world.tasks if task != world.target])
        mixture = contestants.mixture_of(self.kind, split.schema, cell["num_experts"])
        return contestants.train(split, mixture, cell)


def cell_of(name, world, kind, seed, **more):
    """A run's cell, see `contestants.cell`, with the rates of a model that is added to."""
    cell = contestants.cell(name, world, kind, seed, **more)
    rate = OTHERS_RATES.get((name, kind), cell["learning_rate"])
    return cell | {"learning_rate": rate, "own_rate": OWN_RATES[name, kind]}


def train_added(others, split, cell, whole=False):
    """The model with a new task by `add_task`, trained on that task's rows.

    It starts `like` the task that `most_alike` names first. One task: several of them may
    use different experts, and the mean of their embeddings others still.

    Args:
        others: the model of the other tasks, which stays as it is.
        split: `Split` of the new task's rows alone.
        cell: dict, of which `own_rate` is the learning rate; see `contestants.train`.
        whole: bool; if True all of the model is trained on, else what is the task's own.
    """
    keras.utils.set_random_seed(cell["seed"])
    (task,) = split.schema.tasks
    model = others.add_task(task, like=most_alike(others, split.train)[:1])
    if whole:
        model.encoder.trainable = model.mixture.trainable = True
    # Of one task the mutual information is always 0.
    return contestants.fit(
        model, split, cell | {"learning_rate": cell["own_rate"], "information": 0}
    )


def most_alike(model, rows):
    """The seen tasks, those first whose scores of a new task's rows fit the labels best.

    What counts is the correlation of scores and labels.
    """
    rows = rows.iloc[:512]
    labels, tasks = rows["label"].to_numpy(), model.schema.task_names
    copies = pd.concat([rows.assign(task=task) for task in tasks], ignore_index=True)
    features = model.preprocessor.arrays(copies, labels=False)
    fits = {}
    for task, scores in zip(
        tasks, contestants.predict(model, features).reshape(len(tasks), -1), strict=True
    ):
        varies = scores.std() > 0 and labels.std() > 0
        fits[task] = np.corrcoef(scores, labels)[0, 1] if varies else 0.0
    return sorted(fits, key=lambda task: -fits[task])
