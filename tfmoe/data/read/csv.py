"""CSV and TSV files: cells of text, which mean what the same text means in any other source."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from tfmoe import remote
from tfmoe.data.read import tables
from tfmoe.data.read.options import TextOptions
from tfmoe.data.read.quotes import CountedLines, needs_quotes, suspicious_cells, unquoted
from tfmoe.data.read.samples import spread_blocks

# CSV files are parsed in blocks of this size, and a row may not be longer. Larger blocks
# leave the cache and take up to half as long again; chunks are concatenated afterwards.
_BLOCK_BYTES = 1 << 20
# Parts of a file that are looked at to tell what its columns hold.
_LOOKS = 8


class CsvFragment:
    """A CSV or TSV file, perhaps gzipped: a header line, empty cells missing.

    Args:
        path: str.
        file: number of the file in its source.
        options: `TextOptions`.
    """

    num_rows = None

    def __init__(self, path: str, file: int, options: TextOptions | None = None) -> None:
        self.path = path
        self.file = file
        self.options = options or TextOptions()
        is_tsv = ".tsv" in Path(path).name.lower()
        self.delimiter = self.options.delimiter or ("\t" if is_tsv else ",")
        self._may_be_unquoted = is_tsv
        self._checked = False

    @cached_property
    def _quoting(self):
        if self.options.quoting is not None:
            return self.options.quoting
        try:
            return not self._may_be_unquoted or needs_quotes(self._bytes(), self.delimiter)
        except OSError as error:
            raise self._unreadable(error) from error

    def _bytes(self):
        source = remote.opened(self.path)
        if source is self.path:
            return pa.input_stream(self.path, compression="detect")
        return pa.CompressedInputStream(source, "gzip") if self._is_gzipped else source

    @property
    def _is_gzipped(self):
        return remote.without_query(self.path).lower().endswith(".gz")

    def _parsing(self):
        return pyarrow.csv.ParseOptions(
            delimiter=self.delimiter,
            quote_char='"' if self._quoting else False,
            newlines_in_values=self._quoting,
        )

    def _converting(self, columns, kind):
        return pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(columns, kind),
            include_columns=columns,
            null_values=[""],
            strings_can_be_null=True,
        )

    def _open(self, columns=(), kind=None, prefetch=True, stream=None):
        """A reader of batches; of all columns, of the types they seem to be, if none are named."""
        reading = pyarrow.csv.ReadOptions(
            block_size=_BLOCK_BYTES, use_threads=prefetch, encoding=self.options.encoding
        )
        return pyarrow.csv.open_csv(
            self._bytes() if stream is None else stream,
            read_options=reading,
            parse_options=self._parsing(),
            convert_options=self._converting([self._raw[n] for n in columns], kind or pa.string()),
        )

    @cached_property
    def _header(self):
        try:
            with self._open(prefetch=False) as reader:
                return reader.schema.names
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise self._unreadable(error) from error

    @cached_property
    def names(self) -> tables.Names:
        """See `Fragment.names`."""
        named = list(self._header if self._quoting else map(unquoted, self._header))
        other = self._other_delimiter(named)
        if other:
            raise ValueError(
                f"Cells of {self.path} are to be told apart by {self.delimiter!r}. Received the "
                f"one column {named[0]!r}. Name the delimiter: '{self.path}?delimiter={other}'."
            )
        return tables.Names(named, self.path)

    def _other_delimiter(self, named):
        """What seems to be the delimiter where the header has but one column; or None."""
        if len(named) > 1 or not named or self.options.delimiter is not None:
            return None
        words = {";": ";", "\t": "tab", "|": "pipe", ",": "comma"}
        return next((word for mark, word in words.items() if mark in named[0]), None)

    @cached_property
    def _raw(self):
        """What a column's name is in the header."""
        return dict(zip(self.names, self._header, strict=True))

    def read(self, kinds: Mapping[str, str | None]) -> Iterator[tables.Chunk]:
        tables.check_names(self.names, kinds, self.path)
        columns = list(kinds)
        stream = CountedLines(self._bytes())
        start = 0
        try:
            with self._open(columns, stream=stream) as reader:
                for table in _chunks(reader):
                    found = {n: self._cells(table[self._raw[n]]) for n in columns}
                    yield tables.Chunk(found, self.path, start, untyped=True)
                    start += table.num_rows
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise self._unreadable(error, columns) from error
        self._check_quotes(stream.count - start)

    def _cells(self, chunked):
        array = tables.one_array(chunked)
        return array if self._quoting else unquoted(array)

    def _blocks(self, count, names):
        """Some columns of rows from some blocks all over the file: text, empty cells null."""
        first = []
        try:
            with self._open(names, prefetch=False) as reader:
                schema = reader.schema
                for _ in range(count // 2):
                    first.append(reader.read_next_batch())
        except StopIteration:
            return self._named(pa.Table.from_batches(first, schema), names)
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise self._unreadable(error, names) from error
        later = []
        if self.options.encoding == "utf8" and not self._is_gzipped:
            # Names that are there twice are none that is wanted.
            wanted = set(schema.names)
            header = [n if n in wanted else f"\n{i}" for i, n in enumerate(self._header)]
            later = spread_blocks(
                self.path,
                count // 2 * _BLOCK_BYTES,
                count - count // 2,
                header,
                self._parsing(),
                self._converting(schema.names, pa.string()),
            )
        whole = pa.concat_tables([pa.Table.from_batches(first, schema), *later])
        return self._named(whole, names)

    def _named(self, table, names):
        return table.select([self._raw[name] for name in names]).rename_columns(names)

    def look(self, num_rows: int) -> tables.Chunk:
        """See `Fragment.look`. Of a gzipped file, or one not in UTF-8, its beginning."""
        # Spreadsheets leave columns without a name behind.
        named = [name for name in self.names if name]
        tables.check_names(named, named, self.path)
        table = self._blocks(4 * _LOOKS, named)
        if self._quoting and 1 < len(named) == len(self.names):
            self._tell_swallowed(suspicious_cells(table.to_batches(), self.delimiter))
        if table.num_rows > num_rows:
            # Every so manieth row, in the order of the file.
            table = table.take(pa.array(range(0, table.num_rows, -(-table.num_rows // num_rows))))
        columns = {name: self._cells(table[name]) for name in named}
        return tables.Chunk(columns, self.path, untyped=True)

    def _check_quotes(self, surplus):
        """Warns once if quotes seem to have swallowed rows; `surplus` is of lines over rows."""
        if self._checked or not self._quoting or surplus <= 1 or len(self.names) < 2:
            return
        self._checked = True
        columns = list(self.names)
        if len(set(columns)) < len(columns) or self.options.encoding.startswith("utf-"):
            return
        with self._open(columns, prefetch=False) as reader:
            self._tell_swallowed(suspicious_cells(reader, self.delimiter))

    def _tell_swallowed(self, found):
        if found:
            name, lines, example = found[0]
            warnings.warn(
                f"{len(found)} cells of {self.path} run over lines that look like rows, for "
                f"example {lines} lines in column {name!r}: {example!r}. If quotes do not enclose "
                f"cells in this file, rows were swallowed: read it as '{self.path}?quoting=no'.",
                stacklevel=2,
            )

    def _unreadable(self, error, columns=()):
        if isinstance(
            error, FileNotFoundError | PermissionError | IsADirectoryError | remote.RemoteError
        ):
            return error
        if isinstance(error, UnicodeError) or "invalid UTF8" in str(error) or self._is_utf_16():
            return self._not_decoded(error, columns)
        if isinstance(error, OSError) and not isinstance(error, pa.ArrowException):
            return OSError(f"Received {self.path}, which is cut off or no gzip file: {error}.")
        quotes = ""
        if self._quoting and ("straddling" in str(error) or "Expected" in str(error)):
            quotes = (
                f", or read it as '{self.path}?quoting=no' if quotes do not enclose cells in it"
            )
        other = self._other_delimiter([self._first_line()])
        if other:
            delimiter = f", or name its delimiter: '{self.path}?delimiter={other}'"
            quotes = delimiter if self.delimiter not in self._first_line() else quotes
        return ValueError(
            "A CSV file needs a header line and rows of as many cells, in UTF-8, of at most "
            f"1 MB a row. Received {self.path}: {error}. Repair the file{quotes}."
        )

    def _first_line(self):
        with self._bytes() as stream:
            start = bytes(stream.read(_BLOCK_BYTES))
        return start.split(b"\n", 1)[0].decode("utf-8", "replace")

    def _is_utf_16(self):
        try:
            with self._bytes() as stream:
                return bytes(stream.read(2)) in (b"\xff\xfe", b"\xfe\xff")
        except OSError:
            return False

    def _not_decoded(self, error, columns):
        name = "utf-16" if self._is_utf_16() else "latin-1"
        return ValueError(
            f"A CSV file is text in UTF-8 unless its encoding is named. Received {self.path}"
            f"{self._first_bad(columns)}: {error}. Name the encoding behind the path: "
            f"'{self.path}?encoding={name}'."
        )

    def _first_bad(self, columns):
        """Where the first cell is that is no UTF-8, if one is in the columns."""
        start = 0
        try:
            with self._open(columns, pa.binary(), prefetch=False) as reader:
                for batch in reader if columns else ():
                    for name in batch.schema.names:
                        for row, cell in enumerate(batch.column(name).to_pylist()):
                            if cell is not None and not _decodes(cell):
                                return f", row {start + row:,} (from 0), column {name!r}, {cell!r}"
                    start += batch.num_rows
        except (pa.ArrowException, OSError, UnicodeError):
            pass
        return ""


def _decodes(cell):
    try:
        cell.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _chunks(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Small record batches concatenated to tables of at least `CHUNK_ROWS` rows."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= tables.CHUNK_ROWS:
            yield pa.Table.from_batches(waiting)
            waiting, rows = [], 0
    if rows:
        yield pa.Table.from_batches(waiting)
