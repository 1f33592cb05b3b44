"""What a model is trained for and measured by: the losses and metrics of its tasks.

`AllLabels` is for rows that have the labels of all tasks, `OwnLabel` for rows of one task
each. Both have the same methods.
"""

import keras
from keras import ops

from tfmoe.objectives.losses import (
    masked_mean,
    metric_of,
    outputs_for_metrics,
    own_metrics,
    present,
    row_losses,
    update_given,
)
from tfmoe.objectives.metrics import AUC, WeightedMean
from tfmoe.schema.tasks import Binary


class Objective:
    """What one task asks for: its loss, the loss's weight, its metrics.

    Args:
        task: `Task` of the schema.
        loss: Keras loss, its name, or None for the task's own.
        weight: float, or None for the task's own.
        metrics: list of Keras metrics or their names, or None for the task's own.
    """

    def __init__(self, task, loss=None, weight=None, metrics=None):
        self.task = task
        self.weight = float(task.weight if weight is None else weight)
        self.loss = None if loss is None else keras.losses.get(loss)
        self.tracker = WeightedMean(lambda _, loss: loss, f"{task.name}_loss")
        self.own_metrics = metrics is None
        if self.own_metrics:
            self.metrics = [self._metric(own) for own in own_metrics(task)]
        else:
            self.metrics = [metric_of(task, metric) for metric in metrics]

    def _metric(self, own):
        name = f"{self.task.name}_{own.name}"
        if own.function is None:
            return AUC(from_logits=True, name=name)
        return WeightedMean(own.function, name, own.root)

    def compute(self, labels, row_weights, logits, predictions):
        """The task's loss over the batch, a scalar, not yet times its weight."""
        labels, weights = present(labels, row_weights)
        losses = row_losses(self.task, self.loss, labels, logits, predictions)
        loss = masked_mean(losses, weights)
        self.tracker.update_state(None, loss, ops.sum(weights))
        return loss

    def update_metrics(self, labels, row_weights, logits, predictions):
        labels, weights = present(labels, row_weights)
        if self.own_metrics:
            outputs = outputs_for_metrics(self.task, logits, predictions)
            for metric in self.metrics:
                metric.update_state(labels, outputs, weights)
            return
        for metric in self.metrics:
            update_given(metric, labels, logits, predictions, weights)


class AllLabels:
    """Every row has the labels of all tasks, as far as they are not missing.

    The loss is the sum over tasks of weight times mean loss over the rows with the label.

    Args:
        schema: `Schema` without a task column.
        losses, weights, metrics: dicts by task of what replaces the tasks' own.
    """

    def __init__(self, schema, losses, weights, metrics):
        self.tasks = schema.tasks
        self._objectives = {
            task.name: Objective(
                task, losses.get(task.name), weights.get(task.name), metrics.get(task.name)
            )
            for task in schema.tasks
        }

    @property
    def metrics(self):
        found = []
        for objective in self._objectives.values():
            found += [objective.tracker, *objective.metrics]
        return found

    @property
    def sorted_aucs(self):
        """Names of the tasks whose AUC `evaluate` takes from all scores."""
        objectives = self._objectives.values()
        return [o.task.name for o in objectives if o.own_metrics and isinstance(o.task, Binary)]

    def loss(self, labels, row_weights, forward, task=None):
        """The loss of a batch, a scalar.

        Args:
            labels: dict by output of `(b,)`, NaN where missing.
            row_weights: None, `(b,)`, or a dict like `labels`.
            forward: `Forward`.
            task: int `(b,)`, each row's task, or None where rows have all labels.
        """
        total = 0.0
        for objective, *row in self._rows(labels, row_weights, forward):
            total = total + objective.weight * objective.compute(*row)
        return total

    def update_metrics(self, labels, row_weights, forward, task=None):
        for objective, *row in self._rows(labels, row_weights, forward):
            objective.update_metrics(*row)

    def with_label(self, labels):
        """Which rows have which labels: float `(b, t)`."""
        some = ops.reshape(next(iter(labels.values())), (-1,))
        marks = [
            present(labels[task.name], None)[1]
            if task.name in labels
            else ops.zeros(ops.shape(some), "float32")
            for task in self.tasks
        ]
        return ops.stack(marks, axis=1)

    def _rows(self, labels, row_weights, forward):
        """For each task with labels: objective, labels, row weights, logits, predictions."""
        for name, objective in self._objectives.items():
            if name in labels:
                own = row_weights.get(name) if isinstance(row_weights, dict) else row_weights
                yield objective, labels[name], own, forward.logits[name], forward.predictions[name]
