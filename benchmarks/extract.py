"""What `tfmoe.extract` saves: a model for one of eight tasks against the whole.

The whole has 64 experts, of which a converged static DSelect-k gate gives each task two.
The gate is set, not trained: what the weights are changes neither sizes nor times. Rows
are timed through the exported SavedModel, raw values in and predictions out, as they are
served; the models take turns in one run.
"""

import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from tfmoe.data.preprocessor import Preprocessor
from tfmoe.extraction.extract import extract
from tfmoe.gates.dselect_k import DSelectKGate
from tfmoe.model.model import MultiTaskModel
from tfmoe.schema.columns import Categorical, Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary
from tfmoe.serving.export import export, tensors
from tfmoe.serving.sample_rows import sample_rows
from tfmoe.structures.mmoe import MMoE

# Batch size to the number of calls in a turn.
CALLS = {1: 200, 4096: 4}
ROUNDS = 11


class Sizes(NamedTuple):
    """Those of the `step` benchmark, but for tasks, experts and a column's values."""

    num_tasks: int = 8
    num_experts: int = 64
    num_categorical: int = 26
    num_values: int = 1000
    dim: int = 16
    num_numeric: int = 13
    expert_units: tuple = (256, 128)
    tower_units: tuple = (64,)


QUICK = Sizes(
    num_tasks=2,
    num_experts=8,
    num_categorical=2,
    num_values=20,
    dim=4,
    num_numeric=2,
    expert_units=(8, 4),
    tower_units=(4,),
)


def run(quick):
    """Extracts a model for each task; a row for the whole and for each of them."""
    sizes = QUICK if quick else Sizes()
    keras.utils.set_random_seed(0)
    whole = _whole(sizes)
    rows = sample_rows(whole.preprocessor, 4096)
    expected = whole.predict(rows, verbose=0)
    models = {"whole": whole}
    models |= {name: extract(whole, [name]) for name in whole.schema.task_names}
    found, served = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models.items():
            row, served[name] = _measured(model, name, expected, rows, Path(folder) / name)
            found.append(row)
    for key, ratio in (
        ("parameters", "parameters_ratio"),
        ("file_mb", "file_ratio"),
        ("served_mb", "served_ratio"),
    ):
        for row in found:
            row[ratio] = row[key] / found[0][key]
    for batch_size, calls in CALLS.items():
        raw = tensors(whole.preprocessor, rows.iloc[:batch_size])
        seconds = _turns(served, raw, 2 if quick else calls, 2 if quick else ROUNDS)
        for row in found:
            ratios = np.array(seconds[row["name"]]) / seconds["whole"]
            row[f"latency_{batch_size}"] = float(np.median(ratios))
    return found


def headline(rows):
    """The worst of the extracted models."""
    keys = {
        "largest_difference": "difference",
        "parameters_ratio": "parameters_ratio",
        "size_ratio": "file_ratio",
        **{f"latency_ratio_{size}": f"latency_{size}" for size in CALLS},
    }
    return " ".join(f"{name}={max(row[key] for row in rows[1:]):.3g}" for name, key in keys.items())


def _whole(sizes):
    """The model with all tasks, its gate decided for two experts a task."""
    generator = np.random.default_rng(0)
    categorical = [f"c{i}" for i in range(sizes.num_categorical)]
    numeric = [f"n{i}" for i in range(sizes.num_numeric)]
    tasks = [f"task_{i}" for i in range(sizes.num_tasks)]
    num_rows = 4 * sizes.num_values
    df = pd.DataFrame(
        {name: generator.integers(0, sizes.num_values, num_rows) for name in categorical}
        | {name: generator.normal(size=num_rows) for name in numeric}
        | {name: generator.integers(0, 2, num_rows) for name in tasks}
    )
    schema = Schema(
        [
            *(Categorical(name, dim=sizes.dim, dtype="int") for name in categorical),
            *(Numeric(name) for name in numeric),
        ],
        [Binary(name) for name in tasks],
    )
    mixture = MMoE(
        num_experts=sizes.num_experts,
        hidden_units=sizes.expert_units,
        gate=DSelectKGate(num_nonzeros=2, router="static"),
    )
    model = MultiTaskModel(
        Preprocessor(schema).fit(df, progress=False), mixture, tower_units=sizes.tower_units
    )
    scores = model.mixture.gate.head.scores
    scores.assign(generator.choice([-1.0, 1.0], scores.shape))
    return model


def _measured(model, name, expected, rows, folder):
    """A row of sizes and differences, and the signature of the exported model."""
    predictions = model.predict(rows, verbose=0)
    difference = max(np.abs(values - expected[task]).max() for task, values in predictions.items())
    folder.mkdir()
    model.save(folder / "model.keras")
    version = export(model, folder / "served")
    row = {
        "name": name,
        "experts": model.mixture.num_experts,
        "difference": float(difference),
        "parameters": model.count_params(),
        "file_mb": (folder / "model.keras").stat().st_size / 1e6,
        "served_mb": sum(p.stat().st_size for p in version.rglob("*") if p.is_file()) / 1e6,
    }
    return row, tf.saved_model.load(str(version)).signatures["serving_default"]


def _turns(served, raw, calls, rounds):
    """Seconds of each model in each round of turns, after a round that is not timed."""
    seconds = {name: [] for name in served}
    for turn in range(rounds + 1):
        for name, signature in served.items():
            start = time.perf_counter()
            for _ in range(calls):
                outputs = signature(**raw)
            for values in outputs.values():
                values.numpy()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds
