"""Metrics that can be trusted, over the rows that have a label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from tfmoe import keras_private
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Tensor
from tfmoe.objectives.rank_counts import RankCounts

# So many bins, squared, for one task.
SIDE = 256


@registered
class AUC(keras.metrics.Metric):
    r"""Area under the ROC curve from 65,536 bins of the logit.

    Examples are counted by label in bins, and a pair in one bin counts half. The bins lie where
    the logits of the first batch lie, and reach from -1e37 to 1e37: see
    `tfmoe.objectives.rank_counts.RankCounts`. So neither a rare class, nor logits that are narrow,
    far from 0 or in clusters do harm: errors below 5e-6 were measured. Bins are set anew after
    `reset_state`, thus in every epoch. A first batch that is unlike all later ones leaves them
    coarser; `near_ties` says how coarse they were, and `MultiTaskModel.fit` warns of it.

    Counts add up over batches and devices. They are kept in float32: above 16 million
    examples in one bin they no longer grow.

    Args:
        from_logits: bool; if False, predictions are probabilities.
        name: str.

    Call arguments of `update_state`:
        y_true: 0 or 1, `(b,)` or `(b, 1)`.
        y_pred: of the same shape.
        sample_weight: `(b,)`, `(b, 1)` or None.

    Returns:
        Float in [0, 1]; NaN while one of the classes has not been seen, or where a prediction
        is NaN.

    Example:

    >>> auc = AUC()
    >>> auc.update_state(np.array([0, 0, 1]), np.array([0.1, 0.6, 0.5]))
    >>> float(auc.result())
    0.5
    """

    def __init__(self, from_logits: bool = False, name: str = "auc", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.from_logits = from_logits
        self.ranks = RankCounts(1, SIDE)
        keras_private.say_better(self, "up")

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        y_true = ops.reshape(ops.cast(y_true, "float32"), (-1,))
        logits = ops.reshape(ops.cast(y_pred, "float32"), (-1,))
        if not self.from_logits:
            tiny = 1e-37
            logits = ops.log(ops.maximum(logits, tiny)) - ops.log(ops.maximum(1 - logits, tiny))
        if sample_weight is None:
            weights = ops.ones_like(y_true)
        else:
            weights = ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        self.ranks.update_state(y_true, logits, weights)

    def result(self) -> Tensor:
        return self.ranks.result()[0]

    def near_ties(self) -> dict[str, tuple[float, float]]:
        """By the metric's name: near ties among the pairs compared, and those pairs.

        See `tfmoe.objectives.rank_counts.RankCounts.near_ties`.
        """
        near, compared = self.ranks.near_ties()[0].tolist()
        return {self.name: (near, compared)}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "from_logits": self.from_logits}


class WeightedMean(keras.metrics.Mean):
    """Mean of `function(y_true, y_pred)` over rows; NaN, not 0 as Keras has it, without any.

    Args:
        function: maps `(b,)` labels and outputs to `(b,)` values.
        name: str.
        root: bool; if True, the square root of the mean.
        better: `"up"` where more of it is better.
    """

    def __init__(
        self,
        function: Callable[[Any, Tensor], Tensor],
        name: str,
        root: bool = False,
        better: Literal["up", "down"] = "down",
    ) -> None:
        super().__init__(name=name)
        self.function, self.root = function, root
        keras_private.say_better(self, better)

    def update_state(self, y_true: Tensor | None, y_pred: Tensor, sample_weight: Tensor) -> None:
        values = self.function(y_true, y_pred)
        # Of a row that does not count the value may be infinite.
        values = ops.where(sample_weight != 0, values, ops.zeros_like(values))
        super().update_state(values, sample_weight)

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
        better: `"up"` where more of it is better.
    """

    def __init__(
        self,
        function: Callable[[Tensor, Tensor], Tensor] | None,
        names: Sequence[str],
        tasks: Sequence[int],
        root: bool = False,
        better: Literal["up", "down"] = "down",
        **kwargs: Any,
    ) -> None:
        super().__init__(names, tasks, name=f"mean_by_task_{names[0]}", **kwargs)
        keras_private.say_better(self, better)
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
        # Of a row that does not count the value may be infinite too.
        counts = ops.logical_and(places < num, sample_weight != 0)
        values = ops.where(counts, values * sample_weight, ops.zeros_like(values))
        self.total.assign_add(ops.segment_sum(values, places, num + 1)[:num])
        self.weight.assign_add(ops.segment_sum(sample_weight, places, num + 1)[:num])

    def result(self) -> dict[str, Tensor]:
        means = self.total / ops.convert_to_tensor(self.weight)
        return self.named(ops.sqrt(means) if self.root else means)


class AUCByTask(ByTask):
    """Each binary task's area under the ROC curve, from bins of the logit, see `AUC`.

    Each task has bins of its own, set by the first batch with rows of it. A step writes all
    bins, so many tasks have fewer each: 65,536 up to 4 tasks, 16,384 up to 16, 4,096 beyond.

    Args:
        names, tasks: see `ByTask`.
    """

    def __init__(self, names: Sequence[str], tasks: Sequence[int], **kwargs: Any) -> None:
        super().__init__(names, tasks, name=f"auc_by_task_{names[0]}", **kwargs)
        num = len(self.names)
        self.ranks = RankCounts(num, SIDE if num <= 4 else SIDE // 2 if num <= 16 else SIDE // 4)
        keras_private.say_better(self, "up")

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor, task: Tensor
    ) -> None:
        self.ranks.update_state(y_true, y_pred, sample_weight, self.places(task))

    def result(self) -> dict[str, Tensor]:
        return self.named(self.ranks.result())

    def near_ties(self) -> dict[str, tuple[float, float]]:
        """By the tasks' names: see `AUC.near_ties`."""
        pairs = self.ranks.near_ties().tolist()
        return {name: (near, all) for name, (near, all) in zip(self.names, pairs, strict=True)}


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
