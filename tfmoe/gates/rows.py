"""Which rows of a call count, and for which task."""

from __future__ import annotations

from typing import NamedTuple

from keras import ops

from tfmoe.compute.replicas import num_replicas, sum_over_replicas
from tfmoe.compute.types import Tensor


class Rows(NamedTuple):
    """Whose rows a gate sees: all tasks' or one task's each.

    Sums and means are over the rows of all replicas. The one row of a static router, which stands
    for all, each replica has: a sum of it is to be compared with the count.

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
            return sum_over_replicas(ops.sum(values, axis=0))
        found = ops.segment_sum(values[:, 0], self.task, num_segments=self.num_tasks)
        return sum_over_replicas(found)

    def counts(self, values: Tensor) -> Tensor:
        """Number of each task's rows `(t, 1)`, in the type and for the rows of `values`."""
        return self.sums(ops.ones_like(values[..., :1]))

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the rows, whatever their task: `(b, t, ...)` to `(t, ...)`."""
        if self.mask is None and num_replicas() == 1:
            # Of no rows at all it is 0.
            number = ops.maximum(ops.cast(ops.shape(values)[0], values.dtype), 1)
            return ops.sum(values, axis=0) / number
        ones = ops.ones((ops.shape(values)[0],), values.dtype)
        total = sum_over_replicas(ops.sum(self._counting(ones)))
        return sum_over_replicas(ops.sum(self._counting(values), axis=0)) / ops.maximum(total, 1)

    def _counting(self, values):
        if self.mask is None:
            return values
        mask = ops.cast(self.mask, values.dtype)
        return values * ops.reshape(mask, (-1,) + (1,) * (len(values.shape) - 1))
