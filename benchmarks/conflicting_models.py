"""The contestants of `conflicting_tasks`: how large they are, what they cost, how they are trained.

A row has one task, and towers are of one layer. The mixtures have 16 experts of two layers, of
which a row goes through two, and a gate with a hidden layer: `task-aware`, whose gate is told the
task by an embedding, and `routed by row`, the same but for that. Beside them stand

- `shared bottom, equal compute`, two layers that cost a row no more multiplications than the
  task-aware mixture does: its gate, two experts, a tower;
- `shared bottom, equal parameters`, two layers with no more parameters than its experts and gate;
- `single tasks`, for each a network of equal compute, as long as the others are trained.

Models are layers in a plain Keras model, for which rows need no schema of 196 columns.
"""

import itertools
import math
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from benchmarks.conflicting_worlds import PERMUTED
from benchmarks.many_tasks_models import TowerOfEach
from tfmoe.experts.mlp import Experts
from tfmoe.gates.balance import ImportanceLoss
from tfmoe.gates.routers import MLPRouter
from tfmoe.gates.task_aware import TaskAwareGate
from tfmoe.gates.task_router import TaskRouter
from tfmoe.objectives.mutual_information import joint_of, mutual_information
from tfmoe.optimizers import Adam
from tfmoe.structures.mmoe import MMoE, OMoE
from tfmoe.structures.shared_bottom import SharedBottom

TASK_AWARE, BY_ROW, SINGLE = "task-aware", "routed by row", "single tasks"
COMPUTE, PARAMETERS = "shared bottom, equal compute", "shared bottom, equal parameters"
CHOSEN, DIM, HIDDEN = 2, 8, 16
# Of the mutual information over steps, for a batch has few rows a task.
MOMENTUM = 0.9
DISPATCH = "dense"  # Equal results, and less time: the experts are so small.
STEPS_AT_ONCE = 16  # Equal results, and less time between the steps.


def bottom(features, width):
    """Multiplications and parameters of two layers, the second half as wide, without a tower."""
    pairs = list(itertools.pairwise((features, width, width // 2)))
    return sum(a * b for a, b in pairs), sum((a + 1) * b for a, b in pairs)


def multiplications(name, features, width, experts):
    """Those of a row; `width` is that of the first layer, of an expert or of the only network."""
    cost, _ = bottom(features, width)
    tower = width // 2
    if name not in (TASK_AWARE, BY_ROW):
        return cost + tower
    told = DIM if name == TASK_AWARE else 0
    gate = (features + told) * HIDDEN + HIDDEN * experts
    return gate + CHOSEN * (cost + width // 2) + tower


def width_of(name, features, width, experts):
    """Units of the first layer of a model beside mixtures whose experts have `width`."""
    if name in (TASK_AWARE, BY_ROW):
        return width
    widths = range(2, 2000, 2)
    if name == PARAMETERS:
        gate = (features + DIM + 1) * HIDDEN + HIDDEN * experts
        within = experts * bottom(features, width)[1] + gate
        return max(w for w in widths if bottom(features, w)[1] <= within)
    within = multiplications(TASK_AWARE, features, width, experts)
    return max(w for w in widths if multiplications(name, features, w, experts) <= within)


class Built(NamedTuple):
    """A model, its structure and its towers."""

    model: keras.Model
    structure: keras.layers.Layer
    towers: TowerOfEach

    @property
    def by_task(self):
        """Whether it is a network of each task, which reads rows side by side."""
        return isinstance(self.structure, Experts)


def build(cell, features, tasks):
    """A Keras model of rows with one task each to logits `(b, 1)`; single tasks to `(b, t)`."""
    name, experts = cell["model"], cell["experts"]
    width = width_of(name, features, cell["units"], experts)
    units, towers = (width, width // 2), TowerOfEach(tasks)
    if name == SINGLE:
        x = keras.Input((tasks, features), name="x")
        structure = Experts(tasks, units)
        return Built(keras.Model({"x": x}, towers(structure(x))), structure, towers)
    x, task = keras.Input((features,), name="x"), keras.Input((), dtype="int32", name="task")
    if name == TASK_AWARE:
        # Embeddings of the size of the inputs' part in the hidden layer.
        start = keras.initializers.RandomNormal(stddev=1.0)
        gate = gate_of(TaskRouter(DIM, (HIDDEN,), embeddings_initializer=start))
        structure = Informed(
            MMoE(tasks, experts, units, gate, dispatch=DISPATCH), cell["information"]
        )
    elif name == BY_ROW:
        gate = gate_of(MLPRouter((HIDDEN,)), balance=ImportanceLoss(cell["balance"]))
        structure = OMoE(tasks, experts, units, gate, dispatch=DISPATCH)
    else:
        structure = SharedBottom(tasks, units)
    outputs = towers(structure(x, task=task), task=task)
    return Built(keras.Model({"x": x, "task": task}, outputs), structure, towers)


def gate_of(router, **more):
    """The gate of both mixtures."""
    return TaskAwareGate(num_nonzeros=CHOSEN, router=router, renormalize=True, **more)


class Informed(keras.layers.Layer):
    """A mixture that adds the mutual information of tasks and experts to the loss.

    As `MutualInformationLoss` does in a `MultiTaskModel`: without it a task-aware gate leaves most
    experts to nobody.
    """

    def __init__(self, mixture, weight):
        super().__init__()
        self.mixture, self.weight = mixture, weight

    def build(self, input_shape):
        self.mixture.build(input_shape)
        shape = (self.mixture.num_tasks, self.mixture.num_experts)
        self.joint = self.add_weight(
            shape=shape, initializer="zeros", trainable=False, name="joint"
        )

    def call(self, inputs, task=None, training=False):
        outputs, (record,) = self.mixture(inputs, task=task, training=training, return_aux=True)
        if training and self.weight:
            labels = ops.ones_like(task, dtype=self.compute_dtype)
            joint = joint_of(record, labels, self.mixture.num_tasks)
            joint = MOMENTUM * ops.convert_to_tensor(self.joint) + (1 - MOMENTUM) * joint
            self.joint.assign(ops.stop_gradient(joint))
            self.add_loss(-self.weight * mutual_information(joint))
        return outputs


def leave_experts_free(structure):
    """Takes away the losses that keep experts in use, which are of many tasks."""
    if isinstance(structure, Informed):
        structure.weight = 0.0
    elif isinstance(structure, OMoE):
        structure.gate.balance = ()


def embeddings_of(built):
    """The gate's embeddings of the tasks, `(t, dim)`; None without."""
    structure = built.structure
    return structure.mixture.gate.head.embeddings if isinstance(structure, Informed) else None


def train(built, stage, rows, valid, rate, epochs, batch_size):
    """Trains a model to its best epoch.

    Args:
        built: `Built`.
        stage: str, which says what the loss is.
        rows, valid: pairs of inputs and labels, to learn from and to find the best epoch on.
        rate: float, of Adam.
        epochs, batch_size: ints.
    """
    model, is_yes_or_no = built.model, stage == PERMUTED
    loss = keras.losses.BinaryCrossentropy(from_logits=True) if is_yes_or_no else "mse"
    model.compile(Adam(rate), loss, jit_compile=False, steps_per_execution=STEPS_AT_ONCE)
    # A step that creates variables is traced twice.
    model.optimizer.build(model.trainable_variables)
    best = keras.callbacks.EarlyStopping(patience=epochs, restore_best_weights=True)
    model.fit(
        *rows,
        batch_size=batch_size,
        epochs=epochs,
        validation_data=valid,
        validation_batch_size=4096,
        callbacks=[best],
        verbose=0,
    )


def said(built, inputs, at_once=4096):
    """Logits of rows, float64; without a graph, which takes longer to make than they."""
    parts = []
    for start in range(0, len(inputs["x"]), at_once):
        batch = {name: values[start : start + at_once] for name, values in inputs.items()}
        parts.append(ops.convert_to_numpy(built.model(batch)))
    return np.concatenate(parts).astype("float64")


def scores(built, stage, part, tasks):
    """Of some tasks the mean AUC, or the mean squared error, and the mean loss.

    A model that diverged has what one that knows nothing has, and no finite loss.
    """
    from sklearn.metrics import roc_auc_score

    if built.by_task:
        inputs, _ = part.side_by_side(tasks)
        found = said(built, inputs).T
    else:
        inputs, _ = part.rows(tasks)
        found = said(built, inputs).reshape(len(tasks), -1)
    labels = part.y[list(tasks)].astype("float64")
    is_yes_or_no = stage == PERMUTED
    if not np.isfinite(found).all():
        unknown = 0.5 if is_yes_or_no else float(np.mean(np.var(labels, axis=1)))
        return {"score": unknown, "loss": math.inf}
    if is_yes_or_no:
        aucs = [roc_auc_score(own, told) for own, told in zip(labels, found, strict=True)]
        loss = np.mean(np.logaddexp(0, found) - found * labels)
        return {"score": float(np.mean(aucs)), "loss": float(loss)}
    error = float(np.mean((found - labels) ** 2))
    return {"score": error, "loss": error}
