"""Rows on their way: read, counted, packed, mixed and cut into batches, chunk by chunk."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from tfmoe.data.batch.part import Part
from tfmoe.data.encode.rows import RowEncoder
from tfmoe.data.read import tables
from tfmoe.data.read.source import Source

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def check_rows(num_rows: int) -> None:
    """Raises ValueError if there are none."""
    if not num_rows:
        raise ValueError(
            "There must be rows to read. Received a source (or a worker's shard of it) with no "
            "rows. Check the files and filters, or use fewer shards."
        )


def raw_chunks(
    source: Source, plan: Callable[[Collection[str]], Mapping[str, str | None]]
) -> Iterator[tables.Chunk]:
    """Chunks of raw columns, dicts of Arrow arrays, of a whole source.

    Args:
        source: `Source`.
        plan: callable from a table's column names to the kinds of those to read.
    """
    for fragment in source.fragments():
        yield from fragment.read(plan(fragment.names))


def first_rows(chunks: Iterable[tables.Chunk], num_rows: int) -> Iterator[tables.Chunk]:
    """The chunks up to a number of rows; no chunk is read after these."""
    for chunk in chunks:
        own = len(next(iter(chunk.values())))
        yield chunk if own <= num_rows else chunk.head(num_rows)
        num_rows -= own
        if num_rows <= 0:
            return


def packed_chunks(
    encoder: RowEncoder,
    source: Source,
    shard: tuple[int, int] = (0, 1),
    rng: np.random.Generator | None = None,
    part: Part | None = None,
) -> Iterator[np.ndarray]:
    """Packed rows of a worker's part of a source, chunk by chunk.

    Args:
        encoder: `RowEncoder`.
        source: `Source`.
        shard: (index, count).
        rng: NumPy generator that puts the fragments in a random order, or None.
        part: `Part` of the rows, or None for all.

    Yields:
        int32 `(n, width)`.
    """
    index, count = shard
    fragments, split_rows = source.shard(index, count)
    numbered: Iterable[tuple[int, tables.Fragment]]
    numbered = enumerate(source.fragments() if fragments is None else fragments)
    if rng is not None and fragments is not None:
        order = rng.permutation(len(fragments)).tolist()
        numbered = [(place, fragments[place]) for place in order]

    def read():
        for number, fragment in numbered:
            # Workers may visit fragments in different orders, so rows are told apart by
            # their place within the fragment; its number spreads the remainders evenly.
            row = number
            for chunk in fragment.read(encoder.required_columns(fragment.names)):
                num_rows = len(next(iter(chunk.values())))
                if num_rows:
                    groups = encoder.groups(chunk)
                    own = part.mask(number, row - number, num_rows) if part else None
                    yield chunk, groups, own, (index - row) % count if split_rows else None
                    row += num_rows

    def encode(work):
        chunk, groups, own, first = work
        packed = encoder.encode(chunk, groups)
        if first is not None:
            packed, own = packed[first::count], None if own is None else own[first::count]
        return packed if own is None else packed[own]

    yield from prefetch_map(encode, read())


def prefetch_map(
    work: Callable[[_Item], _Result], items: Iterable[_Item], workers: int | None = None
) -> Iterator[_Result]:
    """`map(work, items)` in threads, in order, as many items ahead as there are threads."""
    # Each thread holds a chunk, and reading is the limit long before eight of them.
    workers = workers or min(os.cpu_count() or 1, 8)
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[_Result]] = deque()
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def held_rows(
    encoder: RowEncoder,
    source: Source,
    shard: tuple[int, int] = (0, 1),
    part: Part | None = None,
) -> np.ndarray:
    """All packed rows at once.

    Raises:
        ValueError: if there are none.
    """
    chunks = list(packed_chunks(encoder, source, shard, part=part))
    check_rows(sum(map(len, chunks)))
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)


def mixed(
    chunks: Iterable[np.ndarray], buffer_rows: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Chunks of the same rows in another order, mixed in a buffer of `buffer_rows` rows.

    The buffer's places are visited in a random order, over and over; each gives its row
    away and takes the next of the input. So no row moves further than a buffer from its
    place, and if all rows fit into the buffer their order is uniformly random.
    """
    buffer: np.ndarray | None = None
    filled = 0
    places = np.zeros(0, np.int64)
    for chunk in chunks:
        if buffer is None:
            buffer = np.empty((buffer_rows, chunk.shape[1]), chunk.dtype)
        if filled < buffer_rows:
            taken = min(buffer_rows - filled, len(chunk))
            buffer[filled : filled + taken] = chunk[:taken]
            filled += taken
            chunk = chunk[taken:]
        while len(chunk):
            if not len(places):
                places = rng.permutation(buffer_rows)
            now, places = places[: len(chunk)], places[len(chunk) :]
            yield buffer[now]
            buffer[now] = chunk[: len(now)]
            chunk = chunk[len(now) :]
    if buffer is not None:
        order = rng.permutation(filled)
        for start in range(0, filled, tables.CHUNK_ROWS):
            yield buffer[order[start : start + tables.CHUNK_ROWS]]


def rebatch(
    chunks: Iterable[np.ndarray], batch_size: int, drop_remainder: bool
) -> Iterator[np.ndarray]:
    """Batches of `batch_size` rows, cut from chunks of any size."""
    left: list[np.ndarray] = []
    missing = batch_size
    for chunk in chunks:
        start = 0
        while len(chunk) - start >= missing:
            left.append(chunk[start : start + missing])
            yield left[0] if len(left) == 1 else np.concatenate(left)
            start += missing
            left, missing = [], batch_size
        if start < len(chunk):
            left.append(chunk[start:])
            missing -= len(chunk) - start
    if left and not drop_remainder:
        yield np.concatenate(left)


def in_blocks(
    chunks: Iterable[np.ndarray], block_rows: int, rng_of: Callable[[int], np.random.Generator]
) -> Iterator[np.ndarray]:
    """Chunks of the same rows, put in a random order block by block.

    Unlike with `mixed`, a block's order needs nothing of what came before it.

    Args:
        chunks: packed rows.
        block_rows: int >= 1, rows of a block; the last one may be smaller.
        rng_of: the NumPy generator of a block, by its place among the chunks' blocks.
    """
    for place, block in enumerate(rebatch(chunks, block_rows, drop_remainder=False)):
        order = rng_of(place).permutation(len(block))
        for start in range(0, len(block), tables.CHUNK_ROWS):
            yield block[order[start : start + tables.CHUNK_ROWS]]


def without_first(chunks: Iterable[np.ndarray], num_rows: int) -> Iterator[np.ndarray]:
    """The chunks without their first rows."""
    for chunk in chunks:
        if len(chunk) > num_rows:
            yield chunk[num_rows:]
        num_rows = max(0, num_rows - len(chunk))


def counted(chunks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The chunks, with an error at the end if there were none."""
    num_rows = 0
    for chunk in chunks:
        num_rows += len(chunk)
        yield chunk
    check_rows(num_rows)


def counted_chunks(chunks: Iterable[tables.Chunk]) -> Iterator[tables.Chunk]:
    """Raw chunks that have rows, with an error at the end if there were none."""
    num_rows = 0
    for chunk in chunks:
        own = len(next(iter(chunk.values())))
        num_rows += own
        if own:
            yield chunk
    check_rows(num_rows)
