"""The same model and data on tfmoe, DeepCTR and torch-rechub, from training to a file.

MovieLens-1M with its two tasks (`tfmoe.datasets.movielens`): user, movie, gender, age and
occupation as ids into embeddings of 16, an MMoE of 8 experts of 64 -> 32 units, towers of 32;
Adam at 0.001, batches of 4,096, four epochs. Rating is missing where nobody rated; only tfmoe
knows missing labels, the others are given weights, or a loss that leaves them out. Each runs in
its own environment and by its own training loop, all in turn in one run: an epoch each, four
times, then predictions of the test rows; while one works the others wait.

- `train_rows_per_s` and `predict_rows_per_s`: medians, without the first round, in which things
  are compiled; `train_ratio` and `predict_ratio` are tfmoe's divided by the contestant's,
  medians of the ratios within a round.
- `watch_auc`, `rating_rmse`: on the test part.
- `peak_mb`: the process's memory, with the data.
- `reloads`: whether a model that was saved and read again predicts the same. `exports`: to
  what, and what a request consists of; the exported model is run.

What differs: torch-rechub's MLPs, its gates too, have batch normalisation, which cannot be
turned off; DeepCTR's experts all start from one seed. tfmoe is given the ids as raw values,
which it looks up in vocabularies, once before the first epoch, and each time it predicts; the
others get them ready.
`tfmoe_bfloat16` is the same under Keras's policy `mixed_bfloat16`.
"""

import contextlib
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.rivals import taking_part
from benchmarks.rivals.peer import TASKS, Job, Peer
from benchmarks.rivals.process import Process
from tfmoe.datasets.movielens import SPLIT, movielens
from tfmoe.datasets.synthetic import synthetic_ratings

CONTESTANTS = {
    "tfmoe": "local",
    "tfmoe_bfloat16": "local",
    "deepctr": "deepctr",
    "rechub": "rechub",
}
COLUMNS = ("user_id", "movie_id", "gender", "age", "occupation")
ROUNDS = 4


def run(quick):
    """Trains and measures; a row for each contestant."""
    names = taking_part(CONTESTANTS, quick)
    split = synthetic_ratings(num_rows=500) if quick else movielens("ml-1m")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        job = write(split, folder)
        if quick:
            from benchmarks.rivals.peer_tfmoe import Contestant  # starts TensorFlow

            found = {"tfmoe": Peer("tfmoe", job, Contestant)}
        else:
            found = {
                name: stack.enter_context(Process(CONTESTANTS[name], f"peer_{name}", job.to_json()))
                for name in names
            }
        rows = {name: {"name": name} | process.ready() for name, process in found.items()}
        for turn, part in {"train": split.train, "predict": split.test}.items():
            seconds = {name: [] for name in found}
            for _ in range(2 if quick else ROUNDS):
                for name, process in found.items():
                    seconds[name].append(process.turn(turn))
            for name, taken in seconds.items():
                ratios = np.divide(taken[1:], seconds["tfmoe"][1:])
                rows[name][f"{turn}_rows_per_s"] = round(len(part) / np.median(taken[1:]))
                rows[name][f"{turn}_ratio"] = float(np.median(ratios))
        for name, process in found.items():
            report = process.turn("report")
            with np.load(Path(folder) / f"{name}.npz") as predicted:
                rows[name] |= scores(split.test, predicted) | report
    more = {} if quick else {"split": SPLIT}
    return [{**row, **more, "what": row.pop("what")} for row in rows.values()]


def write(split, folder):
    """Writes the encoded rows; the `Job`."""
    columns = [name for name in COLUMNS if name in split.train]
    sizes = {}
    for name in columns:
        # Ids of the train part; others share the last one.
        known = pd.Index(sorted(split.train[name].unique()))
        sizes[name] = len(known) + 1
        for part in ("train", "test"):
            ids = known.get_indexer(getattr(split, part)[name])
            getattr(split, part)[name] = np.where(ids < 0, len(known), ids).astype("int32")
    for part in ("train", "test"):
        table = getattr(split, part)
        arrays = {name: table[name].to_numpy("int32") for name in columns}
        labels = TASKS if part == "train" else ()
        arrays |= {name: table[name].to_numpy("float32") for name in labels}
        np.savez(Path(folder) / f"{part}.npz", **arrays)
    return Job(folder, sizes)


def scores(rows, predicted):
    """AUC of `watch`, root mean squared error of `rating` over the rated rows."""
    from sklearn.metrics import roc_auc_score

    rated = rows["rating"].notna().to_numpy()
    errors = predicted["rating"][rated] - rows["rating"].to_numpy()[rated]
    return {
        "watch_auc": float(roc_auc_score(rows["watch"], predicted["watch"])),
        "rating_rmse": float(np.sqrt(np.mean(errors**2))),
    }


def headline(rows):
    """How many times a rival's rows/s tfmoe makes, in training and in prediction."""
    found = {row["name"]: row for row in rows}
    parts = []
    for rival in CONTESTANTS:
        for what in ("train", "predict") if rival != "tfmoe" else ():
            ratio = found[rival][f"{what}_ratio"] if rival in found else None
            parts.append(f"{what}_vs_{rival}={'left_out' if ratio is None else f'{ratio:.2f}'}")
    return " ".join(parts)
