"""The models of the MovieLens study: how large they are, how they are trained and scored.

All read what `tfmoe demo --data ml-1m` reads, user, movie and the other five columns, and have its
towers. A gated model has experts of one layer; the others are one layer that is as wide as a number
of parameters, or of multiplications, allows, those of structure and towers together:

- `single tasks`, two networks that have as many parameters together as the MMoE, each with
  embeddings of its own besides;
- `shared bottom, equal parameters`, as many as the MMoE;
- `shared bottom, equal compute`, as many multiplications a row as Top-k, whose two tasks select
  two experts each: at most, for they may select the same.
"""

import functools
import math
import time

import keras
import numpy as np
from keras import ops

from benchmarks import gate_choices
from benchmarks.gate_choices import DSELECT_K, NOISY_TOP_K, TOP_K, Choice
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.datasets.movielens import movielens
from tfmoe.datasets.synthetic import synthetic_ratings
from tfmoe.model.model import MultiTaskModel
from tfmoe.optimizers import Adam
from tfmoe.structures.mmoe import MMoE
from tfmoe.structures.shared_bottom import SharedBottom

SINGLE, MMOE = "single tasks", "MMoE"
PARAMETERS, COMPUTE = "shared bottom, equal parameters", "shared bottom, equal compute"
BOTTOM = "shared bottom"  # as wide as all experts together
WHOLE, PER_COMPUTE = "whole", "compute"  # parts of the study
_ALL = gate_choices.gates(gate_choices.OWN)
GATES = {
    MMOE: _ALL[gate_choices.SOFTMAX],
    TOP_K: Choice(functools.partial(_ALL[TOP_K].make, noisy=False), {}),
    NOISY_TOP_K: Choice(functools.partial(_ALL[TOP_K].make, noisy=True), {}),
    DSELECT_K: _ALL[DSELECT_K],
}
CHOSEN, TASKS, TOWER = 2, 2, 64
PATIENCE = 2  # epochs without a lower validation loss
PREDICTED_AT_ONCE = 8192
USED = 1e-6  # an expert's weight for a row, above which it is computed
MEASURES = ("loss", "watch_auc", "watch_log_loss", "rating_mse")


@functools.cache
def table(quick):
    """The rows in three parts."""
    return synthetic_ratings(num_rows=1000) if quick else movielens("ml-1m")


@functools.cache
def fitted(quick, tasks):
    """A preprocessor for some of the tasks."""
    split = table(quick)
    return Preprocessor(split.schema.select(tasks)).fit(split.train, progress=False)


@functools.cache
def size(quick):
    """Numbers that a structure reads of a row."""
    prep = fitted(quick, table(quick).schema.task_names)
    model = MultiTaskModel(prep, SharedBottom(hidden_units=(1,)))
    return int(model.encode(prep.arrays(table(quick).valid.head(1), labels=False)).shape[-1])


def towers(width, tasks=TASKS):
    """Parameters of the towers."""
    return tasks * ((width + 1) * TOWER + TOWER + 1)


def tower_products(width):
    """Multiplications of the towers for a row."""
    return TASKS * (width * TOWER + TOWER)


def widest(cost, within):
    """The most units whose cost, `a + b * units`, is no more than a number."""
    return int((within - cost(0)) // (cost(1) - cost(0)))


def width_of(name, inputs, experts, units):
    """Units of the one layer of a model without a gate.

    Args:
        name: the model.
        inputs: int, numbers that a structure reads of a row.
        experts, units: int, of the MMoE that it is equal to.
    """
    if name == BOTTOM:
        return experts * units
    if name == COMPUTE:
        chosen = min(experts, TASKS * CHOSEN)
        within = TASKS * inputs * experts + chosen * inputs * units + TASKS * CHOSEN * units
        return widest(lambda w: inputs * w + tower_products(w), within + tower_products(units))
    within = TASKS * inputs * experts + experts * (inputs + 1) * units + towers(units)
    if name == SINGLE:
        return widest(lambda w: TASKS * ((inputs + 1) * w + towers(w, 1)), within)
    return widest(lambda w: (inputs + 1) * w + towers(w), within)


def structure_of(cell, inputs, steps):
    """A model's structure.

    Args:
        cell: dict, of the run.
        inputs: int, see `width_of`.
        steps: int, those of a whole training.
    """
    name, experts, units = cell["model"], cell["experts"], cell["units"]
    if name not in GATES:
        return SharedBottom(hidden_units=(width_of(name, inputs, experts, units),))
    # By half of the training DSelect-k's gates should have decided.
    gate = gate_choices.gate_of(GATES, cell, CHOSEN, "linear", max(1, steps // 2))
    way = "sparse" if gate.selects and cell["set"] == PER_COMPUTE else "auto"
    return MMoE(num_experts=experts, hidden_units=(units,), gate=gate, dispatch=way)


def one_run(quick, cell):
    """Losses of the best epoch on validation rows, and what the model costs."""
    split = table(quick)
    names, start = split.schema.task_names, time.perf_counter()
    groups = [(name,) for name in names] if cell["model"] == SINGLE else [names]
    valid, test, scores = {}, {}, {"parameters": 0, "multiplications": 0.0}
    for tasks in groups:
        model = _trained(quick, cell, tasks)
        for found, rows in ((valid, split.valid), (test, split.test)):
            data = model.preprocessor.dataset(rows, PREDICTED_AT_ONCE, labels=False)
            found |= model.predict(data, verbose=0)
        computed = _computed(model, split.test)
        scores["parameters"] += model.structure.count_params() + model.towers.count_params()
        scores["multiplications"] += multiplications(model, computed)
        if cell["model"] in GATES:
            scores["computed"] = computed
    scores["valid"] = _measured(split.valid, valid)["loss"]
    scores |= _measured(split.test, test)
    return scores | {"seconds": round(time.perf_counter() - start)}


def _trained(quick, cell, tasks):
    """A model of some tasks with the weights of its best epoch."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(cell["seed"])
    split, prep, batch_size = table(quick), fitted(quick, tasks), cell["batch_size"]
    steps = cell["epochs"] * math.ceil(len(split.train) / batch_size)
    model = MultiTaskModel(prep, structure_of(cell, size(quick), steps), tower_units=(TOWER,))
    rate = cell["learning_rate"]
    optimizer = Adam(rate)
    if cell["model"] in GATES:
        optimizer = {"gates": Adam(rate * cell["gate_rate"]), "rest": optimizer}
    # Scores are made at the end, from predictions: the AUC costs time in every step.
    model.compile(optimizer, metrics={name: [] for name in tasks})
    model.fit(
        prep.dataset(split.train, batch_size, shuffle=True, seed=cell["seed"]),
        validation_data=prep.dataset(split.valid, PREDICTED_AT_ONCE),
        epochs=cell["epochs"],
        callbacks=[keras.callbacks.EarlyStopping(patience=PATIENCE, restore_best_weights=True)],
        verbose=0,
    )
    return model


def _computed(model, rows):
    """How many experts some task of a row gives weight, on average; 0 of a model without."""
    if not model.structure.gates:
        return 0.0
    total = 0
    for features in model.preprocessor.dataset(rows, PREDICTED_AT_ONCE, labels=False):
        (record,) = model.forward_pass(features).aux
        total += int(np.sum(np.any(ops.convert_to_numpy(record.weights) > USED, axis=1)))
    return total / len(rows)


def multiplications(model, computed):
    """Those of a row from the encoded columns to its scores, with so many experts computed."""
    structure = model.structure
    if structure.gates:
        experts, units = structure.experts, structure.experts.hidden_units[-1]
        routers = [weight for weight in structure.gate.trainable_weights if "kernel" in weight.name]
        structure_products = sum(math.prod(weight.shape) for weight in routers)
        if getattr(structure.gate, "noisy", False):
            structure_products //= 2  # half of the scores are those of the noise, in training
        one = sum(math.prod(kernel.shape[1:]) for kernel in experts.kernels)
        weighed = experts.num_experts if not structure.gate.selects else CHOSEN
        structure_products += computed * one + TASKS * weighed * units
    else:
        kernels = structure.bottom.kernels
        structure_products = sum(math.prod(kernel.shape) for kernel in kernels)
    kernels = [weight for weight in model.towers.trainable_weights if "kernel" in weight.name]
    return float(structure_products + sum(math.prod(weight.shape) for weight in kernels))


def _measured(rows, predicted):
    """`MEASURES` of both tasks; `loss` is the sum that training minimises."""
    from sklearn.metrics import log_loss, roc_auc_score

    if not all(np.isfinite(values).all() for values in predicted.values()):
        return dict.fromkeys(MEASURES, math.inf)
    rated = rows["watch"].to_numpy() == 1
    errors = predicted["rating"][rated].astype("float64") - rows["rating"].to_numpy()[rated]
    found = {
        "watch_auc": float(roc_auc_score(rows["watch"], predicted["watch"])),
        "watch_log_loss": float(log_loss(rows["watch"], predicted["watch"].astype("float64"))),
        "rating_mse": float(np.mean(errors**2)),
    }
    return {"loss": found["watch_log_loss"] + found["rating_mse"]} | found
