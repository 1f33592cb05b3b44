"""Metrics that can be trusted, over the rows that have a label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmoe.compute.registered import registered
from tfmoe.compute.types import Tensor

SIDE, LIMIT = 256, 20.0
NUM_BINS = SIDE**2


@registered
class AUC(keras.metrics.Metric):
    r"""Area under the ROC curve from 65,536 bins of the logit.

    Examples are counted by label in bins of equal width of the logit, clipped to
    [-20, 20]; a pair in one bin counts half. Bins of the logit stay fine where
    probabilities crowd near 0, so a rare positive class does no harm: at a base rate of
    0.25 % the error is about 2e-6. Counts add up over batches and devices. They are
    kept in float32: above 16 million examples in one bin they no longer grow.

    Args:
        from_logits: bool; if False, predictions are probabilities.
        name: str.

    Call arguments of `update_state`:
        y_true: 0 or 1, `(b,)` or `(b, 1)`.
        y_pred: of the same shape.
        sample_weight: `(b,)`, `(b, 1)` or None.

    Returns:
        Float in [0, 1]; NaN while one of the classes has not been seen.

    Example:

    >>> auc = AUC()
    >>> auc.update_state(np.array([0, 0, 1]), np.array([0.1, 0.6, 0.5]))
    >>> float(auc.result())
    0.5
    """

    def __init__(self, from_logits: bool = False, name: str = "auc", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.from_logits = from_logits
        # Negatives, then positives.
        self.counts = self.add_variable((2 * NUM_BINS,), "zeros", name="counts")

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        y_true = ops.reshape(ops.cast(y_true, "float32"), (-1,))
        logits = ops.reshape(ops.cast(y_pred, "float32"), (-1,))
        if not self.from_logits:
            tiny = 2e-9  # a logit of -20
            logits = ops.log(ops.maximum(logits, tiny)) - ops.log(ops.maximum(1 - logits, tiny))
        if sample_weight is None:
            weights = ops.ones_like(y_true)
        else:
            weights = ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        bins = _bins(y_true, logits, SIDE)
        self.counts.assign_add(ops.segment_sum(weights, bins, 2 * NUM_BINS))

    def result(self) -> Tensor:
        return _areas(self.counts, SIDE)[0]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "from_logits": self.from_logits}


def _bins(labels: Tensor, logits: Tensor, side: int) -> Tensor:
    """The bin of each row `(b,)` of `side ** 2`: negatives first, then positives."""
    num = side**2
    position = (logits + LIMIT) * (num / (2 * LIMIT))
    bins = ops.cast(ops.clip(position, 0, num - 1), "int32")
    return bins + num * ops.cast(labels > 0.5, "int32")


def _areas(counts: Tensor, side: int) -> Tensor:
    """AUC `(n,)` from counts of `n` times `2 * side ** 2` bins."""
    # Negatives below each bin: those of its row of bins, then those of the rows
    # before. Sums of few sums keep float32's digits. (A product with a triangle of
    # ones would not, where a GPU rounds the factors.)
    counts = ops.reshape(counts, (-1, 2, side, side))
    negatives, positives = counts[:, 0], counts[:, 1]
    same_row = ops.sum(positives * (ops.cumsum(negatives, axis=2) - negatives / 2), axis=(1, 2))
    negative_rows, positive_rows = ops.sum(negatives, axis=2), ops.sum(positives, axis=2)
    rows_before = ops.cumsum(negative_rows, axis=1) - negative_rows
    rows_before = ops.sum(positive_rows * rows_before, axis=1)
    pairs = ops.sum(negative_rows, axis=1) * ops.sum(positive_rows, axis=1)
    return (same_row + rows_before) / pairs


class WeightedMean(keras.metrics.Mean):
    """Mean of `function(y_true, y_pred)` over rows; NaN, not 0 as Keras has it, without any.

    Args:
        function: maps `(b,)` labels and outputs to `(b,)` values.
        name: str.
        root: bool; if True, the square root of the mean.
    """

    def __init__(
        self, function: Callable[[Any, Tensor], Tensor], name: str, root: bool = False
    ) -> None:
        super().__init__(name=name)
        self.function, self.root = function, root

    def update_state(self, y_true: Tensor | None, y_pred: Tensor, sample_weight: Tensor) -> None:
        super().update_state(self.function(y_true, y_pred), sample_weight)

    def result(self) -> Tensor:
        mean = self.total / ops.convert_to_tensor(self.count)
        return ops.sqrt(mean) if self.root else mean


class ByTask(keras.metrics.Metric):
    """A metric of rows of one task each; its result is a dict with an entry a task.

    Args:
        names: list of str, what each task's entry is called.
        tasks: sequence of int, the tasks that are measured, in the same order. Rows of
            others do not count.
        name: str.
    """

    def __init__(
        self, names: Sequence[str], tasks: Sequence[int], name: str, **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.names = list(names)
        # The place of each task among those measured; one more for all others.
        self._places = np.full(max(tasks) + 2, len(self.names), "int32")
        self._places[list(tasks)] = np.arange(len(self.names))

    def places(self, task: Tensor) -> Tensor:
        """Where rows of a task count `(b,)`; `len(names)` for those that do not."""
        return ops.take(ops.array(self._places), ops.minimum(task, len(self._places) - 1))

    def named(self, values: Tensor) -> dict[str, Tensor]:
        """Values `(len(names),)` as the result."""
        return dict(zip(self.names, ops.unstack(values, len(self.names)), strict=True))


class MeanByTask(ByTask):
    """Each task's mean of `function(y_true, y_pred)` over its rows; NaN without any.

    Args:
        function: maps `(b,)` labels and outputs to `(b,)` values; None for the labels.
        names, tasks: see `ByTask`.
        root: bool; if True, the square root of the mean.
    """

    def __init__(
        self,
        function: Callable[[Tensor, Tensor], Tensor] | None,
        names: Sequence[str],
        tasks: Sequence[int],
        root: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(names, tasks, name=f"mean_by_task_{names[0]}", **kwargs)
        self.function, self.root = function, root
        self.total = self.add_variable((len(self.names),), "zeros", name="total")
        self.weight = self.add_variable((len(self.names),), "zeros", name="weight")

    def update_state(
        self, y_true: Tensor, y_pred: Tensor | None, sample_weight: Tensor, task: Tensor
    ) -> None:
        places, num = self.places(task), len(self.names)
        # A label of another task may be no class of these, and its row's value infinite.
        y_true = ops.where(places < num, y_true, ops.zeros_like(y_true))
        values = y_true if self.function is None else self.function(y_true, y_pred)
        values = ops.cast(values, "float32")
        values = ops.where(places < num, values, ops.zeros_like(values)) * sample_weight
        self.total.assign_add(ops.segment_sum(values, places, num + 1)[:num])
        self.weight.assign_add(ops.segment_sum(sample_weight, places, num + 1)[:num])

    def result(self) -> dict[str, Tensor]:
        means = self.total / ops.convert_to_tensor(self.weight)
        return self.named(ops.sqrt(means) if self.root else means)


class AUCByTask(ByTask):
    """Each binary task's area under the ROC curve, from bins of the logit, see `AUC`.

    A step writes all bins, so many tasks have fewer each: 65,536 up to 4 tasks, 16,384 up
    to 16, 4,096 beyond; errors of 1e-6, 6e-6 and 6e-5 were measured at a base rate of 0.25 %.

    Args:
        names, tasks: see `ByTask`.
    """

    def __init__(self, names: Sequence[str], tasks: Sequence[int], **kwargs: Any) -> None:
        super().__init__(names, tasks, name=f"auc_by_task_{names[0]}", **kwargs)
        num = len(self.names)
        self.side = SIDE if num <= 4 else SIDE // 2 if num <= 16 else SIDE // 4
        self.counts = self.add_variable((num * 2 * self.side**2,), "zeros", name="counts")

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor, task: Tensor
    ) -> None:
        places = self.places(task)
        counted = places < len(self.names)
        weights = ops.where(counted, sample_weight, ops.zeros_like(sample_weight))
        bins = _bins(y_true, y_pred, self.side)
        bins = bins + ops.where(counted, places, 0) * (2 * self.side**2)
        self.counts.assign_add(ops.segment_sum(weights, bins, self.counts.shape[0]))

    def result(self) -> dict[str, Tensor]:
        return self.named(_areas(self.counts, self.side))


def exact_auc(labels: Any, scores: Any, weights: Any = None) -> float:
    """Area under the ROC curve by sorting; NaN if a class is missing.

    Args:
        labels: array `(n,)` of 0 and 1; NaN for a missing label.
        scores: array `(n,)`, any monotone function of the probability.
        weights: array `(n,)` or None.
    """
    from sklearn.metrics import roc_auc_score

    labels = np.asarray(labels, "float64").reshape(-1)
    weights = np.ones_like(labels) if weights is None else np.asarray(weights).reshape(-1)
    use = ~np.isnan(labels) & (weights > 0)
    if len(np.unique(labels[use])) < 2:
        return float("nan")
    scores = np.asarray(scores).reshape(-1)
    return float(roc_auc_score(labels[use], scores[use], sample_weight=weights[use]))
