"""Where rows come from: tables in memory and files, read as Arrow columns in chunks.

A `Source` consists of pieces (a table, a CSV file, some row groups of a Parquet file);
a piece knows its columns' names and yields chunks, each a dict of Arrow arrays. Only the
columns asked for are read.
"""

import glob
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pandas as pd

from tfmoe.data.read.csv import CsvPiece
from tfmoe.data.read.memory import TablePiece
from tfmoe.data.read.parquet import ParquetPiece

_CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
_TFRECORD = (".tfrecord", ".tfrecord.gz")
_EXTENSIONS = (*_CSV, ".parquet", *_TFRECORD)


class Source:
    """Rows to read.

    Args:
        pieces: callable that returns an iterable of pieces.
        listed: whether all pieces are known beforehand (and may be put in any order).
        held: whether the rows lie in memory as one table.
        once: whether the source can be read only once.
    """

    def __init__(self, pieces, listed=True, held=False, once=False):
        self.pieces = pieces
        self.listed = listed
        self.held = held
        self.once = once

    @property
    def num_rows(self):
        """Number of rows if it is known without reading them, else None."""
        if not self.listed:
            return None
        counts = [piece.num_rows for piece in self.pieces()]
        return None if None in counts else sum(counts)

    def shard(self, index, count):
        """The part of one of `count` workers.

        Whole files if there are enough of them, else pieces, else every `count`-th row.

        Returns:
            List of pieces, and whether all workers have these same pieces and must share
            their rows; `None` pieces if the source does not list them.
        """
        if count == 1 or not self.listed:
            return (self.pieces() if self.listed else None), count > 1
        pieces = self.pieces()
        if len({piece.file for piece in pieces}) >= count:
            return [piece for piece in pieces if piece.file % count == index], False
        if len(pieces) >= count:
            return pieces[index::count], False
        return pieces, True


def open_source(source):
    """The `Source` for what a user passed.

    Args:
        source: DataFrame; dict of arrays of equal length; path, glob or folder of CSV, TSV
            (both perhaps gzipped), Parquet or TFRecord files; list of these; iterable of
            DataFrames, or callable that returns an iterator of DataFrames.

    Raises:
        FileNotFoundError: if no file matches.
        ValueError: if files are of an unknown kind or of several kinds.
        TypeError: if it is none of these.
    """
    if isinstance(source, pd.DataFrame | Mapping):
        piece = TablePiece(source)
        return Source(lambda: [piece], held=True)
    if isinstance(source, str | Path):
        return _files([source])
    listed = isinstance(source, list | tuple) and len(source) > 0
    if listed and all(isinstance(path, str | Path) for path in source):
        return _files(source)
    if callable(source):
        return Source(lambda: _frames(source()), listed=False)
    if isinstance(source, Iterable):
        return Source(lambda: _frames(source), listed=False, once=isinstance(source, Iterator))
    raise TypeError(
        "Rows come from a DataFrame, a dict of arrays, paths or globs of files, an iterable of "
        "DataFrames, or a callable that returns one. Received source="
        f"{source!r} of type {type(source).__name__}."
    )


def _frames(frames):
    for frame in frames:
        if not isinstance(frame, pd.DataFrame):
            raise TypeError(
                "An iterable source must yield pandas DataFrames. Received a "
                f"{type(frame).__name__}. Paths of several files are given as a list."
            )
        yield TablePiece(frame)


def _files(given):
    paths = []
    for pattern in map(str, given):
        found = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))
        if found == [pattern] and Path(pattern).is_dir():
            found = _files_in(Path(pattern))
        if not found:
            raise FileNotFoundError(
                f"No file matches. Received source={pattern!r}, looked up from "
                f"{str(Path.cwd())!r}. Check the path or the glob."
            )
        paths += found
    kinds = {_extension(path) for path in paths}
    if len(kinds) > 1:
        raise ValueError(
            f"The files of one source must be of one kind. Received {sorted(kinds)} among "
            f"{paths[:4]}. Read them one kind at a time."
        )
    pieces = _pieces(paths, kinds.pop())
    return Source(lambda: pieces)


def _files_in(folder):
    """The tables in a folder, as Spark writes one, but for marks such as `_SUCCESS`."""
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name[0] not in "._")
    if not any(name.lower().endswith(_EXTENSIONS) for name in names):
        raise ValueError(
            f"A folder needs files of tables in it. Received {str(folder)!r} with {names[:4]}. "
            "Those of folders in folders are given as a glob, 'folder/**/*.parquet'; what the "
            "folders' names say is not read."
        )
    return [str(folder / name) for name in names]


def _extension(path):
    name = Path(path).name.lower()
    for extension in _EXTENSIONS:
        if name.endswith(extension):
            return extension.removesuffix(".gz")
    raise ValueError(
        f"Files must be named {', '.join('*' + known for known in _EXTENSIONS)}. Received "
        f"{path!r}. Rename or convert it; some files of a folder are given as a glob, "
        "'folder/*.parquet'."
    )


def _pieces(paths, extension):
    if extension == ".parquet":
        return [
            piece for file, path in enumerate(paths) for piece in ParquetPiece.all_of(path, file)
        ]
    if extension == ".tfrecord":
        # Imported here: the only files that need TensorFlow.
        from tfmoe.data.read.tfrecord import TfrecordPiece

        return [TfrecordPiece(path, file) for file, path in enumerate(paths)]
    return [CsvPiece(path, file) for file, path in enumerate(paths)]
