"""Labels: from raw columns to float32 with NaN for what is missing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmoe.data import arrow
from tfmoe.data.encode.vocabulary import label_spellings
from tfmoe.data.encode.weights import LARGEST_NUMBER
from tfmoe.data.kinds import is_text
from tfmoe.data.numerals import SPELLINGS
from tfmoe.schema.missing import MARKERS
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Multiclass, Regression, Task

_WHOLE = re.compile(r"-?[0-9]+(?:\.0)?", re.ASCII)


class LabelReader:
    """Reads the labels of a schema's tasks.

    It remembers which labels of a task with `positive` counted as 0: one kind of them there may
    be, unless `negative` names several.

    Args:
        schema: `Schema`.
        seen: dict of raw column and task to a `Counter`, to which the texts are added that stood
            for a missing label; or None.
    """

    def __init__(
        self, schema: Schema, seen: dict[tuple[str, str], Counter[str]] | None = None
    ) -> None:
        self._schema = schema
        self._seen = seen
        self._others: dict[str, list[str]] = {}
        # Of the tasks that others are given, whose cells are counted when it is their turn.
        chained = any(schema.parent(task) is not None for task in schema.tasks)
        self._parents = LabelReader(schema) if seen is not None and chained else self

    def labels(
        self, task: Task, chunk: Mapping[str, pa.Array], rows: np.ndarray | None = None
    ) -> np.ndarray:
        """A task's labels.

        Rows outside the task's label space are missing and their raw label is not looked at. The
        missing label of a task that is given another, whose label is 0, is 0.

        Args:
            task: `Binary`, `Regression` or `Multiclass`.
            chunk: dict of raw column to Arrow array of n raw labels.
            rows: the rows to read, by their places, or None for all.

        Returns:
            float32 `(n,)`; NaN is missing. 0 or 1, a number, or the index of the class.

        Raises:
            TypeError: if the column's type does not suit the task.
            ValueError: if a label is none of the task's.
        """
        try:
            labels = self._labels(task, chunk, rows)
            parent = self._schema.parent(task)
            if parent is not None and parent.raw_name in chunk:
                before = self._parents.labels(parent, chunk, rows)
                labels[np.isnan(labels) & (before == 0)] = 0
            return labels
        except (TypeError, ValueError) as error:
            row = getattr(error, "row", None)
            if rows is not None and row is not None:
                arrow.at_row(error, rows[row])
            raise

    def _labels(self, task, chunk, rows):
        array = _of(chunk[task.raw_name], rows)
        inside = self._inside(task, chunk, rows)
        if inside is not None:
            array = pc.if_else(pa.array(inside), array, pa.scalar(None, array.type))
        if isinstance(task, Binary) and task.positive is not None:
            return self._positives(array, task)
        return self._read(array, task)

    def _inside(self, task, chunk, rows):
        """Rows of the task's label space: bool `(n,)`, or None for all."""
        raw = self._schema.where_source(task)
        if raw not in chunk:
            return None
        array = _of(chunk[raw], rows)
        limit = self._schema.where_task(task)
        if isinstance(limit, Binary) and limit.positive is not None:
            return self._positives(array, limit, counts=False) == 1
        if task.where_value is not None:
            text = _texts(array, raw, [task.where_value])
            wanted = _canonical(str(task.where_value))
            return pc.fill_null(pc.equal(text, wanted), False).to_numpy(zero_copy_only=False)
        try:
            return arrow.to_floats(array, raw) == 1
        except TypeError as error:
            row = getattr(error, "row", None)
            if row is None:
                raise
            raise arrow.at_row(
                TypeError(
                    f"`where` of task {task.name!r} is a column of zeros and ones, or "
                    f"`where_value` says what is in the rows inside. Received "
                    f"{raw}={array[int(row)].as_py()!r}. "
                    "Correct the cell, or name the value."
                ),
                row,
            ) from error

    def _positives(self, array, task, counts=True):
        """1 for the positive label, 0 for others, NaN for missing ones."""
        named = (task.positive, *(task.negative or ()))
        text = _texts(array, task.raw_name, named)
        own = [_canonical(str(label)) for label in named]
        present = arrow.present_texts(text, [m for m in MARKERS if m not in own])
        if counts:
            self._count(task, text, pc.invert(present))
        positive = pc.fill_null(pc.equal(text, own[0]), False)
        others = text.filter(pc.and_(present, pc.invert(positive))).unique().to_pylist()
        if task.negative:
            known, rule = own[1:], f"{task.positive!r}, or one of `negative`={list(task.negative)}"
        else:
            # The first that comes is the one, also of later chunks.
            known = self._others.setdefault(task.name, others[:1]) if others else []
            rule = f"{task.positive!r} or one other, here {known}"
        strange = [one for one in others if one not in known]
        if strange:
            place = pc.index(text, pa.scalar(strange[0], text.type)).as_py()
            raise arrow.at_row(_bad_label(task, f"{rule} (or missing)", strange[0]), place)
        values = np.where(positive.to_numpy(zero_copy_only=False), 1.0, 0.0)
        present = present.to_numpy(zero_copy_only=False)
        return np.where(present, values, np.nan).astype(np.float32)

    def _seen_of(self, task):
        if self._seen is None:
            return None
        return self._seen.setdefault((task.raw_name, task.name), Counter())

    def _count(self, task, text, missing):
        seen = self._seen_of(task)
        if seen is not None:
            seen.update(cell for cell in text.filter(missing).drop_null().to_pylist() if cell)

    def _read(self, array, task):
        if isinstance(task, Multiclass) and task.classes and isinstance(task.classes[0], str):
            return self._class_indices(array, task)
        seen = self._seen_of(task)
        try:
            values = arrow.to_floats(array, task.raw_name, seen=seen)
        except TypeError as error:
            raise _no_numbers(task, array, error) from error
        present = ~np.isnan(values)
        if isinstance(task, Binary):
            _check(values, present & (values != 0) & (values != 1), task, "0 or 1 (or missing)")
        elif isinstance(task, Regression):
            _check(values, np.abs(values) > LARGEST_NUMBER, task, "finite (or missing)")
            if task.is_scaled:
                _check(values, values < 0, task, f"at least 0 for loss={task.loss!r} (or missing)")
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

    def _class_indices(self, array, task):
        text = arrow.decoded(arrow.to_text(array, task.raw_name)).cast(pa.large_string())
        classes = list(task.classes)
        places = {label: place for place, label in enumerate(classes)}
        places |= {text: places[label] for text, label in label_spellings(classes).items()}
        found = pc.index_in(text, value_set=pa.array(list(places), pa.large_string()))
        # What stands for a missing value is one unless it is a class.
        present = arrow.present_texts(text, [m for m in MARKERS if m not in places])
        self._count(task, text, pc.invert(present))
        bad = pc.and_(present, pc.is_null(found)).to_numpy(zero_copy_only=False)
        if bad.any():
            place = int(np.flatnonzero(bad)[0])
            raise arrow.at_row(_bad_label(task, _one_of(task), text[place].as_py()), place)
        indices = np.append(list(places.values()), np.nan)
        found = found.fill_null(len(places)).to_numpy(zero_copy_only=False)
        return indices[found].astype(np.float32)


def _of(array, rows):
    array = arrow.decoded(array)
    return array if rows is None else array.take(pa.array(rows))


def _texts(array, name, labels):
    """Labels as text, as those that were named are written: 2.0 as 2, true as True."""
    if pa.types.is_floating(array.type):
        whole = pc.fill_null(pc.equal(pc.floor(array), array), True)
        if not pc.all(whole).as_py():
            return _canonical_texts(array.cast(pa.string()).cast(pa.large_string()))
    text = arrow.decoded(arrow.to_text(array, name)).cast(pa.large_string())
    if all(_WHOLE.fullmatch(str(label)) for label in labels):
        text = pc.replace_substring_regex(text, r"^\s*(-?[0-9]+)(?:\.0+)?\s*$", r"\1")
    return _canonical_texts(text)


def _canonical_texts(text):
    found = pc.index_in(text, value_set=pa.array(list(SPELLINGS), text.type))
    if found.null_count == len(found):
        return text
    return pc.coalesce(pa.array(list(SPELLINGS.values()), text.type).take(found), text)


def _canonical(label):
    if re.fullmatch(r"-?[0-9]+\.0", label):
        label = label[:-2]
    return SPELLINGS.get(label, label)


def _one_of(task):
    return f"one of its classes {list(task.classes)} (or missing)"


def _check(values, bad, task, rule):
    if bad.any():
        raise arrow.at_row(_bad_label(task, rule, float(values[bad][0])), np.flatnonzero(bad)[0])


def _bad_label(task, rule, value):
    remedy = "declare another kind of task"
    if isinstance(task, Binary) and task.positive is None:
        remedy = (
            f"name the label that counts as 1, if that is no 1: Binary({task.name!r}, positive=...)"
        )
    elif isinstance(task, Binary):
        remedy = "name all that count as 0 in `negative`, or declare it Multiclass"
    return ValueError(
        f"The labels of task {task.name!r} ({type(task).__name__}) must be {rule}. Received "
        f"{task.raw_name}={value!r}. Correct the column, or {remedy}."
    )


def _no_numbers(task, array, error):
    """The error for a label column of which a cell is no number."""
    row = getattr(error, "row", None)
    if row is None or not is_text(array.type):
        return error
    label = arrow.decoded(array)[int(row)].as_py()
    remedy = f"Multiclass({task.name!r}, classes=[...]) takes labels that are texts"
    if isinstance(task, Binary):
        remedy = f"Binary({task.name!r}, positive={label!r}) says which text counts as 1"
    return arrow.at_row(
        TypeError(
            f"The label column {task.raw_name!r} must hold numbers for task {task.name!r} "
            f"({type(task).__name__}). Received {array.type}, for example {label!r}. {remedy}."
        ),
        row,
    )
