"""The contestants of `correlation`: how large they are, what they cost, how they are trained.

The experts have one layer, and the towers one hidden layer, as in the paper. What has no gate is
as wide as it may be:

- `single tasks`, a network for each, all of them together, and `shared bottom`: with no more
  parameters than the experts and towers of a mixture;
- `wide shared bottom`: with no more multiplications for a row than MMoE, gates and mix included.
"""

import keras
import numpy as np
from keras import ops

from benchmarks.gate_models import squared_errors
from benchmarks.many_tasks_models import SHARED, SINGLE, WIDE
from tfmoe.experts.mlp import Experts
from tfmoe.heads.towers import Towers
from tfmoe.optimizers import Adam
from tfmoe.structures.mmoe import MMoE, OMoE
from tfmoe.structures.shared_bottom import SharedBottom

MULTI_GATE, ONE_GATE = "MMoE", "OMoE"
FEATURES, EXPERTS, TOWER = 100, 8, 8
MOST_UNITS = 1000
STEPS_AT_ONCE = 16  # Equal results, and less time between the steps.


def parameters(name, tasks, units):
    """Those of a model, of which `units` is the width of an expert, or of what has no gate."""
    layer = (FEATURES + 1) * units
    towers = tasks * ((units + 1) * TOWER + TOWER + 1)
    networks = {SINGLE: tasks, SHARED: 1, WIDE: 1}.get(name, EXPERTS)
    return networks * layer + gates(name, tasks) * FEATURES * EXPERTS + towers


def multiplications(name, tasks, units):
    """Those of a row with the labels of all tasks; see `parameters`."""
    layer, mix = FEATURES * units, FEATURES * EXPERTS + EXPERTS * units
    towers = tasks * (units * TOWER + TOWER)
    networks = {SINGLE: tasks, SHARED: 1, WIDE: 1}.get(name, EXPERTS)
    return networks * layer + gates(name, tasks) * mix + towers


def gates(name, tasks):
    """How many a model has."""
    return {MULTI_GATE: tasks, ONE_GATE: 1}.get(name, 0)


def width_of(name, tasks, units):
    """Units of an expert, or of what has no gate beside experts of so many; see the module."""
    if name in (MULTI_GATE, ONE_GATE):
        return units
    if name == WIDE:
        cost, within = multiplications, multiplications(MULTI_GATE, tasks, units)
    else:
        gate = tasks * FEATURES * EXPERTS
        cost, within = parameters, parameters(MULTI_GATE, tasks, units) - gate
    return max(width for width in range(1, MOST_UNITS) if cost(name, tasks, width) <= within)


def build(name, tasks, units):
    """A Keras model `(b, f)` to `(b, t)`; `units` are those of a mixture's experts."""
    width = width_of(name, tasks, units)
    structure = {
        SINGLE: lambda: Experts(tasks, (width,)),
        ONE_GATE: lambda: OMoE(tasks, EXPERTS, (width,)),
        MULTI_GATE: lambda: MMoE(tasks, EXPERTS, (width,)),
    }.get(name, lambda: SharedBottom(tasks, (width,)))()
    inputs = keras.Input((FEATURES,))
    outputs = Towers((1,) * tasks, hidden_units=(TOWER,))(structure(inputs))
    return keras.Model(inputs, ops.concatenate(outputs, axis=1))


def train(model, world, cell):
    """Trains a model to its best epoch on validation rows."""
    model.compile(
        Adam(cell["learning_rate"]),
        squared_errors,
        jit_compile=False,
        steps_per_execution=STEPS_AT_ONCE,
    )
    # A step that creates variables is traced twice.
    model.optimizer.build(model.trainable_variables)
    best = keras.callbacks.EarlyStopping(patience=cell["epochs"], restore_best_weights=True)
    model.fit(
        *world.train,
        batch_size=cell["batch_size"],
        epochs=cell["epochs"],
        validation_data=world.valid,
        validation_batch_size=4096,
        callbacks=[best],
        verbose=0,
    )


def error(model, part):
    """Mean squared error, mean over the tasks; that of the mean label if it is no number.

    One would rather take the mean label than a run that diverged.
    """
    x, y = part
    found = float(np.mean((ops.convert_to_numpy(model(x)) - y) ** 2))
    return found if np.isfinite(found) else float(np.mean(np.var(y, axis=0)))
