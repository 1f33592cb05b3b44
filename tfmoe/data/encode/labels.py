"""Labels: from raw columns to float32 with NaN for what is missing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmoe.data import arrow
from tfmoe.data.encode.columns import TextCache, categorical_ids
from tfmoe.data.encode.vocabulary import Vocabulary
from tfmoe.schema.columns import FIRST_ID
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Multiclass, Regression, Task

_LARGEST_FLOAT = 3.4e38


def label_values(
    array: pa.Array, task: Task, where: pa.Array | None = None, where_name: str | None = None
) -> np.ndarray:
    """A task's labels.

    Rows outside the task's label space are missing and their raw label is not looked at.

    Args:
        array: Arrow array of n raw labels.
        task: `Binary`, `Regression` or `Multiclass`.
        where: Arrow array of n flags, or None. Rows in which it is not 1 are outside.
        where_name: that column's name, for errors.

    Returns:
        float32 `(n,)`; NaN is missing. 0 or 1, a number, or the index of the class.

    Raises:
        TypeError: if the column's type does not suit the task.
        ValueError: if a label is none of the task's.
    """
    array = arrow.decoded(array)
    if where is not None:
        inside = arrow.to_floats(where, where_name or "") == 1
        array = pc.if_else(pa.array(inside), array, pa.scalar(None, array.type))
    if isinstance(task, Multiclass) and task.classes and isinstance(task.classes[0], str):
        return _class_indices(array, task)
    values = arrow.to_floats(array, task.raw_name)
    present = ~np.isnan(values)
    if isinstance(task, Binary):
        _check(values, present & (values != 0) & (values != 1), task, "0 or 1 (or missing)")
    elif isinstance(task, Regression):
        _check(values, np.abs(values) > _LARGEST_FLOAT, task, "finite (or missing)")
    elif not isinstance(task, Multiclass):
        raise TypeError(f"No labels are known of a {type(task).__name__}.")
    elif task.num_classes:
        known = (values >= 0) & (values < task.num_classes) & (np.floor(values) == values)
        rule = f"integers from 0 to num_classes - 1 = {task.num_classes - 1} (or missing)"
        _check(values, present & ~known, task, rule)
    else:
        order = np.argsort(np.array(task.classes))
        classes = np.array(task.classes, np.float64)[order]
        places = np.minimum(np.searchsorted(classes, values), len(classes) - 1)
        _check(values, present & (classes[places] != values), task, _one_of(task))
        values = np.where(present, order[places], np.nan)
    return values.astype(np.float32)


def _class_indices(array, task):
    text = arrow.to_text(array, task.raw_name).cast(pa.string())
    found = pc.index_in(text, value_set=pa.array(task.classes, pa.string()))
    present = pc.fill_null(pc.not_equal(text, ""), False)
    bad = pc.and_(present, pc.is_null(found))
    if pc.any(bad).as_py():
        raise _bad_label(task, _one_of(task), text.filter(bad)[0].as_py())
    return found.cast(pa.float32()).to_numpy(zero_copy_only=False)


def _one_of(task):
    return f"one of its classes {list(task.classes)} (or missing)"


def _check(values, bad, task, rule):
    if bad.any():
        raise _bad_label(task, rule, float(values[bad][0]))


def _bad_label(task, rule, value):
    return ValueError(
        f"The labels of task {task.name!r} ({type(task).__name__}) must be {rule}. Received "
        f"{task.raw_name}={value!r}. Correct the column, or declare another kind of task."
    )


class TaskColumn:
    """Rows of one task each: which task that is, and its label.

    Tasks that read their labels alike (of one column, of one kind, within one label
    space) are read together, so that many of them cost about what one costs.

    Args:
        schema: `Schema` with a `task_column`.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._name = schema.task_column or ""
        self._keys = Vocabulary(pa.array(schema.task_keys, pa.large_string()))
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
            raise ValueError(
                "Every row belongs to one task, which `task_column` names by one of the keys "
                f"{list(self._schema.task_keys)}. Received {name}={array[stray[0]].as_py()!r} in "
                f"row {stray[0]} of a chunk. Leave such rows out, or add the task to the schema "
                "(`Schema.add`, `Preprocessor.add_task`)."
            )
        return ids - np.int32(FIRST_ID)

    def labels(self, chunk: Mapping[str, pa.Array], task_indices: np.ndarray) -> np.ndarray:
        """Each row's label for its own task; other tasks' labels are not looked at.

        Args:
            chunk: as in `task_indices`. A task without label column is missing.
            task_indices: int32 `(n,)`.

        Returns:
            float32 `(n,)`; see `label_values`.

        Raises:
            TypeError, ValueError: as `label_values`.
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
        where = self._schema.where_source(task)
        array, limits = chunk[task.raw_name], chunk.get(where)
        if len(rows) < len(array):
            array = array.take(pa.array(rows))
            limits = None if limits is None else limits.take(pa.array(rows))
        return label_values(array, task, limits, where)


def _reading(task):
    """What decides how a task's labels are read."""
    classes = (task.num_classes, task.classes) if isinstance(task, Multiclass) else ()
    return type(task), task.raw_name, task.where, *classes
