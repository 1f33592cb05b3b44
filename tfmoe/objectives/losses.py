"""Losses and metrics of each kind of task, row by row."""

import inspect
from typing import NamedTuple

import keras
from keras import ops

from tfmoe.schema.tasks import Binary, Multiclass


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


def present(labels, row_weights):
    """Labels with the missing ones replaced, and their weights, both `(b,)`.

    A NaN label is missing: it is replaced and weighed 0, in the loss and in every metric,
    so that nothing of its row reaches either, nor a gradient.
    """
    labels = ops.reshape(ops.cast(labels, "float32"), (-1,))
    missing = ops.isnan(labels)
    weights = ops.cast(ops.logical_not(missing), "float32")
    if row_weights is not None:
        weights = weights * ops.reshape(ops.cast(row_weights, "float32"), (-1,))
    return ops.where(missing, ops.zeros_like(labels), labels), weights


class MetricOfRows(NamedTuple):
    """A metric that is a mean over rows, or the AUC, whose `function` is None.

    Attributes:
        name: str, what follows the task's name.
        function: maps labels and outputs to `(b,)`.
        root: bool; whether it is the square root of the mean.
    """

    name: str
    function: object
    root: bool = False


def own_metrics(task):
    """The `MetricOfRows` that a kind of task has by itself."""
    if isinstance(task, Binary):
        return [MetricOfRows("auc", None), MetricOfRows("log_loss", binary_cross_entropy)]
    if isinstance(task, Multiclass):
        return [MetricOfRows("accuracy", hit), MetricOfRows("log_loss", categorical_cross_entropy)]
    return [
        MetricOfRows("rmse", squared_error, root=True),
        MetricOfRows("mae", absolute_error),
    ]


def outputs_for_metrics(task, logits, predictions):
    """What the task's own metrics take."""
    return logits if isinstance(task, Binary | Multiclass) else predictions


def metric_of(task, metric):
    """A copy of a user's metric, or of one that Keras knows by name, named by the task."""
    if metric in ("accuracy", "acc"):
        kinds = {Binary: "BinaryAccuracy", Multiclass: "SparseCategoricalAccuracy"}
        metric = getattr(keras.metrics, kinds.get(type(task), "Accuracy"))("accuracy")
    metric = keras.metrics.get(metric)
    if not isinstance(metric, keras.metrics.Metric):
        return keras.metrics.MeanMetricWrapper(metric, f"{task.name}_{metric.__name__}")
    kind = type(metric)
    parameters = inspect.signature(kind).parameters.values()
    own = {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    own -= {"name", "dtype"}
    if own and kind.get_config is keras.metrics.Metric.get_config:
        raise ValueError(
            f"A metric is copied for its task, by its config. Received {metric!r}, whose class "
            f"takes {sorted(own)} and has no get_config of its own. Write one that returns them."
        )
    config = {**metric.get_config(), "name": f"{task.name}_{metric.name}"}
    return type(metric).from_config(config)


def takes_logits(given):
    """Whether a Keras loss or metric was made with `from_logits=True`."""
    config = given.get_config() if hasattr(given, "get_config") else {}
    return bool(config.get("from_logits"))


def update_given(metric, labels, logits, predictions, weights):
    """Updates a user's metric with rows, which Keras wants to have a last axis."""
    outputs = logits if takes_logits(metric) else predictions
    if len(outputs.shape) == 1:
        outputs = outputs[:, None]
    metric.update_state(labels[:, None], outputs, sample_weight=weights)


def row_losses(task, loss, labels, logits, predictions):
    """The loss of each row `(b,)`.

    Args:
        task: `Task`.
        loss: Keras loss or function, or None for the task's own.
        labels: `(b,)` without NaN.
        logits, predictions: `(b,)`, or `(b, c)` of a multiclass task.
    """
    if loss is not None:
        outputs = logits if takes_logits(loss) else predictions
        # Keras losses average over the last axis, so rows need one.
        if len(outputs.shape) == 1:
            outputs = outputs[:, None]
        function = getattr(loss, "call", loss)
        return ops.reshape(function(labels[:, None], outputs), (-1,))
    if isinstance(task, Binary):
        return binary_cross_entropy(labels, logits)
    if isinstance(task, Multiclass):
        return categorical_cross_entropy(labels, logits)
    return _REGRESSION[task.loss](labels, predictions)
