"""What one pass over the rows collects."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from tfmoe.data import arrow
from tfmoe.data.encode.codecs import codecs_of
from tfmoe.data.encode.columns import log_transform, without_subnormals
from tfmoe.data.encode.labels import LabelReader
from tfmoe.data.encode.rows import categorical_columns, required_columns, table_owners
from tfmoe.data.encode.task_column import TaskColumn
from tfmoe.data.fit.counts import Counts
from tfmoe.data.fit.lengths import Lengths
from tfmoe.data.fit.sketches import Moments, Quantiles
from tfmoe.data.kinds import is_text
from tfmoe.data.numerals import whole_spelling
from tfmoe.data.read.tables import placed
from tfmoe.schema.columns import MISSING_INT, MultiCategorical, Numeric, Sequence
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Multiclass, Task

# What is counted of columns, by their names.
_BY_COLUMN = ("dtypes", "counts", "moments", "quantiles", "longest", "lengths", "seen")


class Statistics:
    """Mergeable statistics of a table's rows.

    Attributes, dicts by column name unless said otherwise:
        num_rows: int.
        dtypes: `"int"`, `"string"` or None (not known yet) of each column with a table.
        counts: `Counts` of each column with a vocabulary whose dtype is known.
        moments: `Moments` of standardised numbers (of their logarithm with `"log"`).
        quantiles: `Quantiles` of numbers in buckets.
        lengths: `Lengths` of the cells of list columns.
        longest: most positions in a list cell, also in parts of which the lengths were not kept.
        markers: by raw column and what reads it; how often which text stood for a missing
            number or label.
        labels: by task; `Moments`, or int64 counts `(num_classes,)`.
        contradictions: by task that is given another; rows in which it is 1 and that one is 0.
        conditional: by task with a `where`, the rows of tables that have its column.
        seen: what the codecs of the other kinds of column have counted.
        codecs: those of all columns.
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
        self.lengths: dict[str, Lengths] = {}
        self.markers: dict[tuple[str, str], Counter[str]] = {}
        self._reader = LabelReader(schema, self.markers)
        for column in schema.columns:
            if isinstance(column, MultiCategorical):
                self.longest[column.name] = 0
                self.lengths[column.name] = Lengths()
            elif isinstance(column, Numeric) and column.embeds:
                self.quantiles[column.name] = Quantiles()
            elif isinstance(column, Numeric) and column.transform != "none":
                self.moments[column.name] = Moments()
        self.labels = {task.name: no_labels(task) for task in schema.tasks}
        self.contradictions: Counter[str] = Counter()
        self.conditional: Counter[str] = Counter()
        self.codecs = codecs_of(schema)
        begun = {name: codec.nothing() for name, codec in self.codecs.items()}
        self.seen: dict[str, Any] = {n: one for n, one in begun.items() if one is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Pickles of older versions have the longest cells only.
        lengths = {name: Lengths() for name in state["longest"]}
        others: dict[str, Any] = {"markers": {}, "contradictions": Counter(), "seen": {}}
        others["conditional"] = Counter()
        self.__dict__ |= {"lengths": lengths, **others, **state}
        self.codecs = codecs_of(self.schema)
        for name, codec in state.get("codecs", {}).items():
            self.codecs[name].take_over(codec)
        self._reader = LabelReader(self.schema, self.markers)

    def required_columns(self, names: Collection[str]) -> dict[str, str | None]:
        """The raw columns to read; see `tfmoe.data.encode.rows.required_columns`."""
        brought = {name: codec.dtype for name, codec in self.codecs.items()}
        dtypes = {**brought, **self.dtypes}
        return required_columns(self.schema, names, dtypes, labels=True, weights=False)

    def add(self, chunk: Mapping[str, pa.Array]) -> int:
        """Takes in a chunk, a dict of raw column to Arrow array; returns its number of rows.

        Raises:
            TypeError, ValueError: if a cell is none of its column's, with its place.
        """
        with placed(chunk):
            return self._add(chunk)

    def _add(self, chunk):
        num_rows = len(next(iter(chunk.values())))
        untyped = getattr(chunk, "untyped", False)
        # A table's owner decides first what it holds.
        for column in sorted(categorical_columns(self.schema), key=lambda c: bool(c.share)):
            self._add_values(column, chunk[column.raw_name], untyped)
        for column in self.schema.columns:
            if isinstance(column, Numeric):
                self._add_numbers(column, self._numbers(column, chunk[column.raw_name]))
            elif isinstance(column, Sequence) and column.boundaries:
                array = chunk[column.raw_name]
                _, lengths = arrow.split_numbers(array, column.raw_name, column.separator)
                self._add_lengths(column, lengths, None)
        for name, seen in self.seen.items():
            self.seen[name] = self.codecs[name].count(chunk, seen)
        self._add_labels_of(chunk)
        self.num_rows += num_rows
        return num_rows

    def add_labels(self, chunk: Mapping[str, pa.Array]) -> None:
        """Takes in a chunk's labels alone, as far as it has them; raises as `add`."""
        with placed(chunk):
            self._add_labels_of(chunk)

    def _add_labels_of(self, chunk):
        seen = {}
        for task, labels in self._label_values(chunk):
            seen[task.name] = labels
            self._add_labels(task, labels.astype(np.float64))
            if task.where is not None and not self.schema.task_column:
                self.conditional[task.name] += len(labels)
        for task in self.schema.tasks:
            parent = self.schema.parent(task)
            if parent is not None and {task.name, parent.name} <= set(seen):
                both = (seen[task.name] == 1) & (seen[parent.name] == 0)
                self.contradictions[task.name] += int(both.sum())

    def _numbers(self, column, array):
        # What the schema names is no news.
        seen = None
        if column.missing is None:
            seen = self.markers.setdefault((column.raw_name, column.name), Counter())
        return arrow.to_floats(array, column.raw_name, column.missing, seen, column.element)

    def markers_by_column(self) -> dict[str, Counter[str]]:
        """How often which text stood for a missing number or label, by raw column."""
        found: dict[str, Counter[str]] = {}
        for (raw, _), counts in self.markers.items():
            # Several may read the same cells.
            if counts.total() > found.get(raw, Counter()).total():
                found[raw] = counts
        return found

    def _label_values(self, chunk):
        """Yields each task and its labels."""
        schema = self.schema
        if schema.task_column:
            column = TaskColumn(schema, self._reader)
            task_indices = column.task_indices(chunk)
            labels = column.labels(chunk, task_indices)
            labels = labels[np.argsort(task_indices, kind="stable")]
            ends = np.cumsum(np.bincount(task_indices, minlength=len(schema.tasks)))
            yield from zip(schema.tasks, np.split(labels, ends[:-1]), strict=True)
            return
        for task in schema.tasks:
            if task.raw_name in chunk:
                yield task, self._reader.labels(task, chunk)

    def counts_of(self, owner: str) -> Counts | None:
        """The owner's `Counts`; None if it hashes, or while its dtype is unknown."""
        dtype = self.dtypes[owner]
        column = table_owners(self.schema)[owner]
        if dtype is None or column.hash_buckets:
            return None
        if owner not in self.counts:
            self.counts[owner] = Counts(dtype, self.max_distinct, owner, column.missing)
        return self.counts[owner]

    def _add_values(self, column, array, untyped):
        repeats, num_rows, rows = None, len(array), int
        if isinstance(column, MultiCategorical):
            array, lengths, repeats, untyped = _elements(array, column, untyped)
            rows = arrow.of_lists(lengths)
            self._add_lengths(column, lengths, repeats)
            if repeats is not None:
                # A missing cell has no values.
                self.lengths[column.name].add(
                    np.zeros(1, int), np.array([num_rows - repeats.sum()])
                )
                repeats = np.repeat(repeats, lengths)
        if column.table not in self.dtypes:
            return  # the codec that brings the table counts what is in it
        with arrow.in_cells(rows):
            values = self._typed(column, array, untyped, separated=repeats is not None)
        counts = self.counts_of(column.table)
        if counts and values is not None:
            counts.add(values, None if repeats is None else pa.array(repeats))

    def _add_lengths(self, column, lengths, repeats):
        self.lengths[column.name].add(lengths, repeats)
        self.longest[column.name] = max(self.longest[column.name], int(lengths.max(initial=0)))

    def _typed(self, column, array, untyped, separated):
        """Values as the table holds them, integers or text; decides which, if the schema does not.

        A table whose values were all integers so far becomes one of text when another comes.
        """
        owner = table_owners(self.schema)[column.table]
        name, dtype = column.raw_name, self.dtypes[owner.name]
        if owner.hash_buckets and (owner.dtype or dtype == "string"):
            return None  # nothing is counted
        if owner.dtype == "int":
            if separated:
                return pa.array(arrow.whole_numbers(whole_spelling(array)))
            return pa.array(arrow.to_ints(array, name, owner.missing))
        if is_text(array.type):
            array = whole_spelling(arrow.to_text(array, name))
        if dtype != "string":
            # Of a cell's pieces nothing says that digits are numbers, but the table.
            digits = untyped or (separated and dtype == "int")
            ints = arrow.as_integers(array, name, digits, owner.missing)
            if ints is not None:
                if dtype is None and (ints != MISSING_INT).any():
                    self.dtypes[owner.name] = "int"
                return pa.array(ints)
            self._widen(owner.name)
        return arrow.to_text(array, name)

    def _widen(self, owner):
        self.dtypes[owner] = "string"
        if owner in self.counts and self.counts[owner].dtype == "int":
            self.counts[owner] = self.counts[owner].as_text()

    def _add_numbers(self, column, values):
        values = without_subnormals(values)
        if column.embeds:
            self.quantiles[column.name].add(values)
        elif column.transform != "none":
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
        """The same statistics under a schema with other tasks or fewer columns; shares what both
        hold.
        """
        other = copy.copy(self)
        other.schema = schema
        columns = {column.name for column in schema.columns}
        for part in _BY_COLUMN:
            own = {name: one for name, one in getattr(self, part).items() if name in columns}
            setattr(other, part, own)
        names = columns | set(schema.task_names)
        other.markers = {key: seen for key, seen in self.markers.items() if key[1] in names}
        for part in ("contradictions", "conditional"):
            own = {name: n for name, n in getattr(self, part).items() if name in names}
            setattr(other, part, Counter(own))
        other._reader = LabelReader(schema, other.markers)
        other.labels = {t.name: self.labels.get(t.name, no_labels(t)) for t in schema.tasks}
        other.codecs = codecs_of(schema)
        for name, codec in other.codecs.items():
            codec.take_over(self.codecs[name])
        return other

    def renamed(self, schema: Schema, names: Mapping[str, str]) -> Statistics:
        """The same statistics under a schema whose columns have other names, or that has more.

        Args:
            schema: `Schema`.
            names: dict by column of this one's schema of its name in the other.
        """
        other = Statistics(schema, self.max_distinct)
        for part in _BY_COLUMN:
            own = {names[name]: value for name, value in getattr(self, part).items()}
            getattr(other, part).update(own)
        other.num_rows, other.labels = self.num_rows, dict(self.labels)
        tasks = {(task.raw_name, task.name) for task in schema.tasks}
        raw = {column.name: column.raw_name for column in schema.columns}
        for key, seen in self.markers.items():
            now = names.get(key[1], key[1])
            other.markers[key if key in tasks else (raw[now], now)] = Counter(seen)
        other.contradictions.update(self.contradictions)
        other.conditional.update(self.conditional)
        return other

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of both parts' rows; neither is changed.

        A column that holds integers in one part and text in the other holds text.
        """
        merged = Statistics(self.schema, max(self.max_distinct, other.max_distinct))
        merged.codecs = self.codecs
        merged.num_rows = self.num_rows + other.num_rows
        for owner, dtype in self.dtypes.items():
            either = {dtype, other.dtypes[owner]} - {None}
            merged.dtypes[owner] = "string" if "string" in either else next(iter(either), None)
            for part in (self, other):
                counts = merged.counts_of(owner) if owner in part.counts else None
                if counts:
                    counts.add_counts(part.counts[owner])
        for name in self.moments:
            merged.moments[name] = self.moments[name].merge(other.moments[name])
        for name in self.quantiles:
            merged.quantiles[name] = self.quantiles[name].merge(other.quantiles[name])
        for name in self.longest:
            merged.longest[name] = max(self.longest[name], other.longest[name])
            merged.lengths[name] = self.lengths[name].merge(other.lengths[name])
        for name, found in self.seen.items():
            merged.seen[name] = found.merge(other.seen[name])
        for name, seen in self.labels.items():
            merged.labels[name] = _merged_labels(seen, other.labels[name])
        for part in (self, other):
            for key, texts in part.markers.items():
                merged.markers.setdefault(key, Counter()).update(texts)
            merged.contradictions.update(part.contradictions)
            merged.conditional.update(part.conditional)
        return merged


def _merged_labels(one, other):
    return one.merge(other) if isinstance(one, Moments) else one + other


def no_labels(task: Task) -> np.ndarray | Moments:
    """What is known of a task's labels before any is seen."""
    return np.zeros(task.num_outputs, np.int64) if isinstance(task, Multiclass) else Moments()


def _elements(array, column, untyped):
    """The values of a list column's cells, the cells' lengths, how often each cell occurs, or
    None if each does once, and whether the values are text of which nothing more is known.
    """
    if column.separator is None or arrow.is_list(array.type):
        elements, lengths = arrow.split_lists(array, column)
        return elements, lengths, None, False
    if not is_text(array.type) and not pa.types.is_null(array.type):
        # Integers, of which each is a cell of one value.
        untyped = not pa.types.is_boolean(array.type)
    else:
        untyped = False
    # Separated strings repeat, "Action|Comedy": cut the different ones.
    text = arrow.to_text(array, column.raw_name).drop_null()
    if not pa.types.is_dictionary(text.type):
        text = text.dictionary_encode()
    repeats = np.bincount(text.indices.to_numpy(), minlength=len(text.dictionary))
    elements, lengths = arrow.split_lists(text.dictionary.filter(pa.array(repeats > 0)), column)
    return elements, lengths, repeats[repeats > 0], untyped
