"""How well scores order the rows of each group: GAUC, NDCG, MRR, recall; exact, in NumPy.

Rows whose label is missing, whose weight is 0 or which are of no group are left out. Equal scores
have no order: each number is its expected value where they are put in a random one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tfmoe.objectives.calibration import labelled

# The group of rows whose group is missing.
NO_GROUP = -1
_Array = np.ndarray


class GroupedAUC(NamedTuple):
    """What `grouped_auc` found.

    Attributes:
        value: float, the mean of the groups' AUC; NaN if no group has both classes.
        share: float, the share of the labelled rows, by weight, that lie in groups with both
            classes; NaN without rows.
        num_groups: int, the groups with both classes.
    """

    value: float
    share: float
    num_groups: int


def grouped_auc(labels: Any, scores: Any, groups: Any, weights: Any = None) -> GroupedAUC:
    """GAUC: the AUC within each group, `sum_g n_g AUC_g / sum_g n_g`.

    `n_g` is the number of the group's rows, or the sum of their weights. Groups with one class
    have no AUC and count in neither sum. Pairs of equal scores count half.

    Args:
        labels: array `(n,)` of 0 and 1; NaN for a missing label.
        scores: array `(n,)`, any monotone function of the probability.
        groups: int array `(n,)`, codes of the rows' groups; -1 for a row of none.
        weights: array `(n,)` or None.

    Returns:
        `GroupedAUC`.

    Source: Zhou et al., 2018, eq. 1 of section 5.2, https://arxiv.org/abs/1706.06978.
    """
    # Rows of no group count in the share alone.
    total = labelled(labels, scores, weights)[2].sum()
    labels, scores, groups, weights = _labelled(labels, scores, groups, weights)
    blocks = _Blocks.of(labels, scores, groups, weights)
    # Of each group, negatives before each block of equal scores, from the lowest on.
    before = np.cumsum(blocks.negatives) - blocks.negatives
    before -= before[blocks.first][blocks.group]
    # Blocks run from the highest score: what comes after has lower scores.
    negatives = _sum(blocks.negatives, blocks)
    below = negatives[blocks.group] - before - blocks.negatives
    right = _sum(blocks.positives * (below + blocks.negatives / 2), blocks)
    positives = _sum(blocks.positives, blocks)
    both = (positives > 0) & (negatives > 0)
    if not both.any():
        return GroupedAUC(float("nan"), 0.0 if total > 0 else float("nan"), 0)
    sizes = (positives + negatives)[both]
    areas = right[both] / (positives[both] * negatives[both])
    value = float((sizes * areas).sum() / sizes.sum())
    return GroupedAUC(value, float(sizes.sum() / total), int(both.sum()))


def ranking(
    labels: Any, scores: Any, groups: Any, k: int = 10, weights: Any = None
) -> dict[str, float]:
    """NDCG@k, recall@k and the mean reciprocal rank, over the groups with a positive row.

    With `r` the place of a row in its group, by falling score and from 1, and `P` the group's
    number of positives:

        NDCG@k   = sum_{positive, r <= k} 1 / log2(r + 1) / sum_{r <= min(P, k)} 1 / log2(r + 1)
        recall@k = (positives with r <= k) / P
        MRR      = 1 / (the smallest r of a positive)

    Each group counts by the mean weight of its rows.

    Args:
        labels, scores, groups, weights: see `grouped_auc`.
        k: int >= 1.

    Returns:
        Dict with `"ndcg"`, `"mrr"`, `"recall"`; NaN if no group has a positive row.
    """
    labels, scores, groups, weights = _labelled(labels, scores, groups, weights)
    blocks = _Blocks.of(labels, scores, groups, np.ones_like(weights))
    positives = _sum(blocks.positives, blocks)
    rows = _sum(blocks.sizes, blocks)
    found = positives > 0
    if not found.any():
        return dict.fromkeys(("ndcg", "mrr", "recall"), float("nan"))
    mean_weights = np.bincount(blocks.group_of_row, weights, len(rows)) / rows
    before = np.cumsum(blocks.sizes) - blocks.sizes
    before -= before[blocks.first][blocks.group]
    last = int(rows.max())
    discounts = np.cumsum(1 / np.log2(np.arange(min(last, k)) + 2.0))
    gains = np.concatenate([[0.0], discounts, np.full(max(last - k, 0), discounts[-1])])
    start, stop = before.astype(int), (before + blocks.sizes).astype(int)
    density = blocks.positives / blocks.sizes
    gained = _sum(density * (gains[stop] - gains[start]), blocks)
    inside = _sum(density * (np.minimum(stop, k) - np.minimum(start, k)), blocks)
    ranks = _reciprocal_ranks(blocks, start)
    each = {
        "ndcg": gained[found] / gains[positives[found].astype(int)],
        "mrr": ranks[found],
        "recall": inside[found] / positives[found],
    }
    return {n: float(np.average(v, weights=mean_weights[found])) for n, v in each.items()}


def _reciprocal_ranks(blocks: _Blocks, start: _Array) -> _Array:
    """The expected reciprocal rank of each group's first positive; 0 without any."""
    having = np.flatnonzero(blocks.positives > 0)
    groups, first = np.unique(blocks.group[having], return_index=True)
    having = having[first]
    # Many blocks are alike: rows before them, rows and positives in them.
    alike = np.stack([start[having], blocks.sizes[having], blocks.positives[having]], axis=1)
    kinds, which = np.unique(alike.astype(int), axis=0, return_inverse=True)
    values = np.array([_reciprocal_rank(*kind) for kind in kinds.tolist()])
    ranks = np.zeros(len(blocks.first))
    ranks[groups] = values[which.reshape(-1)]
    return ranks


def _reciprocal_rank(before: int, size: int, positives: int) -> float:
    """Mean of `1 / rank` of the first of some positives among equal scores in a random order."""
    places = np.arange(size - positives + 1)
    # That the first positive is no earlier: all places before have negatives.
    left = (size - positives - places[:-1]) / (size - places[:-1])
    not_yet = np.concatenate([[1.0], np.cumprod(left)])
    here = not_yet * positives / (size - places)
    return float((here / (before + places + 1)).sum())


class _Blocks(NamedTuple):
    """Rows of one group and one score together; groups in order, scores falling in each.

    Attributes:
        positives, negatives: `(m,)`, sums of weights.
        sizes: `(m,)`, numbers of rows.
        group: int `(m,)`, each block's group, from 0 on.
        first: int `(g,)`, each group's first block.
        group_of_row: int `(n,)`, of the rows as they were given.
    """

    positives: _Array
    negatives: _Array
    sizes: _Array
    group: _Array
    first: _Array
    group_of_row: _Array

    @classmethod
    def of(cls, labels: _Array, scores: _Array, groups: _Array, weights: _Array) -> _Blocks:
        codes, group_of_row = np.unique(groups, return_inverse=True)
        group_of_row = group_of_row.reshape(-1)
        order = np.lexsort((-scores, group_of_row))
        group, score = group_of_row[order], scores[order]
        new = np.ones(len(order), bool)
        new[1:] = (group[1:] != group[:-1]) | (score[1:] != score[:-1])
        block = np.cumsum(new) - 1
        num = int(new.sum())
        positive = weights[order] * labels[order]
        group = group[new]
        return cls(
            np.bincount(block, positive, num),
            np.bincount(block, weights[order] - positive, num),
            np.bincount(block, minlength=num).astype(float),
            group,
            np.searchsorted(group, np.arange(len(codes))),
            group_of_row,
        )


def _sum(values: _Array, blocks: _Blocks) -> _Array:
    """Of each group's blocks."""
    return np.bincount(blocks.group, values, len(blocks.first))


def _labelled(labels: Any, scores: Any, groups: Any, weights: Any) -> tuple[_Array, ...]:
    """The rows that count, with weights."""
    groups = np.asarray(groups).reshape(-1)
    # A row of no group is as one without a label.
    labels = np.where(groups == NO_GROUP, np.nan, np.asarray(labels, "float64").reshape(-1))
    rows = np.flatnonzero(~np.isnan(labels))
    if weights is not None:
        rows = rows[np.asarray(weights).reshape(-1)[rows] > 0]
    labels, scores, weights = labelled(labels, scores, weights)
    return labels, scores, groups[rows], weights
