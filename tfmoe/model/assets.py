"""A saved model is two things, a config and vocabularies, which must be of one table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tfmoe.data.fit.fitted import LONGEST
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.schema.columns import FIRST_ID, Column
from tfmoe.schema.schema import Schema
from tfmoe.validation import is_integer

# What a folder has that holds a model, and is not packed.
_OF_A_MODEL = {"assets", "config.json", "metadata.json", "model.weights.h5"}

# Ids are int32.
_MOST_IDS = 2**31 - 1


def check_sizes(schema: Schema, table_sizes: Any, lengths: Any) -> None:
    """Raises ValueError where a config's sizes cannot be those of its schema.

    Before anything of such a size is made, for a file may come from a stranger.
    """
    owners = [c for c in schema.columns if c.embeds and c.table == c.name]
    tables = {column.name: _sizes_of_table(column) for column in owners}
    lists = {c.name: _lengths_of(c) for c in schema.columns if c.is_sized}
    for name, sizes, expected in (
        ("table_sizes", table_sizes, tables),
        ("lengths", lengths, lists),
    ):
        fits = isinstance(sizes, Mapping) and set(sizes) == set(expected)
        if not fits or not all(
            is_integer(sizes[key]) and low <= sizes[key] <= high
            for key, (low, high) in expected.items()
        ):
            raise ValueError(
                f"A model's config has as `{name}` a number for each of the columns, within "
                f"{expected}. Received {name}={sizes!r}. The file was not written by "
                "`model.save`, or was changed since."
            )


def _sizes_of_table(column: Column) -> tuple[int, int]:
    if column.table_rows is not None:
        return column.table_rows, min(column.table_rows, _MOST_IDS)
    most = getattr(column, "max_size", None)
    return FIRST_ID, min(FIRST_ID + most, _MOST_IDS) if most else _MOST_IDS


def _lengths_of(column: Column) -> tuple[int, int]:
    return column.width or 1, min(column.width or LONGEST, LONGEST)


def check_goes_with(
    preprocessor: Preprocessor,
    schema: Schema,
    table_sizes: Mapping[str, int],
    lengths: Mapping[str, int],
) -> None:
    """Raises ValueError where a Preprocessor is not the one that a model was made with.

    With other ids than its tables have rows, a model would read past their ends.
    """
    for name, ours, theirs in (
        ("columns", schema.columns, preprocessor.schema.columns),
        ("tasks", schema.tasks, preprocessor.schema.tasks),
        ("weight_column", schema.weight_column, preprocessor.schema.weight_column),
        ("task_column", schema.task_column, preprocessor.schema.task_column),
        ("table_sizes", dict(table_sizes), preprocessor.table_sizes),
        ("lengths", dict(lengths), preprocessor.lengths),
    ):
        if ours != theirs:
            raise ValueError(
                "A model's vocabularies are those that it was made with. Received a file whose "
                f"config has {name}={ours!r}, and whose Preprocessor has {theirs!r}. It was put "
                "together of two, or changed; save the model again."
            )


def check_holds_a_model(path: Any) -> None:
    """Raises FileExistsError if a folder, whose place a model is to take, holds something else."""
    others = set(os.listdir(path)) - _OF_A_MODEL if os.path.isdir(path) else set()
    if others:
        raise FileExistsError(
            f"A model takes the place of the whole folder. Received filepath={os.fspath(path)!r}, "
            f"in which lie {sorted(others)[:5]}. Name a folder for the model alone."
        )
