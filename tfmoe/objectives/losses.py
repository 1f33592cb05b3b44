"""Losses and metrics of each kind of task, row by row."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import keras
from keras import ops

from tfmoe.compute.types import Tensor
from tfmoe.schema.tasks import Binary, Multiclass, Regression, Task


def binary_cross_entropy(labels: Tensor, logits: Tensor) -> Tensor:
    """`-y log p - (1 - y) log(1 - p)` of each row `(b,)`, from logits."""
    return ops.binary_crossentropy(labels, logits, from_logits=True)


def categorical_cross_entropy(labels: Tensor, logits: Tensor) -> Tensor:
    """`-log p[y]` of each row `(b,)`, from logits `(b, c)` and class indices `(b,)`."""
    classes = ops.cast(labels, "int32")
    return ops.sparse_categorical_crossentropy(classes, logits, from_logits=True)


def squared_error(labels: Tensor, predictions: Tensor) -> Tensor:
    """Of each row `(b,)`."""
    return ops.square(predictions - labels)


def absolute_error(labels: Tensor, predictions: Tensor) -> Tensor:
    """Of each row `(b,)`."""
    return ops.abs(predictions - labels)


def huber(labels: Tensor, predictions: Tensor) -> Tensor:
    """Half the squared error up to an error of 1, then linear; of each row `(b,)`."""
    # Keras averages over the last axis.
    return keras.losses.huber(labels[:, None], predictions[:, None])


def hit(labels: Tensor, logits: Tensor) -> Tensor:
    """1 where the most likely class is the label, else 0; of each row `(b,)`."""
    return ops.cast(ops.equal(ops.argmax(logits, axis=-1), ops.cast(labels, "int32")), "float32")


_REGRESSION = {"mse": squared_error, "mae": absolute_error, "huber": huber}


def masked_mean(values: Tensor, weights: Tensor) -> Tensor:
    """`sum(weights * values) / sum(weights)`, and 0 where no weight is left."""
    total = ops.sum(weights)
    return ops.sum(weights * values) / ops.where(total > 0, total, ops.ones_like(total))


def labels_and_weights(labels: Tensor, row_weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Labels with the missing ones replaced, and their rows' weights, both `(b,)`.

    A NaN label is missing: it is replaced and weighed 0, in the loss and in every metric,
    so that nothing of its row reaches either, nor a gradient.
    """
    labels = ops.reshape(ops.cast(labels, "float32"), (-1,))
    missing = ops.isnan(labels)
    weights = ops.cast(ops.logical_not(missing), "float32")
    if row_weights is not None:
        weights = weights * ops.reshape(ops.cast(row_weights, "float32"), (-1,))
    return ops.where(missing, ops.zeros_like(labels), labels), weights


def standardized(labels: Tensor, mean: Any, std: Any) -> Tensor:
    """`(labels - mean) / std`, `(b,)`; NaN, which is missing, stays."""
    return (ops.reshape(ops.cast(labels, "float32"), (-1,)) - mean) / std


class MetricOfRows(NamedTuple):
    """A metric that is a mean over rows, or the AUC, whose `function` is None.

    Attributes:
        name: str, what follows the task's name.
        function: maps labels and outputs to `(b,)`.
        root: bool; whether it is the square root of the mean.
        better: `"up"` where more of it is better.
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor] | None
    root: bool = False
    better: Literal["up", "down"] = "down"


def own_metrics(task: Task) -> list[MetricOfRows]:
    """The `MetricOfRows` that a kind of task has by itself."""
    if isinstance(task, Binary):
        return [
            MetricOfRows("auc", None, better="up"),
            MetricOfRows("log_loss", binary_cross_entropy),
        ]
    if isinstance(task, Multiclass):
        return [
            MetricOfRows("accuracy", hit, better="up"),
            MetricOfRows("log_loss", categorical_cross_entropy),
        ]
    return [
        MetricOfRows("rmse", squared_error, root=True),
        MetricOfRows("mae", absolute_error),
    ]


def outputs_for_metrics(task: Task, logits: Tensor, predictions: Tensor) -> Tensor:
    """What the task's own metrics take."""
    return logits if isinstance(task, Binary | Multiclass) else predictions


def metric_of(task: Task, metric: Any) -> keras.metrics.Metric:
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


def takes_logits(given: Any) -> bool:
    """Whether a Keras loss or metric was made with `from_logits=True`."""
    config = given.get_config() if hasattr(given, "get_config") else {}
    return bool(config.get("from_logits"))


def update_given(
    metric: keras.metrics.Metric,
    labels: Tensor,
    logits: Tensor,
    predictions: Tensor,
    weights: Tensor,
) -> None:
    """Updates a user's metric with rows, which Keras wants to have a last axis."""
    outputs = logits if takes_logits(metric) else predictions
    if len(outputs.shape) == 1:
        outputs = outputs[:, None]
    metric.update_state(labels[:, None], outputs, sample_weight=weights)


def row_losses(
    task: Task, loss: Any, labels: Tensor, logits: Tensor, predictions: Tensor
) -> Tensor:
    """The loss of each row `(b,)`.

    Args:
        task: `Task`.
        loss: Keras loss or function, or None for the task's own.
        labels: `(b,)` without NaN; standardised of a regression.
        logits, predictions: `(b,)`, or `(b, c)` of a multiclass task.
    """
    if isinstance(task, Regression):
        predictions = logits  # standardised as the labels are
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
    return _REGRESSION[cast(Regression, task).loss](labels, predictions)
