"""The models of the Multi-MNIST study: how large they are, how they are trained and scored.

A network of width `c` is two convolutions (5 x 5, `c` and `2 c` channels) with pooling, and two
layers of some units, `5 c` or more; an expert is one of width 10. Gates read the pixels; a tower
has a layer of 50. The others are as large as a number of parameters, or of multiplications, allows,
those of gates and towers counted too:

- `single tasks`, two networks that have as many parameters together as a mixture;
- `shared bottom, equal parameters`, as many as a mixture;
- `shared bottom, equal compute`, as many multiplications a picture as Top-k, whose two tasks select
  two experts each: at most, for they may select the same.
"""

import functools
import math

import keras
import numpy as np
from keras import layers, ops

from benchmarks import gate_choices
from benchmarks.gate_choices import DSELECT_K, NOISY_TOP_K, TOP_K, Choice
from benchmarks.multimnist_pictures import SIZE
from tfmoe.heads.towers import Towers
from tfmoe.optimizers import Adam, ByPart
from tfmoe.structures.mmoe import MMoE

SINGLE = "single tasks"
PARAMETERS, COMPUTE = "shared bottom, equal parameters", "shared bottom, equal compute"
_ALL = gate_choices.gates(gate_choices.OWN)
GATES = {
    TOP_K: Choice(functools.partial(_ALL[TOP_K].make, noisy=False), {}),
    NOISY_TOP_K: Choice(functools.partial(_ALL[TOP_K].make, noisy=True), {}),
    DSELECT_K: _ALL[DSELECT_K],
}
PLACES = ("top_left", "bottom_right")
TASKS, DIGITS, TOWER, WIDTH, UNITS = 2, 10, 50, 10, 50
CHOSEN = 2
PIXELS = SIZE**2
USED = 1e-6  # an expert's weight for a picture, above which it is computed
AT_ONCE = 1000


def parameters(width, units):
    """Parameters of a network."""
    convolutions = 25 * width + width + 50 * width**2 + 2 * width
    return convolutions + (72 * width + 1) * units + (units + 1) * units


def products(width, units):
    """Multiplications of a network for a picture."""
    convolutions = 32**2 * 25 * width + 12**2 * 50 * width**2
    return convolutions + 72 * width * units + units**2


def tower_parameters(units):
    """Those of one tower."""
    return (units + 1) * TOWER + (TOWER + 1) * DIGITS


def tower_products(units):
    """Those of one tower for a picture."""
    return units * TOWER + TOWER * DIGITS


def gate_products(experts):
    """Those of both gates, which are their parameters too."""
    return TASKS * PIXELS * experts


def size_of(name, experts):
    """Width and units of a model without experts, or of one of its networks.

    Args:
        name: the model.
        experts: int, of the mixture that it is equal to.
    """
    if name == COMPUTE:
        chosen = min(experts, TASKS * CHOSEN)
        mixed = TASKS * CHOSEN * UNITS + TASKS * tower_products(UNITS)
        within = gate_products(experts) + chosen * products(WIDTH, UNITS) + mixed
        return _largest(lambda w, u: products(w, u) + TASKS * tower_products(u), within)
    within = experts * parameters(WIDTH, UNITS) + TASKS * tower_parameters(UNITS)
    within += gate_products(experts)
    networks, towers = (TASKS, 1) if name == SINGLE else (1, TASKS)
    return _largest(
        lambda w, u: networks * (parameters(w, u) + towers * tower_parameters(u)), within
    )


def _largest(cost, within):
    """The widest network that costs no more than a number, and then the most units."""
    width = 1
    while cost(width + 1, 5 * (width + 1)) <= within:
        width += 1
    units = 5 * width
    while cost(width, units + 1) <= within:
        units += 1
    return width, units


def network(width, units):
    """Layers `(b, 36, 36, 1)` to `(b, units)`."""
    return keras.Sequential(
        [
            layers.Conv2D(width, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(2 * width, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(units, activation="relu"),
            layers.Dense(units, activation="relu"),
        ]
    )


def build(cell, steps):
    """A Keras model `(b, 36, 36, 1)` to logits `(b, 2, 10)`, and its mixture or None.

    Args:
        cell: dict, of the run.
        steps: int, after which schedules have done their course.
    """
    name, experts = cell["model"], cell["experts"]
    inputs, mixture = keras.Input((SIZE, SIZE, 1)), None
    if name in GATES:
        gate = gate_choices.gate_of(GATES, cell, CHOSEN, "linear", steps)
        networks = [network(WIDTH, UNITS) for _ in range(experts)]
        mixture = MMoE(num_tasks=TASKS, experts=networks, gate=gate)
        hidden = mixture(inputs)
    else:
        networks = [network(*size_of(name, experts)) for _ in range(TASKS if name == SINGLE else 1)]
        outputs = [one(inputs) for one in networks]
        hidden = ops.stack(outputs * (TASKS // len(outputs)), axis=1)
    logits = ops.stack(Towers((DIGITS,) * TASKS, hidden_units=(TOWER,))(hidden), axis=1)
    return keras.Model(inputs, logits), mixture


def train(model, mixture, cell, pictures, valid):
    """Trains a model to the best epoch, on validation pictures, of the second half."""
    optimizer = Adam(cell["learning_rate"])
    if mixture is not None:
        gates = Adam(cell["learning_rate"] * cell["gate_rate"])
        optimizer = ByPart({"gates": gates, "rest": optimizer})
        optimizer.route({"gates": mixture.gate.trainable_variables})
    model.compile(optimizer, loss, jit_compile=False)
    # A step that creates variables is traced twice.
    model.optimizer.build(model.trainable_variables)
    best = keras.callbacks.EarlyStopping(
        patience=cell["epochs"], restore_best_weights=True, start_from_epoch=cell["epochs"] // 2
    )
    model.fit(
        *pictures,
        batch_size=cell["batch_size"],
        epochs=cell["epochs"],
        validation_data=valid,
        validation_batch_size=AT_ONCE,
        callbacks=[best],
        verbose=0,
    )


def loss(digits, logits):
    """Cross-entropy, sum over the two digits."""
    return ops.sum(
        keras.losses.sparse_categorical_crossentropy(digits, logits, from_logits=True), axis=-1
    )


def scores(model, valid, test):
    """Loss on validation pictures; accuracy on test pictures, mean and of each digit."""
    logits = [model.predict(part.x, batch_size=AT_ONCE, verbose=0) for part in (valid, test)]
    right = np.mean(np.argmax(logits[1], axis=-1) == test.y, axis=0)
    found = {"accuracy": float(np.mean(right)), **dict(zip(PLACES, map(float, right), strict=True))}
    entropies = np.mean(loss(valid.y, logits[0]))
    return {"valid": float(entropies) if np.isfinite(entropies) else math.inf} | found


def use_of(mixture, pictures):
    """How many experts a task of a picture weighs, and both together: means."""
    if mixture is None:
        return {}
    used = []
    for start in range(0, len(pictures.x), AT_ONCE):
        flat = pictures.x[start : start + AT_ONCE].reshape(-1, PIXELS)
        used.append(ops.convert_to_numpy(mixture.gate(flat)) > USED)
    used = np.concatenate(used)
    return {
        "used": float(np.mean(used.sum(axis=-1))),
        "computed": float(np.mean(used.any(axis=1).sum(axis=-1))),
    }


def multiplications(cell, use):
    """Those of a picture for both digits; of the experts, of those with weight.

    Args:
        cell: dict, of the run.
        use: dict, what `use_of` says.
    """
    name, experts = cell["model"], cell["experts"]
    if use:
        mixed = TASKS * use["used"] * UNITS + TASKS * tower_products(UNITS)
        return gate_products(experts) + use["computed"] * products(WIDTH, UNITS) + mixed
    width, units = size_of(name, experts)
    networks = TASKS if name == SINGLE else 1
    return networks * products(width, units) + TASKS * tower_products(units)
