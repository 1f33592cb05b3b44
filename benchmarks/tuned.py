"""What `tfmoe tune` finds in 20 trials, beside the defaults of `tfmoe train`.

Census-Income (`income` and `never_married`) and MovieLens-latest-small (`watch` and `rating`),
each with its validation part. The search is the default one: the learning rate, the batch, sizes,
gate, dropout, regularisers and interactions; by the sum of the tasks' losses on validation rows.
Its best trial and the defaults are then trained anew with ten seeds, and measured on test rows.

`score` is the sum of the tasks' losses on test rows, of which less is better; beside it stand the
AUC of the first task and the seconds of a training. `effect` is how much less it is with
the settings that were found. Claim: the lower end of its 95 % interval is above 0.
"""

import functools
import json
import tempfile
import time
from pathlib import Path

from scipy import stats

import tfmoe
from benchmarks import studies
from tfmoe.datasets.census import census_income
from tfmoe.datasets.movielens import movielens
from tfmoe.datasets.synthetic import synthetic_ratings

SETS = {"census income": census_income, "ml-latest-small": lambda: movielens("ml-latest-small")}
ALL_SETS = ",".join(SETS)
CONTESTANTS = ("defaults", "tuned")
OPTIONS = {
    "trials": (int, 20, "settings that are tried for each table"),
    "seeds": (int, 10, "trainings of what is compared"),
    "sets": (str, ALL_SETS, "names of tables"),
}


def run(quick, trials=20, seeds=10, sets=ALL_SETS):
    """A row for each table and contestant, and one for each claim."""
    rows = []
    with tempfile.TemporaryDirectory() as draft:
        home = Path(draft) if quick else studies.RUNS / "tuned"
        for name in ["made up"] if quick else sets.split(","):
            rows += _rows(name, home / name.replace(" ", "_"), quick, trials, seeds)
    return rows


def _rows(name, folder, quick, trials, seeds):
    settings, schema = _tables(name, folder, quick)
    search = {"learning_rate": [1e-3, 1e-2]} if quick else {}
    tuned = tfmoe.tune(settings, search, folder / "search", 2 if quick else trials)
    found = {"defaults": tfmoe.Run.from_dict(settings), "tuned": tuned.best}
    grid = studies.Grid("tuned", functools.partial(_one_run, found, folder, schema), quick)
    cells = [
        {"set": name, "model": who, "settings": _whole(found[who]), "seed": seed}
        for seed in range(1 if quick else seeds)
        for who in CONTESTANTS
    ]
    runs = grid.run(cells)
    rows = []
    for who in CONTESTANTS:
        row = {"name": who, "set": name, "settings": _said(found[who])}
        for key in ("score", "auc", "seconds"):
            value, error = studies.mean(studies.by_seed(runs, key, model=who))
            row |= {key: value, f"{key}_error": error}
        rows.append(row | {"seeds": len(runs) // 2})
    return [*rows, _claim(runs, name)]


def _tables(name, folder, quick):
    """What is the same in all runs of a table, whose parts are written once, and its schema."""
    split = synthetic_ratings(600) if quick else SETS[name]()
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "valid", "test"):
        if not (folder / f"{part}.parquet").exists():
            getattr(split, part).to_parquet(folder / f"{part}.parquet")
    settings = {
        "data": str(folder / "train.parquet"),
        "valid": str(folder / "valid.parquet"),
        "schema": split.schema.to_dict(),
    }
    return settings | ({"epochs": 1, "hidden_units": "8"} if quick else {}), split.schema


def _whole(run):
    """All that a run says but where its rows are."""
    own = {k: v for k, v in run.to_dict().items() if k not in ("data", "valid")}
    return json.dumps(own, sort_keys=True)


def _said(run):
    """The settings that are not the defaults', in short."""
    own = {k: v for k, v in run.to_dict().items() if k not in ("data", "valid", "schema")}
    parts = (f"{k} {v:.2g}" if isinstance(v, float) else f"{k} {v}" for k, v in own.items())
    return ", ".join(parts) or "as they are"


def _one_run(found, folder, schema, cell):
    own = tfmoe.Run.from_dict({**found[cell["model"]].to_dict(), "seed": cell["seed"]})
    start = time.perf_counter()
    model = own.build()
    own.fit(model)
    seconds = time.perf_counter() - start
    scores = model.evaluate(str(folder / "test.parquet"), verbose=0)
    return {
        "score": sum(scores[f"{task}_loss"] for task in schema.task_names),
        "auc": scores[f"{schema.task_names[0]}_auc"],
        "seconds": seconds,
    }


def _claim(runs, name):
    tuned, defaults = (studies.by_seed(runs, "score", model=who) for who in CONTESTANTS[::-1])
    test = {"name": "tuned is better than defaults", "set": name}
    test |= studies.paired(defaults, tuned)
    half = stats.t.ppf(0.975, max(len(tuned) - 1, 1)) * test["effect_error"]
    lower = test["effect"] - float(half)
    return test | {"lower": lower, "holds": "yes" if lower > 0 else "no"}


def headline(rows):
    """In how many tables the claim holds."""
    claims = [row for row in rows if "holds" in row]
    return f"tuned_is_better={sum(row['holds'] == 'yes' for row in claims)}/{len(claims)}"
