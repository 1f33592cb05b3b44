"""Random search with the same budget for every contestant, chosen on validation rows."""

import math
from typing import NamedTuple

import numpy as np

# Seeds that are no trial's and no final run's are far from both.
TRIAL_SEED, FINALIST_SEED = 10_000, 20_000


class Budget(NamedTuple):
    """How many runs a contestant gets.

    Attributes:
        trials: int, random settings, each with a seed of its own.
        finalists: int, how many of the best are tried again; one needs not be.
        again: int, seeds with which they are, the same for all.
        seeds: int, seeds 0, 1, ... with which the winner is measured.
    """

    trials: int = 20
    finalists: int = 2
    again: int = 2
    seeds: int = 20

    @property
    def runs(self):
        """The runs that `winner` makes for a contestant."""
        if self.trials == 1:
            return self.seeds
        return self.trials + self.again * self.finalists * (self.finalists > 1) + self.seeds


QUICK = Budget(trials=1, finalists=1, again=0, seeds=2)


def log_uniform(low, high):
    """Draws a number whose logarithm is uniform."""
    return lambda rng: float(math.exp(rng.uniform(math.log(low), math.log(high))))


def one_of(*values):
    """Draws one of the values."""
    return lambda rng: values[rng.integers(len(values))]


def drawn(space, trial):
    """The settings of a trial: of spaces that begin alike, alike."""
    rng = np.random.default_rng(trial)
    return {name: draw(rng) for name, draw in space.items()}


def by_loss(run):
    """Less is better; a loss that is no number is the largest."""
    return (run["valid"] if math.isfinite(run["valid"]) else math.inf,)


def trials(grid, base, space, budget, rank=by_loss):
    """Runs random settings; the runs, the best first.

    Cells have a `seed`, of the weights and the order, and a `world`, a seed of data that are
    made up, which is the same for all trials: else the one with the easiest world would win.

    Args:
        grid: `studies.Grid` whose scores have `valid`, a loss.
        base: dict, what all cells of the contestant have.
        space: dict from a setting's name to a function `(rng)` that draws it.
        budget: `Budget`.
        rank: from a run to a tuple of numbers; the first that differs counts, and less is
            better.
    """
    cells = [
        base | drawn(space, trial) | {"seed": TRIAL_SEED + trial, "world": TRIAL_SEED}
        for trial in range(budget.trials)
    ]
    return sorted(grid.run(cells), key=rank)


def best(grid, base, space, budget, rank=by_loss):
    """The settings that win; see `trials`. Of the finalists' ranks the means count.

    A single trial is not run, for there is nothing to choose from.
    """
    if budget.trials == 1:
        return drawn(space, 0)
    ranked = trials(grid, base, space, budget, rank)[: budget.finalists]
    finalists = [{name: run[name] for name in space} for run in ranked]
    if len(finalists) == 1:
        return finalists[0]
    seeds = range(FINALIST_SEED, FINALIST_SEED + budget.again)
    means = []
    for settings in finalists:
        runs = grid.run([base | settings | {"seed": seed, "world": seed} for seed in seeds])
        means.append(tuple(np.mean([rank(run) for run in runs], axis=0)))
    return finalists[means.index(min(means))]


def winner(grid, base, space, budget, rank=by_loss):
    """Searches, and runs the best settings with fresh seeds.

    Returns:
        The runs, and the settings.
    """
    settings = best(grid, base, space, budget, rank)
    cells = [base | settings | {"seed": seed, "world": seed} for seed in range(budget.seeds)]
    return grid.run(cells), settings
