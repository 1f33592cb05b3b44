"""What each field of a run may hold, by itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfmoe.validation import integer, number, plain

#: Fields that are whole numbers, and the least of each.
WHOLE = {
    "num_experts": 2,
    "num_nonzeros": 1,
    "embedding_dim": 1,
    "epochs": 1,
    "batch_size": 1,
    "patience": 0,
    "evict_after": 1,
    "seed": 0,
    "checkpoint_steps": 1,
}
_SHARES = ("dropout", "column_dropout")
_AMOUNTS = ("entropy_reg", "embeddings_regularizer", "kernel_regularizer", "learning_rate")
_BOOLS = (
    *("layer_norm", "wide", "scenario_towers", "grow", "resume"),
    *("interactions_stacked", "interactions_alone"),
)
# Text that a file may write as one number, a list or a mapping.
#: Fields of which an empty list means none.
NONE_IF_EMPTY = ("interactions", "pepnet")
_LISTS = ("hidden_units", "tower_units", "interactions", "pepnet", "optimizer")


def cleaned(name: str, value: Any, optional: bool) -> Any:
    """A field's value as a run keeps it: plain, lists as text with commas.

    Args:
        name: str, of the field.
        value: what is given.
        optional: whether None will do.

    Raises:
        ValueError: if it is of a wrong kind, or out of range.
    """
    if optional and (value is None or (name in NONE_IF_EMPTY and value in ([], ()))):
        return None
    if name in WHOLE:
        return integer("Run", name, value, WHOLE[name])
    if name in (*_SHARES, *_AMOUNTS):
        return number("Run", name, _as_number(value), 0, most=0.99 if name in _SHARES else None)
    if name in _BOOLS:
        if not isinstance(value, bool):
            raise ValueError(f"Run takes `{name}` as true or false. Received {name}={value!r}.")
        return value
    if name == "task_weight":
        if not isinstance(value, Mapping):
            raise ValueError(
                "Run takes `task_weight` as a mapping of tasks to numbers. Received "
                f"task_weight={value!r}."
            )
        return {
            task: number("Run", f"task_weight[{task!r}]", _as_number(weight), 0)
            for task, weight in value.items()
        }
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str) or (name == "schema" and isinstance(value, Mapping)):
        return value
    if name in _LISTS and not isinstance(value, bool | None):
        return as_text(plain(value))
    kinds = "the path of a file, or what such a file holds" if name == "schema" else "text"
    raise ValueError(f"Run takes `{name}` as {kinds}. Received {name}={value!r}.")


def as_text(value: Any) -> str:
    """Lists and mappings as the command line writes them."""
    if isinstance(value, Mapping):
        return ",".join(f"{part}={as_text(one)}" for part, one in value.items())
    if isinstance(value, list | tuple):
        return ",".join(str(one) for one in value)
    return str(value)


def _as_number(value: Any) -> Any:
    """YAML takes 1e-4 for text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
