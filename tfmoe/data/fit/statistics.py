"""What one pass over the rows collects."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmoe.data import arrow
from tfmoe.data.encode.columns import log_transform, without_subnormals
from tfmoe.data.encode.labels import TaskColumn, label_values
from tfmoe.data.encode.rows import categorical_columns, required_columns, table_owners
from tfmoe.data.fit.counts import Counts
from tfmoe.data.fit.sketches import Moments, Quantiles
from tfmoe.schema.columns import MultiCategorical, Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Multiclass, Task


class Statistics:
    """Mergeable statistics of a table's rows.

    Attributes, dicts by column name unless said otherwise:
        num_rows: int.
        dtypes: `"int"`, `"string"` or None (not known yet) of each column with a table.
        counts: `Counts` of each column with a vocabulary whose dtype is known.
        moments: `Moments` of standardised numbers (of their logarithm with `"log"`).
        quantiles: `Quantiles` of numbers in buckets.
        longest: most positions in a list cell.
        labels: by task; `Moments`, or int64 counts `(num_classes,)`.
    """

    def __init__(self, schema: Schema, max_distinct: int) -> None:
        self.schema = schema
        self.max_distinct = max_distinct
        self.num_rows = 0
        self.dtypes: dict[str, str | None] = {
            name: column.dtype for name, column in table_owners(schema).items()
        }
        self.counts: dict[str, Counts] = {}
        self.moments: dict[str, Moments] = {}
        self.quantiles: dict[str, Quantiles] = {}
        self.longest: dict[str, int] = {}
        for column in schema.columns:
            if isinstance(column, MultiCategorical):
                self.longest[column.name] = 0
            elif isinstance(column, Numeric) and column.embeds:
                self.quantiles[column.name] = Quantiles()
            elif isinstance(column, Numeric) and column.transform != "none":
                self.moments[column.name] = Moments()
        self.labels = {task.name: no_labels(task) for task in schema.tasks}

    def required_columns(self, names: Collection[str]) -> dict[str, str | None]:
        """The raw columns to read; see `tfmoe.data.encode.rows.required_columns`."""
        dtypes = {
            column.name: self.dtypes[column.table] for column in categorical_columns(self.schema)
        }
        return required_columns(self.schema, names, dtypes, labels=True, weights=False)

    def add(self, chunk: Mapping[str, pa.Array]) -> int:
        """Takes in a chunk, a dict of raw column to Arrow array; returns its number of rows."""
        num_rows = len(next(iter(chunk.values())))
        self._resolve_dtypes(chunk)
        for column in self.schema.columns:
            array = chunk[column.raw_name]
            if not isinstance(column, Numeric):
                self._add_values(column, array)
            elif column.transform != "none":
                self._add_numbers(column, arrow.to_floats(array, column.raw_name))
        self.add_labels(chunk)
        self.num_rows += num_rows
        return num_rows

    def add_labels(self, chunk: Mapping[str, pa.Array]) -> None:
        """Takes in a chunk's labels, as far as it has them."""
        for task, labels in self._label_values(chunk):
            self._add_labels(task, labels.astype(np.float64))

    def _label_values(self, chunk):
        """Yields each task and its labels."""
        schema = self.schema
        if schema.task_column:
            column = TaskColumn(schema)
            task_indices = column.task_indices(chunk)
            labels = column.labels(chunk, task_indices)
            labels = labels[np.argsort(task_indices, kind="stable")]
            ends = np.cumsum(np.bincount(task_indices, minlength=len(schema.tasks)))
            yield from zip(schema.tasks, np.split(labels, ends[:-1]), strict=True)
            return
        for task in schema.tasks:
            if task.raw_name in chunk:
                where = schema.where_source(task)
                yield task, label_values(chunk[task.raw_name], task, chunk.get(where), where)

    def _resolve_dtypes(self, chunk):
        for owner in [name for name, dtype in self.dtypes.items() if dtype is None]:
            users = [c for c in categorical_columns(self.schema) if c.table == owner]
            users.sort(key=lambda column: column.name != owner)
            for column in users:
                array = chunk[column.raw_name]
                if arrow.is_list(array.type):
                    array = array.flatten()
                if pa.types.is_dictionary(array.type):
                    array = array.dictionary
                if pa.types.is_floating(array.type):
                    array = array.cast(pa.float64())
                    array = array.filter(pc.invert(pc.is_nan(array)))
                if array.null_count < len(array):
                    self.dtypes[owner] = "int" if _all_whole(array) else "string"
                    break

    def counts_of(self, owner: str) -> Counts | None:
        """The owner's `Counts`; None if it hashes, or while its dtype is unknown."""
        dtype = self.dtypes[owner]
        if dtype is None or table_owners(self.schema)[owner].hash_buckets:
            return None
        if owner not in self.counts:
            self.counts[owner] = Counts(dtype, self.max_distinct, owner)
        return self.counts[owner]

    def _add_values(self, column, array):
        counts = self.counts_of(column.table)
        if isinstance(column, MultiCategorical):
            longest = _count_elements(array, column, counts)
            self.longest[column.name] = max(self.longest[column.name], longest)
        elif counts:
            counts.add(_typed(array, column.raw_name, counts.dtype))

    def _add_numbers(self, column, values):
        values = without_subnormals(values)
        if column.embeds:
            self.quantiles[column.name].add(values)
        else:
            values = log_transform(values) if column.transform == "log" else values
            moments = self.moments[column.name]
            self.moments[column.name] = moments.merge(Moments.of(values))

    def _add_labels(self, task, labels):
        seen = self.labels[task.name]
        if isinstance(task, Multiclass):
            classes = labels[~np.isnan(labels)].astype(np.int64)
            self.labels[task.name] = seen + np.bincount(classes, minlength=task.num_outputs)
        else:
            self.labels[task.name] = seen.merge(Moments.of(labels))

    def under(self, schema: Schema) -> Statistics:
        """The same statistics under a schema with other tasks; shares what both hold."""
        other = copy.copy(self)
        other.schema = schema
        other.labels = {t.name: self.labels.get(t.name, no_labels(t)) for t in schema.tasks}
        return other

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of both parts' rows; neither is changed.

        Raises:
            ValueError: if the parts disagree about a column's dtype.
        """
        merged = Statistics(self.schema, max(self.max_distinct, other.max_distinct))
        merged.num_rows = self.num_rows + other.num_rows
        for owner, dtype in self.dtypes.items():
            if None not in (dtype, other.dtypes[owner]) and dtype != other.dtypes[owner]:
                raise ValueError(
                    "Parts to be merged must agree about what a column holds. Received "
                    f"column {owner!r} as {dtype!r} and as {other.dtypes[owner]!r}. Declare "
                    f"its `dtype` in the schema and fit the parts again."
                )
            merged.dtypes[owner] = dtype or other.dtypes[owner]
            for part in (self, other):
                counts = merged.counts_of(owner) if owner in part.counts else None
                if counts:
                    counts.add_table(part.counts[owner].table())
        for name in self.moments:
            merged.moments[name] = self.moments[name].merge(other.moments[name])
        for name in self.quantiles:
            merged.quantiles[name] = self.quantiles[name].merge(other.quantiles[name])
        for name in self.longest:
            merged.longest[name] = max(self.longest[name], other.longest[name])
        for name, seen in self.labels.items():
            merged.labels[name] = _merged_labels(seen, other.labels[name])
        return merged


def _merged_labels(one, other):
    return one.merge(other) if isinstance(one, Moments) else one + other


def no_labels(task: Task) -> np.ndarray | Moments:
    """What is known of a task's labels before any is seen."""
    return np.zeros(task.num_outputs, np.int64) if isinstance(task, Multiclass) else Moments()


def _all_whole(array):
    """Whether values are integers, perhaps turned into floats by a gap."""
    if pa.types.is_floating(array.type):
        return pc.all(pc.equal(pc.floor(array), array)).as_py()
    return pa.types.is_integer(array.type)


def _typed(array, name, dtype):
    if dtype == "int":
        return pa.array(arrow.to_ints(array, name))
    return arrow.to_text(array, name)


def _count_elements(array, column, counts):
    """Counts the values of a list column's cells; returns the longest cell's length."""
    repeats = None
    separated = column.separator is not None and not arrow.is_list(array.type)
    if separated:
        # Separated strings repeat, "Action|Comedy": cut the different ones.
        text = arrow.to_text(array, column.raw_name).drop_null()
        if not pa.types.is_dictionary(text.type):
            text = text.dictionary_encode()
        repeats = np.bincount(text.indices.to_numpy(), minlength=len(text.dictionary))
        array = text.dictionary.filter(pa.array(repeats > 0))
        repeats = repeats[repeats > 0]
    elements, lengths = arrow.split_lists(array, column)
    if counts and separated:
        if counts.dtype == "int":
            elements = pa.array(arrow.whole_numbers(elements))
        counts.add(elements, pa.array(np.repeat(repeats, lengths)))
    elif counts:
        counts.add(_typed(elements, column.raw_name, counts.dtype))
    return int(lengths.max(initial=0))
