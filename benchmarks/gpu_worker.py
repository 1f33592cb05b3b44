"""The contestants of the `gpu` benchmark; run as `python -m benchmarks.gpu_worker [--quick]`."""

import contextlib
import functools
import json
import sys
from dataclasses import replace

import jax
import keras
import numpy as np

import tfmoe
from benchmarks.rivals.worker import MARK, Sizes, make_batches
from benchmarks.timing import alternating
from tfmoe.schema.columns import FIRST_ID

SIZES = Sizes(batch_size=16_384, num_batches=16)
QUICK = Sizes(3, 100, 4, 2, 8, (8,), (4,), 2, 32, 2)
ROUNDS, SECONDS = 5, 1.0


def main(quick):
    device = jax.devices()[0]
    if device.platform == "cpu" and not quick:
        raise RuntimeError(
            "This benchmark is for an accelerator. JAX has found none but the CPU: install JAX for "
            "yours, as `pip install 'jax[cuda12]'`, or pass --quick."
        )
    sizes, num = QUICK if quick else SIZES, jax.device_count()
    # Devices each get an equal part of a batch.
    sizes = replace(sizes, batch_size=-(-sizes.batch_size // num) * num)
    turns = {key: _turn(sizes, **options) for key, options in contestants(quick).items()}
    times = alternating(turns, 1 if quick else ROUNDS, 0.0 if quick else SECONDS)
    rows, first = [], {}
    for (name, way), taken in times.items():
        base = first.setdefault(name, taken)
        rows.append(
            {
                "name": name,
                "way": way,
                "rows_per_s": round(float(np.median(sizes.rows / taken))),
                "speed": float(np.median(base / taken)),
                "device": device.device_kind,
                "devices": num,
                "jax": jax.__version__,
            }
        )
    print(MARK + json.dumps(rows))


def contestants(quick):
    """By name and way, the arguments of `_turn`."""
    units = {"hidden_units": (8,) if quick else (1024, 512)}
    wide = functools.partial(tfmoe.MMoE, num_experts=8 if quick else 16, **units)
    many = {"num_experts": 8 if quick else 64, "hidden_units": (8,) if quick else (256, 128)}
    squad = {"dim": 8, "num_blocks": 1, "num_experts": 8} if quick else {"dim": 64}
    found = {
        ("wide", "float32"): {"make": wide},
        ("wide", "bfloat16"): {"make": wide, "dtype": "mixed_bfloat16"},
    }
    for way in ("dense", "sparse"):
        gate = tfmoe.TopKGate(2)
        make = functools.partial(tfmoe.MMoE, gate=gate, dispatch=way, **many)
        found["experts", way] = {"make": make}
    for way in ("dense", "sparse"):
        make = functools.partial(tfmoe.ModSquad, dispatch=way, **squad)
        found["mod_squad", way] = {"make": make}
    num = jax.device_count()
    if num > 1:
        devices = keras.distribution.list_devices()
        mesh = keras.distribution.DeviceMesh((num,), ("batch",), devices)
        parted = keras.distribution.DeviceMesh((1, num), ("batch", "model"), devices)
        data = keras.distribution.DataParallel(mesh)
        model = tfmoe.distribution.ModelParallel(parted)
        found["devices", "one"] = {"make": wide}
        found["devices", "data parallel"] = {"make": wide, "distribution": data}
        found["devices", "model parallel"] = {
            "make": wide,
            "distribution": model,
            "rows_multiple": num,
        }
    return found


def _turn(sizes, make, distribution=None, **options):
    """A function that trains a model for an epoch."""
    columns = [
        *(
            tfmoe.Categorical(name, dim=sizes.dim, hash_buckets=sizes.num_values - FIRST_ID)
            for name in sizes.categorical
        ),
        *(tfmoe.Numeric(name, transform="none") for name in sizes.numeric),
    ]
    schema = tfmoe.Schema(columns, [tfmoe.Binary(name) for name in sizes.tasks])

    def scope():
        return distribution.scope() if distribution else contextlib.nullcontext()

    keras.utils.set_random_seed(0)
    with scope():
        model = tfmoe.MultiTaskModel(
            tfmoe.Preprocessor(schema), make(), tower_units=sizes.tower_units, **options
        )
        model.compile("adam", metrics={name: [] for name in sizes.tasks})
    features, labels = make_batches(sizes)
    x, y = ({k: v.reshape(-1) for k, v in part.items()} for part in (features, labels))
    settings = {"batch_size": sizes.batch_size, "shuffle": False, "verbose": 0}

    def turn():
        with scope():
            model.fit(x, y, check_finite=False, **settings)

    return turn


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
