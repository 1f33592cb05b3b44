"""Trainings that are kept, broken and gone on with; `python -m tests.model.kept` kills them."""

import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import keras
import numpy as np
import pandas as pd

import tfmoe

NUM_ROWS = 60


class Broken(Exception):
    """What stands for the death of a process."""


class BreaksAt(keras.callbacks.Callback):
    """Breaks a training after a batch, or, where that is None, at an epoch's end."""

    def __init__(self, epoch, batch, breaks=None):
        super().__init__()
        self.place, self.epoch = (epoch, batch), 0
        self.breaks = breaks or self.raises

    def raises(self):
        raise Broken

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.place:
            self.breaks()

    def on_epoch_end(self, epoch, logs=None):
        if (epoch, None) == self.place:
            self.breaks()


def table(num_rows=NUM_ROWS, start=0):
    rng = np.random.default_rng(start)
    x = rng.normal(size=num_rows)
    return pd.DataFrame(
        {
            "x": x,
            "c": rng.integers(0, 9, num_rows).astype(str),
            "click": (x + rng.normal(size=num_rows) > 0).astype(int),
            "stars": 2 * x + rng.normal(size=num_rows),
        }
    )


def schema():
    columns = [tfmoe.Numeric("x"), tfmoe.Categorical("c", dim=2, unknown_rate=0.1)]
    return tfmoe.Schema(columns, [tfmoe.Binary("click"), tfmoe.Regression("stars")])


def preprocessor():
    return tfmoe.Preprocessor(schema()).fit(table())


def model_of(prep, optimizer="adam", weighting=None):
    """A model with all that draws by chance, compiled and built."""
    keras.utils.set_random_seed(0)
    gate = tfmoe.TopKGate(num_nonzeros=2, noisy=True, seed=3)
    mixture = tfmoe.MMoE(num_experts=3, hidden_units=(4,), gate=gate)
    model = tfmoe.MultiTaskModel(prep, mixture, (3,), 0.3, column_dropout=0.1)
    model.compile(optimizer, weighting=weighting, jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return model


def variables_of(model):
    """All variables, random states among them."""
    groups = model.variables, model.optimizer.variables, model.metrics_variables
    return [one for group in groups for one in group]


def numbers_of(model):
    return [np.array(keras.ops.convert_to_numpy(one)) for one in variables_of(model)]


class Anew:
    """A model that is as it was made, or, as a new process makes it, with other numbers.

    The same object, for TensorFlow takes seconds to trace the step of another.
    """

    def __init__(self, model):
        self.model, self.numbers = model, numbers_of(model)

    def __call__(self, seed):
        if keras.backend.backend() == "torch":
            import torch

            torch.manual_seed(seed)  # what it draws from is no variable
        for variable, value in zip(variables_of(self.model), self.numbers, strict=True):
            variable.assign(value if not seed else value + np.asarray(seed, value.dtype))
        return self.model


def fitted(model, data, callbacks=(), **kwargs):
    """The history of a fit; None if it was broken."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The model has been trained for")
        warnings.filterwarnings("ignore", "Your input ran out of data")
        warnings.filterwarnings("ignore", "`fit` counts scores in bins")
        try:
            return model.fit(data, callbacks=list(callbacks), verbose=0, **kwargs)
        except Broken:
            return None


def check_same(found, expected):
    """To the bit: the same operations on the same shapes."""
    (history, numbers), (known, known_numbers) = found, expected
    assert history.epoch == known.epoch
    assert list(history.history) == list(known.history)
    for name, values in history.history.items():
        np.testing.assert_array_equal(values, known.history[name], err_msg=name)
    for place, (ours, theirs) in enumerate(zip(numbers, known_numbers, strict=True)):
        np.testing.assert_array_equal(ours, theirs, err_msg=str(place))


# What follows is a program whose training is killed, again and again, and starts anew.


def begun(folder, dies=None):
    """The training of this program, from its beginning or from what is in the folder."""
    prep = preprocessor()
    keras.utils.set_random_seed(0)
    mixture = tfmoe.MMoE(num_experts=2, hidden_units=(2,))
    model = tfmoe.MultiTaskModel(prep, mixture, (), tower_dropout=0.0, column_dropout=0.2)
    model.compile("adam", jit_compile=False)
    stopping = keras.callbacks.EarlyStopping("loss", patience=1, restore_best_weights=True)
    callbacks = [one for one in (stopping, dies) if one is not None]
    if folder is not None:
        callbacks.append(tfmoe.Checkpoint(folder, every_steps=1))
    data = prep.dataset(table(), batch_size=15, shuffle=True, seed=4)
    history = fitted(model, data, callbacks, epochs=3)
    values = {str(place): one for place, one in enumerate(numbers_of(model))}
    return {**values, **{f"history {name}": one for name, one in history.history.items()}}


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_while_writing(number):
    """Kills this process in the middle of a checkpoint's file, the `number`-th."""
    written, whole = [], np.savez

    def savez(file, **arrays):
        written.append(file)
        if len(written) == number:
            file.write(b"PK and no more")
            file.flush()
            killed()
        whole(file, **arrays)

    np.savez = savez


def kill_before_removal(number):
    """Kills this process when a checkpoint is written, the `number`-th old one not yet removed."""
    removed, usual = [], Path.unlink

    def unlink(path, missing_ok=False):
        removed.append(path)
        if len(removed) == number:
            killed()
        usual(path, missing_ok)

    Path.unlink = unlink


def begin_in_child(folder, how, out):
    """Begins the training in a process of its own, which may die; returns its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        kind, *arguments = how
        dies = None
        if kind == "at":
            dies = BreaksAt(*arguments, breaks=killed)
        elif kind == "writing":
            kill_while_writing(*arguments)
        elif kind == "removing":
            kill_before_removal(*arguments)
        found = begun(folder, dies)
        np.savez(out, **found)
        code = 0
    finally:
        os._exit(code)


def main(folder, kills):
    """Trains once without an end, and once with kills; writes what both came to.

    The children are made by `fork`, of a process that has imported all and computed nothing.
    """
    folder = Path(folder)
    os.waitpid(begin_in_child(None, ["never"], folder / "whole.npz"), 0)
    signals = []
    for how in [*kills, ["never"]]:
        child = begin_in_child(folder / "checkpoints", how, folder / "resumed.npz")
        if how[0] == "after":
            time.sleep(how[1])
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        signals.append(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0)
    print(json.dumps(signals))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
