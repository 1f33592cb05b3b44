"""Packed rows as batches, epoch by epoch, and the tf.data.Dataset of them."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tfmoe.data.batch.chunks import (
    counted,
    held_rows,
    in_blocks,
    mixed,
    packed_chunks,
    rebatch,
    without_first,
)
from tfmoe.data.batch.part import Part
from tfmoe.data.batch.task_mixer import MixedOrder, TaskMixer
from tfmoe.data.batch.whole_groups import WholeGroups
from tfmoe.data.encode.rows import RowEncoder
from tfmoe.data.read.source import Source, total
from tfmoe.schema.schema import Schema
from tfmoe.validation import is_integer

if TYPE_CHECKING:
    import tensorflow as tf

# Rows of the shuffle buffer, where files are shuffled and no number is given.
SHUFFLE_ROWS = 1_000_000


def check_shuffle(shuffle: object) -> None:
    """Raises ValueError unless it is True, False or a number of rows."""
    if not isinstance(shuffle, bool) and not (is_integer(shuffle) and shuffle >= 0):  # type: ignore[operator]
        raise ValueError(
            "dataset takes `shuffle` as True, False or the number of rows in the shuffle "
            f"buffer. Received shuffle={shuffle!r}."
        )


def check_shard(shard: object) -> None:
    """Raises ValueError unless it is a worker's number and the number of workers."""
    pair = isinstance(shard, list | tuple) and len(shard) == 2 and all(map(is_integer, shard))
    if not pair or not 0 <= shard[0] < shard[1]:  # type: ignore[index]
        raise ValueError(
            "dataset takes `shard` as (index, count) with 0 <= index < count. Received "
            f"shard={shard!r}."
        )


def check_mixer(mixer: object, schema: Schema) -> None:
    """Raises ValueError unless it is a `TaskMixer`, for a schema with a task column, or None."""
    if mixer is not None and not (isinstance(mixer, TaskMixer) and schema.task_column):
        raise ValueError(
            "dataset takes a TaskMixer as `mixer`, for a schema with a `task_column`. Received "
            f"mixer={mixer!r} with task_column={schema.task_column!r}. Where every row has the "
            "labels of all tasks there is nothing to mix: use `Task.weight`."
        )


class Epochs:
    """Batches of packed rows; each call starts the next epoch.

    The first epoch after `seek` may be one that is gone on with: the batches that were trained on
    come empty (zeros where all batches are of one size), so that places and numbers of batches
    stay. Tables in memory and streams that take `start` are not read again for these, files are.

    Args:
        encoder: `RowEncoder`.
        source: `Source`. A table in memory is encoded here, once.
        batch_size: int >= 1.
        shuffle: False, True, or the rows of the shuffle buffer (files only; a table in
            memory is always permuted as a whole).
        seed: int; the order follows from it and the epoch's number.
        shard: (index, count).
        drop_remainder: whether to leave out a last, smaller batch.
        mixer: `TaskMixer` or None. With one, files too are encoded here and held.
        part: `Part` of the rows, or None for all.
        keep_groups: whether the rows of a group share a batch. Files are then held, too.
        next_epoch: int >= 0, the epoch that comes first.

    Attributes:
        next_epoch: int, the number of the epoch that the next call starts.
    """

    def __init__(
        self,
        encoder: RowEncoder,
        source: Source,
        batch_size: int,
        shuffle: bool | int,
        seed: int,
        shard: tuple[int, int],
        drop_remainder: bool,
        mixer: TaskMixer | None,
        part: Part | None = None,
        keep_groups: bool = False,
        next_epoch: int = 0,
    ) -> None:
        self._encoder = encoder
        self._source = source
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._seed = seed
        self._shard = shard
        self._drop_remainder = drop_remainder
        self._part = part
        self._mixer = mixer
        self.next_epoch = next_epoch
        self._trained = 0
        held = source.held or mixer or keep_groups
        self._held = held_rows(encoder, source, shard, part) if held else None
        self._whole = None
        #: Whether the rows of a group share a batch.
        self.keeps_groups = keep_groups
        if keep_groups and self._held is not None:
            self._whole = WholeGroups(encoder.group_codes(self._held), batch_size)
        self._mixed = None
        if mixer and self._held is not None:
            # Workers draw apart from each other, or all would have the same task at once.
            task_indices = encoder.task_indices(self._held)
            self._mixed = MixedOrder(mixer, task_indices, [seed, shard[0]])
        elif source.listed:
            # A missing column raises here rather than in the middle of `model.fit`.
            encoder.required_columns(next(iter(source.fragments())).names)
        self._check_batches(self.num_batches)

    def _check_batches(self, num_batches):
        """Raises ValueError if there are none, for Keras only says that data ran out."""
        if num_batches == 0 and self._drop_remainder:
            raise ValueError(
                "With drop_remainder=True there must be rows for a whole batch. Received a source "
                f"(or a worker's shard of it) with fewer rows than batch_size={self._batch_size}. "
                "Take a smaller batch_size, or drop_remainder=False."
            )

    @property
    def num_batches(self) -> int | None:
        """Batches of an epoch if known without reading, else None."""
        index, count = self._shard
        rows: int | None
        if self._whole is not None:
            # Where groups come in another order, other ones fit into a batch.
            return None if self._shuffle else len(self._whole.batches())
        if self._held is not None:
            rows = len(self._held)
        else:
            fragments, split_rows = self._source.shard(index, count)
            if fragments is None or self._part:
                return None
            counts = [fragment.num_rows for fragment in fragments]
            if split_rows:
                counts = [
                    None if size is None else len(range((index - number) % count, size, count))
                    for number, size in enumerate(counts)
                ]
            rows = total(counts)
        if rows is None:
            return None
        return rows // self._batch_size if self._drop_remainder else -(-rows // self._batch_size)

    @property
    def description(self) -> dict[str, Any]:
        """What its batches follow from, as plain data."""
        index, count = self._shard
        # Of a shard those of the whole, so that workers say the same.
        held = self._held if count == 1 else None
        rows = self._source.num_rows if held is None else len(held)
        return {
            "batch_size": self._batch_size,
            "shuffle": self._shuffle,
            "seed": self._seed,
            "shard": [index, count],
            "drop_remainder": self._drop_remainder,
            "mixer": repr(self._mixer),
            "part": repr(self._part),
            "keep_groups": self.keeps_groups,
            "rows": rows,
        }

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Lets the next call go on with an epoch.

        Args:
            epoch: int >= 0, its number.
            batch: int >= 0, how many of its batches were trained on; these come empty.
        """
        self.next_epoch, self._trained = epoch, batch

    def __call__(self) -> Iterator[np.ndarray]:
        epoch, trained = self.next_epoch, self._trained
        self.next_epoch, self._trained = epoch + 1, 0
        rows = self._batch_size if self._drop_remainder else 0
        passed = np.zeros((rows, self._encoder.width), np.int32)
        # A worker may have fewer batches than were trained on by all together.
        most = self.num_batches if trained else None
        yield from itertools.repeat(passed, trained if most is None else min(trained, most))
        rng = np.random.default_rng([self._seed, epoch])
        if self._held is not None:
            yield from itertools.islice(self._held_batches(rng, epoch), trained, None)
        elif self._source.begin and self._shard[1] == 1 and self._part is None:
            yield from self._stream_batches(self._source.begin, epoch, trained)
        else:
            yield from self._read_batches(rng, trained)

    def _read_batches(self, rng, trained):
        chunks = packed_chunks(
            self._encoder,
            self._source,
            self._shard,
            rng if self._shuffle else None,
            self._part,
        )
        chunks = counted(chunks)
        if self._shuffle:
            chunks = mixed(chunks, self._buffer_rows, rng)
        num_batches = 0
        for batch in rebatch(chunks, self._batch_size, self._drop_remainder):
            num_batches += 1
            if num_batches > trained:
                yield batch
        self._check_batches(num_batches)

    def _stream_batches(self, begin, epoch, trained):
        """Batches of a source that begins at any row; what was trained on is not read again."""
        block_rows = self._buffer_rows if self._shuffle else 1
        first, within = divmod(trained * self._batch_size, block_rows)
        source = Source(lambda: begin(first * block_rows), listed=False)
        chunks = packed_chunks(self._encoder, source)
        if not trained:
            chunks = counted(chunks)
        if self._shuffle:

            def rng_of(place):
                return np.random.default_rng([self._seed, epoch, first + place])

            chunks = without_first(in_blocks(chunks, block_rows, rng_of), within)
        num_batches = trained
        for batch in rebatch(chunks, self._batch_size, self._drop_remainder):
            num_batches += 1
            yield batch
        self._check_batches(num_batches)

    @property
    def _buffer_rows(self):
        return SHUFFLE_ROWS if self._shuffle is True else self._shuffle

    def _held_batches(self, rng, epoch):
        rows, size = self._held, self._batch_size
        if self._whole is not None:
            for own in self._whole.batches(rng if self._shuffle else None):
                yield rows[own]
            return
        order = None
        if self._mixed:
            self._mixed.seek(epoch)
            order = self._mixed.next_epoch()
        elif self._shuffle:
            order = rng.permutation(len(rows))
        last = len(rows) - size + 1 if self._drop_remainder else len(rows)
        for start in range(0, last, size):
            stop = start + size
            yield rows[start:stop] if order is None else rows[order[start:stop]]


def as_dataset(
    epochs: Epochs, encoder: RowEncoder, batch_size: int, drop_remainder: bool, sharded: bool
) -> tf.data.Dataset:
    """The `tf.data.Dataset` of `Epochs`."""
    import tensorflow as tf

    signature = tf.TensorSpec((batch_size if drop_remainder else None, encoder.width), tf.int32)
    # TensorFlow never lets go of a generator, so it gets one that does not hold the rows.
    reference = weakref.ref(epochs)

    def next_epoch():
        return reference()()

    def unpack(words):
        return encoder.unpack(words, tf.bitcast(words, tf.float32))

    dataset = tf.data.Dataset.from_generator(next_epoch, output_signature=signature).map(unpack)
    if epochs.num_batches is not None:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(epochs.num_batches))
    options = tf.data.Options()
    # There is one map and one prefetch to tune, and the tuner's thread can keep a
    # finished epoch waiting for seconds.
    options.autotune.enabled = False
    if sharded:
        # Each worker has its part already; tf.distribute must not cut it again.
        policy = tf.data.experimental.AutoShardPolicy.OFF
        options.experimental_distribute.auto_shard_policy = policy
    dataset = dataset.prefetch(4).with_options(options)
    # Held by the dataset, and so by all that is made of it.
    dataset.epochs = epochs
    return dataset
