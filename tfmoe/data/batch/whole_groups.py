"""Batches in which groups of rows are whole, as losses need that compare the rows of a group."""

from __future__ import annotations

import numpy as np

from tfmoe.data.encode.values import NO_VALUE
from tfmoe.schema.schema import Schema


class WholeGroups:
    """Rows in batches that part no group.

    A batch has as many groups as fit into `batch_size` rows, and so fewer rows than that, mostly.
    A larger group is a batch by itself. A row of no group is a group by itself.

    Args:
        codes: int `(n,)`, each row's group, -1 of none.
        batch_size: int >= 1.
    """

    def __init__(self, codes: np.ndarray, batch_size: int) -> None:
        alone = codes == NO_VALUE
        codes = codes.astype(np.int64)
        codes[alone] = codes.max(initial=0) + 1 + np.arange(alone.sum())
        _, first, self._groups, self._sizes = np.unique(
            codes, return_index=True, return_inverse=True, return_counts=True
        )
        self._in_order = np.argsort(first, kind="stable")
        self._batch_size = batch_size

    def batches(self, rng: np.random.Generator | None = None) -> list[np.ndarray]:
        """The places of each batch's rows, group after group.

        Args:
            rng: NumPy generator that puts the groups in a random order, or None for that in which
                they first come. Rows of a group stay in theirs.
        """
        order = self._in_order if rng is None else rng.permutation(len(self._sizes))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        rows = np.argsort(rank[self._groups.reshape(-1)], kind="stable")
        ends = np.cumsum(self._sizes[order])
        found, start = [], 0
        while start < len(rows):
            fitting = int(np.searchsorted(ends, start + self._batch_size, side="right"))
            # At least one, however large.
            first = int(np.searchsorted(ends, start, side="right"))
            stop = int(ends[max(fitting - 1, first)])
            found.append(rows[start:stop])
            start = stop
        return found


def check_keep_groups(
    schema: Schema, drop_remainder: bool, shard: tuple[int, int], mixer: object
) -> None:
    """Raises ValueError unless groups can be kept in one batch."""
    if schema.group is None:
        raise ValueError(
            "Groups of rows are told by a column. Received keep_groups=True with a schema without "
            "one. Name it: Schema(columns, tasks, group=...)."
        )
    if drop_remainder or shard[1] > 1 or mixer is not None:
        raise ValueError(
            "Where groups stay whole, batches have different numbers of rows, and a worker or a "
            "mixer would part them. Received keep_groups=True with drop_remainder="
            f"{drop_remainder}, shard={shard}, mixer={mixer!r}. Leave these out."
        )
