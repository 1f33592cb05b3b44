"""The column that says where a row was shown, which a model sees in training alone."""

from __future__ import annotations

from collections.abc import Mapping

from tfmoe.heads.position import PositionTower
from tfmoe.schema.columns import MultiCategorical
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary


def served_schema(schema: Schema, position: str | None) -> Schema:
    """The schema of what a model predicts from.

    Args:
        schema: `Schema` of the rows to train on.
        position: name of the column that only training reads, or None.

    Raises:
        ValueError: if there is no such column, or it is another part of the model too.
    """
    if position is None:
        return schema
    fitting = [c.name for c in schema.columns if _fits(c)]
    if position not in fitting:
        raise ValueError(
            "`position` is the name of a column of ids of its own, a Categorical or a Numeric with "
            f'transform="buckets": one of {fitting}. Received position={position!r}. Add such a '
            "column to the schema."
        )
    crossed = [c.name for c in schema.columns if position in getattr(c, "columns", ())]
    if crossed:
        raise ValueError(
            "`position` is read by training alone, and so nothing that is served may be made of "
            f"it. Received position={position!r}, which {crossed} cross. Leave it out of them."
        )
    if schema.scenario == position or not any(isinstance(t, Binary) for t in schema.tasks):
        raise ValueError(
            "`position` is added to the logits of binary tasks, and read by nothing else. Received "
            f"position={position!r}, with scenario={schema.scenario!r} and the tasks "
            f"{list(schema.task_names)}. Leave it out."
        )
    return schema.without(position)


def position_tower_of(
    schema: Schema, position: str | None, table_sizes: Mapping[str, int], num_added: int
) -> PositionTower | None:
    """The layer of a model's argument `position`, built; None without.

    Args:
        schema: `Schema` of the rows to train on.
        position: name of the column, or None.
        table_sizes: dict by column of its number of ids.
        num_added: how many of the last tasks were added one by one.
    """
    if position is None:
        return None
    biased = [isinstance(task, Binary) for task in schema.tasks]
    tower = PositionTower(
        table_sizes[position], biased, num_added, dtype="float32", name="tfmoe_position"
    )
    tower.build()
    return tower


def _fits(column: object) -> bool:
    single = getattr(column, "embeds", False) and not isinstance(column, MultiCategorical)
    return single and not getattr(column, "share", None)
