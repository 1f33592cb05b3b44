"""Where rows come from: tables in memory and files, read as Arrow columns in chunks.

A `Source` consists of fragments (a table, a CSV file, some row groups of a Parquet file);
a fragment knows its columns' names and yields chunks, each a dict of Arrow arrays. Only the
columns asked for are read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from tfmoe.data.read.columnar import ColumnarFragment
from tfmoe.data.read.csv import CsvFragment
from tfmoe.data.read.memory import TableFragment, held
from tfmoe.data.read.parquet import ParquetFragment
from tfmoe.data.read.partitions import PartitionedFragment, columns_of
from tfmoe.data.read.paths import ARROW, File, extension_of, files_of, folders_of
from tfmoe.data.read.tables import Fragment
from tfmoe.data.read.watched import WatchedFragment

# What a user may pass as rows; see `open_source`.
Rows: TypeAlias = (
    pd.DataFrame
    | Mapping[str, Any]
    | str
    | Path
    | Sequence[str | Path]
    | Iterable[pd.DataFrame]
    | Callable[..., Iterable[pd.DataFrame]]
)


class Source:
    """Rows to read.

    Args:
        fragments: callable that returns an iterable of fragments, a list if `listed`.
        listed: whether all fragments are known beforehand (and may be put in any order).
        held: whether the rows lie in memory as one table.
        single_pass: whether the source can be read only once.
        begin: callable as `fragments`, of those from a row on, by its place; None where only
            the first can come first.
    """

    def __init__(
        self,
        fragments: Callable[[], Iterable[Fragment]],
        listed: bool = True,
        held: bool = False,
        single_pass: bool = False,
        begin: Callable[[int], Iterable[Fragment]] | None = None,
    ) -> None:
        self.fragments = fragments
        self.listed = listed
        self.held = held
        self.single_pass = single_pass
        self.begin = begin

    @property
    def num_rows(self) -> int | None:
        """Number of rows if it is known without reading them, else None."""
        if not self.listed:
            return None
        return total([fragment.num_rows for fragment in self.fragments()])

    def shard(self, index: int, count: int) -> tuple[list[Fragment] | None, bool]:
        """The part of one of `count` workers.

        Whole files if there are enough of them, else fragments, else every `count`-th row.

        Returns:
            List of fragments, and whether all workers have these same fragments and must
            share their rows; None for the list if the source does not know it beforehand.
        """
        if not self.listed:
            return None, count > 1
        fragments = list(self.fragments())
        if count == 1:
            return fragments, False
        if len({fragment.file for fragment in fragments}) >= count:
            return [one for one in fragments if one.file % count == index], False
        if len(fragments) >= count:
            return fragments[index::count], False
        return fragments, True


def total(counts: Iterable[int | None]) -> int | None:
    """The sum, or None if a count is None, which is not known."""
    known = list(counts)
    return None if None in known else sum(known)  # type: ignore[arg-type]


def open_source(source: Rows | Source) -> Source:
    """The `Source` for what a user passed.

    Args:
        source: DataFrame, of pandas, Polars or pyarrow; dict of arrays of equal length; path, URL,
            glob or folder of CSV, TSV (both perhaps gzipped), Parquet, Arrow IPC (Feather), ORC or
            TFRecord files; list of these; iterable of DataFrames, or callable that returns an
            iterator of DataFrames, of which one with a parameter `start` can begin at any row.
            Folders in the path that are named `column=value` are columns. Behind the path of text
            files may be said how they are written, each part only if it needs to be:
            `"t.csv?delimiter=;&quoting=no&encoding=latin-1"`. A `Source` is itself.

    Raises:
        FileNotFoundError: if no file matches.
        ValueError: if files are of an unknown kind or of several kinds, an option is unknown, or
            folders say different columns.
        ImportError: if an URL needs a package that is not there.
        TypeError: if it is none of these.
    """
    if isinstance(source, Source):
        return source
    table = TableFragment(source) if isinstance(source, Mapping) else held(source)
    if table is not None:
        return Source(lambda: [table], held=True)
    if isinstance(source, str | Path):
        return _files([source])
    if isinstance(source, list | tuple) and source:
        paths = [path for path in source if isinstance(path, str | Path)]
        if len(paths) == len(source):
            return _files(paths)
    if callable(source) and _takes_start(source):
        return Source(
            lambda: _frames(source(start=0)),
            listed=False,
            begin=lambda row: _frames(source(start=row)),
        )
    if callable(source):
        return Source(lambda: _frames(source()), listed=False)
    if isinstance(source, Iterable):
        return Source(
            lambda: _frames(source), listed=False, single_pass=isinstance(source, Iterator)
        )
    raise TypeError(
        "Rows come from a DataFrame, a dict of arrays, paths or globs of files, an iterable of "
        "DataFrames, or a callable that returns one. Received source="
        f"{source!r} of type {type(source).__name__}."
    )


def _takes_start(source):
    """Whether a callable has a parameter `start`, the number of rows that it leaves out."""
    try:
        parameters = inspect.signature(source).parameters
    except (TypeError, ValueError):  # a builtin's may be unknown
        return False
    return "start" in parameters


def _frames(frames):
    for number, frame in enumerate(frames):
        table = held(frame, f"of DataFrame {number}")
        if table is None:
            raise TypeError(
                "An iterable source must yield DataFrames, of pandas, Polars or pyarrow. Received "
                f"a {type(frame).__name__}. Paths of several files are given as a list."
            )
        yield table


def _files(given):
    files = files_of(given)
    paths = [one.path for one in files]
    kinds = {extension_of(path) for path in paths}
    if len(kinds) > 1:
        raise ValueError(
            f"The files of one source must be of one kind. Received {sorted(kinds)} among "
            f"{paths[:4]}. Read them one kind at a time."
        )
    partitions = columns_of([folders_of(path) for path in paths], paths)
    fragments: list[Fragment] = []
    kind, tfrecords = kinds.pop(), None
    if kind == ".tfrecord":
        # Imported here: the only files that need TensorFlow.
        from tfmoe.data.read.tfrecord import TfrecordFiles

        tfrecords = TfrecordFiles()
    for number, (file, values) in enumerate(zip(files, partitions, strict=True)):
        for fragment in _fragments(file, number, kind, tfrecords):
            watched = WatchedFragment(fragment, file.path, file.stamp)
            fragments.append(PartitionedFragment(watched, file.path, values) if values else watched)
    return Source(lambda: fragments)


def _fragments(file: File, number: int, kind: str, tfrecords: Any) -> Sequence[Fragment]:
    if file.options and kind not in (".csv", ".tsv"):
        raise ValueError(
            "Delimiter, quoting and encoding are those of text files. Received "
            f"{file.path!r} with options. Leave them out."
        )
    if kind == ".parquet":
        return ParquetFragment.all_of(file.path, number)
    if kind == ".tfrecord":
        from tfmoe.data.read.tfrecord import TfrecordFragment

        return [TfrecordFragment(file.path, number, tfrecords)]
    if kind in (*ARROW, ".orc"):
        return [ColumnarFragment(file.path, number)]
    return [CsvFragment(file.path, number, file.options)]
