"""Time of a training step that combines the gradients of tasks, by the number of tasks.

2 to 16 regressions of 32 numbers, in batches of 512 rows in memory. `MMoE`, of four experts of 128
and 64 units, has one tensor that all tasks share, at which their gradients are combined on the way
of one backward pass; `CGC`, of two experts of the same size for each task and two that are shared,
has none, so that they are combined at the parameters, after a backward pass for each task. Each
trains with the sum of the losses, and with `PCGrad` and `UPGrad`, which looks for its weights in a
loop. Steps take turns; `to_sum` is to the sum's of the same structure and as many tasks, the median
within the rounds. Graphs without XLA.
"""

import keras
import numpy as np
import tensorflow as tf

import tfmoe
from benchmarks import studies
from benchmarks.timing import Training, alternating

TASKS = (2, 4, 8, 16)
SUM = "sum"
WAYS = {SUM: None, "PCGrad": tfmoe.PCGrad, "UPGrad": tfmoe.UPGrad}
UNITS = (128, 64)
STRUCTURES = {
    "MMoE": lambda: tfmoe.MMoE(num_experts=4, hidden_units=UNITS),
    "CGC": lambda: tfmoe.CGC(num_task_experts=2, num_shared_experts=2, hidden_units=UNITS),
}
COLUMNS, BATCH, BATCHES = 32, 512, 4
ROUNDS, SECONDS = 9, 0.3


def run(quick):
    """A row for each structure, number of tasks and way."""
    found = []
    for num in TASKS[:1] if quick else TASKS:
        ways = [SUM, "PCGrad"] if quick else WAYS
        steps = {(name, way): _training(name, way, num) for name in STRUCTURES for way in ways}
        turns = {key: step.run for key, step in steps.items()}
        times = alternating(turns, 1 if quick else ROUNDS, 0.0 if quick else SECONDS)
        for (name, way), taken in times.items():
            to_sum = float(np.median(taken / times[name, SUM]))
            ms = 1e3 * float(np.median(taken))
            found.append({"name": name, "way": way, "tasks": num, "ms": ms, "to_sum": to_sum})
    return found


def headline(rows):
    """PCGrad's cost with the most tasks."""
    last = {row["name"]: row for row in rows if row["way"] == "PCGrad"}
    return " ".join(f"{name.lower()}_to_sum={row['to_sum']:.2f}" for name, row in last.items())


def draw(rows, path):
    """How many times the sum's time a step takes, over the number of tasks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axis = figure.subplots()
    for name in STRUCTURES:
        for way in WAYS:
            own = [row for row in rows if (row["name"], row["way"]) == (name, way)]
            if way != SUM:
                tasks = [row["tasks"] for row in own]
                ratios = [row["to_sum"] for row in own]
                axis.plot(tasks, ratios, marker="o", label=f"{name}, {way}")
    axis.set(xscale="log", xlabel="tasks", ylabel="time of a step, sum = 1")
    axis.set_xticks(TASKS, map(str, TASKS))
    axis.set_xticks([], minor=True)
    axis.legend()
    axis.grid(alpha=0.3)
    studies.save(figure, path)


def _training(structure, way, num_tasks):
    """Steps of a model, ready to be timed."""
    keras.utils.set_random_seed(0)
    columns = [tfmoe.Numeric(f"x_{i}", transform="none") for i in range(COLUMNS)]
    tasks = [tfmoe.Regression(f"y_{i}", standardize=False) for i in range(num_tasks)]
    schema = tfmoe.Schema(columns, tasks)
    model = tfmoe.MultiTaskModel(schema, STRUCTURES[structure](), tower_units=(16,))
    weighting = None if WAYS[way] is None else WAYS[way]()
    metrics = {task.name: [] for task in tasks}
    model.compile(
        tfmoe.optimizers.Adam(1e-3), weighting=weighting, metrics=metrics, jit_compile=False
    )
    rng = np.random.default_rng(0)

    def numbers(names):
        return {name: tf.constant(rng.normal(size=BATCH), tf.float32) for name in names}

    names = [task.name for task in tasks]
    present = {name: tf.ones(BATCH) for name in names}
    features = [column.name for column in columns]
    batches = [(numbers(features), numbers(names), present) for _ in range(BATCHES)]
    return Training(model, batches)
