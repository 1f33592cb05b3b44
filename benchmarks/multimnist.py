"""Multi-MNIST: two digits in one picture, experts that are small convolutional networks.

60,000 pictures of MNIST are parted 5 to 1, each digit alike; every picture of a part is twice
the top left one, with two others of its part, drawn at random, at the bottom right, added up
on 36 x 36 pixels: 100,000 to train, 20,000 to validate; MNIST's own 10,000 for tests give
20,000. The tasks are the two digits. The model is an `MMoE` with `experts=[...]`: 8 networks of
two convolutions (5 x 5, 10 and 20 channels) with pooling, and two layers of 50; a tower has
50; gates select 2 per example, from the pixels. Adam, batches of 256.

Every gate gets as many random trials of the learning rate and of what it has to be set
(`gate_choices.py`); the winner by validation loss is run with fresh seeds. `--trials`,
`--seeds`, `--epochs` and `--fraction`, a share of each part, cut it to what a machine can do;
the rows say to what. The data are the four files of MNIST in the folder `mnist` of
`$TFMOE_DATA`.

Claim: DSelect-k has a higher accuracy, mean over the tasks, than Top-k.
"""

import functools
import gzip
import os
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from keras import layers, ops

from benchmarks import search, studies
from benchmarks.gate_choices import DSELECT_K, OWN, TOP_K, gate_of, gates
from tfmoe.heads.towers import Towers
from tfmoe.optimizers import Adam
from tfmoe.reports.gate_use import gate_use
from tfmoe.structures.mmoe import MMoE

EXPERTS, CHOSEN, BATCH_SIZE, SIZE, DIGIT = 8, 2, 256, 36, 28
LEARNING_RATE = search.log_uniform(1e-4, 3e-3)
PLACES = ("top_left", "bottom_right")
GATES = gates(OWN)
OPTIONS = {
    "trials": (int, 20, "random settings of each gate"),
    "seeds": (int, 10, "runs of each gate's best settings"),
    "epochs": (int, 20, "of a run"),
    "fraction": (float, 1.0, "share of the pictures"),
}


class Pictures(NamedTuple):
    """Pictures `(n, 36, 36, 1)` in [0, 2], and digits `(n, 2)`."""

    x: np.ndarray
    y: np.ndarray


def run(quick, trials=20, seeds=10, epochs=20, fraction=1.0):
    """A row for each gate; a row for the claim."""
    if quick:
        trials, seeds, epochs, fraction = 1, 2, 1, 0.0
    cut = {"fraction": fraction, "epochs": epochs}
    sizes = {"experts": 2 if quick else EXPERTS, "chosen": CHOSEN, "batch_size": BATCH_SIZE}
    budget = search.Budget(trials, min(2, trials), 1, seeds)
    grid = studies.Grid("multimnist", functools.partial(one_run, quick), quick)
    found, rows = {}, []
    for name in (TOP_K, DSELECT_K) if quick else GATES:
        space = {"learning_rate": LEARNING_RATE} | GATES[name].space
        base = {"set": "Multi-MNIST", "model": name} | cut | sizes
        found[name], settings = search.winner(grid, base, space, budget)
        rows.append(_row(found[name], cut | {"trials": trials} | settings))
    ours, theirs = (studies.by_seed(found[name], "accuracy") for name in (DSELECT_K, TOP_K))
    claim = studies.claim(f"{DSELECT_K} beats {TOP_K}", ours, theirs, "auc", set="Multi-MNIST")
    return [*rows, claim]


def _row(runs, settings):
    first = runs[0]
    row = {"name": first["model"]}
    for key in ("accuracy", *PLACES, "used"):
        row[key], row[f"{key}_error"] = studies.mean(studies.by_seed(runs, key))
    return row | {"seeds": len(runs), **settings}


def one_run(quick, cell):
    """Loss on validation pictures, accuracies on test pictures."""
    train, valid, test = parts(quick, cell["fraction"])
    keras.backend.clear_session()
    keras.utils.set_random_seed(cell["seed"])
    # Schedules have done their course half-way, and the best epoch is one of the second half.
    steps = cell["epochs"] * len(train.x) // BATCH_SIZE // 2
    gate = gate_of(GATES, cell, CHOSEN, "linear", max(steps, 1))
    model = build(gate, cell["experts"])
    model.compile(Adam(cell["learning_rate"]), loss, jit_compile=False)
    best = keras.callbacks.EarlyStopping(
        patience=cell["epochs"], restore_best_weights=True, start_from_epoch=cell["epochs"] // 2
    )
    model.fit(
        *train,
        batch_size=BATCH_SIZE,
        epochs=cell["epochs"],
        validation_data=valid,
        validation_batch_size=1024,
        callbacks=[best],
        verbose=0,
    )
    (use,) = gate_use(model, test.x[:2000], similarity=False)
    guessed = np.argmax(model.predict(test.x, batch_size=1024, verbose=0), axis=-1)
    right = np.mean(guessed == test.y, axis=0)
    return {
        "valid": float(model.evaluate(*valid, batch_size=1024, verbose=0)),
        "accuracy": float(np.mean(right)),
        **dict(zip(PLACES, map(float, right), strict=True)),
        "used": float(np.mean(use.num_used)),
    }


def loss(digits, logits):
    """Cross-entropy, sum over the two digits."""
    return ops.sum(
        keras.losses.sparse_categorical_crossentropy(digits, logits, from_logits=True), axis=-1
    )


def build(gate, num_experts):
    """A Keras model `(b, 36, 36, 1)` to logits `(b, 2, 10)`."""
    inputs = keras.Input((SIZE, SIZE, 1))
    experts = [
        keras.Sequential(
            [
                layers.Conv2D(10, 5, activation="relu"),
                layers.MaxPooling2D(),
                layers.Conv2D(20, 5, activation="relu"),
                layers.MaxPooling2D(),
                layers.Flatten(),
                layers.Dense(50, activation="relu"),
                layers.Dense(50, activation="relu"),
            ]
        )
        for _ in range(num_experts)
    ]
    mixed = MMoE(num_tasks=2, experts=experts, gate=gate)(inputs)
    return keras.Model(inputs, ops.stack(Towers((10, 10), hidden_units=(50,))(mixed), axis=1))


@functools.cache
def parts(quick, fraction):
    """Pictures to train, to validate, to test."""
    from sklearn.model_selection import train_test_split

    if quick:
        rng = np.random.default_rng(0)
        images, digits = rng.integers(256, size=(60, DIGIT, DIGIT)), np.arange(60) % 10
        files = {"train": (images, digits), "t10k": (images, digits)}
    else:
        files = {name: read(name) for name in ("train", "t10k")}
    images, digits = files["train"]
    split = train_test_split(images, digits, test_size=1 / 6, stratify=digits, random_state=0)
    sources = (split[0], split[2]), (split[1], split[3]), files["t10k"]
    return [
        combined(*source, seed, None if quick else round(fraction * len(source[0])))
        for seed, source in enumerate(sources)
    ]


def combined(images, digits, seed, num=None):
    """Each of the first `num` pictures twice at the top left, on others at the bottom right."""
    rng = np.random.default_rng(seed)
    num = len(images) if num is None else num
    chosen = rng.permutation(len(images))[:num]  # MNIST's files do not come in random order
    # Another one: a shift of 1 to n - 1 places.
    first = np.repeat(chosen, 2)
    second = (first + rng.integers(1, len(images), size=len(first))) % len(images)
    x = np.zeros((len(first), SIZE, SIZE, 1), "float32")
    x[:, :DIGIT, :DIGIT, 0] += images[first] / 255
    x[:, -DIGIT:, -DIGIT:, 0] += images[second] / 255
    return Pictures(x, np.stack([digits[first], digits[second]], axis=1).astype("int32"))


def read(name):
    """Images `(n, 28, 28)` and digits `(n,)` of the files of one part."""
    folder = Path(os.environ.get("TFMOE_DATA", ".")) / "mnist"
    found = []
    for kind, offset in (("images-idx3", 16), ("labels-idx1", 8)):
        path = folder / f"{name}-{kind}-ubyte.gz"
        if not path.exists():
            raise FileNotFoundError(
                f"There is no {path}. Put the four files of MNIST into the folder `mnist` of a "
                "folder, and name that folder by the environment variable TFMOE_DATA."
            )
        found.append(np.frombuffer(gzip.decompress(path.read_bytes()), "uint8", offset=offset))
    images, digits = found
    return images.reshape(-1, DIGIT, DIGIT), digits


def headline(rows):
    """Accuracy of DSelect-k and of Top-k."""
    found = {row["name"]: row["accuracy"] for row in rows if "accuracy" in row}
    return f"dselect_k={found[DSELECT_K]:.4f} top_k={found[TOP_K]:.4f}"


def draw(rows, path):
    """Accuracy of each digit by gate, with standard errors."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if "accuracy" in row]
    names = [f"{row['name']} ({row['used']:.3g} experts)" for row in shown]
    figure = Figure(figsize=(7, 3), layout="constrained")
    axis = figure.subplots()
    for place in PLACES:
        accuracies = [row[place] for row in shown]
        errors = [row[f"{place}_error"] for row in shown]
        axis.errorbar(accuracies, names, xerr=errors, fmt="o", label=place.replace("_", " "))
    axis.invert_yaxis()
    axis.set(xlabel="accuracy on test pictures")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    studies.save(figure, path)
