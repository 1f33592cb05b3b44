"""Which columns are read together with regard to a candidate, and by what layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

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
