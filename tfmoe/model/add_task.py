"""Parts of `MultiTaskModel.add_task`: which tasks a new one is like, and weight transfer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfmoe.compute.weights import copy_weights
from tfmoe.schema.schema import Schema


def places(schema: Schema, like: Sequence[str] | str | None, num_added: int) -> list[int]:
    """Indices of the tasks that a new one is like.

    Args:
        schema: `Schema` of the model.
        like: sequence of task names, or None for all.
        num_added: how many of its tasks were added.

    Raises:
        ValueError: if one is unknown or was added itself, or there are none.
    """
    known = list(schema.task_names[: len(schema.tasks) - num_added])
    names = known if like is None else [like] if isinstance(like, str) else list(like)
    if not names or not set(names) <= set(known) or len(set(names)) < len(names):
        raise ValueError(
            f"A new task is `like` some of the tasks that were trained together, {known}. "
            f"Received like={like!r}. Name the related ones, or leave it out for all."
        )
    return [known.index(name) for name in names]


def check_routing(routing: str) -> None:
    """Raises ValueError unless it is a way to fit the new task's part of the gate."""
    if routing not in ("own", "mix"):
        raise ValueError(f'add_task takes `routing` "own" or "mix". Received routing={routing!r}.')


def copy_extended(old: Any, new: Any, like: Sequence[int]) -> None:
    """Fills a model that has one task more than the trained one.

    Args:
        old, new: `MultiTaskModel`.
        like: indices of the tasks that the new one is like. If the first of them is of the
            new task's kind, the new tower starts as that one's, and so do the numbers of positions.
    """
    copy_weights(old.encoder, new.encoder)
    if old.input_gate is not None:
        copy_weights(old.input_gate, new.input_gate)
    for name in ("imputation", "interactions"):
        if getattr(old, name) is not None:
            copy_weights(getattr(old, name), getattr(new, name))
    new.structure.copy_extended(old.structure, like)
    first, task = old.schema.tasks[like[0]], new.schema.tasks[-1]
    same_kind = type(first) is type(task) and first.num_logits == task.num_logits
    start = like[0] if same_kind else None
    new.towers.copy_extended(old.towers, start)
    if old.position_tower is not None:
        new.position_tower.copy_extended(old.position_tower, start)
