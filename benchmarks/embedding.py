"""Time of a training step by the rows of an embedding table, 10,000 to 10,000,000.

The model: four ids a row in one table of vectors of 16, and 13 numbers, into an MMoE of 8
experts of 64 -> 32 units, towers of 16 for two tasks; batches of 1,024 rows in memory, ids
drawn evenly. `tfmoe` is `Embedding` under `LazyAdam`; `Keras` is Keras's layer under Keras's
Adam; what is else in the model is the same. Steps of all sizes take turns, and `ratio` is to
the smallest table of the same way. Both are graphs without XLA.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

import tfmoe
from benchmarks import studies
from benchmarks.timing import alternating
from tfmoe.heads.towers import Towers

TABLES = (10**4, 10**5, 10**6, 10**7)
DIM, IDS, NUMBERS, BATCH, BATCHES = 16, 4, 13, 1024, 8
WAYS = ("tfmoe", "Keras")
ROUNDS, SECONDS = 9, 0.2


def run(quick):
    """A row for each way and number of rows."""
    tables = (10, 20) if quick else TABLES
    batch = 16 if quick else BATCH
    steps = {(way, rows): _Step(way, rows, batch) for way in WAYS for rows in tables}
    turns = {key: step.run for key, step in steps.items()}
    times = alternating(turns, 1 if quick else ROUNDS, 0.0 if quick else SECONDS)
    found = []
    for (way, rows), taken in times.items():
        q1, ratio, q3 = np.percentile(taken / times[way, tables[0]], (25, 50, 75))
        found.append(
            {
                "name": way,
                "table_rows": rows,
                "ms": 1e3 * float(np.median(taken)),
                "ratio": float(ratio),
                "q1": float(q1),
                "q3": float(q3),
            }
        )
    return found


def headline(rows):
    """The largest table against the smallest, Keras's and ours."""
    last = {way: [row for row in rows if row["name"] == way][-1]["ratio"] for way in WAYS}
    return f"keras_ratio_1e4_to_1e7={last['Keras']:.2f} ratio_1e4_to_1e7={last['tfmoe']:.2f}"


def draw(rows, path):
    """Milliseconds over the rows of the table."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axis = figure.subplots()
    for way in WAYS:
        own = [row for row in rows if row["name"] == way]
        sizes = [row["table_rows"] for row in own]
        axis.plot(sizes, [row["ms"] for row in own], marker="o", label=way)
    axis.set(xscale="log", yscale="log", xlabel="rows of the table", ylabel="milliseconds a step")
    axis.legend()
    axis.grid(alpha=0.3)
    studies.save(figure, path)


class _Step:
    """A model on a few batches, ready to be timed."""

    def __init__(self, way, table_rows, batch):
        keras.utils.set_random_seed(0)
        ids = keras.Input((IDS,), dtype="int32")
        numbers = keras.Input((NUMBERS,))
        layer = tfmoe.Embedding if way == "tfmoe" else keras.layers.Embedding
        vectors = keras.layers.Flatten()(layer(table_rows, DIM)(ids))
        inputs = ops.concatenate([vectors, numbers], axis=1)
        mixed = tfmoe.MMoE(num_tasks=2, num_experts=8, hidden_units=(64, 32))(inputs)
        outputs = Towers([1, 1], (16,))(mixed)
        model = keras.Model([ids, numbers], outputs)
        optimizer = tfmoe.optimizers.LazyAdam() if way == "tfmoe" else keras.optimizers.Adam()
        optimizer.build(model.trainable_variables)
        rng = np.random.default_rng(0)
        self.batches = [
            (
                tf.constant(rng.integers(table_rows, size=(batch, IDS)), tf.int32),
                tf.constant(rng.normal(size=(batch, NUMBERS)), tf.float32),
            )
            for _ in range(BATCHES)
        ]
        self.turn = 0

        @tf.function(autograph=False)
        def step(ids, numbers):
            with tf.GradientTape() as tape:
                outputs = model([ids, numbers], training=True)
                loss = sum(ops.mean(ops.square(output - 1.0)) for output in outputs)
            variables = model.trainable_variables
            found = tape.gradient(loss, [variable.value for variable in variables])
            optimizer.apply(found, variables)
            return loss

        self.step = step

    def run(self):
        self.turn = (self.turn + 1) % BATCHES
        return self.step(*self.batches[self.turn]).numpy()
