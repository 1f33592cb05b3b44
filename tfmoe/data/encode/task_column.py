"""Rows of one task each: which task that is, and its label."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from tfmoe.data import arrow
from tfmoe.data.encode.columns import TextCache, categorical_ids
from tfmoe.data.encode.labels import LabelReader
from tfmoe.data.encode.vocabulary import Vocabulary, label_spellings
from tfmoe.schema.columns import FIRST_ID
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Multiclass, Regression


class TaskColumn:
    """Rows of one task each: which task that is, and its label.

    Tasks that read their labels alike (of one column, of one kind, within one label
    space) are read together, so that many of them cost about what one costs.

    Args:
        schema: `Schema` with a `task_column`.
        reader: `LabelReader` of the schema, or None for one of its own.
    """

    def __init__(self, schema: Schema, reader: LabelReader | None = None) -> None:
        self._schema = schema
        self._reader = reader or LabelReader(schema)
        self._name = schema.task_column or ""
        places = {key: place for place, key in enumerate(schema.task_keys)}
        places |= {text: places[key] for text, key in label_spellings(schema.task_keys).items()}
        self._keys = Vocabulary(pa.array(list(places), pa.large_string()))
        self._places = np.array(list(places.values()), np.int32)
        self._cache = TextCache()
        groups: dict[tuple, list[int]] = {}
        for index, task in enumerate(schema.tasks):
            groups.setdefault(_reading(task), []).append(index)
        self._groups = list(groups.values())
        self._group_of = np.zeros(len(schema.tasks), np.int32)
        for group, members in enumerate(self._groups):
            self._group_of[members] = group

    def task_indices(self, chunk: Mapping[str, pa.Array]) -> np.ndarray:
        """Each row's task, by its place in the schema: int32 `(n,)`.

        Args:
            chunk: dict of raw column to Arrow array of n values.

        Raises:
            ValueError: if a row names none of the tasks.
        """
        name = self._name
        array = chunk[name]
        ids = categorical_ids(array, name, self._keys, is_int=False, cache=self._cache)
        stray = np.flatnonzero(ids < FIRST_ID)
        if len(stray):
            raise arrow.at_row(
                ValueError(
                    "Every row belongs to one task, which `task_column` names by one of the keys "
                    f"{list(self._schema.task_keys)}. Received {name}="
                    f"{array[int(stray[0])].as_py()!r}. Leave such rows out, or add the task to "
                    "the schema (`Schema.add`, `Preprocessor.add_task`)."
                ),
                stray[0],
            )
        return self._places[ids - FIRST_ID]

    def labels(self, chunk: Mapping[str, pa.Array], task_indices: np.ndarray) -> np.ndarray:
        """Each row's label for its own task; other tasks' labels are not looked at.

        Args:
            chunk: as in `task_indices`. A task without label column is missing.
            task_indices: int32 `(n,)`.

        Returns:
            float32 `(n,)`; see `LabelReader.labels`.

        Raises:
            TypeError, ValueError: as `LabelReader.labels`.
        """
        values = np.full(len(task_indices), np.nan, np.float32)
        groups = self._group_of[task_indices]
        for group, members in enumerate(self._groups):
            rows = np.flatnonzero(groups == group)
            task = self._schema.tasks[members[0]]
            if task.raw_name not in chunk or not len(rows):
                continue
            try:
                values[rows] = self._read(task, chunk, rows)
            except ValueError:
                # It named the first task of the group; the row's own is at fault.
                for member in members:
                    own = rows[task_indices[rows] == member]
                    self._read(self._schema.tasks[member], chunk, own)
                raise
        return values

    def _read(self, task, chunk, rows):
        every = len(rows) == len(chunk[task.raw_name])
        return self._reader.labels(task, chunk, None if every else rows)


def _reading(task):
    """What decides how a task's labels are read."""
    own: tuple = ()
    if isinstance(task, Multiclass):
        own = (task.num_classes, task.classes)
    elif isinstance(task, Regression):
        own = (task.is_scaled,)
    elif isinstance(task, Binary):
        own = (str(task.positive), str(task.negative))
        if task.positive is not None and not task.negative:
            own += (task.name,)  # each may have another label that counts as 0
    return type(task), task.raw_name, task.where, str(task.where_value), *own
