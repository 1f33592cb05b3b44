"""Scores of a selection of experts, where the truth is known."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tfmoe.datasets.grouped import GroupedTasks
from tfmoe.datasets.regions import RegionTasks


class SelectionScores(NamedTuple):
    """How well a selection of experts agrees with the truth, each from 0 to 1.

    Attributes:
        jaccard: mean over pairs of tasks of one group of the share of their experts that
            both select, `|A & B| / |A | B|`; NaN if no group has two tasks.
        precision, recall, f1: of the (task, expert) pairs selected, after the model's
            experts were matched one to one with the true ones as well as can be.
    """

    jaccard: float
    precision: float
    recall: float
    f1: float


def selection_scores(selected: ArrayLike, world: GroupedTasks | RegionTasks) -> SelectionScores:
    """Compares the experts that a model selects with those its tasks are made of.

    Args:
        selected: bool `(t, e)`, the experts each task uses; any number of experts. For
            `RegionTasks` `(t, r, e)`, those that it uses in each region: a task in a region
            counts as a task of its own, and the model's experts are matched for all regions alike.
        world: `GroupedTasks` or `RegionTasks`.

    Returns:
        `SelectionScores`.

    Example:

    >>> world = tfmoe.data.grouped_tasks(4, num_experts=4, experts_per_group=2, num_rows=100)
    >>> selected = world.weights[:, ::-1] > 0  # the order of experts does not count
    >>> selection_scores(selected, world)
    SelectionScores(jaccard=1.0, precision=1.0, recall=1.0, f1=1.0)
    """
    from scipy.optimize import linear_sum_assignment

    chosen, true = (
        np.reshape(pairs, (-1, np.shape(pairs)[-1]))
        for pairs in (np.asarray(selected, bool), world.weights > 0)
    )
    groups = np.ravel(world.groups)
    alike = [
        (chosen[i] & chosen[j]).sum() / max((chosen[i] | chosen[j]).sum(), 1)
        for i in range(len(chosen))
        for j in range(i)
        if groups[i] == groups[j]
    ]
    agreements = chosen.T.astype(int) @ true
    right = agreements[linear_sum_assignment(agreements, maximize=True)].sum()
    precision, recall = right / max(chosen.sum(), 1), right / true.sum()
    f1 = 2 * right / (chosen.sum() + true.sum())
    jaccard = np.mean(alike) if alike else np.nan
    return SelectionScores(*map(float, (jaccard, precision, recall, f1)))
