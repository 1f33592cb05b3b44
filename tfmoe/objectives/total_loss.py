"""The loss that is reported."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import ops

from tfmoe.compute.types import Tensor


class TotalLoss(keras.metrics.Mean):
    """The tasks' losses over all rows since the last reset, and the mean of all other losses.

    A mean of the batches' losses, which Keras reports, would depend on how rows are cut into
    batches wherever labels are missing: a batch with two labels of a task would count as much for
    it as one with a hundred.

    Args:
        of_tasks: returns the tasks' losses over the rows so far, weighed and added up.
    """

    def __init__(self, of_tasks: Callable[[], Tensor]) -> None:
        super().__init__(name="loss")
        # A list of variables is made of what a metric holds, which this one's parts are not.
        self._of_tasks = of_tasks

    def update_state(self, values: Tensor, sample_weight: Tensor | None = None) -> None:
        """Called by Keras with the loss of a batch, of which `add` and the tasks know."""

    def add(self, loss: Tensor, num_rows: Tensor) -> None:
        """Takes in the losses of a batch beside those of tasks, a scalar, and its rows."""
        super().update_state(ops.stop_gradient(loss), ops.cast(num_rows, "float32"))

    def result(self) -> Tensor:
        return self._of_tasks() + super().result()
