"""MovieLens-1M by the protocol of the DSelect-k and COMET papers: watched, and which rating?

The data are `tfmoe.datasets.movielens` with seed 0. The model: embeddings of 128 for user and
movie, side by side; 16 experts of one layer of 256 units with dropout 0.5; towers of 256; gates
that select 2 per example; Adam, batches of 512; up to 100 epochs, until the validation loss has
not fallen for 25, with the weights of the best. A shared bottom, and single tasks, have 256,
1,024 or 4,096 units, as many as all experts. The loss is `w` of the binary cross-entropy of
`watch` and `1 - w` of the squared error of `rating`, with w = 0.1 and w = 0.9. Every contestant
gets as many random trials, of the learning rate, log-uniform in [5e-5, 5e-4], and of what it has
to be set (the published gammas and entropies, see `gate_choices.py`; Gumbel's temperature falls
during the first ten epochs). Reported are means and standard errors over the best of them by
validation loss: one in twenty, at least two. `best_...` is what the best one was set to.

`--trials`, `--epochs`, `--patience` and `--fraction`, a share of the users, cut it to what a
machine can do; the rows say to what. With `--winners`, another share, the best trial of each is
run once more on so many users. The floors are those of the same cut: the mean rating, means of
users and movies, popularity (`tfmoe.datasets.movielens.floors`). The movies that a user has not
watched are drawn with equal chances, which makes `watch` largely a question of popularity, or,
with `--negatives popularity`, in proportion to how often they were rated.
"""

import functools
import itertools
import math

import keras
import numpy as np

from benchmarks import search, studies
from benchmarks.gate_choices import PUBLISHED, gate_of, gates
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.datasets.movielens import SPLIT, floors, movielens
from tfmoe.datasets.synthetic import Split, synthetic_ratings
from tfmoe.model.model import MultiTaskModel
from tfmoe.optimizers import Adam
from tfmoe.reports.gate_use import gate_use
from tfmoe.schema.columns import Categorical
from tfmoe.schema.schema import Schema
from tfmoe.structures.mmoe import MMoE
from tfmoe.structures.shared_bottom import SharedBottom

SINGLE, SHARED = "single tasks", "shared bottom"
MEANS = "popularity; user and movie means"
WEIGHTS = (0.1, 0.9)  # of `watch`
EXPERTS, CHOSEN, BATCH_SIZE = 16, 2, 512
LEARNING_RATE = search.log_uniform(5e-5, 5e-4)
GATES = gates(PUBLISHED)
COOLING = 10  # epochs in which Gumbel's temperature falls
SEED = 0  # of the negatives and of the users that stay
MEASURES = ("loss", "watch_auc", "watch_log_loss", "rating_mse", "experts")
OPTIONS = {
    "trials": (int, 500, "random settings of each contestant"),
    "epochs": (int, 100, "the most of a run"),
    "patience": (int, 25, "epochs for which the validation loss may not fall"),
    "fraction": (float, 1.0, "share of the users"),
    "winners": (float, 0.0, "share of the users for one more run of each one's best trial"),
    "negatives": (str, "uniform", "which movies were not watched; or `popularity`"),
}


def run(quick, trials=500, epochs=100, patience=25, fraction=1.0, winners=0.0, negatives="uniform"):
    """Rows of the floors; a row for each weight and contestant."""
    if quick:
        trials, epochs, fraction = 1, 1, 0.02
    contestants = [SHARED, list(GATES)[-2]] if quick else [SINGLE, SHARED, *GATES]
    sizes = {"dim": 4, "units": 8} if quick else {"dim": 128, "units": 256}
    sizes |= {"experts": EXPERTS, "chosen": CHOSEN, "batch_size": BATCH_SIZE}
    grid = studies.Grid("movielens", functools.partial(one_run, quick), quick)
    cut = {"fraction": fraction, "epochs": epochs, "patience": patience, "negatives": negatives}
    cut |= {} if quick else {"split": SPLIT}
    rows, larger = [{**row, **cut} for row in _floors(table(quick, fraction, negatives))], []
    for weight in WEIGHTS[:1] if quick else WEIGHTS:
        for name in contestants:
            space = {"learning_rate": LEARNING_RATE} | _space(name)
            base = {"set": f"watch {weight}", "watch_weight": weight, "model": name} | cut | sizes
            runs = search.trials(grid, base, space, search.Budget(trials=trials))
            rows.append(_row(runs, space, cut | {"trials": trials}))
            if winners:
                cell = {key: runs[0][key] for key in (*base, *space, "seed", "world")}
                again = grid.run([cell | {"fraction": winners}])
                larger.append(_row(again, space, cut | {"fraction": winners, "trials": 1}))
    if winners:
        larger = [
            {**row, **cut, "fraction": winners} for row in _floors(table(quick, winners, negatives))
        ] + larger
    return rows + larger


def _space(name):
    """What is searched for a contestant besides the learning rate."""
    return GATES[name].space if name in GATES else {"width": search.one_of(1, 4, 16)}


def _row(runs, space, cut):
    best = runs[: max(2, math.ceil(len(runs) / 20))]
    row = {"name": best[0]["model"], "watch_weight": best[0]["watch_weight"]}
    for key in MEASURES:
        values = [run[key] for run in best if run[key] is not None]
        if values:
            row[key] = float(np.mean(values))
        if len(values) > 1:
            row[f"{key}_error"] = studies.mean(values)[1]
    settings = {f"best_{name}": best[0][name] for name in space}
    return row | cut | {"of_best": len(best), "parameters": best[0]["parameters"]} | settings


@functools.cache
def table(quick, fraction, negatives):
    """The data of a share of the users, with user and movie alone as inputs."""
    split = synthetic_ratings(num_rows=2000) if quick else movielens("ml-1m", negatives, SEED)
    if not quick and fraction < 1:
        users = np.sort(split.train["user_id"].unique())
        chosen = np.random.default_rng(SEED).permutation(users)[: round(fraction * len(users))]
        parts = (
            part[part["user_id"].isin(chosen)].reset_index(drop=True)
            for part in (split.train, split.valid, split.test)
        )
        split = Split(*parts, split.schema)
    return split


def _floors(split):
    found = floors(split)
    return [
        {"name": "constant", "watch_auc": 0.5, "rating_mse": found["rating_mse_constant"]},
        {
            "name": MEANS,
            "watch_auc": found["watch_auc"],
            "watch_log_loss": found["watch_log_loss"],
            "rating_mse": found["rating_mse_bias"],
        },
    ]


def one_run(quick, cell):
    """The loss on validation rows, and what is reported of test rows."""
    split = table(quick, cell["fraction"], cell["negatives"])
    weights = {"watch": cell["watch_weight"], "rating": 1 - cell["watch_weight"]}
    if cell["model"] == SINGLE:
        parts = [_trained(split, [task], weights, cell) for task in split.schema.tasks]
    else:
        parts = [_trained(split, split.schema.tasks, weights, cell)]
    valid, test = ({k: v for part in parts for k, v in part[i].items()} for i in (0, 1))
    loss = sum(weights[task] * test[of] for task, of in _LOSSES.items())
    parameters = test["parameters"]
    if cell["model"] == SINGLE:
        parameters = sum(part[1]["parameters"] for part in parts)
    return {
        "parameters": parameters,
        "valid": sum(weights[task] * valid[of] for task, of in _LOSSES.items()),
        "loss": loss,
        "watch_auc": test["watch_auc"],
        "watch_log_loss": test["watch_log_loss"],
        "rating_mse": test["rating_mse"],
        "experts": test.get("experts"),
    }


_LOSSES = {"watch": "watch_log_loss", "rating": "rating_mse"}


def _trained(split, tasks, weights, cell):
    """Metrics on validation and on test rows of a model of these tasks."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(cell["seed"])
    columns = [Categorical(name, dim=cell["dim"], dtype="int") for name in ("user_id", "movie_id")]
    prep = Preprocessor(Schema(columns, tasks)).fit(split.train, progress=False)
    steps = min(COOLING, cell["epochs"]) * math.ceil(len(split.train) / BATCH_SIZE)
    model = MultiTaskModel(prep, _mixture(cell, steps), tower_units=(cell["units"],))
    model.compile(
        Adam(cell["learning_rate"]),
        loss_weights={task.name: weights[task.name] for task in tasks},
        metrics={task.name: [] for task in tasks},
    )
    valid = prep.dataset(split.valid, 4096)
    best = keras.callbacks.EarlyStopping(patience=cell["patience"], restore_best_weights=True)
    rows = prep.dataset(split.train, BATCH_SIZE, shuffle=True, seed=cell["seed"])
    model.fit(rows, validation_data=valid, epochs=cell["epochs"], callbacks=[best], verbose=0)
    found = [_measured(model, part, tasks) for part in (split.valid, split.test)]
    found[1]["parameters"] = model.count_params()
    if cell["model"] in GATES:
        (use,) = gate_use(model, split.test, similarity=False)
        found[1]["experts"] = float(np.mean(use.num_used))
    return found


def _mixture(cell, steps):
    if cell["model"] in (SINGLE, SHARED):
        return SharedBottom(hidden_units=(cell["width"] * cell["units"],), dropout=0.5)
    gate = gate_of(GATES, cell, CHOSEN, "linear", steps)
    return MMoE(num_experts=EXPERTS, hidden_units=(cell["units"],), gate=gate, dropout=0.5)


def _measured(model, rows, tasks):
    """AUC and log loss of `watch`, mean squared error of `rating` over the rated rows."""
    from sklearn.metrics import log_loss, roc_auc_score

    predicted = model.predict(model.preprocessor.dataset(rows, 4096, labels=False), verbose=0)
    names, found = [task.name for task in tasks], {}
    if not all(np.isfinite(predicted[name]).all() for name in names):
        return dict.fromkeys(("watch_auc", "watch_log_loss", "rating_mse"), math.inf)
    if "watch" in names:
        found["watch_auc"] = float(roc_auc_score(rows["watch"], predicted["watch"]))
        found["watch_log_loss"] = float(log_loss(rows["watch"], predicted["watch"]))
    if "rating" in names:
        rated = rows["watch"].to_numpy() == 1
        errors = predicted["rating"][rated] - rows["rating"].to_numpy()[rated]
        found["rating_mse"] = float(np.mean(errors**2))
    return found


def headline(rows):
    """The contestant with the least loss for each weight."""
    parts = []
    for weight in WEIGHTS:
        own = [row for row in rows if row.get("watch_weight") == weight]
        own = [row for row in own if row["fraction"] == own[0]["fraction"]]
        if own:
            best = min(own, key=lambda row: row["loss"])
            percent = round(100 * weight)
            parts.append(f"best_at_watch_{percent}={best['name'].replace(' ', '_')}")
            parts.append(f"loss_at_watch_{percent}={best['loss']:.4f}")
    return " ".join(parts)


def draw(rows, path):
    """Both tasks on test rows: panels for each weight, a marker for each share of the users."""
    from matplotlib.figure import Figure

    models = [row for row in rows if "watch_weight" in row]
    weights = list(dict.fromkeys(row["watch_weight"] for row in models))
    shares = list(dict.fromkeys(row["fraction"] for row in models))
    figure = Figure(figsize=(10, 2.8 * len(weights)), layout="constrained")
    measures = {"watch_auc": "AUC of watch", "rating_mse": "mean squared error of rating"}
    grid = figure.subplots(len(weights), 2, squeeze=False, sharex="col", sharey=True)
    for (weight, (key, what)), axis in zip(
        itertools.product(weights, measures.items()), grid.flat, strict=True
    ):
        for i, share in enumerate(shares):
            shown = [r for r in models if (r["watch_weight"], r["fraction"]) == (weight, share)]
            axis.errorbar(
                [row[key] for row in shown],
                [row["name"] for row in shown],
                xerr=[row.get(f"{key}_error") or 0.0 for row in shown],
                fmt="os"[i % 2],
                color=f"C{i}",
                label=f"{100 * share:g} % of the users",
            )
            floor = next(row for row in rows if row["name"] == MEANS and row["fraction"] == share)
            axis.axvline(
                floor[key], color=f"C{i}", linestyle="--", label=f"{MEANS}, {100 * share:g} %"
            )
        axis.set(title=f"watch weighs {weight:g}", xlabel=what)
        axis.grid(alpha=0.3)
    axis.invert_yaxis()
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    studies.save(figure, path)
