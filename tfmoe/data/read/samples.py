"""Rows from all over a text file, without reading it all."""

import contextlib
import itertools
import os

import pyarrow as pa
import pyarrow.csv

from tfmoe import remote

_BYTES = 1 << 18
# Lines at either end of a block that may belong to a row cut by it.
_CUT_LINES = 3


def spread_blocks(
    path: str,
    start: int,
    count: int,
    names: list[str],
    parsing: pyarrow.csv.ParseOptions,
    converting: pyarrow.csv.ConvertOptions,
) -> list[pa.Table]:
    """Tables of the rows in some blocks, spread evenly.

    A block begins and ends anywhere; the lines that it cuts are left out. Where a line's end lies
    in a quoted cell a block may be no table of as many columns: then some more lines are, or the
    block as a whole.

    Args:
        path: a file in UTF-8, not compressed.
        start: byte from which on blocks are taken.
        count: int, how many at most.
        names: of the file's columns.
        parsing, converting: how the file is read.
    """
    found: list[pa.Table] = []
    source = remote.opened(path, _BYTES)
    with open(path, "rb") if source is path else source as file:
        size = file.seek(0, os.SEEK_END)
        if size <= start:
            return found
        step = max((size - start) // count, _BYTES)
        # The last block ends with the file, where what was appended is.
        for offset in sorted({*range(start, max(size - _BYTES, start + 1), step), size - _BYTES}):
            file.seek(max(offset, start))
            lines = file.read(_BYTES)
            first, last = lines.find(b"\n") + 1, lines.rfind(b"\n") + 1
            if offset + _BYTES >= size:
                last = len(lines)
            read = pyarrow.csv.ReadOptions(column_names=names, use_threads=False)
            table = _parsed(lines[first:last], read, parsing, converting)
            if table is not None:
                found.append(table)
    return found


def _parsed(lines, *options):
    """A block's rows, perhaps without some lines at its ends; None if it is no table."""
    starts, ends = [0], [len(lines)]
    for _ in range(_CUT_LINES):
        starts.append(lines.find(b"\n", starts[-1]) + 1 or len(lines))
        ends.append(lines.rfind(b"\n", 0, max(ends[-1] - 1, 0)) + 1)
    for start, end in itertools.product(starts, ends):
        if start < end:
            with contextlib.suppress(pa.ArrowInvalid):
                return pyarrow.csv.read_csv(pa.BufferReader(lines[start:end]), *options)
    return None
