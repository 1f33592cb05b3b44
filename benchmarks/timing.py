"""How contestants are timed: in turn, so that what slows the machine slows them all."""

import itertools
import time

import numpy as np


def alternating(turns, rounds, seconds):
    """Seconds a call, an array of `rounds` for each turn; turns alternate."""
    for turn in turns.values():
        turn()
        turn()
    times = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            turn()  # the contestant before may have left the caches and the memory to it
            count, start = 0, time.perf_counter()
            while count == 0 or time.perf_counter() - start < seconds:
                turn()
                count += 1
            times[name].append((time.perf_counter() - start) / count)
    return {name: np.array(taken) for name, taken in times.items()}


class Training:
    """A compiled model on a few batches in memory, of which each call of `run` is a step.

    Args:
        model: compiled Keras model, on TensorFlow.
        batches: list of what its `train_step` takes.
    """

    def __init__(self, model, batches):
        import tensorflow as tf

        model.make_train_function()
        self._step = tf.function(model.train_step, autograph=False)
        self._batches = itertools.cycle(batches)

    def run(self):
        return float(self._step(next(self._batches))["loss"])
