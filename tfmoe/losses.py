"""Each task's loss and metrics, over the rows that have its label."""

import keras
from keras import ops

from tfmoe.metrics import AUC, WeightedMean
from tfmoe.tasks import Binary, Multiclass


def binary_cross_entropy(labels, logits):
    """`-y log p - (1 - y) log(1 - p)` per row, from logits, without overflow."""
    return ops.maximum(logits, 0) - logits * labels + ops.log1p(ops.exp(-ops.abs(logits)))


def categorical_cross_entropy(labels, logits):
    """`-log p[y]` per row, from logits `(b, c)` and class indices `(b,)`."""
    chosen = ops.one_hot(ops.cast(labels, "int32"), logits.shape[-1], dtype=logits.dtype)
    return ops.logsumexp(logits, axis=-1) - ops.sum(logits * chosen, axis=-1)


def squared_error(labels, predictions):
    return ops.square(predictions - labels)


def absolute_error(labels, predictions):
    return ops.abs(predictions - labels)


def huber(labels, predictions):
    """Half the squared error up to an error of 1, then linear."""
    error = ops.abs(predictions - labels)
    return ops.where(error <= 1, 0.5 * ops.square(error), error - 0.5)


def hit(labels, logits):
    """1 where the most likely class is the label."""
    return ops.cast(ops.equal(ops.argmax(logits, axis=-1), ops.cast(labels, "int32")), "float32")


_REGRESSION = {"mse": squared_error, "mae": absolute_error, "huber": huber}


def masked_mean(values, weights):
    """`sum(weights * values) / sum(weights)`, and 0 where no weight is left."""
    total = ops.sum(weights)
    return ops.sum(weights * values) / ops.where(total > 0, total, ops.ones_like(total))


class Objective:
    """What one task asks for: its loss, the loss's weight, its metrics.

    A NaN label is missing: it is replaced and weighed 0, in the loss and in every
    metric, so that nothing of its row reaches either, nor a gradient.

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
            self.metrics = self._default_metrics()
        else:
            self.metrics = [self._named(metric) for metric in metrics]

    def _default_metrics(self):
        name = self.task.name
        if isinstance(self.task, Binary):
            log_loss = WeightedMean(binary_cross_entropy, f"{name}_log_loss")
            return [AUC(from_logits=True, name=f"{name}_auc"), log_loss]
        if isinstance(self.task, Multiclass):
            log_loss = WeightedMean(categorical_cross_entropy, f"{name}_log_loss")
            return [WeightedMean(hit, f"{name}_accuracy"), log_loss]
        return [
            WeightedMean(squared_error, f"{name}_rmse", root=True),
            WeightedMean(absolute_error, f"{name}_mae"),
        ]

    def _named(self, metric):
        """A copy of a user's metric, named by the task."""
        if metric in ("accuracy", "acc"):
            kinds = {Binary: "BinaryAccuracy", Multiclass: "SparseCategoricalAccuracy"}
            metric = getattr(keras.metrics, kinds.get(type(self.task), "Accuracy"))("accuracy")
        metric = keras.metrics.get(metric)
        if not isinstance(metric, keras.metrics.Metric):
            metric = keras.metrics.MeanMetricWrapper(metric, metric.__name__)
        config = {**metric.get_config(), "name": f"{self.task.name}_{metric.name}"}
        return type(metric).from_config(config)

    def present(self, labels, row_weights):
        """Labels with the missing ones replaced, and their weights, both `(b,)`."""
        labels = ops.reshape(ops.cast(labels, "float32"), (-1,))
        missing = ops.isnan(labels)
        weights = ops.cast(ops.logical_not(missing), "float32")
        if row_weights is not None:
            weights = weights * ops.reshape(ops.cast(row_weights, "float32"), (-1,))
        return ops.where(missing, ops.zeros_like(labels), labels), weights

    def rows(self, labels, logits, predictions):
        """The loss of each row `(b,)`; labels without NaN."""
        if self.loss is not None:
            # Keras losses average over the last axis, so rows need one.
            if len(predictions.shape) == 1:
                predictions = predictions[:, None]
            function = getattr(self.loss, "call", self.loss)
            return ops.reshape(function(labels[:, None], predictions), (-1,))
        if isinstance(self.task, Binary):
            return binary_cross_entropy(labels, logits)
        if isinstance(self.task, Multiclass):
            return categorical_cross_entropy(labels, logits)
        return _REGRESSION[self.task.loss](labels, predictions)

    def compute(self, labels, row_weights, logits, predictions):
        """The task's loss over the batch, a scalar, not yet times its weight."""
        labels, weights = self.present(labels, row_weights)
        loss = masked_mean(self.rows(labels, logits, predictions), weights)
        self.tracker.update_state(None, loss, ops.sum(weights))
        return loss

    def update_metrics(self, labels, row_weights, logits, predictions):
        labels, weights = self.present(labels, row_weights)
        if self.own_metrics:
            outputs = logits if isinstance(self.task, Binary | Multiclass) else predictions
            for metric in self.metrics:
                metric.update_state(labels, outputs, weights)
            return
        if len(predictions.shape) == 1:
            predictions = predictions[:, None]
        for metric in self.metrics:
            metric.update_state(labels[:, None], predictions, sample_weight=weights)
