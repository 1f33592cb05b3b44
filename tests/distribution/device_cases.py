"""Trainings on eight devices of one process, on JAX, beside those on one; prints JSON.

Run as `python -m tests.distribution.device_cases FOLDER`, on JAX with eight devices.
"""

import contextlib
import json
import sys
from pathlib import Path

import jax
import keras
import numpy as np
import pandas as pd

import tfmoe

ROWS, BATCH = 150, 64  # the last batch of 22 rows is none that eight devices share equally
SCHEMA = tfmoe.Schema(
    [
        tfmoe.Numeric("x", transform="none"),
        tfmoe.Categorical("user", hash_buckets=400, dim=8),
        tfmoe.MultiCategorical("seen", hash_buckets=50, dim=4, max_length=3),
    ],
    [tfmoe.Binary("click"), tfmoe.Regression("stars", standardize=False)],
)


def table():
    """Rows with gaps."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=ROWS), "user": rng.integers(0, 300, ROWS)})
    frame["seen"] = [rng.integers(0, 90, n).tolist() for n in rng.integers(0, 4, ROWS)]
    frame["click"] = (frame.x + rng.normal(size=ROWS) > 0).astype(float)
    frame["stars"] = frame.x.where(rng.random(ROWS) < 0.4)
    frame.loc[:70, "click"] = np.nan
    return frame


FRAME = table()


def mesh(*shape):
    num = int(np.prod(shape))
    devices = keras.distribution.list_devices()[:num]
    return keras.distribution.DeviceMesh(shape, ("batch", "model"), devices)


def mmoe(**options):
    return tfmoe.MMoE(num_experts=8, hidden_units=(6, 4), layer_norm=True, **options)


STRUCTURES = {
    "mmoe": mmoe,
    "sparse": lambda: mmoe(gate=tfmoe.TopKGate(2), dispatch="sparse"),
    "mod_squad": lambda: tfmoe.ModSquad(num_blocks=1, dim=8, num_experts=8, gate=tfmoe.TopKGate(2)),
    "shared_bottom": lambda: tfmoe.SharedBottom(hidden_units=(6,)),
}


def made(structure, distribution=None, measured=False, **options):
    """A model of a structure, under a distribution, compiled."""
    keras.utils.set_random_seed(0)
    with distribution.scope() if distribution else contextlib.nullcontext():
        prep = tfmoe.Preprocessor(SCHEMA)
        model = tfmoe.MultiTaskModel(prep, STRUCTURES[structure](), tower_units=(4,), **options)
        # Metrics are what takes most of the time to compile.
        metrics = {} if measured else {"metrics": {name: [] for name in SCHEMA.task_names}}
        model.compile(keras.optimizers.Adam(0.01), **metrics)
    return model


def trained(structure, distribution=None, measured=False, **options):
    """What a model has learnt and predicts."""
    model = made(structure, distribution, measured, **options)
    numbers = {}
    with distribution.scope() if distribution else contextlib.nullcontext():
        settings = {"batch_size": BATCH, "shuffle": False, "verbose": 0, "epochs": 3}
        if measured:
            held_out = model.training_preprocessor.arrays(FRAME[:50])
            validated = {"validation_data": held_out, "validation_batch_size": 56}
            numbers = model.fit(FRAME, **settings, **validated).history
            numbers |= model.evaluate(FRAME, verbose=0)
        else:
            model.fit(FRAME[: 2 * BATCH], **settings)
        numbers |= model.predict(FRAME, verbose=0)
        features = model.preprocessor.arrays(FRAME[:3], labels=False)
        numbers |= {f"{k}_batch": v for k, v in model.predict_on_batch(features).items()}
    return model, numbers


def difference(one, other):
    """The largest relative difference of weights, of the optimizer's state and of numbers."""
    (model, numbers), (its, its_numbers) = one, other
    pairs = list(zip(model.weights, its.weights, strict=True))
    pairs += zip(model.optimizer.variables, its.optimizer.variables, strict=True)
    arrays = [(np.asarray(v.value), np.asarray(w.value)) for v, w in pairs]
    arrays += [(np.asarray(numbers[k]), np.asarray(its_numbers[k])) for k in numbers]
    assert numbers.keys() == its_numbers.keys()
    worst = 0.0
    for expected, value in arrays:
        if expected.shape != value.shape:  # a table that is filled up
            assert not value[len(expected) :].any()
            value = value[: len(expected)]
        assert expected.shape == value.shape
        if "float" in str(expected.dtype):
            worst = max(worst, np.abs(value - expected).max() / max(1, np.abs(expected).max()))
    return float(worst)


def shards(variable):
    return [list(s.data.shape) for s in variable.value.addressable_shards]


def bytes_on_first(model):
    """Of weights and the optimizer's state, those on the first device."""
    first = jax.devices()[0]
    variables = [*model.weights, *model.optimizer.variables]
    return sum(
        shard.data.nbytes
        for variable in variables
        for shard in variable.value.addressable_shards
        if shard.device == first
    )


def layouts():
    """How what is parted lies on the devices, and the state of Adam beside it."""
    parallel = tfmoe.distribution.ModelParallel(mesh(1, 8))
    model = with_state(parallel, wide=True)
    variables = {variable.path: variable for variable in model.weights}
    # The optimizer's own name counts those that were made before.
    variables |= {v.path.split("/")[1]: v for v in model.optimizer.variables}
    return {path: shards(variable) for path, variable in variables.items()}


def memory():
    """Bytes on the first of 1, 2, 4 and 8 devices."""
    meshes = [mesh(1, num) for num in (1, 2, 4, 8)]
    return [bytes_on_first(with_state(tfmoe.distribution.ModelParallel(one))) for one in meshes]


def with_state(parallel, **options):
    """A model before its first step, and the optimizer's state."""
    model = made("mmoe", parallel, rows_multiple=8, **options)
    with parallel.scope():
        model.optimizer.build(model.trainable_variables)
    return model


def refused():
    """What is said of what cannot be parted."""
    parallel = tfmoe.distribution.ModelParallel(mesh(2, 4))
    model = made("mmoe", parallel, rows_multiple=4)
    tries = {
        "table": lambda: made("mmoe", parallel),
        "batch": lambda: model.fit(FRAME, batch_size=31, epochs=1),
        "split": lambda: model.fit(FRAME, batch_size=32, epochs=1, validation_split=0.1),
        "axis": lambda: tfmoe.distribution.ModelParallel(mesh(2, 4), "experts"),
    }
    found = {}
    for name, run in tries.items():
        with parallel.scope():
            try:
                run()
            except ValueError as error:
                found[name] = str(error)
    return found


def kept(folder, parallel, model, numbers):
    """How far predictions are off of a file that one device loads, and of what is made of it."""
    with parallel.scope():
        model.save(folder / "model.keras")
    loaded = tfmoe.load_model(folder / "model.keras")
    with parallel.scope():
        again = tfmoe.load_model(folder / "model.keras")
        others = {"loaded there": again.predict(FRAME, verbose=0)}
    others["loaded"] = loaded.predict(FRAME, verbose=0)
    others["extracted"] = tfmoe.extract(loaded, ["click"]).predict(FRAME, verbose=0)
    found = {
        name: float(np.abs(its["click"] - numbers["click"]).max()) for name, its in others.items()
    }
    parted = [shards(one.encoder.tables["user"].embeddings) for one in (model, again)]
    return {**found, "shards": parted}


def main():
    eight = keras.distribution.DeviceMesh((8,), ("batch",), keras.distribution.list_devices())
    data = keras.distribution.DataParallel(eight)
    both = tfmoe.distribution.ModelParallel(mesh(2, 4))
    found = {"apart": {}}
    for structure in STRUCTURES:
        options = {"measured": True, "wide": True} if structure == "mmoe" else {}
        alone = trained(structure, **options)
        together = trained(structure, both, rows_multiple=8, **options)
        found["apart"][structure] = difference(alone, together)
        if structure == "mmoe":
            found["apart"]["data"] = difference(alone, trained(structure, data, **options))
            found["kept"] = kept(Path(sys.argv[1]), both, *together)
    found |= {"shards": layouts(), "bytes": memory(), "refused": refused()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
