"""Each task's loss and its gradient, apart: what reports compare, and no step computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmoe.compute.types import Tensor
from tfmoe.model.inputs import labels_of, named, task_of

Batch = tuple[Any, Any, Any]


class TaskLosses:
    """The tasks' mean losses on a batch, as a function of the model's trainable variables.

    The model and its metrics stay as they are. Losses are not weighed, and rows without a task's
    label do not count for it; nothing is dropped out.

    Args:
        model: `MultiTaskModel`, compiled.
        tables: bool; whether the embedding tables are among the variables.

    Raises:
        ValueError: if the model is not compiled, or the backend is another than TensorFlow or JAX.
    """

    def __init__(self, model: Any, tables: bool = True) -> None:
        if not getattr(model, "schema", None):
            raise ValueError(
                "Gradients are told by the tasks of a MultiTaskModel. Received "
                f"model={model!r}, which has no schema."
            )
        if not model.compiled:
            raise ValueError(
                "The tasks' losses are those that a model is compiled with. Received model="
                f"{model.name!r}, which is not compiled. Call model.compile()."
            )
        if keras.backend.backend() not in ("tensorflow", "jax"):
            raise ValueError(
                "Gradients by task are computed on TensorFlow and JAX. Received the backend "
                f"{keras.backend.backend()!r}. Set KERAS_BACKEND to one of these."
            )
        self.model = model
        self.names: tuple[str, ...] = model.schema.task_names
        left_out = set() if tables else {id(v) for v in model.encoder.trainable_variables}
        self.variables: list[Any] = [v for v in model.trainable_variables if id(v) not in left_out]

    def values(self) -> list[Tensor]:
        """The variables' values, as tensors that are none of the variables."""
        return [
            ops.convert_to_tensor(ops.convert_to_numpy(variable), dtype=variable.dtype)
            for variable in self.variables
        ]

    def __call__(self, values: Sequence[Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        """The losses where the variables have other values, 0 of a task without rows, and the sums
        of the weights of each task's rows; both `(t,)`.
        """
        given, y, weights = batch
        model = self.model
        x = named(model.input, given)
        # What is assigned inside, such as the metrics of losses, is forgotten with the scope.
        with keras.StatelessScope(list(zip(self.variables, values, strict=True))):
            forward = model.forward_pass(x, training=False).of(given)
            labels = labels_of(model.schema, y)
            task = task_of(model.schema, x)
            losses = model._objectives.value.own_losses(labels, weights, forward, **task)
            zero = ops.zeros((), "float32")
            pairs = [losses.get(name, (zero, zero)) for name in self.names]
            means, counts = zip(*pairs, strict=True)
            return _stacked(means), _stacked(counts)

    def jacobian(self, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The losses and the sums of the rows' weights, both `(t,)`, and the losses' gradients
        `(t, n)` by all variables, one after the other.
        """
        losses, counts, parts = _jacobian(lambda values: self(values, batch), self.values())
        rows = [np.reshape(part, (len(self.names), -1)) for part in parts]
        return losses, counts, np.concatenate(rows, axis=1)

    def flat(self) -> np.ndarray:
        """The variables' values `(n,)`, in the order of `jacobian`."""
        return np.concatenate([np.ravel(ops.convert_to_numpy(v)) for v in self.variables])

    def at(self, flat: np.ndarray, batch: Batch) -> np.ndarray:
        """The losses `(t,)` where the variables have the values `(n,)`."""
        values, start = [], 0
        for variable in self.variables:
            stop = start + int(np.prod(variable.shape))
            part = np.reshape(flat[start:stop], variable.shape)
            values.append(ops.convert_to_tensor(part, dtype=variable.dtype))
            start = stop
        return ops.convert_to_numpy(self(values, batch)[0])


def _stacked(scalars: Sequence[Tensor]) -> Tensor:
    return ops.stack([ops.cast(one, "float32") for one in scalars])


def _jacobian(
    function: Callable[[list[Tensor]], tuple[Tensor, Tensor]], values: list[Tensor]
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """What `function` maps values to, both `(t,)`, and the first one's gradients `(t, ...)`."""
    if keras.backend.backend() == "jax":
        import jax

        def with_values(values: list[Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            losses, counts = function(values)
            return losses, (losses, counts)

        jacobian, (losses, counts) = jax.jacrev(with_values, has_aux=True)(values)
        return np.asarray(losses), np.asarray(counts), [np.asarray(part) for part in jacobian]
    import tensorflow as tf

    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(values)
        losses, counts = function(values)
        each = tf.unstack(losses)
    parts: list[list[np.ndarray]] = []
    for loss in each:
        gradients = tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        parts.append([tf.convert_to_tensor(gradient).numpy() for gradient in gradients])
    return losses.numpy(), counts.numpy(), [np.stack(part) for part in zip(*parts, strict=True)]


def shared(gradients: np.ndarray) -> np.ndarray:
    """Which parameters at least two tasks' losses depend on: bool `(n,)`, of `(t, n)`.

    So neither a task's own tower, gate or experts count, nor its part of a kernel that lies beside
    those of others.
    """
    return np.count_nonzero(gradients, axis=0) > 1


def cosines(gradients: np.ndarray) -> np.ndarray:
    """Of each two tasks' gradients `(t, n)`: `(t, t)`; NaN where one is 0 or not finite."""
    gradients = gradients.astype("float64")
    norms = np.sqrt((gradients**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = gradients @ gradients.T / np.outer(norms, norms)
    return np.clip(found, -1, 1)
