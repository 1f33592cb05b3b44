"""Chooses the studies' learning rates and numbers of experts.

    python -m benchmarks.tuning [SET ...]

Every model of every set gets the same budget: four learning rates times two numbers of
experts (once where it has no experts to count), on the same two seeds that no study has, as
in `transfer` with 1 % of the labels. Then, with what was found, four learning rates of an
added task, as in `unseen` with 128 rows, and four learning rates for the fewer tasks of `robust`,
without unrelated ones. What counts is the score on validation rows. The best go into
`contestants.SETTINGS`, `added.OWN_RATES` and `robust.RATES` by hand. Runs are kept like those
of the studies.
"""

import functools
import itertools
import sys

import numpy as np

from benchmarks import added, contestants, robust, studies, transfer, unseen
from benchmarks.worlds import WORLDS

SEEDS = (1000, 1001)
LEARNING_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
NUM_EXPERTS = {
    contestants.DENSE: (2, 4),
    contestants.TASK_AWARE: (16, 64),
    contestants.MOD_SQUAD: (16, 64),
}


def main():
    names = sys.argv[1:] or list(WORLDS)
    models = [*transfer.RIVALS, contestants.TASK_AWARE, contestants.MOD_SQUAD]
    for name, model in itertools.product(names, models):
        world = WORLDS[name]
        cells = [
            transfer.cell_of(name, world, model, seed, 0.01)
            | {"learning_rate": learning_rate, "num_experts": num_experts}
            for learning_rate, num_experts, seed in itertools.product(
                LEARNING_RATES, NUM_EXPERTS.get(model, (1,)), SEEDS
            )
        ]
        function = functools.partial(transfer.one_run, WORLDS, None)
        _show(name, model, function, cells, "learning_rate", "num_experts")
    ways = [way for way in unseen.KINDS if way != unseen.SCRATCH]
    for name, way in itertools.product(names, ways):
        cells = [
            unseen.cell_of(name, WORLDS[name], way, seed, 128) | {"own_rate": own_rate}
            for seed, own_rate in itertools.product(SEEDS, LEARNING_RATES)
        ]
        others = {way: added.Others(unseen.KINDS[way])}
        function = functools.partial(unseen.one_run, WORLDS, others)
        _show(name, way, function, cells, "own_rate")
    for name, model in itertools.product(names, (*robust.RIVALS, *robust.OURS)):
        cells = [
            robust.cell_of(name, WORLDS[name], model, seed, 0, False)
            | {"learning_rate": learning_rate}
            for learning_rate, seed in itertools.product(LEARNING_RATES, SEEDS)
        ]
        function = functools.partial(robust.one_run, WORLDS)
        _show(name, f"{model}, few tasks", function, cells, "learning_rate")


def _show(name, model, function, cells, *keys):
    """Runs the cells and prints their mean scores, the best first."""
    runs = studies.Grid("tuning", function).run(cells)
    found = []
    for where in studies.conditions(runs, *keys):
        valid = float(np.mean(studies.by_seed(runs, "valid", **where)))
        found.append((valid if WORLDS[name].metric == "auc" else -valid, where))
    for value, where in sorted(found, key=lambda pair: -pair[0]):
        print(name, model, where, round(abs(value), 4), flush=True)


if __name__ == "__main__":
    main()
