"""Told at once where numbers stop being finite: in losses, weights, predictions.

A loss that is NaN or infinite makes all weights so in one step. On TensorFlow the step that meets
one ends before it changes a weight; elsewhere, and under XLA, which knows no errors, the end of
the epoch tells.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmoe.compute.replicas import sum_over_replicas
from tfmoe.compute.types import Tensor
from tfmoe.keras_private import is_compiled_by_xla
from tfmoe.model.plan import steps_done
from tfmoe.model.untracked import Untracked

# What a column's number may be before its products with weights are suspected.
_LARGE = 1e15
# Above it no training goes on: an optimizer squares gradients, which float32 does not hold.
_FATAL = 1e18
# More weights than these are not copied at each epoch's end.
_MOST_KEPT = 2**28


class FiniteLoss(keras.callbacks.Callback):
    """Ends a training whose loss or weights are no longer finite.

    The weights are then those before the batch at fault, or, with the optimizer's state, those of
    the last epoch's end where they are not finite themselves (and fewer than 268 million).
    """

    def __init__(self) -> None:
        super().__init__()
        # Keras may run its own callbacks' batches in a thread; this one has none.
        self.async_safe = True
        self.message: str | None = None
        self._kept: list[np.ndarray] | None = None
        self._slots: list[tuple[Any, np.ndarray]] = []
        self._epoch, self._start = 0, 0

    def on_train_begin(self, logs: Any = None) -> None:
        if self.model.jit_compile or keras.backend.backend() != "tensorflow":
            self._keep()  # no step ends before it has changed the weights

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch, self._start = epoch, steps_done(self.model.optimizer)

    def get_state(self) -> dict[str, int]:
        """What a Checkpoint keeps: the steps before the epoch."""
        return {"start": self._start}

    def set_state(self, state: dict[str, int]) -> None:
        """Called once weights are those of a Checkpoint."""
        self._start = state["start"]
        if self._kept is not None:
            self._keep()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if not np.isfinite(loss):
            self._fail(f"loss={loss} in epoch {epoch + 1}")
        if not weights_are_finite(self.model):
            self._fail(f"weights that are not, after epoch {epoch + 1}")
        last = epoch + 1 >= self.params.get("epochs", 1)
        if not last:
            self._keep()

    def _keep(self) -> None:
        """The weights, and the optimizer's numbers, whose averages would go on as they are."""
        if _size(self.model.weights) > _MOST_KEPT:
            return
        self._kept, slots = self.model.get_weights(), self.model.optimizer.variables
        if _size(slots) > _MOST_KEPT:
            slots = [one for one in slots if len(one.shape) == 0]  # its steps and rates
        self._slots = [(one, ops.convert_to_numpy(one)) for one in slots]

    def _fail(self, received: str) -> None:
        self.message = f"A training's loss and weights must be finite numbers. Received {received}."
        raise self.error()

    def error(self) -> FloatingPointError:
        """The error that ends the training, once the weights are good again."""
        return FloatingPointError(
            f"{self.message} {self.restore()} Scale the columns named, or correct their cells; "
            "else lower the learning rate, or clip gradients (`global_clipnorm=1.0` of the "
            "optimizer)."
        )

    def restore(self) -> str:
        """Sets weights that are not finite to the last that were; says which these are."""
        if weights_are_finite(self.model):
            return "The weights are those before it."
        if self._kept is None:
            return "The weights are not finite either: make the model anew."
        self.model.set_weights(self._kept)
        known = {id(variable): values for variable, values in self._slots}
        for variable in self.model.optimizer.variables:
            # An average that was not kept begins anew.
            values = known.get(id(variable))
            variable.assign(np.zeros(variable.shape) if values is None else values)
        return "The weights are those of the end of the epoch before."

    def note(
        self, step: int, outputs: list[str], bad: Any, columns: list[str], largest: Any
    ) -> None:
        """Keeps the message of a step that is not finite.

        Args:
            step: int, steps that the optimizer had done.
            outputs: names of outputs.
            bad: bool `(o,)`, which of them are NaN, infinite or huge.
            columns: names of columns of numbers.
            largest: float `(c,)` or longer, the largest absolute value of each.
        """
        where = f"batch {step - self._start + 1} of epoch {self._epoch + 1}"
        tasks = [name for name, is_bad in zip(outputs, bad, strict=True) if is_bad]
        of = f" of {tasks}" if tasks and tasks != ["score"] else ""
        large = [
            f"{name} (up to {most:.3g})"
            for name, most in zip(columns, largest, strict=False)
            if not most <= _LARGE
        ]
        if tasks:
            cause = f"predictions{of} that are NaN, infinite or huge, in {where}"
        elif any(not most <= _FATAL for most in largest[: len(columns)]):
            cause = f"numbers that no training survives, in {where}"
        else:
            cause = f"a loss that is not, in {where}: a label or weight is too large"
        hint = f"; columns with such numbers: {', '.join(large)}" if large else ""
        self.message = (
            f"A training's loss and weights must be finite numbers. Received {cause}{hint}."
        )


def guarded(
    current: Untracked,
    step: Any,
    loss: Tensor,
    features: Mapping[str, Tensor],
    logits: Mapping[str, Tensor],
) -> Tensor:
    """The loss, whose gradient waits for the answer that it is finite.

    Args:
        current: holds the `FiniteLoss` of the training that runs, or None: a later training
            may run the same graph.
        step: int variable, steps that the optimizer has done.
        loss: scalar, or several losses `(n,)`.
        features: dict by column.
        logits: dict by output.
    """
    if keras.backend.backend() != "tensorflow" or is_compiled_by_xla():
        return loss
    import tensorflow as tf

    standard = keras.backend.standardize_dtype
    floats = {n: v for n, v in features.items() if "float" in standard(v.dtype)}
    fatal = [_largest(values) > _FATAL for values in floats.values()]
    bad = ~tf.reduce_all(tf.math.is_finite(loss)) | tf.reduce_any(fatal or [False])
    # Of several workers one would else wait for one that has ended.
    fine = sum_over_replicas(tf.cast(bad, tf.float32)) == 0
    step = tf.convert_to_tensor(step)
    noted = _noter(current, list(logits), list(floats))

    def told() -> Tensor:
        bad = [~(_largest(values) <= _LARGE) for values in logits.values()]
        largest = [_largest(values) for values in floats.values()] or [tf.constant(0.0)]
        found = [step, tf.stack(bad), tf.stack(largest)]
        return tf.numpy_function(noted, found, tf.int32)

    @tf.custom_gradient
    def wait(loss: Tensor) -> tuple[Tensor, Any]:
        waited = tf.cond(fine, lambda: tf.constant(0, tf.int32), told)

        def gradient(upstream: Tensor) -> Tensor:
            with tf.control_dependencies([waited]):
                return tf.identity(upstream)

        return tf.identity(loss), gradient

    return wait(loss)


def _noter(current: Untracked, outputs: list[str], columns: list[str]) -> Callable[..., np.int32]:
    """What a step calls that is not finite.

    TensorFlow never lets go of it, so that neither a model nor a tensor may hang on it.
    """

    def noted(step: Any, bad: Any, largest: Any) -> np.int32:
        if current.value is None:
            return np.int32(0)
        current.value.note(int(step), outputs, bad, columns, largest)
        raise FloatingPointError(current.value.message)

    return noted


def _largest(values: Tensor) -> Tensor:
    """The largest absolute value, infinite if one is NaN."""
    sizes = ops.abs(ops.cast(values, "float32"))
    return ops.max(ops.where(ops.isnan(sizes), np.inf, sizes))


def _size(variables: list[Any]) -> int:
    return sum(int(np.prod(one.shape)) for one in variables)


def weights_are_finite(model: Any) -> bool:
    """Whether all of a model's trained weights are finite numbers."""
    return all(bool(ops.all(ops.isfinite(weight))) for weight in model.trainable_weights)


def check_weights(model: Any, verb: str) -> None:
    """Raises FloatingPointError if a model that is to be saved or exported has bad weights."""
    bad = [
        weight.path
        for weight in model.weights
        if "float" in keras.backend.standardize_dtype(weight.dtype)
        and not bool(ops.all(ops.isfinite(weight)))
    ]
    if bad:
        raise FloatingPointError(
            f"Only a model of finite weights is {verb}. Received {len(bad)} weights with NaN or "
            f"infinity, such as {bad[0]!r}. Train it anew, with a lower learning rate or without "
            "the rows at fault."
        )


def warn_of_predictions(predictions: Mapping[str, np.ndarray]) -> None:
    """Warns of predictions that are not finite, by task."""
    for name, values in predictions.items():
        rows = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if rows.any():
            warnings.warn(
                f"{rows.sum():,} of {len(rows):,} predictions of {name!r} are no finite numbers, "
                f"the first in row {int(rows.argmax())}. Look for huge numbers in that row, or at "
                "the model's weights.",
                stacklevel=3,
            )
