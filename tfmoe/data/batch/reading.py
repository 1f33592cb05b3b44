"""What is made of rows that a Preprocessor knows to encode: datasets, arrays, batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias, overload

import numpy as np

from tfmoe.data.batch.chunks import (
    counted,
    counted_chunks,
    held_rows,
    packed_chunks,
    raw_chunks,
    rebatch,
)
from tfmoe.data.batch.epochs import Epochs, as_dataset, check_mixer, check_shard, check_shuffle
from tfmoe.data.batch.part import Part
from tfmoe.data.batch.service import check_service, served
from tfmoe.data.batch.task_mixer import TaskMixer
from tfmoe.data.batch.whole_groups import check_keep_groups
from tfmoe.data.encode.rows import RowEncoder
from tfmoe.data.encode.values import ValueCodes
from tfmoe.data.read.source import Rows, open_source
from tfmoe.data.read.tables import placed
from tfmoe.schema.schema import Schema
from tfmoe.validation import integer, number

if TYPE_CHECKING:
    import pandas as pd
    import tensorflow as tf

_Arrays: TypeAlias = dict[str, np.ndarray]
# Features, labels, weights.
_WithLabels: TypeAlias = tuple[_Arrays, _Arrays, _Arrays]


class RowReading(ABC):
    """Reads sources of rows with the encoder that a subclass makes."""

    schema: Schema

    @abstractmethod
    def _encoder(self, labels: bool) -> RowEncoder:
        """What encodes rows, with their labels and weights or without."""

    def dataset(
        self,
        source: Rows,
        batch_size: int = 1024,
        shuffle: bool | int = False,
        seed: int = 0,
        labels: bool = True,
        shard: tuple[int, int] = (0, 1),
        drop_remainder: bool = False,
        mixer: TaskMixer | None = None,
        keep_groups: bool = False,
        start_epoch: int = 0,
        service: str | None = None,
    ) -> tf.data.Dataset:
        """A `tf.data.Dataset` of batches for `model.fit`.

        A DataFrame or dict is encoded at once and held (4 bytes a value), and with
        `shuffle` permuted as a whole. Files are read anew in each epoch; with `shuffle`
        files and row groups come in random order and rows are mixed in a buffer. The same
        seed gives the same batches; each epoch has another order. A dataset counts its
        epochs from its making, so a new one begins with the first order again, unless
        `start_epoch` says otherwise. `tfmoe.Checkpoint` does so by itself.

        A stream, a callable whose rows do not end, is one endless epoch; `fit` parts it by
        `steps_per_epoch`. Memory is bounded by the shuffle buffer and a few chunks. Where the
        callable has a parameter `start`, rows are shuffled in blocks of that size, so that a
        training goes on in the middle without what came before.

        Args:
            source: see the class. Of iterables only those that can be read again.
            batch_size: int >= 1.
            shuffle: bool, or the rows of the shuffle buffer, by default 1,000,000.
            seed: int >= 0.
            labels: whether to read labels and weights.
            shard: (index, count), the part of this worker: whole files if there are
                enough, else row groups, else every `count`-th row. The parts of all
                workers are disjoint and complete.
            drop_remainder: whether to leave out a last, smaller batch.
            mixer: `TaskMixer`, how often each task comes, or None for the rows as they
                are. For schemas with a `task_column`. The source, files too, is then
                encoded once and held in memory (4 bytes a value); an epoch has as many
                rows as the source (or the shard, each worker mixing its own rows), in
                random order whatever `shuffle` says.
            keep_groups: whether the rows of a group, see `Schema(group=...)`, all come in one
                batch. A batch then has as many groups as fit, and a larger group is one by itself;
                `shuffle` is one of groups. The source is held in memory, as with a `mixer`.
            start_epoch: int >= 0, the epoch whose order comes first: n for a training that goes
                on after n epochs.
            service: address of the dispatcher of a `tf.data` service, such as
                `"grpc://10.0.0.1:5000"`, whose workers then make the batches. The source, files
                too, is encoded here once and sent to them, 1 GB at most. Each row comes once an
                epoch, in the order in which workers are ready, which no seed says. With `shuffle`
                a worker's last batch may be smaller. Not with `shard`, `drop_remainder`, `mixer`,
                `keep_groups` or `start_epoch`.

        Returns:
            Dataset of `(features, labels, weights)`, or of features if `labels=False`.
            Features by column name: float32 `(b,)`, int32 `(b,)`, int32 `(b, l)` for lists, or
            float32 `(b, l)` for vectors, times and the weights of lists. Labels by task: float32
            `(b,)` with NaN for missing. Weights by task: float32 `(b,)`, the row's weight. With a
            `task_column` the features have under its name the place of the row's task in
            `schema.tasks`, int32 `(b,)`, and labels and weights the one name `score`, for the row's
            own task. With a `group`, and labels, the features have under `"group codes"` the number
            of each row's group, int32
            `(b,)`, -1 of none: equal for equal values all over the dataset. It is no input of
            the model.

        Raises:
            ValueError, TypeError: as `arrays`; or `drop_remainder` leaves no batch. Errors in
                the files' cells are raised when the dataset is read, as TensorFlow's
                `InvalidArgumentError`.
        """
        batch_size = integer("dataset", "batch_size", batch_size, 1)
        seed = integer("dataset", "seed", seed, 0)
        start_epoch = integer("dataset", "start_epoch", start_epoch, 0)
        check_shuffle(shuffle)
        check_shard(shard)
        check_mixer(mixer, self.schema)
        if keep_groups:
            check_keep_groups(self.schema, drop_remainder, shard, mixer)
        opened = _readable_again(source)
        encoder = self._encoder(labels)
        if service is not None:
            check_service(
                service,
                shard=tuple(shard),
                drop_remainder=drop_remainder,
                mixer=mixer,
                keep_groups=keep_groups,
                start_epoch=start_epoch or None,
            )
            rows = held_rows(encoder, opened)
            return served(service, encoder, rows, batch_size, shuffle, seed)
        how = (batch_size, shuffle, seed, shard, drop_remainder, mixer)
        epochs = Epochs(encoder, opened, *how, keep_groups=keep_groups, next_epoch=start_epoch)
        return as_dataset(epochs, encoder, batch_size, drop_remainder, sharded=shard[1] > 1)

    def split(
        self,
        source: Rows,
        batch_size: int = 1024,
        share: float = 0.1,
        seed: int = 0,
        shuffle: bool | int = True,
    ) -> tuple[tf.data.Dataset, tf.data.Dataset]:
        """Two datasets of a source's rows, for training and for validation.

        A row's part is drawn by the seed and its place in the source: it is the same in each
        epoch, and files need not be held.

        Args:
            source, batch_size, shuffle: see `dataset`; the validation part is not shuffled.
            share: float in (0, 1), of the rows that are held out for validation, on average.
            seed: int >= 0, of the draw and of the shuffle.

        Returns:
            Two datasets as `dataset` makes them, the held out part second.

        Raises:
            ValueError, TypeError: as `dataset`; or a part has no rows.
        """
        batch_size = integer("split", "batch_size", batch_size, 1)
        seed = integer("split", "seed", seed, 0)
        check_shuffle(shuffle)
        share = number("split", "share", share, least=0)
        if not 0 < share < 1:
            raise ValueError(
                "split holds out a share of the rows above 0 and below 1. Received "
                f"share={share}. 0.1 is usual."
            )
        opened, encoder = _readable_again(source), self._encoder(True)

        def part(held_out: bool) -> tf.data.Dataset:
            mixing = False if held_out else shuffle
            part = Part(share, seed, held_out)
            epochs = Epochs(encoder, opened, batch_size, mixing, seed, (0, 1), False, None, part)
            return as_dataset(epochs, encoder, batch_size, False, sharded=False)

        return part(False), part(True)

    @overload
    def arrays(self, source: Rows, labels: Literal[True] = True) -> _WithLabels: ...
    @overload
    def arrays(self, source: Rows, labels: Literal[False]) -> _Arrays: ...
    @overload
    def arrays(self, source: Rows, labels: bool) -> _WithLabels | _Arrays: ...
    def arrays(self, source: Rows, labels: bool = True) -> _WithLabels | _Arrays:
        """All rows as NumPy arrays; needs no TensorFlow (but to read TFRecord files).

        Args:
            source: see the class.
            labels: whether to read labels and weights.

        Returns:
            `(features, labels, weights)`, or features if `labels=False`: dicts as in
            `dataset`, with n rows.

        Raises:
            ValueError: if a column is missing, there is no label column at all, a label
                is none of its task's, a row names no task of the schema, a weight is
                missing or below 0, there are no rows, or columns need `fit`.
            TypeError: if a column does not hold what the schema says.
        """
        encoder = self._encoder(labels)
        return _arrays(encoder, held_rows(encoder, open_source(source)))

    @overload
    def batches(
        self, source: Rows, batch_size: int = ..., labels: Literal[True] = True
    ) -> Iterator[_WithLabels]: ...
    @overload
    def batches(
        self, source: Rows, batch_size: int = ..., *, labels: Literal[False]
    ) -> Iterator[_Arrays]: ...
    @overload
    def batches(
        self, source: Rows, batch_size: int, labels: bool
    ) -> Iterator[_WithLabels] | Iterator[_Arrays]: ...
    def batches(
        self, source: Rows, batch_size: int = 1024, labels: bool = True
    ) -> Iterator[_WithLabels] | Iterator[_Arrays]:
        """Yields what `arrays` returns, `batch_size` rows at a time, without holding them all.

        Args:
            source, labels: see `arrays`, as is what is raised.
            batch_size: int >= 1. The last batch may be smaller.
        """
        batch_size = integer("batches", "batch_size", batch_size, 1)
        encoder = self._encoder(labels)
        chunks = counted(packed_chunks(encoder, open_source(source)))
        batches = rebatch(chunks, batch_size, drop_remainder=False)
        # Not a generator itself, so that wrong arguments raise here and not at the first batch.
        return (_arrays(encoder, words) for words in batches)

    def batches_beside(
        self, source: Rows, columns: Mapping[str, ValueCodes], batch_size: int = 4096
    ) -> Iterator[tuple[_WithLabels, dict[str, np.ndarray]]]:
        """Yields what `arrays` returns, some rows at a time, and codes of raw columns beside it.

        Args:
            source: see `arrays`, as is what is raised.
            columns: dict by raw column, inputs of the model or not, of what tells its values
                apart.
            batch_size: int >= 1, the most rows at a time.

        Yields:
            The triple `(features, labels, weights)`, and a dict of int32 `(b,)` by column.

        Raises:
            ValueError: if the table has no such column.
        """
        encoder, opened = self._encoder(True), open_source(source)

        def plan(names):
            absent = [name for name in columns if name not in names]
            if absent:
                raise ValueError(
                    f"Rows are told apart by columns of the table. Received {absent}, which are "
                    f"not there; its columns are {[str(name) for name in names]}."
                )
            return {**dict.fromkeys(columns, "text"), **encoder.required_columns(names)}

        for chunk in counted_chunks(raw_chunks(opened, plan)):
            with placed(chunk):
                beside = {name: found.codes(chunk[name]) for name, found in columns.items()}
            words = encoder.encode(chunk, encoder.groups(chunk))
            for start in range(0, len(words), batch_size):
                rows = slice(start, start + batch_size)
                own = {name: codes[rows] for name, codes in beside.items()}
                yield _arrays(encoder, words[rows]), own

    def transform(self, df: Rows) -> pd.DataFrame:
        """The encoded columns of a table as a DataFrame, to inspect; list columns as lists."""
        import pandas as pd

        features = self.arrays(df, labels=False)
        index = df.index if isinstance(df, pd.DataFrame) else None
        lists = {name: list(v) if v.ndim > 1 else v for name, v in features.items()}
        return pd.DataFrame(lists, index=index)


def _readable_again(source):
    """A `Source` that can be read once an epoch."""
    opened = open_source(source)
    if opened.single_pass:
        raise ValueError(
            "A dataset reads its source once an epoch. Received a generator, which can be "
            "read only once. Pass a callable that returns a new one: "
            "dataset(lambda: frames())."
        )
    return opened


def _arrays(encoder, words):
    """Packed rows as dicts of arrays that do not hold each other's memory."""
    parts = encoder.unpack(words, words.view(np.float32))
    if not encoder.labels:
        return _contiguous(parts)
    return tuple(map(_contiguous, parts))


def _contiguous(arrays):
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}
