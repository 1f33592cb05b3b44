"""Where rows come from: tables in memory and files, read as Arrow columns in chunks.

A `Source` consists of pieces (a table, a CSV file, some row groups of a Parquet file);
a piece knows its columns' names and yields chunks, each a dict of Arrow arrays. Only the
columns asked for are read.
"""

import glob
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from tfmoe.data.convert import is_text, to_arrow

CHUNK_ROWS = 65_536

# CSV files are parsed in blocks of this size, and a row may not be longer. Larger blocks
# leave the cache and take up to half as long again; chunks are put together afterwards.
_BLOCK_BYTES = 1 << 20

_CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
_TFRECORD = (".tfrecord", ".tfrecord.gz")
_EXTENSIONS = (*_CSV, ".parquet", *_TFRECORD)


class TablePiece:
    """A table in memory: DataFrame, or mapping of names to arrays of equal length."""

    file = 0

    def __init__(self, table):
        self._table = table
        # pandas names columns by numbers where it is told no names; schemas name them by text.
        named = [(str(name), name) for name in table]
        self.names = [text for text, _ in named]
        _check_names(self.names, self.names)
        self._named = dict(named)
        if isinstance(table, pd.DataFrame):
            self.num_rows = len(table)
            return
        single = [name for name, values in table.items() if not hasattr(values, "__len__")]
        if single:
            raise TypeError(
                "A table given as a dict needs an array for each column. Received a single value "
                f"for {single}. A table of one row has arrays of one value."
            )
        lengths = {name: len(values) for name, values in table.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                "A table given as a dict needs arrays of equal length. Received lengths "
                f"{lengths}. Cut or fill them."
            )
        self.num_rows = next(iter(lengths.values()), 0)

    def read(self, kinds):
        """Yields dicts of Arrow arrays, `CHUNK_ROWS` rows or fewer, of the columns `kinds`."""
        arrays = {name: to_arrow(self._table[self._named[name]], name) for name in kinds}
        for start in range(0, self.num_rows, CHUNK_ROWS):
            yield {
                name: _one_array(array.slice(start, CHUNK_ROWS)) for name, array in arrays.items()
            }


def _one_array(chunked):
    return chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks()


class CsvPiece:
    """A CSV or TSV file, perhaps gzipped: UTF-8, a header line, empty cells missing.

    A category's `12.0` is read as `12` where the first block has only whole floats: so writes
    pandas integers with gaps, and any part of them.
    """

    num_rows = None

    def __init__(self, path, file):
        self.path = path
        self.file = file

    def _open(self, columns=None, types=None, ahead=True):
        delimiter = "\t" if ".tsv" in Path(self.path).name.lower() else ","
        convert = pyarrow.csv.ConvertOptions(
            column_types=types,
            include_columns=columns,
            null_values=[""],
            strings_can_be_null=True,
        )
        return pyarrow.csv.open_csv(
            self.path,
            read_options=pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=ahead),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=convert,
        )

    def first(self, num_rows=1, text=None):
        """The first rows, at least so many, as a `pa.Table` of types that fit the cells.

        Args:
            num_rows: int.
            text: a column that is left as text, or None.
        """
        batches, rows = [], 0
        types = None if text is None else {text: pa.string()}
        try:
            with self._open(types=types, ahead=False) as reader:
                while rows < num_rows:
                    batches.append(reader.read_next_batch())
                    rows += batches[-1].num_rows
        except StopIteration:
            pass
        except (pa.ArrowInvalid, OSError) as error:
            raise self._unreadable(error) from error
        return pa.Table.from_batches(batches, reader.schema)

    @cached_property
    def _inferred(self):
        """The first block's schema, and the names of its columns of whole floats."""
        table = self.first()
        columns = zip(table.column_names, table.columns, strict=True)
        floats = {n: cells for n, cells in columns if pa.types.is_floating(cells.type)}
        whole = [
            n for n, cells in floats.items() if pc.all(pc.equal(pc.floor(cells), cells)).as_py()
        ]
        return table.schema, whole

    @property
    def names(self):
        return self._inferred[0].names

    def _type(self, name, kind):
        inferred = self._inferred[0].field(name).type
        if kind == "float":
            return inferred if pa.types.is_boolean(inferred) else pa.float64()
        if kind in ("string", "text", "list"):
            return pa.string()
        # Integers with gaps may have been written as 3.0: keep what the file has.
        if pa.types.is_integer(inferred) or pa.types.is_floating(inferred):
            return inferred
        if pa.types.is_null(inferred):
            # All that may read a column in two ways reads numbers.
            return pa.int64() if kind == "int" else pa.float64()
        return pa.string()

    def read(self, kinds):
        _check_names(self.names, kinds, self.path)
        types = {name: self._type(name, kind) for name, kind in kinds.items()}
        try:
            with self._open(list(types), types) as reader:
                for chunk in _chunks(reader):
                    yield {n: self._category(chunk[n], n, kinds[n]) for n in types}
        except (pa.ArrowInvalid, OSError) as error:
            raise self._unreadable(error) from error

    def _category(self, array, name, kind):
        if kind != "string" or name not in self._inferred[1]:
            return array
        return pc.replace_substring_regex(array, r"^(-?[0-9]+)\.0\z", r"\1")

    def _unreadable(self, error):
        if isinstance(error, FileNotFoundError):
            return error
        if isinstance(error, OSError):
            return OSError(f"Received {self.path}, which is cut off or no gzip file: {error}.")
        place = re.search(r"CSV column #(\d+)", str(error))
        if place is None:
            return ValueError(
                "A CSV file needs a header line and rows of as many cells, in UTF-8, of at most "
                f"1 MB a row. Received {self.path}: {error}. Repair the file."
            )
        name = self.names[int(place[1])]
        return TypeError(
            f"Column {name!r} of {self.path} does not hold what the schema says: {error}. "
            "Correct the cell, or the column's kind or dtype in the schema."
        )


def _check_names(names, wanted, path=None):
    repeated = sorted({str(name) for name in wanted if names.count(name) > 1})
    if repeated:
        where = f" in {path}" if path else ""
        raise ValueError(
            f"A table needs different column names. Received {repeated} twice{where}. "
            "Rename or drop one of them."
        )


def _chunks(batches):
    """Small record batches put together to chunks of at least `CHUNK_ROWS` rows."""
    waiting, rows = [], 0
    for batch in batches:
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= CHUNK_ROWS:
            yield _columns(waiting)
            waiting, rows = [], 0
    if rows:
        yield _columns(waiting)


def _columns(batches):
    table = pa.Table.from_batches(batches)
    return {name: _one_array(table[name]) for name in table.column_names}


class ParquetPiece:
    """Some neighbouring row groups of a Parquet file, together at least a chunk."""

    def __init__(self, path, file, schema, groups, num_rows):
        self.path = path
        self.file = file
        self.names = schema.names
        self.num_rows = num_rows
        self._groups = groups
        self._schema = schema

    @classmethod
    def all_of(cls, path, file):
        """The pieces of a file."""
        try:
            with pyarrow.parquet.ParquetFile(path) as opened:
                metadata, schema = opened.metadata, opened.schema_arrow
        except pa.ArrowInvalid as error:
            raise ValueError(f"Received {path}, which is no Parquet file: {error}.") from error
        pieces, groups, rows = [], [], 0
        for group in range(metadata.num_row_groups):
            groups.append(group)
            rows += metadata.row_group(group).num_rows
            if rows >= CHUNK_ROWS or group == metadata.num_row_groups - 1:
                pieces.append(cls(path, file, schema, groups, rows))
                groups, rows = [], 0
        return pieces or [cls(path, file, schema, [], 0)]

    def first(self, num_rows=1, text=None):
        """The first rows, at most so many, as a `pa.Table`; `text` is for CSV files."""
        with pyarrow.parquet.ParquetFile(self.path) as opened:
            batches = opened.iter_batches(num_rows, row_groups=self._groups)
            return pa.Table.from_batches(itertools.islice(batches, 1), self._schema)

    def read(self, kinds):
        _check_names(self.names, kinds, self.path)
        # Text arrives as the file has it, a dictionary and places in it.
        text = [name for name in kinds if is_text(self._schema.field(name).type)]
        with pyarrow.parquet.ParquetFile(self.path, read_dictionary=text) as opened:
            for batch in opened.iter_batches(
                CHUNK_ROWS, row_groups=self._groups, columns=list(kinds)
            ):
                yield {name: batch.column(name) for name in kinds}


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
        from tfmoe.data.tfrecord import TfrecordPiece

        return [TfrecordPiece(path, file) for file, path in enumerate(paths)]
    return [CsvPiece(path, file) for file, path in enumerate(paths)]
