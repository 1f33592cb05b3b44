"""The models of `many_tasks`: how large they are, what they cost, how they are trained.

Models are layers in a plain Keras model with one output `(b, t)`: 128 outputs of a `MultiTaskModel`
take longer to trace than a run may last.
"""

import math
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from benchmarks.gate_choices import DSELECT_K, SOFTMAX, TOP_K, gate_of
from benchmarks.synthetic import GATES
from tfmoe.experts.mlp import Experts
from tfmoe.optimizers import Adam, ByPart
from tfmoe.structures.mmoe import MMoE, OMoE

SINGLE, SHARED, WIDE = "single tasks", "shared bottom", "wide shared bottom"
DENSE = "MMoE"  # with softmax gates
# Of the curve: one network as wide as all experts, and one gate for all tasks.
JOINED, ONE_TOP_K, ONE_DSELECT_K = "experts as one", "Top-k, one gate", "DSelect-k, one gate"
GATE_OF = {DENSE: SOFTMAX, ONE_TOP_K: TOP_K, ONE_DSELECT_K: DSELECT_K}
USED = 1e-6  # an expert of more weight is computed
STEPS_AT_ONCE = 16


def width_of(name, table, experts, units):
    """Units of a network without experts.

    `SHARED`, and all networks of `SINGLE` together, have no more parameters than the experts and
    towers of a mixture; `WIDE` multiplies no more for a row than an MMoE whose softmax gates read
    the inputs; `JOINED` is all experts side by side.

    Args:
        name: the model.
        table: `Table`.
        experts, units: ints, of the mixture.
    """
    size, tasks = table.size, table.tasks
    if name == JOINED:
        return experts * units
    if name == WIDE:
        told = 1 if table.task_per_row else tasks
        budget = experts * size * units + told * (size * experts + experts * units + units)
        return budget // (size + told)
    within = experts * (size + 1) * units + tasks * (units + 1)
    if name == SHARED:
        return (within - tasks) // (size + 1 + tasks)
    return max(1, (within // tasks - 1) // (size + 2))


def structure_of(cell, table, steps):
    """A layer `(b, f)` to `(b, t, u)`, or to `(b, 1, u)` if it is the same for all tasks.

    Args:
        cell: dict, of the run.
        table: `Table`.
        steps: int, after which schedules have done their course.
    """
    name, units, dropout = cell["model"], cell["units"], cell["dropout"]
    if name in (SINGLE, SHARED, WIDE, JOINED):
        width = width_of(name, table, cell["experts"], units)
        # A `SharedBottom` would repeat a wide layer's outputs for each of the tasks.
        return Experts(table.tasks if name == SINGLE else 1, (width,), dropout=dropout)
    choice = GATE_OF.get(name, name)
    router = cell.get("router", "linear")
    gate = gate_of(GATES, cell | {"model": choice}, cell["chosen"], router, steps)
    kind = OMoE if name in (ONE_TOP_K, ONE_DSELECT_K) else MMoE
    dispatch = "sparse" if kind is OMoE else "auto"
    return kind(table.tasks, cell["experts"], (units,), gate, dropout=dropout, dispatch=dispatch)


class Built(NamedTuple):
    """A model, and its parts: the structure, and towers of one layer."""

    model: keras.Model
    structure: keras.layers.Layer
    towers: keras.layers.Layer


def build(structure, table):
    """A Keras model of a table's inputs to `(b, t)`, or `(b, 1)` where rows have one task."""
    inputs = {"x": keras.Input((table.size,), name="x")}
    task = None
    if table.task_per_row:
        task = inputs["task"] = keras.Input((), dtype="int32", name="task")
    if isinstance(structure, Experts):
        hidden = structure(inputs["x"])
        if task is not None and structure.num_experts > 1:
            own = ops.one_hot(task, table.tasks)
            hidden = ops.sum(own[..., None] * hidden, axis=1, keepdims=True)
    else:
        hidden = structure(inputs["x"], task=task)
    towers = TowerOfEach(table.tasks)
    return Built(keras.Model(inputs, towers(hidden, task=task)), structure, towers)


class TowerOfEach(keras.layers.Layer):
    """A tower of one layer for each task, with one tensor `(b, t)` of all."""

    def __init__(self, tasks):
        super().__init__()
        self.tasks = tasks

    def build(self, input_shape):
        shape = (self.tasks, input_shape[-1])
        self.kernel = self.add_weight(shape=shape, initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(self.tasks,), initializer="zeros", name="bias")

    def call(self, hidden, task=None):
        if task is not None:
            own = ops.one_hot(task, self.tasks)
            kernel, bias = ops.matmul(own, self.kernel), ops.matmul(own, self.bias[:, None])
            return ops.sum(hidden[:, 0] * kernel, axis=-1, keepdims=True) + bias
        if hidden.shape[1] == 1:
            return ops.matmul(hidden[:, 0], ops.transpose(self.kernel)) + self.bias
        return ops.einsum("btu,tu->bt", hidden, self.kernel) + self.bias


def compiled(built, cell, table):
    """Compiles a model; gates have a learning rate of their own where the cell says so."""
    rate, gates = cell["learning_rate"], getattr(built.structure, "gates", [])
    optimizer = Adam(rate)
    if "gate_rate" in cell:
        optimizer = ByPart({"gates": Adam(rate * cell["gate_rate"]), "rest": optimizer})
        optimizer.route({"gates": [one for gate in gates for one in gate.trainable_variables]})
    built.model.compile(
        optimizer,
        squared_errors if table.unit else log_losses,
        jit_compile=False,
        steps_per_execution=STEPS_AT_ONCE,
    )
    # A step that creates variables is traced twice.
    built.model.optimizer.build(built.model.trainable_variables)
    return built.model


def log_losses(labels, logits):
    """Of each row the sum over its tasks, so that a gate's own loss, a sum too, weighs the same."""
    entropies = keras.losses.binary_crossentropy(
        labels[..., None], logits[..., None], from_logits=True
    )
    return ops.sum(entropies, axis=-1)


def squared_errors(labels, predictions):
    """Of each row."""
    return ops.sum(ops.square(predictions - labels), axis=-1)


def train(built, cell, table):
    """Trains a model to the best epoch, on validation rows, of the second half."""
    best = keras.callbacks.EarlyStopping(
        patience=cell["epochs"], restore_best_weights=True, start_from_epoch=cell["epochs"] // 2
    )
    compiled(built, cell, table).fit(
        *table.train,
        batch_size=cell["batch_size"],
        epochs=cell["epochs"],
        validation_data=table.valid,
        validation_batch_size=2048,
        callbacks=[best],
        verbose=0,
    )


def steps_of(cell, table):
    """Steps of half a training."""
    rows = len(table.train[1])
    return max(1, math.ceil(rows / cell["batch_size"]) * cell["epochs"] // 2)


def scores_of(built, table):
    """Loss on validation rows, and on test rows the AUC, or the explained share of the variance."""
    from sklearn.metrics import roc_auc_score

    said = [
        np.concatenate([ops.convert_to_numpy(built.model(part)) for part in _batches(inputs)])
        for inputs, _ in (table.valid, table.test)
    ]
    said = [one.astype("float64") for one in said]
    if not all(np.isfinite(one).all() for one in said):
        return {"valid": math.inf, "score": 0.0}
    (valid, logits), (labels, test) = (table.valid[1], said[0]), (table.test[1], said[1])
    if table.unit:
        error = float(np.mean((test - labels) ** 2))
        valid_error = float(np.mean((logits - valid) ** 2))
        explained = 1 - error / float(np.var(labels))
        return {"valid": valid_error, "score": explained, "rmse": table.unit * error**0.5}
    loss = np.mean(np.logaddexp(0, logits) - valid * logits)
    return {"valid": float(loss), "score": float(roc_auc_score(labels, test))}


def use_of(built, table):
    """How many experts a row's task weighs, and all tasks of a row together: means on test rows."""
    if not getattr(built.structure, "gates", []):
        return 1.0, 1.0
    of_task, of_row = [], []
    for part in _batches(table.test[0]):
        _, (record,) = built.structure(part["x"], task=part.get("task"), return_aux=True)
        used = ops.convert_to_numpy(record.weights) > USED
        of_task.append(np.broadcast_to(used.sum(axis=-1), (len(part["x"]), used.shape[1])))
        of_row.append(np.broadcast_to(used.any(axis=1).sum(axis=-1), len(part["x"])))
    return float(np.mean(np.concatenate(of_task))), float(np.mean(np.concatenate(of_row)))


def _batches(inputs, size=1024):
    """Rows, so many at a time; for calls without a graph, which takes longer to make than they."""
    for start in range(0, len(inputs["x"]), size):
        yield {name: values[start : start + size] for name, values in inputs.items()}


def multiplications(built, table, of_task, of_row):
    """Of a row: all that it has labels of, and one task alone.

    Counted are kernels of experts, gates and towers, and the mix; of experts those with weight,
    or all where the gate does not select. What a gate makes of its scores is not.

    Args:
        built: `Built`.
        table: `Table`.
        of_task, of_row: floats, what `use_of` says.
    """
    structure, units = built.structure, built.towers.kernel.shape[-1]
    told = 1 if table.task_per_row else table.tasks
    if isinstance(structure, Experts):
        one = math.prod(structure.kernels[0].shape[1:])
        return min(told, structure.num_experts) * one + told * units, one + units
    one = math.prod(structure.experts.kernels[0].shape[1:])
    if not structure.gate.selects:
        # Also those that a gate gives next to nothing.
        of_task = of_row = structure.num_experts
    gates, gate = structure.num_gates, 0
    if structure.gate.router == "linear":
        gate = math.prod(structure.gate.head.kernel.shape) // gates
    mixes, heads = min(told, gates), min(told, gates)
    whole = of_row * one + heads * gate + mixes * of_task * units + told * units
    return whole, of_task * one + gate + of_task * units + units
