"""Columns that stand in the names of folders: `day=2024-01-01/part-0.parquet`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from urllib.parse import unquote

import pyarrow as pa

from tfmoe.data.read import tables

_NAME = re.compile(r"([^=._][^=]*)=(.*)", re.DOTALL)
# What Hive and Spark write for a missing value.
_MISSING = "__HIVE_DEFAULT_PARTITION__"
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}", re.ASCII)


def is_partition(folder: str) -> bool:
    """Whether a folder's name says a column and its value."""
    return _NAME.fullmatch(folder) is not None


def columns_of(
    folders: Sequence[Sequence[str]], paths: Sequence[str]
) -> list[dict[str, pa.Scalar]]:
    """What the folders say of each file: the value of each column.

    A column is int64 if all files have integers, as they are written without leading zeros and
    the like; else it is text.

    Args:
        folders: for each file the names of the folders in its path.
        paths: the files, for errors.

    Raises:
        ValueError: if files have different columns, or one twice.
    """
    found = [_values(names, path) for names, path in zip(folders, paths, strict=True)]
    for values, path in zip(found, paths, strict=True):
        if values.keys() != found[0].keys():
            raise ValueError(
                "The files of one source must lie in folders of the same columns. Received "
                f"{paths[0]} with {list(found[0])}, {path} with {list(values)}. Read them apart, "
                "or move them."
            )
    types = {name: _type_of([values[name] for values in found]) for name in found[0]}
    return [
        {
            name: pa.scalar(
                int(text) if text is not None and pa.types.is_integer(types[name]) else text,
                types[name],
            )
            for name, text in values.items()
        }
        for values in found
    ]


def _values(folders, path):
    values: dict[str, str | None] = {}
    for match in filter(None, map(_NAME.fullmatch, folders)):
        name, text = unquote(match[1]), unquote(match[2])
        if name in values:
            raise ValueError(
                f"A column has one value in a path. Received {path}, with {name!r} twice. Rename "
                "one of the folders."
            )
        values[name] = None if text in (_MISSING, "") else text
    return values


def _type_of(texts):
    whole = [text for text in texts if text is not None]
    if whole and all(map(_INTEGER.fullmatch, whole)):
        fits = all(-(2**63) < int(text) < 2**63 for text in whole)
        return pa.int64() if fits else pa.string()
    return pa.string()


class PartitionedFragment:
    """A fragment with columns that have one value in all its rows.

    Args:
        fragment: `Fragment` of a file.
        path: the file.
        values: dict of Arrow scalars by column.
    """

    def __init__(
        self, fragment: tables.Fragment, path: str, values: Mapping[str, pa.Scalar]
    ) -> None:
        self._fragment = fragment
        self._path = path
        self._values = dict(values)
        self.file = fragment.file

    @property
    def num_rows(self) -> int | None:
        """See `Fragment`."""
        return self._fragment.num_rows

    @cached_property
    def names(self) -> Collection[str]:
        """See `Fragment.names`.

        Raises:
            ValueError: if a column is in the file, too.
        """
        names = self._fragment.names
        twice = [name for name in names if name in self._values]
        if twice:
            raise ValueError(
                "A column stands in a file or in the names of its folders, not in both. Received "
                f"{twice} in both of {self._path}. Leave it out of the file, or rename the folder."
            )
        return _Names(names, self._values, self._path)

    def read(self, kinds: Mapping[str, str | None]) -> Iterator[tables.Chunk]:
        """See `Fragment.read`."""
        inner = {name: kind for name, kind in kinds.items() if name not in self._values}
        # The file says how many rows there are, also where no column of it is wanted.
        inner = inner or dict.fromkeys(list(self.names)[:1], "text")
        for chunk in self._fragment.read(inner):
            yield self._with_values(chunk, kinds)

    def look(self, num_rows: int) -> tables.Chunk:
        """See `Fragment.look`."""
        chunk = self._fragment.look(num_rows)
        found = self._with_values(chunk, [*chunk, *self._values])
        found.unread = chunk.unread
        return found

    def _with_values(self, chunk, names):
        num_rows = len(next(iter(chunk.values()), ()))
        columns = {
            name: _repeated(self._values[name], num_rows) if name in self._values else chunk[name]
            for name in names
        }
        return tables.Chunk(columns, chunk.path, chunk.start, chunk.part, chunk.untyped)


def _repeated(value: pa.Scalar, num_rows: int) -> pa.Array:
    if value.is_valid and pa.types.is_string(value.type):
        places = pa.repeat(pa.scalar(0, pa.int32()), num_rows)
        return pa.DictionaryArray.from_arrays(places, pa.array([value.as_py()]))
    return pa.repeat(value, num_rows)


class _Names(Collection[str]):
    """A file's columns and those of its folders; to ask for one may read a file of records."""

    def __init__(self, names, values, path):
        self._names = names
        self._values = values
        self.path = path

    def __contains__(self, name):
        return name in self._values or name in self._names

    def __iter__(self):
        yield from self._names
        yield from self._values

    def __len__(self):
        return len(self._names) + len(self._values)
