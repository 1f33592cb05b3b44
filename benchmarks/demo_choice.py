"""How the settings of what `tfmoe demo` shows were chosen: on shops of other seeds.

Each model gets four trials, of two learning rates and two of what else it has to be set (of the
learning rate alone, four), on the two shops of seeds 100 and 101, which draw the weights too.
What counts is the log loss on validation rows, mean over markets and shops; of a sparse gate those
trials come first in which markets use, on average, no more experts than it was to select. The best
are `SETTINGS` in `tfmoe/cli/markets.py`, and the better of the sparse gates is what the demo
extracts, saves and serves.

- `valid`: that loss; `chosen`: whether it is the best of the model's trials.
- `experts`: how many of 16 a row goes through.

The shop was chosen too, in single trials on seed 100, and so were the epochs and the ranges below:
in earlier shops, of fewer markets or noisier labels, sparse gates were level with a shared bottom
and behind dense MMoE, or markets alone did as well.
"""

import itertools

import numpy as np

from benchmarks import studies
from tfmoe.cli import markets
from tfmoe.datasets.markets import synthetic_markets

SEEDS = (100, 101)
RATES = (3e-3, 1e-2)
TRIALS = {
    markets.ALONE: ({"tower": (32,)}, {"tower": (128,)}),
    markets.SHARED: ({"layers": 1}, {"layers": 2}),
    markets.DENSE: ({"router": "linear"}, {"router": "static"}),
    markets.DSELECT_K: ({"gamma": 3.0, "entropy_reg": 0.1}, {"gamma": 10.0, "entropy_reg": 0.3}),
    markets.NOISY_TOP_K: ({}, {"learning_rate": 2}),
}
QUICK_SIZES = markets.Sizes(num_experts=4, units=(4,), epochs=2, batch_size=64)
QUICK_WORLD = {"markets_per_region": 1, "num_rows": 30, "num_test_rows": 60}


def settings_of(name):
    """A model's trials, a list of `Settings`."""
    found = []
    for options, rate in itertools.product(TRIALS[name], RATES):
        more = dict(options)
        found.append(markets.Settings(rate * more.pop("learning_rate", 1), **more))
    return found


def run(quick):
    """A row for each trial."""
    names = (markets.SHARED, markets.DSELECT_K) if quick else tuple(TRIALS)
    sizes = QUICK_SIZES if quick else markets.Sizes()
    world = QUICK_WORLD if quick else {}
    grid = studies.Grid("demo_choice", one_run, quick)
    rows = []
    for name in names:
        trials = []
        for settings in settings_of(name)[: 1 if quick else None]:
            cells = [
                {"model": name, "seed": seed, **settings._asdict(), **sizes._asdict(), **world}
                for seed in SEEDS[: 1 if quick else None]
            ]
            runs = grid.run(cells)
            trials.append({"name": name, **shown(settings)})
            for key in ("valid", "experts"):
                value = float(np.mean([run[key] for run in runs]))
                trials[-1] |= {} if np.isnan(value) else {key: value}
        best = min(trials, key=rank)
        rows += [row | {"chosen": "yes" if row is best else "no"} for row in trials]
    return rows


def rank(row):
    """Less is better: first what a sparse gate uses beyond what it was to select, then loss."""
    sparse = row["name"] in markets.SPARSE
    return max(0.0, row["experts"] - markets.Sizes().chosen) if sparse else 0.0, row["valid"]


def shown(settings):
    """What of a model's settings is not as always, as a flat dict."""
    defaults = markets.Settings._field_defaults
    return {
        key: ", ".join(map(str, value)) if isinstance(value, tuple) else value
        for key, value in settings._asdict().items()
        if key not in defaults or value != defaults[key]
    }


def one_run(cell):
    """Trains one model."""
    trained = of_cell(cell)
    keys = ("valid", "experts", "seconds")
    return {key: getattr(trained, key) for key in keys}


def of_cell(cell):
    """`Trained` of a cell."""
    own = {key: cell[key] for key in QUICK_WORLD if key in cell}
    world = synthetic_markets(**own, seed=cell["seed"])
    settings, sizes = (
        kind(**{key: cell[key] for key in kind._fields})
        for kind in (markets.Settings, markets.Sizes)
    )
    return markets.train(cell["model"], world, settings, sizes, cell["seed"])


def headline(rows):
    """How many trials there were, and of how many models."""
    return f"trials={len(rows)} models={len({row['name'] for row in rows})}"
