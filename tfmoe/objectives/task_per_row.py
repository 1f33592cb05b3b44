"""Losses and metrics where each row has the label of its own task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmoe.compute.replicas import sum_over_replicas
from tfmoe.compute.types import Tensor
from tfmoe.objectives.losses import (
    labels_and_weights,
    loss_kind,
    masked_mean,
    mean_and_weight,
    metric_of,
    outputs_for_metrics,
    over_weights,
    own_metrics,
    row_losses,
    standardized,
    update_given,
    weighing_shift,
)
from tfmoe.objectives.metrics import AUCByTask, MeanByTask
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Task


class TaskPerRow:
    """Each row has the label of its own task, `score`.

    The loss is the mean over the rows with a label of the row's loss times its task's
    weight: a task counts by its share of the rows. All tasks with one kind of loss are
    computed together. Losses and metrics are reported by task, as means over its own rows.

    Args:
        schema: `Schema` with a task column.
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
        pairs = [moments.get(task.name, (0.0, 1.0)) for task in schema.tasks]
        self._means, self._stds = np.array(pairs, "float32").T
        self._weights = np.array([weights.get(t.name, t.weight) for t in schema.tasks], "float32")
        self._shifts = np.array([weighing_shift(task) for task in schema.tasks], "float32")
        groups: dict[Any, tuple[Task, Any, list[int]]] = {}
        for index, task in enumerate(schema.tasks):
            loss = losses.get(task.name)
            loss = None if loss is None else keras.losses.get(loss)
            kind = loss_kind(task) if loss is None else index
            groups.setdefault(kind, (task, loss, []))[2].append(index)
        self._groups = [(*group, self._members(group[2])) for group in groups.values()]
        names = [task.name for task in schema.tasks]
        self.tracker = MeanByTask(None, [f"{name}_loss" for name in names], range(len(names)))
        self.sorted_aucs: list[str] = []
        self._own: list[tuple[keras.metrics.Metric, Task]] = []
        self._given: list[tuple[keras.metrics.Metric, int]] = []
        self._make_metrics(metrics)

    def _members(self, indices: Sequence[int]) -> np.ndarray:
        """Which of the tasks are meant: bool `(t,)`."""
        members = np.zeros(len(self.tasks), bool)
        members[indices] = True
        return members

    def _make_metrics(self, given: dict[str, Any]) -> None:
        kinds: dict[tuple[type[Task], Any], list[int]] = {}
        for index, task in enumerate(self.tasks):
            if given.get(task.name) is not None:
                ours = [metric_of(task, metric) for metric in given[task.name]]
                self._given += [(metric, index) for metric in ours]
                continue
            if isinstance(task, Binary):
                self.sorted_aucs.append(task.name)
            for own in own_metrics(task):
                kinds.setdefault((type(task), own), []).append(index)
        for (_, own), indices in kinds.items():
            names = [f"{self.tasks[index].name}_{own.name}" for index in indices]
            metric: keras.metrics.Metric
            if own.function is None:
                metric = AUCByTask(names, indices)
            else:
                metric = MeanByTask(own.function, names, indices, own.root, own.better)
            self._own.append((metric, self.tasks[indices[0]]))

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """All metrics, the losses' means among them."""
        own = [metric for metric, _ in (*self._own, *self._given)]
        return [self.tracker, *own]

    def reported_loss(self) -> Tensor:
        """See `JointLabels.reported_loss`; a task counts by its share of the rows."""
        sums, counts = map(ops.convert_to_tensor, (self.tracker.total, self.tracker.weight))
        return over_weights(ops.sum(sums * ops.array(self._weights)), ops.sum(counts))

    def loss(
        self, labels: dict[str, Tensor], row_weights: Any, forward: Any, task: Tensor | None = None
    ) -> Tensor:
        """See `JointLabels.loss`."""
        losses, weights = self._row_losses(labels, row_weights, forward, task)
        return masked_mean(losses * ops.take(ops.array(self._weights), task), weights)

    def losses(
        self,
        labels: dict[str, Tensor],
        row_weights: Any,
        forward: Any,
        task: Tensor | None = None,
        tracks: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """See `JointLabels.losses`; a task's loss is the mean over its own rows."""
        losses, weights = self._row_losses(labels, row_weights, forward, task, tracks)
        num = len(self.tasks)
        own = [ops.segment_sum(values, task, num) for values in (losses * weights, weights)]
        sums, counts = ops.unstack(sum_over_replicas(ops.stack(own)), 2)
        return over_weights(sums, counts) * ops.array(self._weights), counts

    @property
    def trained(self) -> np.ndarray:
        """See `JointLabels.trained`."""
        return (self._weights > 0).astype("float32")

    def own_losses(
        self, labels: dict[str, Tensor], row_weights: Any, forward: Any, task: Tensor | None = None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """See `JointLabels.own_losses`."""
        losses, weights = self._row_losses(labels, row_weights, forward, task)
        own = [weights * ops.cast(task == index, "float32") for index in range(len(self.tasks))]
        return {
            one.name: mean_and_weight(losses, rows)
            for one, rows in zip(self.tasks, own, strict=True)
        }

    def _row_losses(
        self, labels: Any, row_weights: Any, forward: Any, task: Any, tracks: bool = True
    ) -> tuple[Tensor, Tensor]:
        """The losses of rows, and the rows' weights, both `(b,)`."""
        mean, std = (ops.take(ops.array(one), task) for one in (self._means, self._stds))
        labels = {"score": standardized(labels["score"], mean, std)}
        labels, weights, logits, predictions = self._row(labels, row_weights, forward)
        losses = ops.zeros_like(labels)
        for example, loss, _, members in self._groups:
            mine = ops.take(ops.array(members), task)
            # Rows of other tasks are replaced before too: no gradient of theirs may be NaN.
            own = row_losses(
                example,
                loss,
                _where(mine, labels, 0.0),
                _where(mine, logits, 0.0),
                _where(mine, predictions, 0.5),
                _where(mine, weights, 0.0),
            )
            losses = ops.where(mine, own, losses)
        # Of a row that does not count the loss may be infinite.
        losses = ops.where(weights != 0, losses, ops.zeros_like(losses))
        if tracks:
            self.tracker.update_state(losses, None, weights, task)
        return losses, weights

    def update_metrics(
        self, labels: dict[str, Tensor], row_weights: Any, forward: Any, task: Tensor | None = None
    ) -> None:
        """See `JointLabels.update_metrics`."""
        labels, weights, logits, predictions = self._row(labels, row_weights, forward)
        shift = ops.take(ops.array(self._shifts), task)
        for metric, example in self._own:
            outputs = outputs_for_metrics(example, logits, predictions, shift)
            metric.update_state(labels, outputs, weights, task)
        for metric, index in self._given:
            own = weights * ops.cast(task == index, "float32")
            update_given(metric, self.tasks[index], labels, logits, predictions, own)

    def with_label(self, labels: dict[str, Tensor]) -> Tensor:
        """Which rows have their label: float `(b,)`."""
        return labels_and_weights(labels["score"], None)[1]

    def _row(
        self, labels: Any, row_weights: Any, forward: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if isinstance(row_weights, dict):
            row_weights = row_weights.get("score")
        labels, weights = labels_and_weights(labels["score"], row_weights)
        return labels, weights, forward.logits["score"], forward.predictions["score"]


def _where(mine: Tensor, values: Tensor, other: float) -> Tensor:
    """`values` of the rows that are `mine`, `other` elsewhere."""
    if len(values.shape) > 1:
        mine = mine[:, None]
    return ops.where(mine, values, ops.full_like(values, other))
