"""Tasks that come to a model which has learned others, from few rows of their own.

A new task starts like one of the others: its tower, and its embedding in a task-aware gate, are
those of the task whose logits fit the new task's labels best. Then either these are trained and
nothing else (`frozen`), or the whole model is (`tuned`).
"""

import json

import keras
import numpy as np

from benchmarks import conflicting_models as models

FROZEN, TUNED = "frozen", "tuned"
# Of a cell, what the model of the other tasks does not depend on.
OWN = ("question", "way", "own_rate", "few", "own_epochs", "own_batch_size", "seed")


class Others:
    """Models of the old tasks, each trained once."""

    def __init__(self):
        self._weights = {}

    def of(self, cell, world):
        """The model that a run with the world's own seed trains.

        Args:
            cell: dict, of the run.
            world: `World`.
        """
        keras.utils.set_random_seed(cell["world"])
        built = models.build(cell, world.features, world.tasks)
        key = _key(cell)
        if key in self._weights:
            built.model.set_weights(self._weights[key])
        else:
            learn(built, cell, world, world.old)
            self.keep(built, cell)
        return built

    def keep(self, built, cell):
        """Keeps a trained model for those that come to it."""
        self._weights[_key(cell)] = built.model.get_weights()


def _key(cell):
    return json.dumps({name: cell[name] for name in cell if name not in OWN}, sort_keys=True)


def learn(built, cell, world, tasks, few=(), watched=None, number=None):
    """Trains a model on rows of some tasks, and on few of others.

    Args:
        built: `Built`.
        cell: dict, of the run.
        world: `World`.
        tasks: ints, tasks of which all rows are seen.
        few: ints, tasks of which `few` are. They are repeated so often that their share grows with
            the root of their number, as by `TaskMixer("temperature", temperature=2)`: else a batch
            would have three of them.
        watched: ints, tasks on whose validation rows the best epoch is found; None for `tasks`.
        number: int, how many rows of `tasks` are seen; None for all.
    """
    watched = tasks if watched is None else watched
    stage, sizes = cell["set"], (cell["learning_rate"], cell["epochs"])
    if built.by_task:
        rows, valid = world.train.side_by_side(tasks, number), world.valid.side_by_side(watched)
        batch_size = max(1, cell["batch_size"] // len(tasks))
        models.train(built, stage, rows, valid, *sizes, batch_size)
        return
    rows = world.train.rows(tasks)
    if few:
        often = round((cell["rows"] / cell["few"]) ** 0.5)
        rows = _together(rows, world.train.rows(few, cell["few"], often))
    models.train(built, stage, rows, world.valid.rows(watched), *sizes, cell["batch_size"])


def _together(rows, more):
    inputs = {name: np.concatenate([rows[0][name], more[0][name]]) for name in rows[0]}
    return inputs, np.concatenate([rows[1], more[1]])


def add(built, cell, world):
    """Adds the targets to a model of the old tasks, from few rows of each."""
    alike = [most_alike(built, cell, world, target) for target in world.targets]
    own = [built.towers.kernel, built.towers.bias]
    embeddings = models.embeddings_of(built)
    own += [] if embeddings is None else [embeddings]
    for variable in own:
        values = np.array(variable)
        values[list(world.targets)] = values[alike]
        variable.assign(values)
    models.leave_experts_free(built.structure)
    if cell["way"] == FROZEN:
        trained = {id(variable) for variable in own}
        for variable in built.model.trainable_variables:
            variable.trainable = id(variable) in trained
    keras.utils.set_random_seed(cell["seed"])
    rows = world.train.rows(world.targets, cell["few"])
    valid = world.valid.rows(world.targets)
    sizes = (cell["own_rate"], cell["own_epochs"], cell["own_batch_size"])
    models.train(built, cell["set"], rows, valid, *sizes)


def most_alike(built, cell, world, target):
    """The old task whose logits correlate most with the labels of a target's few rows."""
    x, labels = world.train.x[target, : cell["few"]], world.train.y[target, : cell["few"]]
    number = len(labels)
    inputs = {"x": np.tile(x, (len(world.old), 1)), "task": np.repeat(world.old, number)}
    inputs["task"] = inputs["task"].astype("int32")
    found = models.said(built, inputs).reshape(-1, number)
    fits = [
        np.corrcoef(logits, labels)[0, 1] if logits.std() > 0 and labels.std() > 0 else 0.0
        for logits in found
    ]
    return world.old[int(np.nanargmax(fits))]
