"""Which rows of a call count, and for which task."""

from __future__ import annotations

from typing import NamedTuple

from keras import ops

from tfmoe.compute.types import Tensor


class Rows(NamedTuple):
    """Whose rows a gate sees: all tasks' or one task's each.

    Attributes:
        num_tasks: int, tasks that the gate tells apart.
        task: int32 `(b,)`, the task of each row; None where each row has all tasks.
        mask: float `(b,)`, 0 for rows that do not count, such as padding, else 1;
            None if all do.
    """

    num_tasks: int
    task: Tensor | None = None
    mask: Tensor | None = None

    def sums(self, values: Tensor) -> Tensor:
        """Sums over each task's rows: `(b, t, c)`, or `(b, 1, c)` with `task`, to `(t, c)`."""
        values = self._counting(values)
        if self.task is None:
            return ops.sum(values, axis=0)
        return ops.segment_sum(values[:, 0], self.task, num_segments=self.num_tasks)

    def counts(self, values: Tensor) -> Tensor:
        """Number of each task's rows `(t, 1)`, in the type and for the rows of `values`."""
        return self.sums(ops.ones_like(values[..., :1]))

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the rows, whatever their task: `(b, t, ...)` to `(t, ...)`."""
        if self.mask is None:
            return ops.mean(values, axis=0)
        total = ops.maximum(ops.sum(ops.cast(self.mask, values.dtype)), 1)
        return ops.sum(self._counting(values), axis=0) / total

    def _counting(self, values):
        if self.mask is None:
            return values
        mask = ops.cast(self.mask, values.dtype)
        return values * ops.reshape(mask, (-1,) + (1,) * (len(values.shape) - 1))
