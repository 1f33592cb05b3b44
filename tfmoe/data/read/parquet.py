"""Parquet files, read by row groups."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from tfmoe import remote
from tfmoe.data.kinds import is_text, plain
from tfmoe.data.read import tables

# Of a file behind an URL: Arrow asks for what it needs in large parts.
_AHEAD = 1 << 16


class ParquetFragment:
    """Some neighbouring row groups of a Parquet file, together at least a chunk.

    Pages that have checksums are verified. An index that pandas has written is a column as
    others, also where it counts up and the file but says from where.

    Args:
        path: str.
        file: number of the file in its source.
        schema: the file's.
        groups: numbers of the row groups.
        num_rows: rows in them.
        start: rows of the file before them.
        metadata: what the file says of its row groups, or None to read it whenever it is needed.
    """

    def __init__(
        self,
        path: str,
        file: int,
        schema: pa.Schema,
        groups: list[int],
        num_rows: int,
        start: int = 0,
        metadata: pyarrow.parquet.FileMetaData | None = None,
    ) -> None:
        self.path = path
        self.file = file
        self._counted = _counted_indices(schema)
        self.names = tables.Names([*schema.names, *self._counted], path)
        self.num_rows = num_rows
        self._groups = groups
        self._schema = schema
        self._start = start
        self._metadata = metadata

    @classmethod
    def all_of(cls, path: str, file: int) -> list[ParquetFragment]:
        """The fragments of a file."""
        with _readable(path), _opened(path) as opened:
            metadata, schema = opened.metadata, opened.schema_arrow
        parts: list[tuple[list[int], int, int]] = []
        groups: list[int] = []
        rows = start = 0
        for group in range(metadata.num_row_groups):
            groups.append(group)
            rows += metadata.row_group(group).num_rows
            if rows >= tables.CHUNK_ROWS or group == metadata.num_row_groups - 1:
                parts.append((groups, rows, start))
                start += rows
                groups, rows = [], 0
        # It lists all row groups: to parse it for each fragment again would take as long as their
        # number squared. Of many small files it is not worth its memory.
        held = metadata if len(parts) > 1 else None
        return [cls(path, file, schema, *part, held) for part in parts or [([], 0, 0)]]

    @property
    def _part(self):
        first, *others = self._groups or [0]
        return f"(row groups {first} to {others[-1]})" if others else f"(row group {first})"

    def read(self, kinds: Mapping[str, str | None]) -> Iterator[tables.Chunk]:
        tables.check_names(self.names, kinds, self.path)
        yield from self._batches(list(kinds), tables.CHUNK_ROWS)

    def _batches(self, columns, size):
        # Text arrives as the file has it, a dictionary and places in it.
        in_file = [name for name in columns if name not in self._counted]
        text = [name for name in in_file if is_text(self._schema.field(name).type)]
        start = self._start
        with (
            _readable(self.path, self._part),
            _opened(
                self.path,
                self._metadata,
                read_dictionary=text,
                page_checksum_verification=True,
            ) as opened,
        ):
            for batch in opened.iter_batches(size, row_groups=self._groups, columns=in_file):
                found = {name: plain(batch.column(name)) for name in in_file}
                for name in columns:
                    if name in self._counted:
                        first, step = self._counted[name]
                        rows = np.arange(start, start + batch.num_rows)
                        found[name] = pa.array(first + step * rows)
                yield tables.Chunk(found, self.path, start, self._part)
                start += batch.num_rows

    def look(self, num_rows: int) -> tables.Chunk:
        """See `Fragment.look`; row groups from all over the fragment."""
        tables.check_names(self.names, self.names, self.path)
        picked = np.unique(np.linspace(0, len(self._groups) - 1, 4).astype(int))
        with _readable(self.path, self._part), _opened(self.path, self._metadata) as file:
            metadata = file.metadata
        parts: list[tables.Chunk] = []
        for place in picked.tolist() if self._groups else []:
            sizes = [metadata.row_group(group).num_rows for group in self._groups[:place]]
            group = ParquetFragment(
                self.path,
                self.file,
                self._schema,
                [self._groups[place]],
                0,
                self._start + sum(sizes),
                metadata,
            )
            parts += itertools.islice(group._batches(self.names, num_rows // len(picked) + 1), 1)
        if not parts:
            empty = {f.name: plain(pa.array([], f.type)) for f in self._schema}
            empty |= {name: pa.array([], pa.int64()) for name in self._counted}
            return tables.Chunk(empty, self.path)
        columns = {
            name: tables.one_array(pa.chunked_array([part[name] for part in parts]))
            for name in self.names
        }
        return tables.Chunk(columns, self.path, self._start, self._part)


def _opened(path, metadata=None, **options):
    source = remote.opened(path, _AHEAD)
    options["pre_buffer"] = source is not path
    return pyarrow.parquet.ParquetFile(source, metadata=metadata, **options)


def _counted_indices(schema):
    """Named indices of pandas of which the file has where they begin and their step only."""
    try:
        indices = (schema.pandas_metadata or {}).get("index_columns", [])
    except ValueError:  # no JSON
        return {}
    counted = (i for i in indices if isinstance(i, dict) and i.get("kind") == "range")
    return {
        str(index["name"]): (int(index["start"]), int(index["step"]))
        for index in counted
        if index.get("name") and str(index["name"]) not in schema.names
    }


@contextmanager
def _readable(path, part=""):
    """Errors of Arrow's about a file say which file that is, and what to do."""
    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError, remote.RemoteError):
        raise
    except pa.ArrowNotImplementedError as error:
        raise TypeError(
            f"A Parquet file's columns must be of types that are read. Received {path}: {error}. "
            "Write the column as numbers, text or lists of these."
        ) from error
    except (pa.ArrowException, OSError) as error:
        if not part:
            raise ValueError(
                f"Received {path}, which is no Parquet file: {error}. Write it again."
            ) from error
        where = f"{path} {part}"
        if "CRC" in str(error) or "checksum" in str(error).lower():
            raise OSError(
                f"A Parquet file's pages must be as they were written. Received {where}, of which "
                f"a page differs from its checksum: {error}. Copy or write the file again."
            ) from error
        raise OSError(
            f"A Parquet file must be whole. Received {where}, which cannot be read: {error}. Copy "
            "or write the file again."
        ) from error
