"""What all contestants of the `step` benchmark share: the sizes, the data, the protocol.

The contestants of one environment run in one process, and the parent gives all of them
turns. A worker prints `=> {name: what is timed}` once its contestants are warm; from
then on a name on stdin makes that contestant take a turn, which ends with `=> number`.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np

# Libraries print to stdout too (a version notice, a loss), so answers are marked.
MARK = "=> "


class Told:
    """What a parent tells a process, in one argument; a dataclass of plain values."""

    def to_json(self):
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text):
        given = json.loads(text)
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


@dataclass(frozen=True)
class Sizes(Told):
    """The model that is trained, and how much of it a turn is."""

    num_categorical: int = 26
    num_values: int = 10_000
    dim: int = 16
    num_numeric: int = 13
    num_experts: int = 8
    expert_units: tuple = (256, 128)
    tower_units: tuple = (64,)
    num_tasks: int = 2
    batch_size: int = 4096
    num_batches: int = 40

    @property
    def num_inputs(self):
        """Width of the experts' input."""
        return self.num_categorical * self.dim + self.num_numeric

    @property
    def rows(self):
        """Rows trained on in one turn."""
        return self.batch_size * self.num_batches

    @property
    def categorical(self):
        return [f"c{i}" for i in range(self.num_categorical)]

    @property
    def numeric(self):
        return [f"n{i}" for i in range(self.num_numeric)]

    @property
    def tasks(self):
        return [f"task{i}" for i in range(self.num_tasks)]


def make_batches(sizes):
    """The same batches for everybody.

    Ids are uniform, so that a batch touches as many rows of a table as it can; they
    start at 3, where tfmoe's vocabularies do.

    Returns:
        features: dict by column of int32 or float32 arrays `(num_batches, batch_size)`.
        labels: dict by task of float32 arrays of zeros and ones, of the same shape.
    """
    random = np.random.default_rng(0)
    shape = (sizes.num_batches, sizes.batch_size)
    features = {
        name: random.integers(3, sizes.num_values, shape, dtype="int32")
        for name in sizes.categorical
    }
    features |= {name: random.standard_normal(shape, dtype="float32") for name in sizes.numeric}
    labels = {name: (random.random(shape) < 0.3).astype("float32") for name in sizes.tasks}
    return features, labels


def keras_turn(model, sizes):
    """A turn of a compiled Keras model, of Keras 2 or 3: `model.fit` over the batches."""
    import tensorflow as tf

    options = tf.data.Options()
    # tf.data's tuning thread sleeps for 10 ms, 20 ms, 40 ms ... and ending an iterator
    # waits for it to wake, which can double the time of a short fit.
    options.autotune.enabled = False
    batches = tf.data.Dataset.from_tensor_slices(make_batches(sizes))
    batches = batches.prefetch(2).with_options(options)

    def turn():
        model.fit(batches, verbose=0, shuffle=False)

    return turn


class Worker:
    """The contestants of one environment.

    Args:
        build: function from `Sizes` to a dict by name of `(what is timed, turn)`. `turn()`
            returns its result, or None if that is the seconds it takes.
        sizes: `Sizes`.
    """

    def __init__(self, build, sizes):
        self._contestants = build(sizes)

    def ready(self):
        """Warms them up; by name what is timed."""
        for _, turn in self._contestants.values():
            # Twice: the first turn compiles, the second fills the allocators' pools.
            turn()
            turn()
        return {name: what for name, (what, _) in self._contestants.items()}

    def turn(self, name):
        """Result of a contestant's turn."""
        start = time.perf_counter()
        result = self._contestants[name][1]()
        return time.perf_counter() - start if result is None else result


def serve(build):
    """Runs a `Worker` whose sizes come as JSON in `sys.argv[1]`."""
    answer_turns(Worker(build, Sizes.from_json(sys.argv[1])))


def answer_turns(contestants):
    """Answers to the parent: once ready, then to each word on stdin."""
    _answer(contestants.ready())
    for line in sys.stdin:
        _answer(contestants.turn(line.strip()))


def _answer(value):
    print(f"{MARK}{json.dumps(value)}", flush=True)
