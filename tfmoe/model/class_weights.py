"""Weights by class, which Keras takes beside labels that are not a dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Regression
from tfmoe.validation import is_integer


def weighed_by_class(
    schema: Schema,
    class_weight: Any,
    x: Any,
    y: Any,
    sample_weight: Any,
    validation_split: float = 0.0,
) -> tuple[Any, Any]:
    """Features, or a dataset, and row weights in which those of the classes are multiplied.

    Args:
        schema: `Schema` with one task, `Binary` or `Multiclass`.
        class_weight: dict from class (by its place, as in the labels) to weight; those not named
            weigh 1. None changes nothing.
        x, y, sample_weight: what `fit` was given; `x` may be a `tf.data.Dataset`.
        validation_split: share of the rows, the last ones, that do not train.

    Raises:
        ValueError: if there are several tasks, or a regression; for a weight that is none; if
            labels cannot be reached beforehand, as those of a generator.
    """
    if class_weight is None:
        return x, sample_weight
    weights = _by_class(schema, class_weight)
    if hasattr(x, "element_spec"):
        return _weighed_dataset(x, weights), sample_weight
    if y is None:
        raise ValueError(
            "class_weight is multiplied into row weights before training, which takes rows whose "
            f"labels are there. Received x of type {type(x).__name__}. Pass a table, arrays or a "
            "tf.data.Dataset, or let the batches have weights of their own."
        )
    (name,) = schema.output_names
    labels = np.reshape(np.asarray(y[name] if isinstance(y, dict) else y, "float32"), (-1,))
    own = weights[np.nan_to_num(labels).astype(int)]
    own[int(np.floor(len(own) * (1 - validation_split))) :] = 1
    given = sample_weight
    if isinstance(given, dict):
        given = given.get(name)
    if given is not None:
        own = own * np.reshape(np.asarray(given, "float32"), (-1,))
    return x, {name: own} if isinstance(y, dict) else own


def _by_class(schema: Schema, class_weight: Any) -> np.ndarray:
    """The weight of each class, float32 `(c,)`."""
    if len(schema.tasks) > 1 or isinstance(schema.tasks[0], Regression):
        names = {task.name: type(task).__name__ for task in schema.tasks}
        raise ValueError(
            "class_weight weighs the classes of a model's one task, Binary or Multiclass. Received "
            f"class_weight={class_weight!r} with the tasks {names}. Weigh rows: name a column of "
            "weights as `Schema(weight_column=...)`, or pass `sample_weight` as a dict of arrays "
            "by task."
        )
    weights = np.ones(max(2, schema.tasks[0].num_outputs), "float32")
    if not isinstance(class_weight, Mapping) or not all(
        is_integer(place) and 0 <= place < len(weights) and 0 <= weight < np.inf
        for place, weight in class_weight.items()
    ):
        raise ValueError(
            "class_weight is a dict from class to weight, of the classes 0 to "
            f"{len(weights) - 1} and finite weights of at least 0. Received "
            f"class_weight={class_weight!r}. Classes that it leaves out weigh 1."
        )
    for place, weight in class_weight.items():
        weights[place] = weight
    return weights


def _weighed_dataset(dataset: Any, weights: np.ndarray) -> Any:
    """The dataset, each row's weight times that of its class."""
    import tensorflow as tf

    def weigh(*batch: Any) -> Any:
        x, y, given = keras.utils.unpack_x_y_sample_weight(batch)

        def of_rows(labels: Any, own: Any = 1.0) -> Any:
            labels = tf.cast(labels, tf.float32)
            classes = tf.cast(tf.where(tf.math.is_nan(labels), 0.0, labels), tf.int32)
            return tf.gather(tf.constant(weights), classes) * own

        if given is not None:
            return x, y, tf.nest.map_structure(of_rows, y, given)
        return x, y, tf.nest.map_structure(of_rows, y)

    return dataset.map(weigh)
