"""The contestants of the studies of gates on made-up tasks, and how they are trained.

The gates are those of an `MMoE` of as many experts as there are in truth, of two small layers; all
contestants have linear towers. Beside the gates stand

- `single tasks`, a network each, as wide as the experts that a sparse gate selects;
- `shared bottom`, two layers, with as many parameters as the mixture and its towers;
- `shared bottom, one layer`, as wide as it may be to cost a row of one task no more
  multiplications than the experts that a sparse gate selects, with the router.

The loss is the sum of the tasks' squared errors, as a gate's own loss is a sum over tasks. Gates
learn at a rate of their own, a searched multiple of the experts' (`gate_rate`). Under SGD the
experts' rate is divided by the number of tasks, so that they go down the tasks' mean loss while a
gate and a tower, which are one task's, go down that task's.
"""

import functools
import itertools

import keras
from keras import ops

from benchmarks import gate_choices
from benchmarks.contestants import SHARED, WIDE
from benchmarks.gate_choices import NOISY_TOP_K, TOP_K, Choice
from tfmoe.experts.mlp import Experts
from tfmoe.heads.towers import Towers
from tfmoe.optimizers import Adam, ByPart
from tfmoe.structures.mmoe import MMoE
from tfmoe.structures.shared_bottom import SharedBottom

FEATURES, UNITS = 10, (16, 8)
SINGLE = "single tasks"
_ALL = gate_choices.gates(gate_choices.OWN)
GATES = _ALL | {
    TOP_K: Choice(functools.partial(_ALL[TOP_K].make, noisy=False), {}),
    NOISY_TOP_K: Choice(functools.partial(_ALL[TOP_K].make, noisy=True), {}),
}
ADAM, SGD = "adam", "sgd"
MOMENTUM = 0.9  # of SGD, which is not there yet without it
STEPS_AT_ONCE = 16  # Equal results, and less time between the steps.


def structure_of(study, cell):
    """A contestant's layer `(b, f)` to `(b, t, u)`."""
    model, num_tasks = cell["model"], cell["tasks"]
    if model == SINGLE:
        return Experts(num_tasks, (study.chosen * UNITS[0], UNITS[1]))
    if model in (SHARED, WIDE):
        return SharedBottom(num_tasks, bottom_units(study, model, num_tasks))
    steps = cell["epochs"] * cell["rows"] // cell["batch_size"] // 2
    gate = gate_choices.gate_of(GATES, cell, study.chosen, study.router, steps)
    return MMoE(num_tasks, study.experts, UNITS, gate_choices.biased(gate))


def bottom_units(study, model, num_tasks):
    """Units of a shared bottom's layers; see the module."""
    first, last = UNITS
    router = study.experts * FEATURES if study.router == "linear" else 0
    if model == WIDE:
        expert = FEATURES * first + first * last + last  # its share in the mix, too
        return ((study.chosen * expert + last + router) // (FEATURES + 1),)
    within = parameters((first, last), study.experts)
    within += num_tasks * (router + study.experts + last + 1)
    widths = range(2, 1000, 2)
    sizes = {w: parameters((w, w // 2)) + num_tasks * (w // 2 + 1) for w in widths}
    width = max(w for w, size in sizes.items() if size <= within)
    return width, width // 2


def parameters(units, number=1):
    """Those of so many networks."""
    pairs = itertools.pairwise((FEATURES, *units))
    return number * sum((inputs + 1) * outputs for inputs, outputs in pairs)


def trained(cell, world, structure):
    """A Keras model `(b, f)` to `(b, t)` with the weights of its best epoch."""
    inputs = keras.Input((FEATURES,))
    towers = Towers((1,) * cell["tasks"], hidden_units=())
    model = keras.Model(inputs, ops.concatenate(towers(structure(inputs)), axis=1))
    model.compile(
        optimizer_of(cell, structure, towers),
        squared_errors,
        jit_compile=False,
        steps_per_execution=STEPS_AT_ONCE,
    )
    # A step that creates variables is traced twice.
    model.optimizer.build(model.trainable_variables)
    epochs = cell["epochs"]
    best = keras.callbacks.EarlyStopping(
        patience=epochs, restore_best_weights=True, start_from_epoch=epochs // 2
    )
    model.fit(
        *world.train,
        batch_size=cell["batch_size"],
        epochs=epochs,
        validation_data=world.valid,
        validation_batch_size=4096,
        callbacks=[best],
        verbose=0,
    )
    return model


def optimizer_of(cell, structure, towers):
    """The optimizer of a run, whose parts have rates of their own."""
    rate, gates = cell["learning_rate"], getattr(structure, "gates", [])
    is_sgd, alone = cell["set"] == SGD, cell["model"] == SINGLE
    kind = functools.partial(keras.optimizers.SGD, momentum=MOMENTUM) if is_sgd else Adam
    optimizer = ByPart(
        {
            "gates": kind(rate * cell.get("gate_rate", 1.0)),
            "towers": kind(rate),
            "experts": kind(rate / cell["tasks"] if is_sgd and not alone else rate),
        }
    )
    of_gates = [weight for gate in gates for weight in gate.weights]
    routing = {id(weight) for weight in of_gates}
    experts = [weight for weight in structure.weights if id(weight) not in routing]
    optimizer.route({"gates": of_gates, "towers": towers.weights, "experts": experts})
    return optimizer


def squared_errors(labels, predictions):
    """Sum over the tasks."""
    return ops.sum(ops.square(predictions - labels), axis=-1)
