"""MMoE's synthetic study: two tasks that are alike to a degree, three ways to share.

The tasks are `correlated_tasks`, with p = 0.5, 0.9 and 1 between their directions: 100
features, 10,000 rows to train. The paper does not say how steep its sines are: with a `scale` of
0.3, the default, they are nearly straight lines; `scale 1` is the same with steeper ones. The
models: a shared bottom of one layer of 128 units; 8 experts of 16 units behind one gate for both
tasks (OMoE), and behind one each (MMoE); towers of 8 units; Adam. The learning rate of each is
the best of 12 on validation rows of other seeds. 30 seeds draw the directions, the rows, the
weights and the order; the sines are always the same.

`score` is the mean squared error on test rows, mean over the tasks, at the best epoch by
validation rows; the noise floor is 0.01. The picture has validation loss over epochs: the
median of the runs, and the band of the middle half.

Claims: MMoE has less error than a shared bottom, and than OMoE.
"""

import itertools

import keras
import numpy as np
from keras import ops

from benchmarks import search, studies
from tfmoe.data import correlated_tasks
from tfmoe.heads.towers import Towers
from tfmoe.optimizers import Adam
from tfmoe.structures.mmoe import MMoE, OMoE
from tfmoe.structures.shared_bottom import SharedBottom

OPTIONS = {"scales": (str, "0.3,1", "scales of the tasks")}
CORRELATIONS = (0.5, 0.9, 1.0)
SHARED, ONE_GATE, MULTI_GATE = "shared bottom", "OMoE", "MMoE"
DEFAULT_SCALE = 0.3  # has no name in a row
MODELS = (SHARED, ONE_GATE, MULTI_GATE)
SIZES = {"rows": 10_000, "epochs": 30, "batch_size": 128}
QUICK_SIZES = {"rows": 200, "epochs": 2, "batch_size": 50}
BUDGET = search.Budget(trials=12, seeds=30)
STEPS_AT_ONCE = 16
LEARNING_RATE = search.log_uniform(1e-4, 3e-2)


def run(quick, scales="0.3,1"):
    """A row for each scale, correlation and model; a row for each claim."""
    grid = studies.Grid("correlation", one_run, quick)
    budget = search.QUICK if quick else BUDGET
    conditions = itertools.product(map(float, scales.split(",")), CORRELATIONS)
    rows = []
    for scale, correlation in itertools.islice(conditions, 1 if quick else None):
        where = f"p = {correlation:g}" + (f", scale {scale:g}" if scale != DEFAULT_SCALE else "")
        runs = []
        for name in (SHARED, MULTI_GATE) if quick else MODELS:
            base = {"set": where, "correlation": correlation, "scale": scale, "model": name}
            base |= QUICK_SIZES if quick else SIZES
            found, settings = search.winner(grid, base, {"learning_rate": LEARNING_RATE}, budget)
            rows.append(_row(found, settings))
            runs += found
        ours = studies.by_seed(runs, "score", model=MULTI_GATE)
        for rival in (SHARED,) if quick else (SHARED, ONE_GATE):
            theirs = studies.by_seed(runs, "score", model=rival)
            claim = f"{MULTI_GATE} has less error than {rival}"
            rows.append(studies.claim(claim, ours, theirs, "mse", set=where))
    return rows


def _row(runs, settings):
    score, error = studies.mean(studies.by_seed(runs, "score"))
    curves = np.array([run["curve"] for run in runs])
    quartiles = np.round(np.percentile(curves, (25, 50, 75), axis=0), 5).tolist()
    return {
        "name": runs[0]["model"],
        "set": runs[0]["set"],
        "score": score,
        "standard_error": error,
        "parameters": runs[0]["parameters"],
        "seeds": len(runs),
        **settings,
        "curves": quartiles,
    }


def one_run(cell):
    """Losses on validation rows by epoch, and on test rows after the best."""
    sizes = (cell["rows"], cell["rows"] // 10, cell["rows"] // 10)
    tasks = correlated_tasks(
        cell["correlation"], scale=cell["scale"], num_rows=sizes, seed=cell["world"]
    )
    keras.backend.clear_session()
    keras.utils.set_random_seed(cell["seed"])
    model = build(cell["model"])
    # Steps are so short that what Keras does between them takes a third of the time.
    model.compile(
        Adam(cell["learning_rate"]), "mse", jit_compile=False, steps_per_execution=STEPS_AT_ONCE
    )
    # A step that creates variables is traced twice.
    model.optimizer.build(model.trainable_variables)
    best = keras.callbacks.EarlyStopping(patience=cell["epochs"], restore_best_weights=True)
    history = model.fit(
        *tasks.train,
        batch_size=cell["batch_size"],
        epochs=cell["epochs"],
        validation_data=tasks.valid,
        validation_batch_size=1000,
        callbacks=[best],
        verbose=0,
    ).history
    x, y = tasks.test
    return {
        "score": float(np.mean((ops.convert_to_numpy(model(x)) - y) ** 2)),
        "valid": min(history["val_loss"]),
        "curve": np.round(history["val_loss"], 5).tolist(),
        "parameters": model.count_params(),
    }


def build(name):
    """A Keras model `(b, 100)` to `(b, 2)`."""
    mixture = {
        SHARED: lambda: SharedBottom(2, hidden_units=(128,)),
        ONE_GATE: lambda: OMoE(2, num_experts=8, hidden_units=(16,)),
        MULTI_GATE: lambda: MMoE(2, num_experts=8, hidden_units=(16,)),
    }[name]()
    inputs = keras.Input((100,))
    outputs = Towers((1, 1), hidden_units=(8,))(mixture(inputs))
    return keras.Model(inputs, ops.concatenate(outputs, axis=1))


def headline(rows):
    """In how many of the correlations each claim holds."""
    held = {}
    for row in rows:
        if "holds" in row:
            rival = row["name"].removeprefix(f"{MULTI_GATE} has less error than ")
            held.setdefault(rival.replace(" ", "_"), []).append(row["holds"] == "yes")
    return " ".join(f"beats_{name}={sum(found)}/{len(found)}" for name, found in held.items())


def draw(rows, path):
    """Validation loss over epochs: a row for each scale, a column for each correlation."""
    from matplotlib.figure import Figure

    own = [row for row in rows if "curves" in row]
    # "p = 0.5, scale 1" by its scale first.
    titles = sorted({row["set"] for row in own}, key=lambda title: title.partition(", ")[::-1])
    num_scales = len({title.partition(", ")[2] for title in titles})
    size = num_scales, len(titles) // num_scales
    figure = Figure(figsize=(4.2 * size[1], 3.6 * size[0]), layout="constrained")
    for axis, title in zip(figure.subplots(*size, squeeze=False).flat, titles, strict=True):
        for row in (row for row in own if row["set"] == title):
            low, middle, high = row["curves"]
            epochs = range(1, len(middle) + 1)
            axis.plot(epochs, middle, label=row["name"])
            axis.fill_between(epochs, low, high, alpha=0.2)
        axis.set(title=title, xlabel="epoch", ylabel="mean squared error", yscale="log")
        axis.grid(alpha=0.3)
    figure.axes[0].legend()
    studies.save(figure, path)
