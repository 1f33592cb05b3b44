"""Time of a training step by number of tasks and experts, where each row has one task.

A mixture of experts of 128 -> 256 -> 128 units behind a task-aware gate, each row through
2 of them, and towers of 64 units; batches of 4,096 rows, tasks drawn evenly. Forward and
backward pass are timed together; the optimizer's step, which walks through all weights
however few rows an expert saw, apart.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

import tfmoe
from benchmarks import studies
from benchmarks.timing import alternating
from tfmoe.heads.towers import Towers

BATCH, INPUTS, CHOSEN = 4096, 128, 2
UNITS, TOWER_UNITS = (256, 128), (64,)
TASKS, EXPERTS = (2, 8, 32, 128), (4, 8, 16, 32, 64, 128, 256)
# What stays while the other changes.
TASKS_FIXED, EXPERTS_FIXED = 16, 16
# The tasks' ratios are to this many, the experts' to 8.
BASE = {"tasks": TASKS[0], "experts": 8}
ROUNDS, SECONDS = 9, 0.1


def run(quick):
    """A row for each number of tasks at 16 experts, and of experts at 16 tasks."""
    if quick:
        shapes = {("experts", 8): (2, 8), ("experts", 64): (2, 64), ("tasks", 2): (2, 8)}
        return _rows(shapes, 64, (8, 4), (4,), rounds=1, seconds=0.0)
    shapes = {("experts", num): (TASKS_FIXED, num) for num in EXPERTS}
    shapes |= {("tasks", num): (num, EXPERTS_FIXED) for num in TASKS}
    return _rows(shapes, BATCH, UNITS, TOWER_UNITS, ROUNDS, SECONDS)


def headline(rows):
    """Forward and backward at 64 experts against 8; the optimizer's; 128 tasks against 2."""
    ratio = {(row["name"], row[row["name"]]): row for row in rows}
    parts = {"ratio_tasks_2_to_128": ("tasks", 128, "ratio")}
    parts["optimizer_8_to_64"] = ("experts", 64, "optimizer_ratio")
    parts["ratio_8_to_64"] = ("experts", 64, "ratio")
    return " ".join(
        f"{name}={ratio[varied, num][key]:.2f}"
        for name, (varied, num, key) in parts.items()
        if (varied, num) in ratio
    )


def draw(rows, path):
    """Milliseconds over the number of experts, and of tasks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    top = 1.1 * max(row["ms"] for row in rows)
    for axis, varied in zip(figure.subplots(1, 2, sharey=True), BASE, strict=True):
        points = [row for row in rows if row["name"] == varied]
        sizes = [row[varied] for row in points]
        axis.plot(sizes, [row["ms"] for row in points], marker="o", label="forward and backward")
        axis.plot(sizes, [row["optimizer_ms"] for row in points], marker="s", label="optimizer")
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, sizes)
        axis.set(xlabel=varied, ylim=(0, top))
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("milliseconds a step")
    figure.axes[0].legend()
    studies.save(figure, path)


def _rows(shapes, batch, units, tower_units, rounds, seconds):
    steps = {key: _Step(*shape, batch, units, tower_units) for key, shape in shapes.items()}
    times = alternating({key: step.gradients for key, step in steps.items()}, rounds, seconds)
    updates = alternating({key: step.update for key, step in steps.items()}, rounds, seconds)
    rows = []
    for (varied, num), step in steps.items():
        base = (varied, BASE[varied])
        ratios = times[varied, num] / times[base]
        q1, ratio, q3 = np.percentile(ratios, (25, 50, 75))
        rows.append(
            {
                "name": varied,
                "tasks": step.num_tasks,
                "experts": step.num_experts,
                "weights": step.num_weights,
                "ms": 1e3 * float(np.median(times[varied, num])),
                "ratio": float(ratio),
                "q1": float(q1),
                "q3": float(q3),
                "optimizer_ms": 1e3 * float(np.median(updates[varied, num])),
                "optimizer_ratio": float(np.median(updates[varied, num] / updates[base])),
            }
        )
    return rows


class _Step:
    """A mixture with towers on one batch, ready to be timed."""

    def __init__(self, num_tasks, num_experts, batch, units, tower_units):
        self.num_tasks, self.num_experts = num_tasks, num_experts
        keras.utils.set_random_seed(0)
        gate = tfmoe.TaskAwareGate(num_nonzeros=CHOSEN)
        mixture = tfmoe.MMoE(num_tasks, num_experts, units, gate=gate)
        towers = Towers([1] * num_tasks, tower_units)
        rng = np.random.default_rng(0)
        x = tf.constant(rng.normal(size=(batch, INPUTS)), tf.float32)
        task = tf.constant(rng.integers(num_tasks, size=batch), tf.int32)
        towers(mixture(x, task=task), task=task)
        weights = mixture.trainable_weights + towers.trainable_weights
        self.num_weights = sum(int(np.prod(weight.shape)) for weight in weights)
        optimizer = tfmoe.optimizers.Adam()
        optimizer.build(weights)

        @tf.function(autograph=False)
        def gradients(x, task):
            with tf.GradientTape() as tape:
                outputs = towers(mixture(x, task=task, training=True), task=task, training=True)
                loss = ops.mean(ops.square(outputs))
            return tape.gradient(loss, [weight.value for weight in weights])

        @tf.function(autograph=False)
        def update(*found):
            optimizer.apply(found, weights)

        found = gradients(x, task)
        self.gradients = lambda: gradients(x, task)[-1].numpy()
        # One step of many that change nothing: what it costs does not depend on the numbers.
        self.update = lambda: (update(*found), optimizer.iterations.numpy())
