"""A training step with a backward pass for each task's loss, on every backend.

Keras's own step has one loss and one backward pass. Here the losses of the tasks, and beside them
the sum of all other losses, go back one after the other through the one forward pass; what comes
to each variable is combined (`compute/by_parameter.py`) before the optimizer sees it.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfmoe.compute.by_parameter import combined
from tfmoe.compute.shared import Combination
from tfmoe.compute.types import Tensor


def separate_step(model: Any, combination: Combination, *args: Any) -> Any:
    """A training step in place of Keras's.

    Args:
        model: compiled `MultiTaskModel`, in a step (`in_step`).
        combination: `Combination` with `by_parameter`, of this step.
        *args: the step's arguments, see `Trainable.train_step`.
    """
    *state, data = args
    batch = keras.utils.unpack_x_y_sample_weight(data)
    if keras.backend.backend() == "jax":
        return _on_jax(model, combination, state[0], *batch)
    of_backend = _on_tensorflow if keras.backend.backend() == "tensorflow" else _on_torch
    return of_backend(model, combination, *batch)


def _scale(optimizer: Any) -> Tensor:
    """By what the optimizer multiplies losses."""
    return optimizer.scale_loss(ops.ones((), "float32"))


def _on_tensorflow(model: Any, combination: Combination, x: Any, y: Any, weights: Any) -> Any:
    import tensorflow as tf

    variables = model.trainable_weights
    scale = _scale(model.optimizer)
    with tf.GradientTape(persistent=True) as tape:
        y_pred = model(x, training=True)
        model.compute_loss(x, y, y_pred, weights, training=True)
        each = tf.unstack(combination.losses * scale)
    by_loss = [tape.gradient(one, variables) for one in each]
    del tape
    gradients = combined(combination, by_loss, scale)
    model.optimizer.apply_gradients(zip(gradients, variables, strict=True))
    return model.compute_metrics(x, y, y_pred, sample_weight=weights)


def _on_torch(model: Any, combination: Combination, x: Any, y: Any, weights: Any) -> Any:
    import torch

    variables = model.trainable_weights[:]
    y_pred = model(x, training=True)
    model.compute_loss(x, y, y_pred, weights, training=True)
    scale = _scale(model.optimizer)
    values = [variable.value for variable in variables]
    by_loss = [
        torch.autograd.grad(one, values, retain_graph=True, allow_unused=True)
        for one in torch.unbind(combination.losses * scale)
    ]
    with torch.no_grad():
        gradients = combined(combination, by_loss, scale)
        model.optimizer.apply(gradients, variables)
    return model.compute_metrics(x, y, y_pred, sample_weight=weights)


def _on_jax(model: Any, combination: Combination, state: Any, x: Any, y: Any, weights: Any) -> Any:
    import jax

    trainable, others, of_optimizer, metrics = state
    with keras.StatelessScope(list(zip(model.optimizer.variables, of_optimizer, strict=True))):
        scale = _scale(model.optimizer)

    def losses(values: Any) -> tuple[Tensor, Any]:
        _, found = model.compute_loss_and_updates(
            values, others, metrics, x, y, weights, training=True, optimizer_variables=of_optimizer
        )
        return combination.losses * scale, (*found, combination.sent)

    parts, back, found = jax.vjp(losses, trainable, has_aux=True)
    _, y_pred, others, metrics, combination.sent = found
    by_loss = [back(row)[0] for row in ops.eye(parts.shape[0], dtype=parts.dtype)]
    gradients = combined(combination, by_loss, scale)
    trainable, of_optimizer = model.optimizer.stateless_apply(of_optimizer, gradients, trainable)
    mapping = list(zip(model.metrics_variables, metrics, strict=True))
    with keras.StatelessScope(mapping) as scope:
        logs = model.compute_metrics(x, y, y_pred, weights)
    kept = [scope.get_current_value(variable) for variable, _ in mapping]
    metrics = [old if new is None else new for new, (_, old) in zip(kept, mapping, strict=True)]
    return logs, (trainable, others, of_optimizer, metrics)
