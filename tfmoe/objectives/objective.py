"""What one task asks for: its loss, the loss's weight, its metrics."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from tfmoe.compute.replicas import num_replicas
from tfmoe.compute.types import Tensor
from tfmoe.objectives.losses import (
    MetricOfRows,
    binary_cross_entropy,
    labels_and_weights,
    masked_mean,
    mean_and_weight,
    metric_of,
    outputs_for_metrics,
    own_metrics,
    pairwise_logistic,
    row_losses,
    standardized,
    update_given,
)
from tfmoe.objectives.metrics import AUC, WeightedMean
from tfmoe.schema.links import AITM, ESCM2
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Task, in_chain_order, parent_of


class ChainRows(NamedTuple):
    """What else a task's loss reads that is given another.

    Attributes:
        labels: `(b,)`, those of the task that it is given, NaN where missing.
        parent: `(b,)`, that task's logits.
        conditional: `(b,)`, the logits of this one given that one.
        imputed: `(b,)`, the logits of an imputation tower, or None.
    """

    labels: Tensor
    parent: Tensor
    conditional: Tensor
    imputed: Tensor | None


class Objective:
    """What one task asks for: its loss, the loss's weight, its metrics.

    Args:
        task: `Task` of the schema.
        loss: Keras loss, its name, or None for the task's own.
        weight: float, or None for the task's own.
        metrics: list of Keras metrics or their names, or None for the task's own.
        moments: mean and standard deviation that the loss's labels are standardised by.
    """

    def __init__(
        self,
        task: Task,
        loss: Any = None,
        weight: float | None = None,
        metrics: list[Any] | None = None,
        moments: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self.task = task
        self.moments = moments
        self.weight = float(task.weight if weight is None else weight)
        self.loss = None if loss is None else keras.losses.get(loss)
        self.tracker = WeightedMean(lambda _, loss: loss, f"{task.name}_loss")
        self.own_metrics = metrics is None
        self.given_metrics: list[keras.metrics.Metric] = []
        if metrics is None:
            self.metrics = [_metric(task.name, own) for own in own_metrics(task)]
            for name in task.further_outputs if isinstance(task, Binary) else ():
                self.given_metrics = [_metric(name, own) for own in own_metrics(task)]
        else:
            self.metrics = [metric_of(task, metric) for metric in metrics]

    @property
    def all_metrics(self) -> list[keras.metrics.Metric]:
        """Its metrics, its loss's mean first."""
        return [self.tracker, *self.metrics, *self.given_metrics]

    def compute(self, *row: Any, **options: Any) -> Tensor:
        """The task's mean loss, a scalar; arguments as of `measured`."""
        return self.measured(*row, **options)[0]

    def measured(
        self,
        labels: Tensor,
        row_weights: Tensor | None,
        logits: Tensor,
        predictions: Tensor,
        chain: ChainRows | None = None,
        groups: Tensor | None = None,
        tracks: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """The task's mean loss over the batch's rows with a label, and what these weigh; scalars.

        They are those of all replicas.

        Args:
            labels: `(b,)`, NaN where missing.
            row_weights: `(b,)`, or None.
            logits, predictions: `(b,)`, or `(b, c)` of a multiclass task.
            chain: of a task that is given another.
            groups: int `(b,)`, the rows' groups, of a pairwise loss.
            tracks: bool; whether the loss counts for what is reported.
        """
        labels = standardized(labels, *self.moments)
        known, weights = labels_and_weights(labels, row_weights)
        if groups is not None:
            loss, count = pairwise_logistic(known, logits, weights, groups)
        else:
            losses = row_losses(self.task, self.loss, known, logits, predictions, weights)
            loss, count = mean_and_weight(losses, weights)
        if chain is not None:
            loss = self._along(loss, known, weights, row_weights, logits, chain)
        if tracks:
            # All replicas count it; together they count its rows once.
            self.tracker.update_state(None, loss, count / num_replicas())
        return loss, count

    def _along(
        self,
        loss: Tensor,
        labels: Tensor,
        weights: Tensor,
        row_weights: Tensor | None,
        logits: Tensor,
        chain: ChainRows,
    ) -> Tensor:
        """The loss with what the link adds to it."""
        link = getattr(self.task, "link", None)
        if isinstance(link, AITM):
            excess = ops.relu(ops.sigmoid(logits) - ops.sigmoid(chain.parent))
            return loss + link.penalty * masked_mean(excess, weights)
        if isinstance(link, ESCM2):
            happened, known = labels_and_weights(chain.labels, row_weights)
            # A row counts whose click is known, and if there was one its purchase too.
            known = known * ops.where(happened > 0, ops.cast(weights > 0, "float32"), 1.0)
            debiased = debiased_loss(link, labels, happened, known, chain)
            return link.whole_weight * loss + link.weight * debiased
        return loss

    def update_metrics(
        self,
        labels: Tensor,
        row_weights: Tensor | None,
        logits: Tensor,
        predictions: Tensor,
        chain: ChainRows | None = None,
        groups: Tensor | None = None,
    ) -> None:
        """Updates the task's metrics with a batch; arguments as of `measured`."""
        labels, weights = labels_and_weights(labels, row_weights)
        if self.own_metrics:
            outputs = outputs_for_metrics(self.task, logits, predictions)
            for metric in self.metrics:
                metric.update_state(labels, outputs, weights)
            if chain is not None:
                happened, _ = labels_and_weights(chain.labels, None)
                for metric in self.given_metrics:
                    metric.update_state(labels, chain.conditional, weights * happened)
            return
        for metric in self.metrics:
            update_given(metric, self.task, labels, logits, predictions, weights)


def _metric(owner: str, own: MetricOfRows) -> keras.metrics.Metric:
    name = f"{owner}_{own.name}"
    if own.function is None:
        return AUC(from_logits=True, name=name)
    return WeightedMean(own.function, name, own.root, own.better)


def debiased_loss(
    link: ESCM2, labels: Tensor, happened: Tensor, weights: Tensor, chain: ChainRows
) -> Tensor:
    """The loss of the conditional probability over all rows, a scalar; see `tfmoe.ESCM2`.

    Args:
        link: `ESCM2`.
        labels: `(b,)` without NaN, of the task.
        happened: `(b,)` without NaN, 1 where the task that it is given happened.
        weights: `(b,)`, 0 for rows of which either is not known.
        chain: `ChainRows`.
    """
    propensity = ops.stop_gradient(ops.maximum(ops.sigmoid(chain.parent), link.floor))
    odds = happened / propensity
    error = binary_cross_entropy(labels, chain.conditional)
    if chain.imputed is None:
        return masked_mean(odds * error, weights)
    expected = binary_cross_entropy(
        ops.stop_gradient(ops.sigmoid(chain.imputed)), chain.conditional
    )
    doubly_robust = expected + odds * (error - expected)
    fixed = ops.stop_gradient(chain.conditional)
    missed = ops.stop_gradient(error) - binary_cross_entropy(ops.sigmoid(chain.imputed), fixed)
    return masked_mean(doubly_robust + odds * ops.square(missed), weights)


def completed(schema: Schema, labels: dict[str, Any]) -> dict[str, Any]:
    """Labels by task in which what did not happen for want of what came before is 0.

    A task without any label stays so: what was never looked for is no evidence.

    Args:
        schema: `Schema`.
        labels: dict by task of arrays `(n,)`, NaN where missing.
    """
    found = dict(labels)
    for task in in_chain_order(schema.tasks):
        parent = parent_of(task, schema.tasks)
        if parent is not None and {task.name, parent.name} <= set(found):
            own, before = (np.asarray(found[name]) for name in (task.name, parent.name))
            missing = np.isnan(own.astype("float32"))
            if not missing.all():
                found[task.name] = np.where(missing & (before == 0), 0, own)
    return found


def sampling_weights(schema: Schema, labels: dict[str, Any], name: str) -> Tensor | None:
    """By how much rows count for a task where another's negative rows were sampled, or None."""
    weights = None
    for task in schema.tasks:
        if not isinstance(task, Binary) or task.negatives_kept == 1:
            continue
        if task.name != name and task.name in labels:
            kept = ops.where(_row(labels[task.name]) == 0, 1 / task.negatives_kept, 1.0)
            weights = kept if weights is None else weights * kept
    return weights


def _row(values: Any) -> Tensor:
    return ops.reshape(ops.cast(values, "float32"), (-1,))
