"""What is fitted, grown on later rows: no id that is in use moves."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmoe.data.encode.rows import table_owners
from tfmoe.data.encode.vocabulary import ARROW_TYPES, packed_text
from tfmoe.data.fit.fitted import Fitted, known_means, label_moments
from tfmoe.data.fit.statistics import Statistics
from tfmoe.schema.columns import FIRST_ID, Categorical, Column
from tfmoe.schema.crossed import Crossed
from tfmoe.schema.poolings import Pooling
from tfmoe.schema.schema import Schema


class Growth(NamedTuple):
    """What `Preprocessor.grow` did to the table of a column that owns one.

    Attributes:
        added: int, new values that got an id, at the end or one that was free.
        reused: int, how many of these have an id that another value had before.
        evicted: int, values that lost theirs.
        rows: int, of the table now, those of padding, missing and unknown values among them.
    """

    added: int
    reused: int
    evicted: int
    rows: int


class Grown(NamedTuple):
    """What `grown` returns: what encoding needs, the counts if there were any, what was done."""

    fitted: Fitted
    statistics: Statistics | None
    growth: dict[str, Growth]


def grown(
    fitted: Fitted,
    before: Statistics | None,
    seen: Statistics,
    names: Mapping[str, str],
    update: bool,
    evict_after: int | None,
) -> Grown:
    """What was fitted, and later rows.

    Args:
        fitted: what was fitted before.
        before: what was counted then, under the schema of `seen`, or None.
        seen: what was counted of the later rows, under a schema that may have more columns.
        names: dict by column before of its name now.
        update: whether moments, quantiles and label means are those of all rows, or as before.
        evict_after: see `Preprocessor.grow`.
    """
    schema = seen.schema
    total = seen if before is None else before.merge(seen)
    total.codecs = seen.codecs
    fresh, later = Fitted.of(seen), Fitted.of(total) if update else fitted
    old_names = {new: old for old, new in names.items()}
    vocabularies, unseen, growth, had_flags = {}, {}, {}, []
    for owner, column in table_owners(schema).items():
        if column.hash_buckets:
            continue
        if owner not in old_names:
            vocabularies[owner] = fresh.vocabularies[owner]
            continue
        kind = ARROW_TYPES[total.dtypes[owner] or "string"]
        table = _Table.of(fitted, old_names[owner], kind)
        spelled = _spellings(fitted, old_names[owner])
        if spelled:
            # What had an id keeps it, though other values come.
            had_flags.append(owner)
            for part in {id(one): one for one in (seen, total)}.values():
                if owner in part.counts:
                    part.counts[owner] = part.counts[owner].respelled(spelled)
        num_free = table.values.null_count
        present = _values(seen, owner, kind)
        evicted = table.age(present, evict_after)
        if before is not None and owner in total.counts:
            total.counts[owner] = total.counts[owner].without(evicted)
        frequent = _frequent(total, column, kind)
        added = table.admit(frequent.filter(pc.is_in(frequent, value_set=present)), column)
        reused = num_free + len(evicted) - table.values.null_count
        vocabularies[owner], unseen[owner] = table.values, table.unseen
        growth[owner] = Growth(added, reused, len(evicted), table.size)
    result = Fitted.build(
        schema,
        fitted.num_rows + seen.num_rows,
        total.dtypes,
        vocabularies,
        later.numeric if update else _under_names(names, fitted, fresh, "numeric"),
        _under_names(names, fitted, fresh, "lengths"),
        # Of a task whose labels nobody has counted what was told of them stays.
        fresh.label_means | known_means(fitted.label_means) | known_means(later.label_means),
        # In the units of before a model has learned, whatever comes later.
        label_moments(total) | fitted.label_moments,
        {
            name: codec.grown(
                fitted.fits.get(old_names.get(name, "")),
                total.seen.get(name) if update or name not in old_names else None,
            )
            for name, codec in seen.codecs.items()
        },
        fitted.one_spelling,
        tuple(had_flags),
    )
    ancestors = (*fitted.ancestors, digest(fitted))
    result = dataclasses.replace(result, unseen=unseen, ancestors=ancestors)
    return Grown(result, None if before is None else total, growth)


def _under_names(names, fitted, fresh, part):
    """What was fitted before of each column, by its name now, and of new ones what is fresh."""
    known = getattr(fitted, part)
    return getattr(fresh, part) | {names[name]: known[name] for name in names if name in known}


class _Table:
    """A vocabulary that is being grown.

    Attributes:
        values: Arrow array in the order of the ids, null where one is free.
        unseen: how many growths in a row have not seen a value, int64 `(n,)`; 0 where an id is
            free.
    """

    def __init__(self, values: pa.Array, unseen: np.ndarray) -> None:
        self.values, self.unseen = values, unseen

    @classmethod
    def of(cls, fitted: Fitted, owner: str, kind: pa.DataType) -> _Table:
        """That of a column, as values of a type."""
        values = fitted.vocabularies[owner].cast(kind)
        unseen = fitted.unseen.get(owner)
        return cls(values, np.zeros(len(values), np.int64) if unseen is None else unseen)

    @property
    def size(self) -> int:
        """Rows of the embedding table."""
        return FIRST_ID + len(self.values)

    def age(self, seen: pa.Array, evict_after: int | None) -> pa.Array:
        """Counts whom this growth has not seen; returns the values that lose their ids."""
        present = self.values.is_valid().to_numpy(zero_copy_only=False)
        again = pc.is_in(self.values, value_set=seen).to_numpy(zero_copy_only=False)
        self.unseen = np.where(present & ~again, self.unseen + 1, 0)
        if evict_after is None:
            return self.values.slice(0, 0)
        stale = self.unseen >= evict_after
        evicted = self.values.filter(pa.array(stale))
        self.unseen[stale] = 0
        self.values = pc.if_else(pa.array(~stale), self.values, pa.scalar(None, self.values.type))
        return evicted

    def admit(self, values: pa.Array, column: Categorical) -> int:
        """Gives ids to those of the values that have none, the first ones first; how many.

        Raises:
            ValueError: if the column has more ids than it allows.
        """
        new = values.filter(pc.invert(pc.is_in(values, value_set=self.values)))
        if column.max_size is not None:
            if column.max_size < len(self.values):
                raise ValueError(
                    f"{column.name!r} has {len(self.values)} ids, which stay when it grows. "
                    f"Received max_size={column.max_size}. Leave `max_size` as it was, or raise it."
                )
            new = new.slice(0, column.max_size - len(self.values) + self.values.null_count)
        free = np.flatnonzero(self.values.is_null().to_numpy(zero_copy_only=False))[: len(new)]
        # Where in the joined array each id's value is.
        places = np.arange(len(self.values) + len(new) - len(free))
        places[free] = len(self.values) + np.arange(len(free))
        places[len(self.values) :] += len(free)
        self.values = pa.concat_arrays([self.values, new]).take(pa.array(places))
        self.unseen = np.append(self.unseen, np.zeros(len(new) - len(free), np.int64))
        return len(new)


def _spellings(fitted, owner):
    """Other spellings of truth values that have an id, and the value that each means."""
    table = fitted.tables[owner]
    places = {number - FIRST_ID: text for text, number in table.aliases.items()}
    texts = table.values.take(pa.array(list(places), pa.int64())).to_pylist()
    by_place = dict(zip(places, texts, strict=True))
    return {text: by_place[number - FIRST_ID] for text, number in table.aliases.items()}


def _values(statistics, owner, kind):
    """The values that were seen."""
    counts = statistics.counts.get(owner)
    if counts is None:
        return pa.array([], kind)
    return counts.table()["value"].combine_chunks().cast(kind)


def _frequent(statistics, column, kind):
    """The values that are frequent enough, most frequent first."""
    counts = statistics.counts.get(column.name)
    return pa.array([], kind) if counts is None else counts.vocabulary(column.min_count).cast(kind)


def digest(fitted: Fitted) -> str:
    """By what the vocabularies of a fit are told from others: text, equal for equal ids."""
    found = hashlib.blake2b(digest_size=8)
    for owner, values in sorted(fitted.vocabularies.items()):
        known = values.drop_null()
        places = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False))
        found.update(f"{owner}\0{values.type}\0{len(values)}\0".encode())
        found.update(places.astype("<i8").tobytes() if len(places) < len(values) else b"")
        found.update(_bytes(known))
    return found.hexdigest()


def _bytes(values):
    if pa.types.is_integer(values.type):
        return values.to_numpy().astype("<i8").tobytes()
    text, offsets = packed_text(values)
    return offsets.astype("<i8").tobytes() + text.tobytes()


def renamed_columns(old: Schema, new: Schema, renamed: Mapping[str, str] | None) -> dict[str, str]:
    """For each column of a schema its name in one that is grown of it.

    Args:
        old, new: `Schema`.
        renamed: dict by column of `old` of its name in `new`, for those that differ.

    Raises:
        ValueError: if a column is gone or another, or the tasks differ.
    """
    renamed = dict(renamed or {})
    known = {column.name: column for column in new.columns}
    names = {column.name: renamed.pop(column.name, column.name) for column in old.columns}
    gone = [name for name, now in names.items() if now not in known]
    if renamed or gone or len(set(names.values())) < len(names):
        raise ValueError(
            "A schema grows by further columns; those that there are stay, perhaps under another "
            f"name. Received columns {list(known)} in place of {list(names)}, without {gone}, and "
            f"names of columns that there are not: {sorted(renamed)}. Keep every column, and pass "
            "renamed={old name: new name}; leave a column out by `Preprocessor.without`."
        )
    for column in old.columns:
        now: Any = known[names[column.name]]
        if now != _as(column, now, names):
            raise ValueError(
                "A column stays what it was when a schema grows, but for name, source, `min_count` "
                f"and `max_size`. Received {now!r} in place of {column!r}. Leave it so, or add a "
                "column of another name."
            )
    _check_rest(old, new, names)
    return names


def _as(column: Column, now: Any, names: Mapping[str, str]) -> Any:
    """A column under its new name, with those of the columns that it speaks of."""
    changed: dict[str, Any] = {"name": now.name, "source": now.source}
    for field in ("share", "aligned_with"):
        if getattr(column, field, None):
            changed[field] = names[getattr(column, field)]
    if isinstance(column, Crossed):
        changed["columns"] = tuple(names[part] for part in column.columns)
    if isinstance(column, Categorical) and isinstance(now, Categorical):
        changed |= {"min_count": now.min_count, "max_size": now.max_size}
    pooling = getattr(column, "pooling", None)
    if isinstance(pooling, Pooling):
        candidates = tuple(names[name] for name in pooling.candidates)
        changed["pooling"] = dataclasses.replace(pooling, candidate=candidates)
    return dataclasses.replace(column, **changed)


def _check_rest(old, new, names):
    """Raises ValueError where tasks or the scenario differ."""
    if old.tasks != new.tasks or old.task_column != new.task_column:
        raise ValueError(
            "A schema grows by columns; tasks come one by one, at the end. Received tasks "
            f"{list(new.task_names)} with task_column={new.task_column!r} in place of "
            f"{list(old.task_names)} with task_column={old.task_column!r}. Grow with the tasks "
            "that there are; `MultiTaskModel.add_task` adds another one."
        )
    scenario = names.get(old.scenario or "")
    if scenario != new.scenario:
        raise ValueError(
            "The scenario stays when a schema grows, for parts of a model are made for it. "
            f"Received scenario={new.scenario!r} in place of {scenario!r}. Leave it so."
        )
