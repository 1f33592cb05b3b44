"""Sequences of a schema: which share positions, and which candidates they are pooled by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tfmoe.schema.columns import LONGEST_HISTORY, Column, MultiCategorical, Sequence
from tfmoe.schema.poolings import Pooling


def list_groups(columns: Iterable[Column]) -> list[list[MultiCategorical]]:
    """The list columns, those that share positions together; first the one that leads them."""
    groups: dict[str, list[MultiCategorical]] = {}
    lists = [column for column in columns if isinstance(column, MultiCategorical)]
    for column in sorted(lists, key=lambda column: leader_of(column) != column.name):
        groups.setdefault(leader_of(column), []).append(column)
    return list(groups.values())


def leader_of(column: MultiCategorical) -> str:
    """The name of the column whose positions it shares, its own if it shares none."""
    return getattr(column, "aligned_with", None) or column.name


def cut_alike(columns: Iterable[Column]) -> tuple[Column, ...]:
    """The columns, with the `max_length` of the sequence that one is aligned with.

    Raises:
        ValueError: if a sequence is aligned with, or pooled by, nothing usable, or has a length of
            its own.
    """
    by_name = {column.name: column for column in columns}
    _check_histories(by_name)
    for leader, *others in list_groups(by_name.values()):
        for column in others:
            if column.max_length not in (LONGEST_HISTORY, leader.max_length):
                raise ValueError(
                    f"Sequence {column.name!r} is cut as {leader.name!r} is, at max_length="
                    f"{leader.max_length}. Received max_length={column.max_length}. Leave it out."
                )
            by_name[column.name] = replace(column, max_length=leader.max_length)
    return tuple(by_name.values())


def _check_histories(by_name):
    leaders = [c.name for c in by_name.values() if isinstance(c, Sequence) and not c.aligned_with]
    for column in by_name.values():
        named = getattr(column, "aligned_with", None)
        if named is not None and named not in leaders:
            raise ValueError(
                f"Sequence {column.name!r} can only be aligned with a Sequence that is not itself "
                f"aligned with another. Received aligned_with={named!r}; such columns are "
                f"{leaders}."
            )
    for group in list_groups(by_name.values()):
        pooling = group[0].pooling
        if isinstance(pooling, Pooling):
            _check_candidates(group, pooling, by_name)
            _check_weights(group)


def _check_weights(group):
    for column in group[1:]:
        if column.weights is not None:
            raise ValueError(
                f"Sequence {column.name!r} is pooled by the candidate of {group[0].name!r}, and "
                f"weighed as its positions are. Received weights={column.weights!r}. Set them on "
                f"{group[0].name!r}, or leave them out."
            )


def _check_candidates(group, pooling, by_name):
    tables = {column.table for column in group}
    inside = {column.name for column in group}
    usable = [
        name
        for name, column in by_name.items()
        if column.embeds and column.table in tables and name not in inside
    ]
    for name in pooling.candidates:
        if name not in usable:
            raise ValueError(
                f"Sequence {group[0].name!r} is pooled by candidates of its own table, or of those "
                f"of the sequences aligned with it. Received candidate={name!r}; such columns are "
                f"{usable}. Let one use the other's table, by `share`."
            )
    seen: dict[str, str] = {}
    for name in pooling.candidates:
        table = by_name[name].table
        if table in seen:
            raise ValueError(
                f"Sequence {group[0].name!r} is pooled by one candidate a table. Received "
                f"{seen[table]!r} and {name!r} of the table of {table!r}. Leave out one."
            )
        seen[table] = name
