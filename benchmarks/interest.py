"""Time of a training step by the length of a history, pooled in three ways.

A history of 50, 200 or 1,000 positions, all of them filled, and a candidate from one table of
20,000 vectors of 16, behind them a shared bottom of 64 units and a tower; batches of 256 rows in
memory. `mean` is the plain pooling, `DIN` `TargetAttention` with 32 units, `BST` one block of two
heads. Steps take turns; `ratio` is to the shortest history of the same way, `to_mean` to the mean
of as many positions, medians within the rounds. Graphs without XLA.
"""

import keras
import numpy as np
import tensorflow as tf

import tfmoe
from benchmarks import studies
from benchmarks.timing import Training, alternating

LENGTHS = (50, 200, 1000)
WAYS = {
    "mean": "mean",
    "DIN": tfmoe.TargetAttention("item", (32,)),
    "BST": tfmoe.BST("item", 2),
}
VALUES, DIM, BATCH, BATCHES = 20_000, 16, 256, 4
ROUNDS, SECONDS = 9, 0.3


def run(quick):
    """A row for each way and length."""
    lengths = (2, 3) if quick else LENGTHS
    steps = {(way, n): _training(way, n, 8 if quick else BATCH) for way in WAYS for n in lengths}
    turns = {key: step.run for key, step in steps.items()}
    times = alternating(turns, 1 if quick else ROUNDS, 0.0 if quick else SECONDS)
    found = []
    for (way, length), taken in times.items():
        found.append(
            {
                "name": way,
                "positions": length,
                "ms": 1e3 * float(np.median(taken)),
                "ratio": float(np.median(taken / times[way, lengths[0]])),
                "to_mean": float(np.median(taken / times["mean", length])),
            }
        )
    return found


def headline(rows):
    """The longest history against the shortest."""
    last = {row["name"]: row for row in rows}
    return " ".join(f"{way.lower()}_ratio={last[way]['ratio']:.2f}" for way in WAYS)


def draw(rows, path):
    """Milliseconds over the length of the history."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axis = figure.subplots()
    for way in WAYS:
        own = [row for row in rows if row["name"] == way]
        lengths = [row["positions"] for row in own]
        axis.plot(lengths, [row["ms"] for row in own], marker="o", label=way)
    axis.set(xscale="log", yscale="log", xlabel="positions", ylabel="milliseconds a step")
    axis.set_xticks(lengths, map(str, lengths))
    axis.set_xticks([], minor=True)
    axis.legend()
    axis.grid(alpha=0.3)
    studies.save(figure, path)


def _training(way, length, batch):
    """Steps of a model, ready to be timed."""
    keras.utils.set_random_seed(0)
    item = tfmoe.Categorical("item", dim=DIM, hash_buckets=VALUES)
    seen = tfmoe.Sequence("seen", share="item", max_length=length, pooling=WAYS[way])
    schema = tfmoe.Schema([item, seen], [tfmoe.Binary("click")])
    model = tfmoe.MultiTaskModel(tfmoe.Preprocessor(schema), tfmoe.SharedBottom(hidden_units=(64,)))
    model.compile(tfmoe.optimizers.Adam(1e-3), jit_compile=False)
    rng = np.random.default_rng(0)

    def ids(*shape):
        return tf.constant(rng.integers(3, VALUES, shape), tf.int32)

    labels = tf.constant(rng.integers(0, 2, batch), tf.float32)
    batches = [
        (
            {"item": ids(batch), "seen": ids(batch, length)},
            {"click": labels},
            {"click": tf.ones(batch)},
        )
        for _ in range(BATCHES)
    ]
    return Training(model, batches)
