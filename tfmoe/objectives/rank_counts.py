"""Scores counted by label in bins that are fine wherever scores lie: what an AUC needs."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmoe.compute.replicas import sum_over_replicas
from tfmoe.compute.types import Tensor

# Between neighbouring knots a batch had equally many scores.
_KNOTS = 33

# Where bins of equal width end.
_LIMIT = 20.0
# The largest score that is told from larger ones: differences must stay finite.
_LARGEST = 1e37
# How many times its scale from its middle the map of a batch reaches.
_REACH = 1e8
# As a share of the way between two knots, how near to one bins are finest.
_NEAREST = 1e-6
# Knots before any score has been seen.
_FIRST = np.linspace(-8.0, 8.0, _KNOTS, dtype="float32")

# So many rows of a batch are compared with those so many places on.
_COMPARED = 512
_SHIFTS = (1, 2, 5, 11, 23)
# What rounding makes of equal rows, as a share of the score or of 1.
_ROUNDING = 2e-6


class RankCounts(keras.metrics.Metric):
    r"""Counts scores by label in `side ** 2` bins a task; a pair in one bin counts half.

    A score's place among the bins is the mean of three maps, each from 0 to 1 and rising, so
    that the bins between two scores are at least a third of those that any one of them sets:

    - bins of equal width on [-20, 20], and of equal ratio beyond;
    - the quantiles of the first batch with rows of the task, and between them half evenly,
      half finer the nearer to one;
    - `sign(z) log(1 + |z|)` with `z` the distance from that batch's median in eighths of its
      interquartile range, up to 100 million of them.

    So what the first batch resembles is told apart to a 20,000th of the rows, be its scores
    narrow, far out, or in clusters; what it does not resemble to 1/500 of a logit, and finer
    around it. Several replicas take the mean of their quantiles, so that their bins are the same.

    Where that is too coarse `near_ties` says so.

    Args:
        num_tasks: int >= 1.
        side: int >= 1.
    """

    def __init__(self, num_tasks: int, side: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_tasks, self.side = num_tasks, side
        # Of each task negatives, then positives.
        self.counts = self.add_variable((num_tasks * 2 * side**2,), "zeros", name="counts")
        same = {"initializer": "zeros", "aggregation": "mean"}  # on all replicas
        self.knots = self.add_variable((num_tasks * _KNOTS,), name="knots", **same)
        self.has_knots = self.add_variable((num_tasks,), name="has_knots", **same)
        # Of each task: near ties among the pairs that were compared, and those pairs.
        self.pairs = self.add_variable((num_tasks * 2,), "zeros", name="pairs")

    def update_state(
        self, labels: Tensor, scores: Tensor, weights: Tensor, places: Tensor | None = None
    ) -> None:
        """Counts rows; all `(b,)`. `places` is each row's task, `num_tasks` for none of them."""
        if places is None:
            places = ops.zeros_like(labels, dtype="int32")
        lost = ops.isnan(scores)
        # Of a NaN nothing is known, and so of the area: it is NaN too.
        weights = ops.where(ops.logical_and(lost, weights != 0), float("nan"), weights)
        scores = ops.clip(ops.where(lost, 0.0, scores), -_LARGEST, _LARGEST)
        inside = places < self.num_tasks
        weights = ops.where(inside, weights, 0.0)
        places = ops.where(inside, places, 0)
        counted = ops.logical_and(ops.logical_not(lost), weights > 0)
        self._set_knots(scores, counted, places)
        num = self.side**2
        bins = self._bins(scores, places)
        positive = labels > 0.5
        bins_of_label = places * (2 * num) + ops.cast(positive, "int32") * num + bins
        self.counts.assign_add(ops.segment_sum(weights, bins_of_label, self.counts.shape[0]))
        self._compare(ops.where(counted, ops.cast(positive, "int32"), -1), scores, bins, places)

    def result(self) -> Tensor:
        """The area under the ROC curve of each task `(num_tasks,)`; NaN without both classes."""
        # Negatives below each bin: those of its row of bins, then those of the rows
        # before. Sums of few sums keep float32's digits. (A product with a triangle of
        # ones would not, where a GPU rounds the factors.)
        counts = ops.reshape(self.counts, (-1, 2, self.side, self.side))
        negatives, positives = counts[:, 0], counts[:, 1]
        same_row = ops.sum(positives * (ops.cumsum(negatives, axis=2) - negatives / 2), axis=(1, 2))
        negative_rows, positive_rows = ops.sum(negatives, axis=2), ops.sum(positives, axis=2)
        rows_before = ops.cumsum(negative_rows, axis=1) - negative_rows
        rows_before = ops.sum(positive_rows * rows_before, axis=1)
        pairs = ops.sum(negative_rows, axis=1) * ops.sum(positive_rows, axis=1)
        return (same_row + rows_before) / pairs

    def near_ties(self) -> np.ndarray:
        """How coarse the bins were: `(num_tasks, 2)`.

        Rows of one batch are compared with some others of it, whose label is the other one. The
        first number is how many such pairs shared a bin though their scores differ, the second
        how many pairs there were. By about half their ratio `result` can be off, at most. Of rows
        that are sorted by label, and of scores within rounding of each other, it says nothing.
        """
        return np.reshape(ops.convert_to_numpy(self.pairs), (-1, 2))

    def _set_knots(self, scores: Tensor, counted: Tensor, places: Tensor) -> None:
        """Sets the knots of those tasks that have rows here and had none before."""
        knots, has_knots = ops.convert_to_tensor(self.knots), ops.convert_to_tensor(self.has_knots)

        def found() -> Tensor:
            own = places[None] == ops.arange(self.num_tasks, dtype="int32")[:, None]
            own = ops.logical_and(own, counted[None])
            in_order = ops.sort(ops.where(own, scores[None], _LARGEST), axis=1)
            last = ops.sum(ops.cast(own, "int32"), axis=1, keepdims=True) - 1
            ranks = ops.arange(_KNOTS, dtype="float32") / (_KNOTS - 1)
            ranks = ranks[None] * ops.cast(ops.maximum(last, 0), "float32")
            below = ops.cast(ranks, "int32")
            above = ops.maximum(ops.minimum(below + 1, last), 0)
            low = ops.take_along_axis(in_order, below, axis=1)
            high = ops.take_along_axis(in_order, above, axis=1)
            new = low + (high - low) * (ranks - ops.cast(below, "float32"))
            take = ops.logical_and(last[:, 0] >= 0, has_knots == 0)[:, None]
            new = ops.where(take, new, ops.zeros_like(new))
            return ops.concatenate([new, ops.cast(take, "float32")], axis=1)

        new_here = ops.logical_and(counted, ops.take(has_knots, places) == 0)
        none = ops.zeros((self.num_tasks, _KNOTS + 1), "float32")
        own = sum_over_replicas(ops.cond(ops.any(new_here), found, lambda: none))
        new, replicas = ops.split(own, [_KNOTS], axis=1)
        new = ops.reshape(new / ops.maximum(replicas, 1.0), (-1,))
        take = replicas[:, 0] > 0
        self.knots.assign(ops.where(ops.repeat(take, _KNOTS), new, knots))
        self.has_knots.assign(ops.where(take, ops.ones_like(has_knots), has_knots))

    def _bins(self, scores: Tensor, places: Tensor) -> Tensor:
        """The bin of each score, from 0 to `side ** 2 - 1`."""
        knots = ops.reshape(self.knots, (-1, _KNOTS))
        known = ops.convert_to_tensor(self.has_knots)[:, None] > 0
        knots = ops.where(known, knots, ops.array(_FIRST)[None])
        position = (_fixed(scores) + _around(scores, knots, places)) / 3
        position = position + _among(scores, knots, places) / 3
        num = self.side**2
        return ops.cast(ops.clip(position * num, 0, num - 1), "int32")

    def _compare(self, labels: Tensor, scores: Tensor, bins: Tensor, places: Tensor) -> None:
        """Counts near ties. Labels are 0 and 1, and -1 where a row does not count."""
        labels, scores, bins, places = (x[:_COMPARED] for x in (labels, scores, bins, places))
        num = ops.shape(labels)[0]
        shifts = ops.array(_SHIFTS, "int32")
        others = ops.mod(ops.arange(num, dtype="int32")[:, None] + shifts[None], num)

        def moved(values: Tensor) -> tuple[Tensor, Tensor]:
            return values[:, None], ops.take(values, others)

        (label, other_label), (score, other_score) = moved(labels), moved(scores)
        pair = label + other_label == 1
        apart = ops.abs(score - other_score) > _ROUNDING * (1 + ops.abs(score))
        tied = ops.logical_and(apart, ops.equal(*moved(bins)))
        if self.num_tasks > 1:
            pair = ops.logical_and(pair, ops.equal(*moved(places)))
        both = ops.stack([ops.logical_and(pair, tied), pair], axis=1)
        sums = ops.sum(ops.cast(both, "float32"), axis=2)
        if self.num_tasks > 1:
            sums = ops.segment_sum(sums, places, self.num_tasks)
        else:
            sums = ops.sum(sums, axis=0)
        self.pairs.assign_add(ops.reshape(sums, (-1,)))


def _fixed(scores: Tensor) -> Tensor:
    """Bins of equal width on [-20, 20] for nine tenths, of equal ratio beyond for the rest."""
    inside = ops.clip(scores / _LIMIT, -1.0, 1.0)
    size = ops.abs(scores) / _LIMIT
    beyond = ops.sign(scores) * ops.log(ops.maximum(size, 1.0)) / math.log(_LARGEST / _LIMIT)
    return 0.5 + 0.45 * inside + 0.05 * beyond


def _around(scores: Tensor, knots: Tensor, places: Tensor) -> Tensor:
    """Bins that grow with the distance from the middle of a batch."""
    quarter = (_KNOTS - 1) // 4
    middle = knots[:, 2 * quarter]
    scale = (knots[:, 3 * quarter] - knots[:, quarter]) / 8
    # Of equal scores, or a single one, the scale is unknown: a small one shuts nothing out.
    scale = ops.maximum(scale, 1e-4 * ops.maximum(ops.abs(middle), 1e-2))
    distance = (scores - ops.take(middle, places)) / ops.take(scale, places)
    log = ops.sign(distance) * ops.log1p(ops.abs(distance))
    return ops.clip(0.5 + log / (2 * math.log1p(_REACH)), 0.0, 1.0)


def _among(scores: Tensor, knots: Tensor, places: Tensor) -> Tensor:
    """How many of a batch's scores are below, as a share, and rising between its knots."""
    inner = knots[:, 1:-1] if knots.shape[0] == 1 else ops.take(knots[:, 1:-1], places, axis=0)
    below = ops.sum(ops.cast(scores[:, None] >= inner, "int32"), axis=1)
    flat = ops.reshape(knots, (-1,))
    first = places * _KNOTS + below
    low, high = ops.take(flat, first), ops.take(flat, first + 1)
    width = high - low
    safe = ops.where(width > 0, width, ops.ones_like(width))
    part = ops.clip((scores - low) / safe, 0.0, 1.0)
    # Half of it evenly, half of it finer the nearer to a knot: of clusters far apart a small
    # batch has not seen the edges.
    log = ops.log1p(part / _NEAREST) - ops.log1p((1 - part) / _NEAREST)
    part = (part + 0.5 + log / (2 * math.log1p(1 / _NEAREST))) / 2
    part = ops.where(width > 0, part, ops.cast(scores >= high, "float32"))
    return (ops.cast(below, "float32") + part) / (_KNOTS - 1)
