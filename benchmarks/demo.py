"""Does what `tfmoe demo` shows hold on other shops? Six seeds, which draw shop, weights and order.

64 markets in eight regions, which no model is told; a market's rows to train are 1,500
(`tfmoe/datasets/markets.py`). Each model as `tfmoe demo` trains it, with the settings chosen by
`demo_choice` on other seeds.

- `auc`: mean over the markets, on test rows.
- `better`: in how many of the 64 markets it is higher than that of the market alone.
- `experts`: how many of 16 a row goes through.
- `multiplications`: of a row from the encoded columns to its score.
- `one_market`: parameters of the standalone model of one market, the mean over the markets.

A row `A - B` has the mean difference of the AUC over the seeds, its standard error and p.
"""

import itertools
import re

import numpy as np

from benchmarks import demo_choice, studies
from tfmoe.cli import markets
from tfmoe.datasets.markets import synthetic_markets

SEEDS = range(6)
MEASURES = ("auc", "better", "experts", "multiplications", "parameters", "one_market")


def run(quick):
    """A row for the truth and for each model; a row for each comparison."""
    names = (markets.ALONE, markets.SHARED, markets.NOISY_TOP_K)
    names = names if quick else tuple(markets.SETTINGS)
    sizes = demo_choice.QUICK_SIZES if quick else markets.Sizes()
    world = demo_choice.QUICK_WORLD if quick else {}
    seeds = SEEDS[: 2 if quick else None]
    cells = [
        {"model": name, "seed": seed, **settings._asdict(), **sizes._asdict(), **world}
        for seed in seeds
        for name, settings in markets.SETTINGS.items()
        if name in names
    ]
    runs = studies.Grid("demo", one_run, quick).run(cells)
    alone = {run["seed"]: np.array(run["aucs"]) for run in runs if run["model"] == markets.ALONE}
    for run in runs:
        run["better"] = int(np.sum(np.array(run["aucs"]) > alone[run["seed"]]))
    truth = [float(np.mean(true_aucs(seed, world))) for seed in seeds]
    rows = [{"name": "the truth itself", **_mean("auc", truth)}]
    for name in names:
        rows.append({"name": name})
        for key in MEASURES:
            rows[-1] |= _mean(key, studies.by_seed(runs, key, model=name))
        rows[-1]["seeds"] = len(seeds)
    for ours, other in itertools.combinations(reversed(names), 2):
        tested = studies.paired(*(studies.by_seed(runs, "auc", model=m) for m in (ours, other)))
        row = {"name": f"{ours} - {other}", "auc": tested["effect"]}
        rows.append(row | {"auc_error": tested["effect_error"], "auc_p": tested["p"]})
    return rows


def true_aucs(seed, world):
    """AUC of each market of the true probabilities."""
    found = synthetic_markets(**world, seed=seed)
    return markets.aucs(found.split, found.probability)


def one_run(cell):
    """Trains one model, and measures it on the test part."""
    trained = demo_choice.of_cell(cell)
    return {
        "auc": float(np.mean(trained.auc)),
        "aucs": trained.auc.tolist(),
        "one_market": float(np.mean(markets.standalone(trained))),
        **{k: getattr(trained, k) for k in ("experts", "multiplications", "parameters")},
    }


def _mean(key, values):
    value, error = studies.mean(values)
    return {key: value, f"{key}_error": error} if np.isfinite(value) else {}


def headline(rows):
    """The AUC of each model."""
    found = {re.sub(r"\W+", "_", row["name"]): row["auc"] for row in rows if "seeds" in row}
    return " ".join(f"{name}={auc:.4f}" for name, auc in found.items())
