"""What one pass over the rows collects, and what is made of it."""

import copy
import dataclasses
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmoe.columns import FIRST_ID, MultiCategorical, Numeric
from tfmoe.data import convert
from tfmoe.data.encoding import NumericFit, log_transform
from tfmoe.data.labels import TaskColumn, label_values
from tfmoe.data.rows import categorical, required_columns
from tfmoe.data.statistics import Moments, Quantiles
from tfmoe.data.vocabulary import Counts, HashTable, Vocabulary
from tfmoe.tasks import Multiclass


def tables(schema):
    """Dict of the columns that own an id table by value, by name."""
    return {column.name: column for column in categorical(schema) if not column.share}


def unfitted_columns(schema):
    """Names of the columns that cannot be encoded without fitting."""
    owners = tables(schema)
    names = []
    for column in schema.columns:
        if isinstance(column, Numeric):
            needs = column.transform != "none"
        else:
            needs = owners[column.table].hash_buckets is None
            if isinstance(column, MultiCategorical):
                needs = needs or column.max_length is None
        if needs:
            names.append(column.name)
    return names


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

    def __init__(self, schema, max_distinct):
        self.schema = schema
        self.max_distinct = max_distinct
        self.num_rows = 0
        self.dtypes = {name: column.dtype for name, column in tables(schema).items()}
        self.counts, self.moments, self.quantiles, self.longest = {}, {}, {}, {}
        for column in schema.columns:
            if isinstance(column, MultiCategorical):
                self.longest[column.name] = 0
            elif isinstance(column, Numeric) and column.embeds:
                self.quantiles[column.name] = Quantiles()
            elif isinstance(column, Numeric) and column.transform != "none":
                self.moments[column.name] = Moments()
        self.labels = {task.name: _no_labels(task) for task in schema.tasks}

    def required_columns(self, names):
        """The raw columns to read; see `rows.required_columns`."""
        dtypes = {column.name: self.dtypes[column.table] for column in categorical(self.schema)}
        return required_columns(self.schema, names, dtypes, labels=True, weights=False)

    def add(self, chunk):
        """Takes in a chunk, a dict of raw column to Arrow array; returns its rows' number."""
        num_rows = len(next(iter(chunk.values())))
        self._resolve_dtypes(chunk)
        for column in self.schema.columns:
            array = chunk[column.raw]
            if not isinstance(column, Numeric):
                self._add_values(column, array)
            elif column.transform != "none":
                self._add_numbers(column, convert.to_floats(array, column.raw))
        for task, labels in self._label_values(chunk):
            self._add_labels(task, labels.astype(np.float64))
        self.num_rows += num_rows
        return num_rows

    def _label_values(self, chunk):
        """Yields each task and its labels."""
        schema = self.schema
        if schema.task_column:
            column = TaskColumn(schema)
            tasks = column.indices(chunk)
            labels = column.labels(chunk, tasks)[np.argsort(tasks, kind="stable")]
            ends = np.cumsum(np.bincount(tasks, minlength=len(schema.tasks)))
            yield from zip(schema.tasks, np.split(labels, ends[:-1]), strict=True)
            return
        for task in schema.tasks:
            if task.raw in chunk:
                where = schema.where_source(task)
                yield task, label_values(chunk[task.raw], task, chunk.get(where), where)

    def _resolve_dtypes(self, chunk):
        for owner in [name for name, dtype in self.dtypes.items() if dtype is None]:
            users = [c for c in categorical(self.schema) if c.table == owner]
            users.sort(key=lambda column: column.name != owner)
            for column in users:
                array = chunk[column.raw]
                if convert.is_list(array.type):
                    array = array.flatten()
                if pa.types.is_dictionary(array.type):
                    array = array.dictionary
                if pa.types.is_floating(array.type):
                    array = array.cast(pa.float64())
                    array = array.filter(pc.invert(pc.is_nan(array)))
                if array.null_count < len(array):
                    self.dtypes[owner] = "int" if _all_whole(array) else "string"
                    break

    def counts_of(self, owner):
        """The owner's `Counts`; None if it hashes, or while its dtype is unknown."""
        if self.dtypes[owner] is None or self.schema.column(owner).hash_buckets:
            return None
        if owner not in self.counts:
            self.counts[owner] = Counts(self.dtypes[owner], self.max_distinct, owner)
        return self.counts[owner]

    def _add_values(self, column, array):
        counts = self.counts_of(column.table)
        if isinstance(column, MultiCategorical):
            longest = _count_elements(array, column, counts)
            self.longest[column.name] = max(self.longest[column.name], longest)
        elif counts:
            counts.add(_typed(array, column.raw, counts.dtype))

    def _add_numbers(self, column, values):
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

    def under(self, schema):
        """The same statistics under a schema with other tasks; shares what both hold."""
        other = copy.copy(self)
        other.schema = schema
        other.labels = {t.name: self.labels.get(t.name, _no_labels(t)) for t in schema.tasks}
        return other

    def merge(self, other):
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
                if owner in part.counts:
                    merged.counts_of(owner).add_table(part.counts[owner].table())
        for name in self.moments:
            merged.moments[name] = self.moments[name].merge(other.moments[name])
        for name in self.quantiles:
            merged.quantiles[name] = self.quantiles[name].merge(other.quantiles[name])
        for name in self.longest:
            merged.longest[name] = max(self.longest[name], other.longest[name])
        for name, seen in self.labels.items():
            moments = isinstance(seen, Moments)
            merged.labels[name] = (
                seen.merge(other.labels[name]) if moments else seen + other.labels[name]
            )
        return merged


def _no_labels(task):
    return np.zeros(task.num_outputs, np.int64) if isinstance(task, Multiclass) else Moments()


def _all_whole(array):
    """Whether values are integers, perhaps turned into floats by a gap."""
    if pa.types.is_floating(array.type):
        return pc.all(pc.equal(pc.floor(array), array)).as_py()
    return pa.types.is_integer(array.type)


def _typed(array, name, dtype):
    if dtype == "int":
        return pa.array(convert.to_ints(array, name))
    return convert.to_text(array, name)


def _count_elements(array, column, counts):
    """Counts the values of a list column's cells; returns the longest cell's length."""
    repeats = None
    separated = column.separator is not None and not convert.is_list(array.type)
    if separated:
        # Separated strings repeat, "Action|Comedy": cut the different ones.
        text = convert.to_text(array, column.raw).drop_null()
        if not pa.types.is_dictionary(text.type):
            text = text.dictionary_encode()
        repeats = np.bincount(text.indices.to_numpy(), minlength=len(text.dictionary))
        array = text.dictionary.filter(pa.array(repeats > 0))
        repeats = repeats[repeats > 0]
    elements, lengths = convert.split_lists(array, column)
    if counts and separated:
        if counts.dtype == "int":
            elements = pa.array(convert.whole_numbers(elements))
        counts.add(elements, pa.array(np.repeat(repeats, lengths)))
    elif counts:
        counts.add(_typed(elements, column.raw, counts.dtype))
    return int(lengths.max(initial=0))


@dataclass(frozen=True)
class Fitted:
    """What encoding needs. Dicts by column name, `label_means` by task.

    Args:
        num_rows: rows seen.
        dtypes: `"int"` or `"string"` of each `Categorical` kind.
        vocabularies: Arrow array in id order, of each column that owns a vocabulary.
        numeric: `NumericFit` of each `Numeric`.
        lengths: padded width of each list column.
        label_means: mean label, or float64 `(num_classes,)` of class frequencies; NaN for
            a task without labels.
        tables: `Vocabulary` or `HashTable` of each owner.
    """

    num_rows: int
    dtypes: dict
    vocabularies: dict
    numeric: dict
    lengths: dict
    label_means: dict
    tables: dict

    @classmethod
    def of(cls, statistics):
        """Closes the statistics of a pass."""
        schema = statistics.schema
        numeric = {c.name: _numeric_fit(c, statistics) for c in schema.columns if _is_numeric(c)}
        vocabularies = {}
        for owner, column in tables(schema).items():
            if not column.hash_buckets:
                counts = statistics.counts.get(owner) or Counts("string", 1, owner)
                vocabularies[owner] = counts.vocabulary(column.min_count, column.max_size)
        return cls.build(
            schema,
            statistics.num_rows,
            statistics.dtypes,
            vocabularies,
            numeric,
            statistics.longest,
            {name: _mean(seen) for name, seen in statistics.labels.items()},
        )

    def under(self, schema):
        """The same under a schema with other tasks; a new one has no labels yet."""
        means = {t.name: self.label_means.get(t.name, _mean(_no_labels(t))) for t in schema.tasks}
        return dataclasses.replace(self, label_means=means)

    @classmethod
    def build(cls, schema, num_rows, dtypes, vocabularies, numeric, longest, label_means):
        """From its parts; `dtypes` by owner (None becomes `"string"`), `longest` as seen."""
        lengths = {
            c.name: c.max_length or max(longest[c.name], 1)
            for c in schema.columns
            if isinstance(c, MultiCategorical)
        }
        by_name = {
            owner: HashTable(column.hash_buckets)
            if column.hash_buckets
            else Vocabulary(vocabularies[owner])
            for owner, column in tables(schema).items()
        }
        dtypes = {c.name: dtypes[c.table] or "string" for c in categorical(schema)}
        return cls(num_rows, dtypes, vocabularies, numeric, lengths, label_means, by_name)

    def table_sizes(self, schema):
        """Rows of the embedding table of each owner, in the schema's order."""
        sizes = {}
        for column in schema.columns:
            if column.name in self.tables:
                sizes[column.name] = self.tables[column.name].size
            elif _is_numeric(column) and column.embeds:
                sizes[column.name] = FIRST_ID + column.num_buckets
        return sizes


def _is_numeric(column):
    return isinstance(column, Numeric)


def _numeric_fit(column, statistics):
    fill = None if column.fill is None else float(column.fill)
    if column.embeds:
        sketch = statistics.quantiles[column.name]
        return NumericFit(fill=fill, boundaries=sketch.boundaries(column.num_buckets))
    moments = statistics.moments.get(column.name, Moments())
    if column.transform == "none":
        return NumericFit(fill=fill)
    return NumericFit(moments.mean, moments.scale, fill)


def _mean(seen):
    if isinstance(seen, Moments):
        return seen.mean if seen.count else float("nan")
    total = seen.sum()
    return seen / total if total else np.full(len(seen), np.nan)
