"""Chunks of raw columns to packed rows, and packed rows to dicts by column name.

A packed row is a record of 4-byte words: the features in the schema's order, the row's
task if the schema has a `task_column`, then the labels, the row's weight, and the code of its
group if the schema has a `group`. One matrix
holds ids and floats alike (floats by their bits), so shuffling and batching move whole
rows at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tfmoe.data.arrow import at_row, decoded
from tfmoe.data.encode.codecs import codecs_of
from tfmoe.data.encode.labels import LabelReader
from tfmoe.data.encode.task_column import TaskColumn
from tfmoe.data.encode.values import ValueCodes
from tfmoe.data.encode.weights import weight_values
from tfmoe.data.read.tables import placed
from tfmoe.schema.columns import Categorical
from tfmoe.schema.schema import GROUP_CODES, Schema
from tfmoe.schema.tasks import Binary, Multiclass, Task

if TYPE_CHECKING:
    from tfmoe.data.fit.fitted import Fitted


def required_columns(
    schema: Schema,
    names: Collection[str],
    dtypes: Mapping[str, str | None],
    labels: bool,
    weights: bool,
) -> dict[str, str | None]:
    """The raw columns to read from a table, and what each should hold.

    Args:
        schema: `Schema`.
        names: the table's columns.
        dtypes: dict of column that owns a table of values to `"int"`, `"string"` or None.
        labels: whether to read the labels that the table has.
        weights: whether to read the weight column, and that of groups.

    Returns:
        Dict of raw column to `"float"` (numbers, or true and false), `"int"`, `"string"`,
        `"text"` (as it is written), `"list"` or None (as found).

    Raises:
        ValueError: if the table lacks a column that is needed.
    """
    wanted: _Wanted = []
    for name, codec in codecs_of(schema).items():
        wanted += [(raw, kind, f"column {name!r}") for raw, kind in codec.kinds(dtypes).items()]
    if schema.task_column:
        wanted.append((schema.task_column, "text", "`task_column`"))
    if weights and schema.weight_column:
        wanted.append((schema.weight_column, "float", "`weight_column`"))
    for task in schema.tasks if labels else ():
        if task.raw_name in names:
            wanted += _of_label(schema, task)
            if weights and task.weight_column:
                owner = f"`weight_column` of {task.name!r}"
                wanted.append((task.weight_column, "float", owner))
    # An input that reads it too says how.
    if weights and schema.group and schema.group not in {raw for raw, *_ in wanted}:
        wanted.append((schema.group, "text", "`group`"))
    return _kinds(wanted, names)


def label_columns(schema: Schema, names: Collection[str], task: Task) -> dict[str, str | None]:
    """The raw columns to read for one task's labels; see `required_columns`.

    Those of the tasks that it is given are read too, as far as the table has them.
    """
    wanted = _of_label(schema, task)
    parent = schema.parent(task)
    while parent is not None and parent.raw_name in names:
        wanted += [one for one in _of_label(schema, parent) if one[0] in names]
        parent = schema.parent(parent)
    if schema.task_column:
        wanted.append((schema.task_column, "text", "`task_column`"))
    return _kinds(wanted, names)


# Raw column, how to read it, and who needs it.
_Wanted = list[tuple[str, str | None, str]]


def _of_label(schema, task):
    wanted: _Wanted = [(task.raw_name, _label_kind(task), f"task {task.name!r}")]
    where = schema.where_source(task)
    if where:
        kind = _where_kind(schema, task)
        wanted.append((where, kind, f"`where` of {task.name!r}"))
    return wanted


def _kinds(wanted, names):
    absent = {raw: owner for raw, _, owner in wanted if raw not in names}
    if absent:
        needs = ", ".join(f"{raw!r} (for {owner})" for raw, owner in absent.items())
        raise ValueError(
            f"The table needs the columns of the schema. Received {_table(names)} without {needs}; "
            f"its columns are {[str(name) for name in names]}. Add the columns, or name the "
            "table's own by `source`."
        )
    kinds: dict[str, str | None] = {}
    for raw, kind, _ in wanted:
        other = kinds.get(raw, kind)
        if {kind, other} in ({"string", "text"}, {"float", "text"}):
            kinds[raw] = "text"
        else:
            # Two readers that disagree take the column as the file has it.
            kinds[raw] = kind if other == kind else None
    return kinds


def _table(names):
    """Words for the table that has the columns."""
    path = getattr(names, "path", None)
    return f"the table {path}" if path else "a table"


def _label_kind(task):
    if isinstance(task, Binary) and task.positive is not None:
        return "string"
    if isinstance(task, Multiclass) and task.classes and isinstance(task.classes[0], str):
        return "text"
    return "float"


def _where_kind(schema, task):
    limit = schema.where_task(task)
    if limit is not None:
        return _label_kind(limit)
    return "float" if task.where_value is None else "string"


@dataclass(frozen=True)
class Slot:
    """Where a column, label or weight lies in a packed row; `width` None for one word."""

    start: int
    width: int | None
    floating: bool

    def of(self, words: Any, floats: Any) -> Any:
        """Its part of packed rows, given as int32 and as float32."""
        rows = floats if self.floating else words
        if self.width is None:
            return rows[:, self.start]
        return rows[:, self.start : self.start + self.width]

    def put(self, values: np.ndarray, words: np.ndarray, floats: np.ndarray) -> None:
        """Writes its values, `(n,)` or `(n, width)`, into transposed packed rows."""
        columns = floats if self.floating else words
        columns[self.start : self.start + (self.width or 1)] = values.T


class RowEncoder:
    """Encodes raw chunks with what a `Preprocessor` has fitted.

    Args:
        schema: `Schema`.
        fitted: `Fitted`.
        labels: whether rows carry labels and weights.
    """

    def __init__(self, schema: Schema, fitted: Fitted, labels: bool) -> None:
        self.schema = schema
        self.fitted = fitted
        self.labels = labels
        self._codecs = codecs_of(schema)
        self._features: dict[str, Slot] = {}
        self._labels: dict[str, Slot] = {}
        self.width = 0
        for column in schema.columns:
            width = fitted.lengths[column.name] if column.is_wide else None
            first, *weights = column.feature_names
            self._features[first] = self._slot(width, not column.embeds)
            self._features |= {name: self._slot(width, True) for name in weights}
        self._reader = LabelReader(schema)
        self._task_column = None
        if schema.task_column:
            self._task_column = TaskColumn(schema, self._reader)
            self._features[schema.task_column] = self._slot(None, False)
        # Raw columns of tasks' own row weights.
        self._weighing: dict[str, str] = {}
        self._weights: dict[str, Slot] = {}
        if labels:
            self._labels = {name: self._slot(None, True) for name in schema.output_names}
            self._weight = self._slot(None, True)
            if not schema.task_column:
                columns = {task.name: task.weight_column for task in schema.tasks}
                self._weighing = {name: raw for name, raw in columns.items() if raw}
            self._weights = {name: self._slot(None, True) for name in self._weighing}
        self._group_codes = None
        if labels and schema.group:
            self._group_codes = ValueCodes(schema.group)
            self._group = self._slot(None, False)

    def _slot(self, width, floating):
        slot = Slot(self.width, width, floating)
        self.width += width or 1
        return slot

    def required_columns(self, names: Collection[str]) -> dict[str, str | None]:
        """The raw columns to read; see `required_columns`.

        Raises:
            ValueError: if a column is missing, or labels are wanted and there is none.
        """
        if self.labels and not any(task.raw_name in names for task in self.schema.tasks):
            raise ValueError(
                f"Labels are read from the table. Received {_table(names)} without any of "
                f"{[task.raw_name for task in self.schema.tasks]}; its columns are "
                f"{[str(name) for name in names]}. For features only pass labels=False."
            )
        return required_columns(self.schema, names, self.fitted.dtypes, self.labels, self.labels)

    def groups(self, chunk: Mapping[str, pa.Array]) -> np.ndarray | None:
        """The codes of the rows' groups, int32 `(n,)`, -1 of none; None if rows have no groups.

        They are counted from the first chunk on: threads that encode are told them by the one that
        reads, so that they are the same in every run.
        """
        if self._group_codes is None:
            return None
        with placed(chunk):
            return self._group_codes.codes(chunk[self._group_codes.name])

    def encode(self, chunk: Mapping[str, pa.Array], groups: np.ndarray | None = None) -> np.ndarray:
        """Packed rows of a chunk.

        Args:
            chunk: dict of raw column to Arrow array of n values.
            groups: what `groups` returned of it.

        Returns:
            int32 `(n, width)`.

        Raises:
            TypeError, ValueError: if a cell is none of its column's, with its place.
        """
        with placed(chunk):
            return self._encode(chunk, groups)

    def _encode(self, chunk, groups):
        num_rows = len(next(iter(chunk.values())))
        # Columns are written one after the other and transposed once: writing each
        # into its place in every row takes three times as long.
        words = np.empty((self.width, num_rows), np.int32)
        floats = words.view(np.float32)
        for codec in self._codecs.values():
            for name, values in codec.encode(chunk, self.fitted).items():
                self._features[name].put(values, words, floats)
        task_indices = None
        if self.schema.task_column and self._task_column:
            task_indices = self._task_column.task_indices(chunk)
            self._features[self.schema.task_column].put(task_indices, words, floats)
        if self.labels:
            for name, values in self._label_values(chunk, task_indices):
                self._labels[name].put(values, words, floats)
            weights = self._row_weights(chunk, task_indices)
            self._weight.put(weights, words, floats)
            for name, own in self._weighing.items():
                # A table without the column has no labels of the task.
                both = weight_values(chunk[own], own, weights) if own in chunk else weights
                self._weights[name].put(both, words, floats)
        if self._group_codes is not None:
            self._group.put(groups, words, floats)
        return np.ascontiguousarray(words.T)

    def _row_weights(self, chunk, task_indices):
        """Weights of the rows `(n,)`, or one for all; of rows of one task each also that task's."""
        raw = self.schema.weight_column
        weights = weight_values(chunk[raw], raw) if raw else np.array(1.0, np.float32)
        if task_indices is None or not any(task.weight_column for task in self.schema.tasks):
            return weights
        weights = np.broadcast_to(weights, task_indices.shape).copy()
        for index, task in enumerate(self.schema.tasks):
            own, rows = task.weight_column, np.flatnonzero(task_indices == index)
            if own and own in chunk and len(rows):
                try:
                    cells = decoded(chunk[own]).take(pa.array(rows))
                    weights[rows] = weight_values(cells, own, weights[rows])
                except (TypeError, ValueError) as error:
                    row = getattr(error, "row", None)
                    raise error if row is None else at_row(error, rows[row]) from None
        return weights

    def _label_values(self, chunk, task_indices):
        """Yields the name of each output and its labels."""
        if self._task_column:
            yield self.schema.output_names[0], self._task_column.labels(chunk, task_indices)
            return
        for task in self.schema.tasks:
            if task.raw_name in chunk:
                yield task.name, self._reader.labels(task, chunk)
            else:
                yield task.name, np.float32(np.nan)

    def task_indices(self, words: np.ndarray) -> np.ndarray:
        """Each packed row's task, int32 `(n,)`, of a schema with a `task_column`."""
        return self._features[self.schema.task_column or ""].of(words, None)

    def group_codes(self, words: np.ndarray) -> np.ndarray:
        """The codes of packed rows' groups, int32 `(n,)`, of a schema with a `group`."""
        return self._group.of(words, None)

    def unpack(self, words: Any, floats: Any) -> Any:
        """Packed rows as dicts by name; `(features, labels, weights)`, or features only.

        Args:
            words, floats: the rows as int32 and as float32 `(n, width)`, NumPy or tensors.
        """
        features = {name: slot.of(words, floats) for name, slot in self._features.items()}
        if not self.labels:
            return features
        labels = {name: slot.of(words, floats) for name, slot in self._labels.items()}
        weights = dict.fromkeys(labels, self._weight.of(words, floats))
        weights |= {name: slot.of(words, floats) for name, slot in self._weights.items()}
        if self._group_codes is not None:
            features[GROUP_CODES] = self._group.of(words, floats)
        return features, labels, weights


def categorical_columns(schema: Schema) -> list[Categorical]:
    """The schema's columns that have ids by value."""
    return [
        column
        for column in schema.columns
        if isinstance(column, Categorical) and not getattr(column, "boundaries", ())
    ]


def table_owners(schema: Schema) -> dict[str, Categorical]:
    """The columns that own a table of values, by name."""
    return {column.name: column for column in categorical_columns(schema) if not column.share}
