"""What a model is trained for and measured by: the losses and metrics of its tasks.

`JointLabels` is for rows that have the labels of all tasks, `TaskPerRow` for rows of one task
each. Both have the same methods.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmoe.compute.types import Tensor
from tfmoe.heads.values import imputed_name
from tfmoe.objectives.losses import labels_and_weights, over_weights
from tfmoe.objectives.objective import ChainRows, Objective, sampling_weights
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Task


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
        self._schema = schema
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
            found += objective.all_metrics
        return found

    def reported_loss(self) -> Tensor:
        """The loss of all rows that were tracked since the last reset, a scalar."""
        own = self._objectives.values()
        # A variable of TensorFlow's, which is what one is converted to, cannot be stacked.
        sums = ops.stack([objective.tracker.total * objective.weight for objective in own])
        counts = ops.stack([objective.tracker.count * 1.0 for objective in own])
        return ops.sum(over_weights(sums, counts))

    @property
    def sorted_aucs(self) -> list[str]:
        """Names of the predictions whose AUC `evaluate` takes from all scores."""
        tasks = [o.task for o in self._objectives.values() if o.own_metrics and o.task.served]
        binary = [task for task in tasks if isinstance(task, Binary)]
        return [name for task in binary for name in (task.name, *task.further_outputs)]

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
            loss, count = objective.measured(*row, tracks=tracks)
            found[objective.task.name] = objective.weight * loss, count
        losses, counts = zip(*found.values(), strict=True)
        return ops.stack(losses), ops.stack(counts)

    @property
    def trained(self) -> np.ndarray:
        """1 for tasks that have a weight in the loss, else 0, `(t,)`: those that count where losses
        are compared."""
        return np.array([o.weight > 0 for o in self._objectives.values()], "float32")

    def own_losses(
        self, labels: dict[str, Tensor], row_weights: Any, forward: Any, task: Tensor | None = None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Each task's own mean loss, not weighed, and its rows' weights added up; scalars.

        Args: as of `loss`.
        """
        rows = self._rows(labels, row_weights, forward)
        return {objective.task.name: objective.measured(*row) for objective, *row in rows}

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
        """For each task with labels: objective, and the arguments of its `measured`."""
        for name, objective in self._objectives.items():
            if name not in labels:
                continue
            own = row_weights.get(name) if isinstance(row_weights, dict) else row_weights
            sampled = sampling_weights(self._schema, labels, name)
            if sampled is not None:
                own = sampled if own is None else sampled * ops.reshape(own, (-1,))
            chain = self._chain(objective.task, labels, forward)
            pairwise = objective.loss is None and getattr(objective.task, "loss", "") == "pairwise"
            yield (
                objective,
                labels[name],
                own,
                forward.logits[name],
                forward.predictions[name],
                chain,
                forward.groups if pairwise else None,
            )

    def _chain(self, task: Task, labels: dict[str, Tensor], forward: Any) -> ChainRows | None:
        parent = self._schema.parent(task)
        if parent is None:
            return None
        logits = forward.logits
        before = labels.get(parent.name)
        if before is None:
            before = ops.full_like(logits[parent.name], float("nan"))
        (conditional,) = task.further_outputs
        return ChainRows(
            before, logits[parent.name], logits[conditional], logits.get(imputed_name(task))
        )
