"""What sharing everything costs where tasks conflict: the world of `synthetic_ratings`."""

import keras
import numpy as np
from scipy.stats import ttest_rel

from tfmoe.data.movielens import floors
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.data.synthetic import synthetic_ratings
from tfmoe.mixtures import MMoE, SharedBottom
from tfmoe.model import MultiTaskModel
from tfmoe.optimizers import Adam
from tfmoe.schema import Schema

EPOCHS, BATCH_SIZE, LEARNING_RATE = 8, 1024, 5e-3
SEEDS = {0.5: 5, 0.0: 3}  # by conflict


def run(quick):
    """Trains every model with every seed; a row for each, means over the seeds."""
    rows = []
    for conflict, seeds in SEEDS.items():
        scores = {}
        split = synthetic_ratings(num_rows=2000 if quick else 200_000, conflict=conflict)
        for seed in range(2 if quick else seeds):
            for name, score in _scores(split, seed, quick).items():
                scores.setdefault(name, []).append(score)
        shared = scores["shared bottom of 16"]
        for name, values in scores.items():
            p = None if name == "shared bottom of 16" else float(ttest_rel(values, shared).pvalue)
            rows.append(
                {
                    "name": name,
                    "conflict": conflict,
                    "score": float(np.mean(values)),
                    "standard_error": float(np.std(values, ddof=1) / len(values) ** 0.5),
                    "seeds": len(values),
                    "p": p,
                }
            )
    return rows


def headline(rows):
    """How much better than sharing everything, with and without conflict."""
    score = {(row["name"], row["conflict"]): row["score"] for row in rows}
    return " ".join(
        f"{short}_gain{suffix}={score['shared bottom of 16', c] - score[name, c]:.4f}"
        for c, suffix in ((0.5, ""), (0.0, "_without"))
        for short, name in (("mmoe", "MMoE, 4 of 4"), ("single", "single tasks, 8 each"))
        if (name, c) in score
    )


def _scores(split, seed, quick):
    """Score of each model on the test part, with the weights of its best epoch."""
    tasks, epochs = split.schema.tasks, 1 if quick else EPOCHS
    measured = {
        "shared bottom of 16": _trained(
            split, tasks, SharedBottom(hidden_units=(16,)), epochs, seed
        ),
        "MMoE, 4 of 4": _trained(
            split, tasks, MMoE(num_experts=4, hidden_units=(4,)), epochs, seed
        ),
    }
    if not quick:
        measured["single tasks, 8 each"] = {}
        for task in tasks:
            alone = _trained(split, [task], SharedBottom(hidden_units=(8,)), epochs, seed)
            measured["single tasks, 8 each"] |= alone
    p = split.test["watch"].mean()
    entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
    variance = floors(split)["rating_mse_constant"]
    return {
        name: metrics["watch_log_loss"] / entropy + metrics["rating_rmse"] ** 2 / variance
        for name, metrics in measured.items()
    }


def _trained(split, tasks, mixture, epochs, seed):
    """Metrics on the test part of a model of these tasks."""
    keras.utils.set_random_seed(seed)
    prep = Preprocessor(Schema(split.schema.columns, tasks)).fit(split.train, progress=False)
    train = prep.dataset(split.train, batch_size=BATCH_SIZE, shuffle=True, seed=seed)
    model = MultiTaskModel(prep, mixture, tower_units=(16,))
    model.compile(Adam(LEARNING_RATE), jit_compile=False)
    best = keras.callbacks.EarlyStopping(patience=epochs, restore_best_weights=True)
    valid = prep.dataset(split.valid, batch_size=4096)
    model.fit(train, validation_data=valid, epochs=epochs, callbacks=[best], verbose=0)
    return model.evaluate(prep.dataset(split.test, batch_size=4096), exact=False, verbose=0)
