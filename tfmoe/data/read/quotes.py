"""Quotes in text files: whether they enclose cells, and what they may have swallowed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, overload

import pyarrow as pa
import pyarrow.compute as pc

_BLOCK_BYTES = 1 << 20
# A cell in quotes of which those inside are doubled.
_QUOTED = r'^"(?s:(?:[^"]|"")*)"$'


class CountedLines:
    """A stream of bytes for Arrow to read, which counts the lines that went by."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.count = 0
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        found = self._stream.read(None if size < 0 else size)
        self.count += found.count(b"\n")
        return found

    def readable(self) -> bool:
        """Yes."""
        return True

    def writable(self) -> bool:
        """No."""
        return False

    def seekable(self) -> bool:
        """No."""
        return False

    def close(self) -> None:
        """Closes the stream that it reads."""
        self.closed = True
        self._stream.close()


def needs_quotes(stream: Any, delimiter: str) -> bool:
    """Whether quotes enclose delimiters or ends of lines: then some line shows it.

    That is one with more or fewer cells than the header has, in a file with quotes.

    Args:
        stream: the file's bytes.
        delimiter: character between cells.
    """
    mark = delimiter.encode()
    cells, quotes = None, False
    left = b""
    with stream:
        while True:
            block = bytes(stream.read(_BLOCK_BYTES))
            lines = left + block
            if block:
                end = lines.rfind(b"\n") + 1
                lines, left = lines[:end], lines[end:]
            if cells is None and lines:
                cells = lines.split(b"\n", 1)[0].count(mark)
            quotes = quotes or b'"' in lines
            # Blank lines are left out by every reader.
            if quotes and any(
                line.count(mark) != cells for line in lines.split(b"\n") if line.strip(b"\r")
            ):
                return True
            if not block:
                return False


@overload
def unquoted(cells: str) -> str: ...
@overload
def unquoted(cells: pa.Array) -> pa.Array: ...
def unquoted(cells: Any) -> Any:
    """Cells without the quotes around them, if they have them at both ends and none within but
    doubled; others are as they are.

    Args:
        cells: Arrow strings, or one string.
    """
    if isinstance(cells, str):
        return cells[1:-1].replace('""', '"') if re.match(_QUOTED, cells) else cells
    quoted = pc.fill_null(pc.starts_with(cells, '"'), False)
    if not pc.any(quoted).as_py():
        return cells
    quoted = pc.and_(quoted, pc.match_substring_regex(cells, _QUOTED))
    inner = pc.replace_substring(pc.utf8_slice_codeunits(cells, 1, -1), '""', '"')
    # An empty one is missing, as it is between delimiters.
    inner = pc.if_else(pc.equal(inner, ""), pa.scalar(None, cells.type), inner)
    return pc.if_else(pc.fill_null(quoted, False), inner, cells)


def suspicious_cells(
    batches: Iterable[pa.RecordBatch], delimiter: str
) -> list[tuple[str, int, str]]:
    """Cells of several lines that would be rows of the table if quotes were but characters.

    Args:
        batches: all columns, in the file's order, as text.
        delimiter: character between cells.

    Returns:
        List of the column's name, the number of lines and the beginning of such a cell.
    """
    found = []
    for batch in batches:
        last = batch.num_columns - 1
        for place, name in enumerate(batch.schema.names):
            cells = batch.column(place)
            long = pc.fill_null(pc.match_substring(cells, "\n"), False)
            for cell in cells.filter(long).to_pylist():
                first, *inner, end = cell.split("\n")
                counts = [line.count(delimiter) for line in (first, *inner, end)]
                if counts == [last - place, *[last] * len(inner), place]:
                    found.append((name, len(counts), cell[:60]))
    return found
