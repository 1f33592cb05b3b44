"""Trainings that go on where they died end as those that never did."""

import json
import os
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest

import tfmoe
from tests.model import kept
from tfmoe.model import checkpoint_file

tf = pytest.importorskip("tensorflow")

SIZE = 8  # of a batch: 60 rows are 8 of them, the last one smaller


class Case:
    """A training of a plain model, begun as a program begins it."""

    epochs = 3
    every_steps = 1
    # Two broken trainings, the second goes on from the first; the third goes on to the end.
    breaks = ((0, 4), (1, 6))

    models: dict = {}

    def __init__(self, folder):
        self.folder = folder
        self.prep = kept.preprocessor()

    def model(self):
        return kept.model_of(self.prep)

    def run(self, seed, folder=None, breaks=None):
        """The history of a training, None if it broke, and all numbers of the model."""
        callbacks = self.callbacks()
        if folder is not None:
            callbacks.append(tfmoe.Checkpoint(folder, self.every_steps))
        if breaks is not None:
            callbacks.append(kept.BreaksAt(*breaks))
        maker = type(self).model
        if maker not in self.models:
            self.models[maker] = kept.Anew(self.model())
        model, data = self.models[maker](seed), self.data()
        history = kept.fitted(model, data, callbacks, epochs=self.epochs, **self.arguments())
        return history, kept.numbers_of(model)

    def callbacks(self):
        return []

    def arguments(self):
        return {}


class InMemory(Case):
    """Shuffled rows in memory, all that draws by chance, all that watches."""

    epochs = 4
    breaks = ((0, 4), (1, 6), (2, None), (3, 0))

    def model(self):
        return kept.model_of(self.prep, weighting="gradnorm")

    def data(self):
        return self.prep.dataset(kept.table(), SIZE, shuffle=True, seed=4)

    def callbacks(self):
        return [
            keras.callbacks.EarlyStopping("val_loss", patience=3, restore_best_weights=True),
            tfmoe.MultiTaskEarlyStopping("loss", patience=5),
            keras.callbacks.ReduceLROnPlateau("val_loss", 0.5, patience=0, min_delta=0.5),
            # It would be multiplied twice in an epoch that is begun twice.
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.9 * rate),
            tfmoe.GateReport(kept.table(9), console=False),
        ]

    def arguments(self):
        valid = self.prep.dataset(kept.table(16, start=1), 16)
        return {"validation_data": valid}


class InFiles(Case):
    """Parquet files, shuffled in a buffer; parts with optimizers, one lazy, with a schedule."""

    def __init__(self, folder):
        super().__init__(folder)
        for place in range(3):
            rows = kept.table().iloc[20 * place : 20 * place + 20]
            rows.to_parquet(folder / f"{place}.parquet")

    def model(self):
        schedule = keras.optimizers.schedules.ExponentialDecay(0.01, 5, 0.5)
        parts = {
            "embeddings": tfmoe.optimizers.LazyAdam(0.01),
            "rest": keras.optimizers.Adam(schedule, use_ema=True, ema_momentum=0.9),
        }
        optimizer = keras.optimizers.LossScaleOptimizer(
            tfmoe.optimizers.ByPart(parts), dynamic_growth_steps=3
        )
        return kept.model_of(self.prep, optimizer)

    def data(self):
        return self.prep.dataset(str(self.folder / "*.parquet"), SIZE, shuffle=17, seed=4)


class OneTaskARow(Case):
    """Rows of one task each, mixed."""

    def __init__(self, folder):
        super().__init__(folder)
        rows = kept.table().drop(columns="stars")
        self.rows = rows.assign(task=np.where(np.arange(len(rows)) % 4, "a", "b"))
        columns = [tfmoe.Numeric("x"), tfmoe.Categorical("c", dim=2)]
        tasks = [tfmoe.Binary("a", source="click"), tfmoe.Binary("b", source="click")]
        schema = tfmoe.Schema(columns, tasks, task_column="task")
        self.prep = tfmoe.Preprocessor(schema).fit(self.rows)

    def model(self):
        return kept.model_of(self.prep)

    def data(self):
        mixer = tfmoe.TaskMixer("even")
        return self.prep.dataset(self.rows, SIZE, seed=4, mixer=mixer)


class RawRows(Case):
    """A table that `fit` parts and plans by itself."""

    epochs = None
    breaks = ((1, 1),)

    def model(self):
        # So large a rate soon stops it.
        return kept.model_of(self.prep, keras.optimizers.Adam(3.0))

    def data(self):
        return kept.table(110)

    def arguments(self):
        return {"patience": 0}


class Repeated(Case):
    """Epochs of other lengths than the data's, of a dataset that was made of one of ours."""

    breaks = ((0, 2), (1, 3), (2, 0))

    def data(self):
        dataset = self.prep.dataset(kept.table(), SIZE, shuffle=True, seed=4)
        return dataset.map(lambda *batch: batch).repeat()

    def arguments(self):
        return {"steps_per_epoch": 5}


class Divided(Repeated):
    """Two epochs share each pass over the data."""

    breaks = ((0, 2), (1, 1))

    def data(self):
        return self.prep.dataset(kept.table(), SIZE, shuffle=True, seed=4)

    def arguments(self):
        return {"steps_per_epoch": 4}


class Foreign(Case):
    """A dataset that is none of ours, in an order that it says itself."""

    def data(self):
        arrays = tf.data.Dataset.from_tensor_slices(self.prep.arrays(kept.table()))
        return arrays.shuffle(60, seed=1, reshuffle_each_iteration=False).batch(SIZE)


class Arrays(Foreign):
    """Arrays in their order."""

    def data(self):
        return self.prep.arrays(kept.table())

    def arguments(self):
        return {"batch_size": SIZE, "shuffle": False}


class Stream(Case):
    """A stream without an end, that can begin anywhere."""

    breaks = ((0, 2), (1, 3), (1, None))
    every_steps = 2

    def data(self):
        return self.prep.dataset(stream, SIZE, shuffle=20, seed=4)

    def arguments(self):
        return {"steps_per_epoch": 5}


class OldStream(Stream):
    """A stream that can only begin at its beginning."""

    breaks = ((1, 1),)

    def data(self):
        return self.prep.dataset(lambda: stream(0), SIZE, shuffle=20, seed=4)


def stream(start):
    """Rows without an end, by their numbers; chunks of another size after a restart."""
    while True:
        numbers = np.arange(start, start + 23)
        yield pd.DataFrame(
            {
                "x": np.sin(numbers),
                "c": (numbers % 7).astype(str),
                "click": numbers % 2,
                "stars": np.cos(numbers),
            }
        )
        start += 23


CASES = [
    InMemory,
    InFiles,
    OneTaskARow,
    RawRows,
    Repeated,
    Divided,
    Foreign,
    Arrays,
    Stream,
    OldStream,
]


@pytest.mark.parametrize("kind", CASES)
def test_a_training_that_goes_on_ends_as_one_that_never_died(kind, tmp_path):
    case = kind(tmp_path)
    expected = case.run(seed=0)
    folder = tmp_path / "checkpoints"
    for number, place in enumerate(case.breaks):
        # What a new process begins with, and draws, is of no matter once there is a checkpoint.
        history, _ = case.run(number, folder, place)
        assert history is None
    kept.check_same(case.run(99, folder), expected)
    # It has ended, and is not begun again.
    kept.check_same(case.run(98, folder), expected)
