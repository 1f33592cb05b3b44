"""What a pass over the rows leaves: all that encoding needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from tfmoe.data.encode.codecs import codecs_of
from tfmoe.data.encode.columns import NumericFit
from tfmoe.data.encode.rows import table_owners
from tfmoe.data.encode.vocabulary import HashTable, Vocabulary
from tfmoe.data.fit.counts import Counts
from tfmoe.data.fit.sketches import Moments
from tfmoe.data.fit.statistics import Statistics, no_labels
from tfmoe.schema.columns import MultiCategorical, Numeric
from tfmoe.schema.histories import list_groups
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Regression

#: Positions of a list column, at most: a row of so many ids takes 40 MB.
LONGEST = 10_000_000


@dataclass(frozen=True)
class Fitted:
    """What encoding needs. Dicts by column name, those of labels by task.

    Args:
        num_rows: rows seen.
        dtypes: `"int"` or `"string"` of each column with a table of values.
        vocabularies: Arrow array in id order, of each column that owns a vocabulary; null where
            an id is free.
        numeric: `NumericFit` of each `Numeric`.
        lengths: numbers or ids of a row of each wide column, such as the positions of a list.
        label_means: mean label, or float64 `(num_classes,)` of class frequencies; NaN for
            a task without labels.
        label_moments: mean and standard deviation of each regression's labels; tasks without
            labels are not there, nor those that an earlier version has fitted.
        tables: `Vocabulary` or `HashTable` of each owner, those that came with vectors too.
        one_spelling: whether hashing takes `true` and `True` for one value.
        fits: what the codecs of the other kinds of column have fitted.
        unseen: by column that owns a vocabulary, of how many growths in a row did not see each
            value, int64 `(n,)`; columns that never grew are not there.
        ancestors: `tfmoe.data.fit.growth.digest` of each fit that this one has grown of.
        had_flags: owners of vocabularies that had but truth values before they grew.
    """

    num_rows: int
    dtypes: dict[str, str]
    vocabularies: dict[str, pa.Array]
    numeric: dict[str, NumericFit]
    lengths: dict[str, int]
    label_means: dict[str, Any]
    label_moments: dict[str, tuple[float, float]]
    tables: dict[str, Vocabulary | HashTable]
    one_spelling: bool = False  # as pickles of older versions have it
    fits: dict[str, Any] = field(default_factory=dict)
    unseen: dict[str, np.ndarray] = field(default_factory=dict)
    ancestors: tuple[str, ...] = ()
    had_flags: tuple[str, ...] = ()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Pickles of older versions know no moments of labels, four kinds of column, no growth.
        others: dict[str, Any] = {"label_moments": {}, "fits": {}, "unseen": {}, "ancestors": ()}
        others["had_flags"] = ()
        self.__dict__.update({**others, **state})

    @classmethod
    def of(cls, statistics: Statistics) -> Fitted:
        """What a pass over the rows comes to."""
        schema = statistics.schema
        numeric = {
            c.name: _numeric_fit(c, statistics) for c in schema.columns if isinstance(c, Numeric)
        }
        vocabularies = {}
        for owner, column in table_owners(schema).items():
            if not column.hash_buckets:
                counts = statistics.counts.get(owner) or Counts("string", 1, owner)
                vocabularies[owner] = counts.vocabulary(column.min_count, column.max_size)
        return cls.build(
            schema,
            statistics.num_rows,
            statistics.dtypes,
            vocabularies,
            numeric,
            {name: _length(name, statistics) for name in statistics.longest},
            {name: mean_label(seen) for name, seen in statistics.labels.items()},
            label_moments(statistics),
            {
                name: codec.fit(statistics.seen.get(name))
                for name, codec in statistics.codecs.items()
            },
        )

    def under(self, schema: Schema) -> Fitted:
        """The same under a schema with other tasks or fewer columns; new tasks have no labels."""
        means = {
            t.name: self.label_means.get(t.name, mean_label(no_labels(t))) for t in schema.tasks
        }
        names = {column.name for column in schema.columns}
        parts = ("dtypes", "vocabularies", "numeric", "lengths", "tables", "fits", "unseen")
        # Nothing of a column that is gone: a file would not have it either.
        own: dict[str, Any] = {
            part: {name: value for name, value in getattr(self, part).items() if name in names}
            for part in parts
        }
        return dataclasses.replace(self, label_means=means, **own)

    def with_labels(
        self, means: Mapping[str, Any], moments: Mapping[str, tuple[float, float]]
    ) -> Fitted:
        """The same with what is known of some tasks' labels."""
        return dataclasses.replace(
            self,
            label_means={**self.label_means, **means},
            label_moments={**self.label_moments, **moments},
        )

    @classmethod
    def build(
        cls,
        schema: Schema,
        num_rows: int,
        dtypes: Mapping[str, str | None],
        vocabularies: dict[str, pa.Array],
        numeric: dict[str, NumericFit],
        lengths: Mapping[str, int],
        label_means: dict[str, Any],
        label_moments: dict[str, tuple[float, float]],
        fits: Mapping[str, Any],
        one_spelling: bool = True,
        had_flags: tuple[str, ...] = (),
    ) -> Fitted:
        """From its parts; `dtypes` by owner (None becomes `"string"`), `lengths` as fitted."""
        fits = {name: fit for name, fit in fits.items() if fit is not None}
        codecs = codecs_of(schema)
        widths = {
            c.name: codecs[c.name].width(fits.get(c.name)) or max(lengths[c.name], 1)
            for c in schema.columns
            if c.is_sized
        }
        for leader, *others in list_groups(schema.columns):
            widths |= {column.name: widths[leader.name] for column in others}
        tables: dict[str, Vocabulary | HashTable] = {
            owner: HashTable(column.hash_buckets, column.missing, one_spelling)
            if column.hash_buckets
            else Vocabulary(vocabularies[owner], column.missing, owner in had_flags)
            for owner, column in table_owners(schema).items()
        }
        given = {name: codecs[name].vocabulary(fit) for name, fit in fits.items()}
        brought = {name: table for name, table in given.items() if table is not None}
        kinds = {**dtypes, **{name: table.dtype for name, table in brought.items()}}
        by_column = {c.name: kinds[c.table] or "string" for c in schema.columns if c.table in kinds}
        return cls(
            num_rows,
            by_column,
            vocabularies,
            numeric,
            widths,
            label_means,
            label_moments,
            {**tables, **brought},
            one_spelling,
            fits,
            had_flags=had_flags,
        )

    def table_sizes(self, schema: Schema) -> dict[str, int]:
        """Rows of the embedding table of each owner, in the schema's order."""
        sizes = {}
        for column in schema.columns:
            if column.name in self.tables:
                sizes[column.name] = self.tables[column.name].size
            elif column.embeds and column.table == column.name and column.table_rows:
                sizes[column.name] = column.table_rows
        return sizes


def _numeric_fit(column, statistics):
    fill = None if column.fill is None else float(column.fill)
    if column.embeds:
        sketch = statistics.quantiles[column.name]
        return NumericFit(fill=fill, boundaries=sketch.boundaries(column.num_buckets))
    moments = statistics.moments.get(column.name, Moments())
    if column.transform == "none":
        return NumericFit(fill=fill)
    return NumericFit(moments.mean, moments.scale, fill)


def _length(name, statistics):
    """Positions of a list column of which the schema does not say how many."""
    lengths = statistics.lengths[name]
    # Parts that an older version has saved know their longest cell only.
    known = lengths.counts.total() == statistics.num_rows
    return lengths.bound() if known else statistics.longest[name]


def notices(fitted: Fitted, statistics: Statistics, grown: bool = False) -> list[str]:
    """What a user should know of what was fitted: what counts as missing, what is cut.

    Of one that has grown the lengths of lists are no news: they stay.
    """
    told = [codec.notice(statistics.seen.get(n)) for n, codec in statistics.codecs.items()]
    found = [notice for notice in told if notice is not None]
    markers = statistics.markers_by_column()
    if markers:
        cells = ", ".join(
            f"{counts.total():,} of {raw!r} ({', '.join(map(repr, list(counts)[:9]))})"
            for raw, counts in markers.items()
        )
        found.append(
            f"Texts that stand for a missing number were found, and the cells count as missing: "
            f"{cells}. Where such a text is a value, or others stand for a missing one, name those "
            'that do: Numeric(..., missing=["NA"]).'
        )
    for name, count in statistics.conditional.items():
        seen = statistics.labels[name]
        if not (seen.count if isinstance(seen, Moments) else seen.sum()):
            task: Any = statistics.schema.task(name)
            value = "" if task.where_value is None else f", where_value={task.where_value!r}"
            found.append(
                f"{name!r} has no label in {count:,} rows: none that has one is within "
                f"where={task.where!r}{value}. See how that column spells its values."
            )
    for name, count in statistics.contradictions.items():
        given = statistics.schema.parent(statistics.schema.task(name))
        if count and given is not None:
            found.append(
                f"{count:,} rows have {name}=1 where {given.name}=0, though {name!r} is given "
                f"{given.name!r}. They count as they are: as 1 for {name!r}, as 0 for "
                f"{given.name!r}, and not for the probability of one given the other. Correct them "
                "if they are mistakes."
            )
    for column in () if grown else statistics.schema.columns:
        if isinstance(column, MultiCategorical) and column.max_length is None:
            lengths, length = statistics.lengths[column.name], fitted.lengths[column.name]
            if cut := lengths.cut_by(length):
                found.append(
                    f"{cut:,} of {lengths.counts.total():,} cells of list column {column.name!r} "
                    f"are longer than {length} values and are cut. max_length={lengths.longest} "
                    f"keeps all, at {lengths.longest} ids a row; max_length={length} says that "
                    "this is meant."
                )
    return found


def mean_label(seen: Any) -> Any:
    """Mean of the labels that were seen, or class frequencies; NaN where there was none."""
    if isinstance(seen, Moments):
        return seen.mean if seen.count else float("nan")
    total = seen.sum()
    return seen / total if total else np.full(len(seen), np.nan)


def known_means(means: Mapping[str, Any]) -> dict[str, Any]:
    """Means of labels by task, of those tasks of which labels are known."""
    return {name: mean for name, mean in means.items() if not np.isnan(mean).any()}


def label_moments(statistics: Statistics) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each regression's labels, of those that were seen.

    Labels that are all alike count as having a deviation of 1.
    """
    return {
        task.name: (seen.mean, 1.0 / seen.scale)
        for task in statistics.schema.tasks
        if isinstance(task, Regression)
        and isinstance(seen := statistics.labels[task.name], Moments)
        and seen.count
    }


def unfitted_columns(schema: Schema) -> list[str]:
    """Names of the columns that cannot be encoded without fitting."""
    return [name for name, codec in codecs_of(schema).items() if codec.needs_fit]
