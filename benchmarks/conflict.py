"""Is a shared bottom behind gated experts where tasks conflict? Worlds of `synthetic_ratings`.

Half of the users are in conflict, or none. A shared bottom of 16 units, four gated experts of 4
units, and two single-task models of 8 units each: equal total width. Adam at 0.005, batches of
1,024, towers of 16, the best of 8 epochs by validation rows. These settings, and the widths, were
chosen on the world of seed 0; the ten seeds 1 to 10 draw other worlds, the weights and the order.

`score` is the log loss of `watch` divided by the entropy of its base rate plus the squared error
of `rating` divided by that of the mean, on test rows: 2 knows nothing, less is better.

Claims: MMoE has less error than a shared bottom, with conflict and without, and a shared bottom
less than single tasks.
"""

import functools
import itertools

import keras
import numpy as np

from benchmarks import studies
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.datasets.movielens import floors
from tfmoe.datasets.synthetic import synthetic_ratings
from tfmoe.model.model import MultiTaskModel
from tfmoe.optimizers import Adam
from tfmoe.schema.schema import Schema
from tfmoe.structures.mmoe import MMoE
from tfmoe.structures.shared_bottom import SharedBottom

SHARED, GATED, SINGLE = "shared bottom of 16", "MMoE, 4 of 4", "single tasks, 8 each"
MIXTURES = {
    SHARED: functools.partial(SharedBottom, hidden_units=(16,)),
    GATED: functools.partial(MMoE, num_experts=4, hidden_units=(4,)),
    SINGLE: functools.partial(SharedBottom, hidden_units=(8,)),  # of each task
}
CONFLICTS = (0.5, 0.0)
SEEDS = range(1, 11)
SIZES = {"rows": 200_000, "epochs": 8, "batch_size": 1024, "learning_rate": 5e-3}
QUICK_SIZES = SIZES | {"rows": 2000, "epochs": 1}
CLAIMS = ((GATED, SHARED), (SHARED, SINGLE))


def run(quick):
    """A row for each conflict and model; a row for each claim."""
    sizes = QUICK_SIZES if quick else SIZES
    models = (SHARED, GATED) if quick else tuple(MIXTURES)
    cells = [
        {"set": f"conflict {conflict:g}", "conflict": conflict, "model": model, "seed": seed}
        for conflict, seed, model in itertools.product(
            CONFLICTS[: 1 if quick else None], SEEDS[: 2 if quick else None], models
        )
    ]
    runs = studies.Grid("conflict", one_run, quick).run([cell | sizes for cell in cells])
    rows = studies.score_rows(runs, "score", "set")
    for where in studies.conditions(runs, "set"):
        for pair in CLAIMS[: 1 if quick else None]:
            scores = (studies.by_seed(runs, "score", model=name, **where) for name in pair)
            name = "{} has less error than {}".format(*pair)
            rows.append(studies.claim(name, *scores, "loss", **where))
    return rows


def headline(rows):
    """In which of the two worlds each claim holds."""
    return studies.headline(rows)


def one_run(cell):
    """The score on test rows, with the weights of the best epoch."""
    split = synthetic_ratings(cell["rows"], conflict=cell["conflict"], seed=cell["seed"])
    tasks = split.schema.tasks
    metrics = {}
    for own in [[task] for task in tasks] if cell["model"] == SINGLE else [tasks]:
        metrics |= _trained(split, own, MIXTURES[cell["model"]](), cell)
    p = split.test["watch"].mean()
    entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
    variance = floors(split)["rating_mse_constant"]
    return {"score": metrics["watch_log_loss"] / entropy + metrics["rating_rmse"] ** 2 / variance}


def _trained(split, tasks, mixture, cell):
    """Metrics on the test part of a model of these tasks."""
    keras.utils.set_random_seed(cell["seed"])
    prep = Preprocessor(Schema(split.schema.columns, tasks)).fit(split.train, progress=False)
    train = prep.dataset(split.train, cell["batch_size"], shuffle=True, seed=cell["seed"])
    model = MultiTaskModel(prep, mixture, tower_units=(16,))
    model.compile(Adam(cell["learning_rate"]), jit_compile=False)
    best = keras.callbacks.EarlyStopping(patience=cell["epochs"], restore_best_weights=True)
    valid = prep.dataset(split.valid, batch_size=4096)
    model.fit(train, validation_data=valid, epochs=cell["epochs"], callbacks=[best], verbose=0)
    return model.evaluate(prep.dataset(split.test, batch_size=4096), exact=False, verbose=0)
