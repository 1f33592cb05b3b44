"""What a model is trained for and measured by: the losses and metrics of its tasks.

`JointLabels` is for rows that have the labels of all tasks, `TaskPerRow` for rows of one task
each. Both have the same methods.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from tfmoe.compute.types import Tensor
from tfmoe.objectives.losses import (
    MetricOfRows,
    labels_and_weights,
    masked_mean,
    metric_of,
    outputs_for_metrics,
    own_metrics,
    row_losses,
    standardized,
    update_given,
)
from tfmoe.objectives.metrics import AUC, WeightedMean
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Task


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
        if metrics is None:
            self.metrics = [self._metric(own) for own in own_metrics(task)]
        else:
            self.metrics = [metric_of(task, metric) for metric in metrics]

    def _metric(self, own: MetricOfRows) -> keras.metrics.Metric:
        name = f"{self.task.name}_{own.name}"
        if own.function is None:
            return AUC(from_logits=True, name=name)
        return WeightedMean(own.function, name, own.root, own.better)

    def compute(
        self,
        labels: Tensor,
        row_weights: Tensor | None,
        logits: Tensor,
        predictions: Tensor,
        tracks: bool = True,
    ) -> Tensor:
        """The task's mean loss over the batch's rows with a label, a scalar.

        Args:
            labels: `(b,)`, NaN where missing.
            row_weights: `(b,)`, or None.
            logits, predictions: `(b,)`, or `(b, c)` of a multiclass task.
            tracks: bool; whether the loss counts for what is reported.
        """
        labels = standardized(labels, *self.moments)
        labels, weights = labels_and_weights(labels, row_weights)
        losses = row_losses(self.task, self.loss, labels, logits, predictions)
        loss = masked_mean(losses, weights)
        if tracks:
            self.tracker.update_state(None, loss, ops.sum(weights))
        return loss

    def update_metrics(
        self, labels: Tensor, row_weights: Tensor | None, logits: Tensor, predictions: Tensor
    ) -> None:
        """Updates the task's metrics with a batch; arguments as of `compute`."""
        labels, weights = labels_and_weights(labels, row_weights)
        if self.own_metrics:
            outputs = outputs_for_metrics(self.task, logits, predictions)
            for metric in self.metrics:
                metric.update_state(labels, outputs, weights)
            return
        for metric in self.metrics:
            update_given(metric, labels, logits, predictions, weights)


class JointLabels:
    """Every row has the labels of all tasks, as far as they are not missing.

    The loss is the sum over tasks of weight times mean loss over the rows with the label.

    Args:
        schema: `Schema` without a task column.
        losses, weights, metrics: dicts by task of what replaces the tasks' own.
        moments: dict by task of what a loss's labels are standardised by; see
            `tfmoe.heads.outputs.Outputs`.
    """

    def __init__(
        self,
        schema: Schema,
        losses: dict[str, Any],
        weights: dict[str, float],
        metrics: dict[str, list[Any]],
        moments: dict[str, tuple[float, float]] | None = None,
    ) -> None:
        moments = moments or {}
        self.tasks = schema.tasks
        self._objectives = {
            task.name: Objective(
                task,
                losses.get(task.name),
                weights.get(task.name),
                metrics.get(task.name),
                moments.get(task.name, (0.0, 1.0)),
            )
            for task in schema.tasks
        }

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """All metrics, the losses' means among them."""
        found: list[keras.metrics.Metric] = []
        for objective in self._objectives.values():
            found += [objective.tracker, *objective.metrics]
        return found

    @property
    def sorted_aucs(self) -> list[str]:
        """Names of the tasks whose AUC `evaluate` takes from all scores."""
        objectives = self._objectives.values()
        return [o.task.name for o in objectives if o.own_metrics and isinstance(o.task, Binary)]

    def loss(
        self, labels: dict[str, Tensor], row_weights: Any, forward: Any, task: Tensor | None = None
    ) -> Tensor:
        """The loss of a batch, a scalar.

        Args:
            labels: dict by output of `(b,)`, NaN where missing.
            row_weights: None, `(b,)`, or a dict like `labels`.
            forward: `ForwardOutput`.
            task: int `(b,)`, each row's task, or None where rows have all labels.
        """
        total = 0.0
        for objective, *row in self._rows(labels, row_weights, forward):
            total = total + objective.weight * objective.compute(*row)
        return total

    def losses(
        self,
        labels: dict[str, Tensor],
        row_weights: Any,
        forward: Any,
        task: Tensor | None = None,
        tracks: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """The loss of each task times its weight, and its rows' weights added up, both `(t,)`.

        Args:
            labels, row_weights, forward, task: as of `loss`.
            tracks: bool; whether the losses count for what is reported.
        """
        none = ops.zeros((), "float32")
        found = dict.fromkeys(self._objectives, (none, none))
        for objective, *row in self._rows(labels, row_weights, forward):
            loss = objective.weight * objective.compute(*row, tracks=tracks)
            count = ops.sum(labels_and_weights(row[0], row[1])[1])
            found[objective.task.name] = loss, count
        losses, counts = zip(*found.values(), strict=True)
        return ops.stack(losses), ops.stack(counts)

    def update_metrics(
        self, labels: dict[str, Tensor], row_weights: Any, forward: Any, task: Tensor | None = None
    ) -> None:
        """Updates all metrics with a batch; arguments as of `loss`."""
        for objective, *row in self._rows(labels, row_weights, forward):
            objective.update_metrics(*row)

    def with_label(self, labels: dict[str, Tensor]) -> Tensor:
        """Which rows have which labels: float `(b, t)`."""
        some = ops.reshape(next(iter(labels.values())), (-1,))
        masks = [
            labels_and_weights(labels[task.name], None)[1]
            if task.name in labels
            else ops.zeros(ops.shape(some), "float32")
            for task in self.tasks
        ]
        return ops.stack(masks, axis=1)

    def _rows(
        self, labels: dict[str, Tensor], row_weights: Any, forward: Any
    ) -> Iterator[tuple[Any, ...]]:
        """For each task with labels: objective, labels, row weights, logits, predictions."""
        for name, objective in self._objectives.items():
            if name in labels:
                own = row_weights.get(name) if isinstance(row_weights, dict) else row_weights
                yield objective, labels[name], own, forward.logits[name], forward.predictions[name]
