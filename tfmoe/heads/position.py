"""What the place of a row in a list adds to its logits, in training alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmoe import validation
from tfmoe.compute.registered import registered
from tfmoe.compute.replicas import sum_over_replicas
from tfmoe.compute.types import Tensor
from tfmoe.features.embedding import Embedding
from tfmoe.schema.columns import MISSING_ID


@registered
class PositionTower(keras.layers.Layer):
    r"""Numbers for each position and task, which training adds to the tasks' logits.

        added[b, t] = table[position[b], t] - mean over the batch of table[position, t]

    The table starts at 0. Its mean is taken away because a constant could be in the table or in
    the towers' logits alike: so it is in the towers, whose probabilities are then those at a mean
    position. A row without a position (id 0 or 1) adds nothing and counts for no mean.

    Tasks that were added to a trained model have a table each, and only that of the newest is
    trained, as `ExtendedTowers` are.

    Args:
        num_rows: int >= 1, number of ids of the position.
        biased: sequence of bool, for each task whether its logit is added to.
        num_added: int >= 0, how many of the last tasks were added, one at a time.

    Call arguments:
        ids: int `(b,)`, ids of the rows' positions.
        task: int `(b,)`, the task of each row, or None where a row has them all.

    Returns:
        Float32 `(b, t)`.

    Source: the shallow tower of Zhao et al., 2019, https://doi.org/10.1145/3298689.3346997. Differs
    from it in the mean that is taken away, where the paper drops the position of some rows, and
    in that the position is all that the tower reads.
    """

    def __init__(
        self, num_rows: int, biased: Sequence[bool], num_added: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_rows = validation.integer("PositionTower", "num_rows", num_rows, 1)
        self.biased = tuple(bool(one) for one in biased)
        self.num_added = validation.integer("PositionTower", "num_added", num_added, 0)
        self.table = self._table(len(self.biased) - self.num_added, "table")
        self.added_tables = [self._table(1, f"added_{i}") for i in range(self.num_added)]

    def _table(self, num_tasks: int, name: str) -> Embedding:
        return Embedding(self.num_rows, num_tasks, "zeros", dtype="float32", name=name)

    @property
    def tables(self) -> list[Embedding]:
        """That of the tasks that were trained together, and one for each that came later."""
        return [self.table, *self.added_tables]

    def build(self, input_shape: Any = None) -> None:
        for table in self.tables:
            table.build((None,))
            table.trainable = table is self.tables[-1]

    def call(self, ids: Tensor, task: Tensor | None = None) -> Tensor:
        counted = ops.cast(ids > MISSING_ID, "float32")[:, None]
        if task is not None:
            counted = counted * ops.one_hot(ops.cast(task, "int32"), len(self.biased))
        # From counts, so that replicas agree on them and no gradient has to cross.
        counts = sum_over_replicas(ops.segment_sum(counted, ids, self.num_rows))
        total = ops.maximum(ops.sum(counts, axis=0), 1.0)
        whole = ops.concatenate([ops.convert_to_tensor(t.embeddings) for t in self.tables], axis=1)
        mean = ops.sum(counts * whole, axis=0) / total
        numbers = ops.concatenate([table(ids) for table in self.tables], axis=1)
        return counted * (numbers - mean) * np.array(self.biased, "float32")

    def added(self, logits: Any, ids: Tensor, task: Tensor | None) -> Any:
        """Towers' logits with the numbers added; `logits` and `task` as of `Towers`."""
        numbers = self(ids, task)
        if task is not None:
            # Of the row's own task, for those of all others are 0.
            return logits + ops.cast(ops.sum(numbers, axis=1, keepdims=True), logits.dtype)
        return [
            values + ops.cast(numbers[:, t : t + 1], values.dtype)
            for t, values in enumerate(logits)
        ]

    def copy_from(self, other: PositionTower, tasks: Sequence[int]) -> None:
        """Takes over the numbers of a built one, of some of its tasks."""
        values = [ops.convert_to_numpy(table.embeddings) for table in other.tables]
        self.table.embeddings.assign(np.concatenate(values, axis=1)[:, list(tasks)])

    def copy_extended(self, other: PositionTower, like: int | None = None) -> None:
        """Takes over the numbers of a built one that lacks the newest task's.

        Args:
            other: `PositionTower` of all tasks but the newest.
            like: index of the task among those trained together whose numbers the new one starts
                with; None to leave them at 0.
        """
        *trained, newest = self.tables
        for old, table in zip(other.tables, trained, strict=True):
            table.embeddings.assign(old.embeddings)
        if like is not None:
            newest.embeddings.assign(ops.convert_to_numpy(other.table.embeddings)[:, [like]])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_rows": self.num_rows,
            "biased": list(self.biased),
            "num_added": self.num_added,
        }
