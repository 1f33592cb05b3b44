"""Losses and metrics of each kind of task, row by row."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import keras
from keras import ops

from tfmoe.compute.replicas import rows_of_replicas, sum_over_replicas
from tfmoe.compute.types import Tensor
from tfmoe.heads.values import lognormal_sigma, regression_value
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


def focal(labels: Tensor, logits: Tensor, gamma: float, alpha: float) -> Tensor:
    """The focal loss of each row `(b,)`, from logits; see `tfmoe.Binary`."""
    positive, negative = ops.softplus(-logits), ops.softplus(logits)  # -log p, -log(1 - p)
    missed = alpha * ops.exp(-gamma * negative) * positive
    alarm = (1 - alpha) * ops.exp(-gamma * positive) * negative
    return labels * missed + (1 - labels) * alarm


def pinball(labels: Tensor, predictions: Tensor, quantile: float) -> Tensor:
    """`max(q e, (q - 1) e)` with `e = label - prediction`, of each row `(b,)`."""
    error = labels - predictions
    return ops.maximum(quantile * error, (quantile - 1) * error)


def poisson(labels: Tensor, logits: Tensor) -> Tensor:
    """`exp(z) - y z` of each row `(b,)`, from the logarithm `z` of the mean."""
    return ops.exp(logits) - labels * logits


def pairwise_logistic(
    labels: Tensor, logits: Tensor, weights: Tensor, groups: Tensor
) -> tuple[Tensor, Tensor]:
    """The mean of `log(1 + exp(z_j - z_i))` over pairs of one group, `i` positive and `j` not.

    Args:
        labels, logits, weights: `(b,)`; a pair counts by the product of its rows' weights.
        groups: int `(b,)`, negative for rows of none.

    Returns:
        The mean, 0 without pairs, and the sum of the pairs' weights; scalars.
    """
    # A group may have rows on several replicas, each of which then makes all pairs.
    labels, logits, weights, groups = map(rows_of_replicas, (labels, logits, weights, groups))
    together = ops.equal(groups[:, None], groups[None]) & (groups >= 0)[:, None]
    better = together & (labels[:, None] > labels[None])
    pairs = ops.cast(better, "float32") * weights[:, None] * weights[None]
    return mean_and_weight(ops.softplus(logits[None] - logits[:, None]), pairs)


def zero_inflated_lognormal(labels: Tensor, logits: Tensor) -> Tensor:
    """The negative log likelihood of each row `(b,)`, from logits `(b, 3)`.

    BCE(1[y > 0], p) + 1[y > 0] (log(y sigma sqrt(2 pi)) + (log y - mu)^2 / (2 sigma^2))
    """
    some = ops.cast(labels > 0, "float32")
    sigma = lognormal_sigma(logits)
    log = ops.log(ops.where(labels > 0, labels, ops.ones_like(labels)))
    density = log + ops.log(sigma) + 0.5 * math.log(2 * math.pi)
    density = density + ops.square((log - logits[:, 1]) / sigma) / 2
    return binary_cross_entropy(some, logits[:, 0]) + some * density


_REGRESSION: dict[str, Callable[..., Tensor]] = {
    "mse": squared_error,
    "mae": absolute_error,
    "huber": huber,
    "poisson": poisson,
    "lognormal": zero_inflated_lognormal,
}


def masked_mean(values: Tensor, weights: Tensor) -> Tensor:
    """`sum(weights * values) / sum(weights)` over the rows of all replicas, 0 without weight."""
    return mean_and_weight(values, weights)[0]


def mean_and_weight(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """`masked_mean`, and the sum of the weights; scalars, the same on all replicas."""
    # Of a row that does not count the loss may be infinite.
    weighed = ops.where(weights != 0, weights * values, ops.zeros_like(values))
    sums = ops.stack([ops.sum(weighed), ops.sum(weights)])
    weighed, total = ops.unstack(sum_over_replicas(sums), 2)
    return over_weights(weighed, total), total


def over_weights(sums: Tensor, weights: Tensor) -> Tensor:
    """`sums / weights`, and 0 where there is no weight."""
    return sums / ops.where(weights > 0, weights, ops.ones_like(weights))


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


def outputs_for_metrics(
    task: Task, logits: Tensor, predictions: Tensor, shift: Any = None
) -> Tensor:
    """What the task's own metrics take.

    Args:
        task: `Task`.
        logits, predictions: as of `row_losses`.
        shift: what weighed positives have added to the logits of a binary task, of each row; None
            for `weighing_shift` of the task.
    """
    if isinstance(task, Binary):
        return own_logits(task, logits) - (weighing_shift(task) if shift is None else shift)
    return own_logits(task, logits) if isinstance(task, Multiclass) else predictions


def weighing_shift(task: Task) -> float:
    """What `positive_weight` adds to the logit that a task learns."""
    return math.log(task.positive_weight) if isinstance(task, Binary) else 0.0


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
    if "negatives_kept" in config and isinstance(task, Binary) and not takes_logits(metric):
        config["negatives_kept"] *= task.negatives_kept
    return type(metric).from_config(config)


def takes_logits(given: Any) -> bool:
    """Whether a Keras loss or metric was made with `from_logits=True`."""
    config = given.get_config() if hasattr(given, "get_config") else {}
    return bool(config.get("from_logits"))


def update_given(
    metric: keras.metrics.Metric,
    task: Task,
    labels: Tensor,
    logits: Tensor,
    predictions: Tensor,
    weights: Tensor,
) -> None:
    """Updates a user's metric with rows, which Keras wants to have a last axis."""
    outputs = predictions
    if takes_logits(metric):
        outputs = own_logits(task, logits) - weighing_shift(task)
    if len(outputs.shape) == 1:
        outputs = outputs[:, None]
    metric.update_state(labels[:, None], outputs, sample_weight=weights)


def row_losses(
    task: Task,
    loss: Any,
    labels: Tensor,
    logits: Tensor,
    predictions: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """The loss of each row `(b,)`; anything where its weight is 0, without a gradient.

    Args:
        task: `Task`.
        loss: Keras loss or function, or None for the task's own.
        labels: `(b,)` without NaN; standardised of a regression.
        logits, predictions: `(b,)`, or `(b, n)` of a task with several.
        weights: `(b,)`, or None if all count.

    Raises:
        ValueError: if `loss` does not make a number for each row.
    """
    logits = own_logits(task, logits)
    if isinstance(task, Regression):
        predictions = regression_value(task, logits)  # standardised as the labels are
    elif isinstance(task, Binary):
        predictions = ops.sigmoid(logits)  # of the rows as they are, sampled or not
    if loss is not None:
        outputs = logits if takes_logits(loss) else predictions
        # Keras losses average over the last axis, so rows need one.
        if len(outputs.shape) == 1:
            outputs = outputs[:, None]
        # What stands for a missing label may be none that the loss can take.
        if weights is not None:
            outputs = ops.where(weights[:, None] != 0, outputs, ops.stop_gradient(outputs))
        function = getattr(loss, "call", loss)
        losses = function(labels[:, None], outputs)
        if len(losses.shape) == 0:
            raise ValueError(
                "A loss in `compile` makes a number for each row, of labels (b, 1) and outputs "
                "(b, n), so that rows may be weighed and labels missing. Received "
                f"{getattr(loss, 'name', loss)!r} for task {task.name!r}, which made one of the "
                "whole batch. Average over the last axis alone, axis=-1."
            )
        return _weighing_positives(task, ops.reshape(losses, (-1,)), labels)
    if isinstance(task, Binary):
        return _binary(task, labels, logits)
    if isinstance(task, Multiclass):
        return categorical_cross_entropy(labels, logits)
    regression = cast(Regression, task)
    if regression.loss == "quantile":
        return pinball(labels, logits, regression.quantile)
    return _REGRESSION[regression.loss](labels, logits)


def _binary(task: Binary, labels: Tensor, logits: Tensor) -> Tensor:
    soft = labels
    if task.label_smoothing:
        soft = (1 - task.label_smoothing) * labels + task.label_smoothing / 2
    if task.loss == "pairwise":
        raise ValueError(
            "A pairwise loss compares rows of one group. Received a batch without the groups' "
            "codes. Name their column, Schema(group=...), and fit "
            "`preprocessor.dataset(rows, keep_groups=True)`."
        )
    if task.loss == "focal":
        losses = focal(soft, logits, task.gamma, task.alpha)
    else:
        losses = binary_cross_entropy(soft, logits)
    return _weighing_positives(task, losses, labels)


def _weighing_positives(task, losses, labels):
    if not isinstance(task, Binary) or task.positive_weight == 1:
        return losses
    return losses * (1 + (task.positive_weight - 1) * labels)


def own_logits(task: Task, logits: Tensor) -> Tensor:
    """A task's logits `(b,)` or `(b, n)`, also among those of tasks that have more of them."""
    if task.num_logits == 1 and len(logits.shape) > 1:
        return logits[:, 0]
    return logits


def loss_kind(task: Task) -> tuple[Any, ...]:
    """What two tasks have alike whose losses are computed in one."""
    if isinstance(task, Binary):
        own = (task.loss, task.gamma, task.alpha, task.label_smoothing, task.positive_weight)
        return (Binary, *own)
    if isinstance(task, Regression):
        return Regression, task.loss, task.quantile
    return (type(task),)
