"""What sharing everything costs where tasks conflict: the world of `synthetic_ratings`."""

import numpy as np
from scipy.stats import ttest_rel

from tfmoe import demo
from tfmoe.data.movielens import floors
from tfmoe.data.synthetic import Split, synthetic_ratings
from tfmoe.mixtures import MMoE, SharedBottom
from tfmoe.schema import Schema

EPOCHS, BATCH_SIZE, SEEDS = 8, 512, 3


def run(quick):
    """Trains every model in every world; a row for each, means over the seeds."""
    rows = []
    for conflict in (0.5, 0.0):
        scores = {}
        for seed in range(2 if quick else SEEDS):
            size = {"num_rows": 2000} if quick else {}
            split = synthetic_ratings(conflict=conflict, seed=seed, **size)
            for name, score in _scores(split, 1 if quick else EPOCHS, seed).items():
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
    )


def _scores(split, epochs, seed):
    """Score of each model on the test part of one world."""
    both = {
        "shared bottom of 16": SharedBottom(hidden_units=(16,)),
        "MMoE, 4 of 4": MMoE(num_experts=4, hidden_units=(4,)),
    }
    trained = demo.run(split, both, epochs, BATCH_SIZE, seed, jit_compile=False)
    measured = {one.row["model"]: one.row for one in trained}
    alone = {}
    for task in split.schema.tasks:
        single = Split(split.train, split.valid, split.test, Schema(split.schema.columns, [task]))
        bottom = {"single": SharedBottom(hidden_units=(8,))}
        alone |= next(demo.run(single, bottom, epochs, BATCH_SIZE, seed, jit_compile=False)).row
    measured["single tasks, 8 each"] = alone
    p = split.test["watch"].mean()
    entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
    variance = floors(split)["rating_mse_constant"]
    return {
        name: row["watch_log_loss"] / entropy + row["rating_rmse"] ** 2 / variance
        for name, row in measured.items()
    }
