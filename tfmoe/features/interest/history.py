"""Which columns are read together with regard to a candidate, and by what layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from tfmoe.compute.types import Tensor
from tfmoe.features.interest.attention import InterestAttention
from tfmoe.features.interest.base import Interest
from tfmoe.features.interest.transformer import InterestTransformer
from tfmoe.schema.histories import list_groups
from tfmoe.schema.poolings import BST, Pooling, TargetAttention

_LAYERS: dict[type[Pooling], type[Interest]] = {
    TargetAttention: InterestAttention,
    BST: InterestTransformer,
}


class History(NamedTuple):
    """A sequence that is pooled by a candidate, with those that are aligned with it.

    Attributes:
        name: the name of the sequence.
        names: of it and of those aligned with it; first those of the candidates' tables, in the
            candidates' order.
        candidates: names of the candidate columns.
        pooling: `Pooling`.
    """

    name: str
    names: tuple[str, ...]
    candidates: tuple[str, ...]
    pooling: Pooling

    def layer(self, dtype: Any) -> Any:
        """The layer that the pooling names."""
        given = {f.name: getattr(self.pooling, f.name) for f in dataclasses.fields(self.pooling)}
        del given["candidate"]
        return _LAYERS[type(self.pooling)](**given, dtype=dtype, name=f"interest_{self.name}")


def histories_of(columns: Iterable[Any]) -> list[History]:
    """The histories among a schema's columns."""
    by_name = {column.name: column for column in columns}
    found = []
    for group in list_groups(by_name.values()):
        pooling = group[0].pooling
        if isinstance(pooling, Pooling):
            # Of two of one table the first is compared.
            owners = {column.table: column.name for column in reversed(group)}
            compared = [owners[by_name[name].table] for name in pooling.candidates]
            others = [column.name for column in group if column.name not in compared]
            names = (*compared, *others)
            found.append(History(group[0].name, names, pooling.candidates, pooling))
    return found


def pooled_by_candidate(
    layer: Interest,
    parts: list[Tensor],
    candidates: list[Tensor],
    present: Tensor,
    weights: Tensor | None,
    training: bool | None,
) -> list[Tensor]:
    """What a layer makes of histories and candidates in several copies, which are rows to it.

    Args:
        layer: it is one for all copies.
        parts: for each column of the history `(b, n, l, d)`.
        candidates: for each candidate column `(b, n, d)`.
        present: bool `(b, l)`, where one of the columns has a value.
        weights: float `(b, l)` of the positions, or None.
        training: see Keras.

    Returns:
        For each column of the history `(b * n, d)`.
    """
    copies = parts[0].shape[1]
    history = ops.concatenate(parts, axis=-1)
    history = ops.reshape(history, (-1, ops.shape(present)[1], history.shape[-1]))
    candidate = ops.concatenate(candidates, axis=-1)
    candidate = ops.reshape(candidate, (-1, candidate.shape[-1]))
    by_position = (
        {"present": present} if weights is None else {"present": present, "weights": weights}
    )
    if copies > 1:
        by_position = {n: ops.repeat(one, copies, axis=0) for n, one in by_position.items()}
    pooled = layer(history, candidate, **by_position, training=training)
    ends = np.cumsum([part.shape[-1] for part in parts])[:-1].tolist()
    return ops.split(pooled, ends, axis=-1) if ends else [pooled]
