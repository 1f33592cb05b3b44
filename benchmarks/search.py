"""Random search with the same budget for every contestant, chosen on validation rows.

Trials are spread: of as many equal parts of a setting's range as there are trials, each has one
trial, whose place in it is drawn; which parts of several ranges meet is drawn too. With few trials
free draws leave the ends of a range untried.

Source: McKay, Beckman and Conover, 1979, https://doi.org/10.2307/1268522 (Latin hypercube).
"""

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
    """Numbers whose logarithm is uniform, of a number in [0, 1)."""
    return lambda place: float(low * (high / low) ** place)


def one_of(*values):
    """One of the values, of a number in [0, 1)."""
    return lambda place: values[int(place * len(values))]


def drawn(space, trial, number):
    """The settings of a trial: of spaces that begin alike, alike.

    Args:
        space: dict from a setting's name to a function of a number in [0, 1).
        trial, number: int, which of how many trials.
    """
    found = {}
    for index, (name, setting) in enumerate(space.items()):
        rng = np.random.default_rng((index, number))
        found[name] = setting((rng.permutation(number)[trial] + rng.random(number)[trial]) / number)
    return found


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
        space: see `drawn`.
        budget: `Budget`.
        rank: from a run to a tuple of numbers; the first that differs counts, and less is
            better.
    """
    cells = [
        base | drawn(space, trial, budget.trials) | {"seed": seed, "world": TRIAL_SEED}
        for trial, seed in enumerate(range(TRIAL_SEED, TRIAL_SEED + budget.trials))
    ]
    return sorted(grid.run(cells), key=rank)


def best(grid, base, space, budget, rank=by_loss):
    """The settings that win; see `trials`. Of the finalists' ranks the means count.

    A single trial is not run, for there is nothing to choose from.
    """
    if budget.trials == 1:
        return drawn(space, 0, 1)
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
