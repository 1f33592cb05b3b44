"""The Preprocessor: fits a table once and encodes rows for training and serving."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import numpy as np

from tfmoe.data.batch.epochs import (
    Epochs,
    as_dataset,
    check_mixer,
    check_rows,
    check_shard,
    check_shuffle,
    counted,
    counted_chunks,
    first_rows,
    held_rows,
    packed_chunks,
    prefetch_map,
    raw_chunks,
    rebatch,
)
from tfmoe.data.batch.part import Part
from tfmoe.data.batch.service import check_service, served
from tfmoe.data.batch.task_mixer import TaskMixer
from tfmoe.data.batch.whole_groups import check_keep_groups
from tfmoe.data.encode.columns import NumericFit
from tfmoe.data.encode.rows import RowEncoder, label_columns
from tfmoe.data.encode.values import ValueCodes
from tfmoe.data.encode.vocabulary import HashTable, Vocabulary
from tfmoe.data.fit import storage
from tfmoe.data.fit.fitted import Fitted, notices, unfitted_columns
from tfmoe.data.fit.growth import Growth, digest, grown, renamed_columns
from tfmoe.data.fit.sketches import RANK_ERROR
from tfmoe.data.fit.statistics import Statistics
from tfmoe.data.read.source import Rows, open_source
from tfmoe.data.read.tables import placed
from tfmoe.files import PathLike
from tfmoe.schema.pretrained import Pretrained
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Regression, Task
from tfmoe.validation import check_choice, checks_arguments, integer, number

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import tensorflow as tf

_Arrays: TypeAlias = dict[str, np.ndarray]
# Features, labels, weights.
_WithLabels: TypeAlias = tuple[_Arrays, _Arrays, _Arrays]


@checks_arguments
class Preprocessor:
    """Turns raw rows into what a model reads: ids, floats, labels, weights.

    `fit` reads a table once and keeps vocabularies, moments and quantiles; `dataset` and
    `arrays` encode rows with them. Ids are 0 padding, 1 missing, 2 unknown, then the
    vocabulary by falling count (ties by value). The rules for each kind of column are
    in `tfmoe.schema.columns` and, to the bit, in `tfmoe.data.encode.columns`.

    A source of rows is a DataFrame; a dict of arrays of equal length; a path, URL, glob or folder,
    or a list of them, of CSV or TSV files (perhaps gzipped), Parquet, Arrow IPC (`.arrow`,
    `.feather`) or ORC files, or TFRecord files of
    `tf.train.Example`; an iterable of DataFrames, or a callable that returns an iterator
    of them, which need not end: a stream. A callable with a parameter `start` leaves out so many
    rows at the beginning. Files are read in chunks and never held as a whole; they must not change
    as long as a dataset reads them. A text file that is written otherwise than its name says is
    described behind its path, each part only if needed:
    `"t.csv?delimiter=;&quoting=no&encoding=latin-1"`. A folder in a path that is named
    `day=2024-01-01` is a column of its files, of integers if all its values are, else of text.

    A cell means the same whichever source it comes from. Errors say in which row of which file
    a cell is that no column reads.

    A schema in which every categorical column hashes, every `Numeric` has
    `transform="none"`, every list column a `max_length`, every `Vector` a `size` and
    `standardize=False`, and no `Timestamp` an age can be used without `fit`.

    Args:
        schema: `Schema`.
        max_distinct: int >= 1. Of a column with more distinct values only this many of
            the most frequent are counted; a warning says so. Memory is bounded by it, and
            rare values may then be missed: see `tfmoe.data.fit.counts.Counts`.

    Example:

    >>> import pandas as pd
    >>> from tfmoe import Binary, Categorical, Numeric, Schema
    >>> rows = pd.DataFrame({"age": [20.0, 40.0], "city": ["Rome", None], "click": [0, 1]})
    >>> prep = Preprocessor(Schema([Numeric("age"), Categorical("city")], [Binary("click")]))
    >>> features, labels, weights = prep.fit(rows).arrays(rows)
    >>> features["age"].tolist(), features["city"].tolist(), labels["click"].tolist()
    ([-1.0, 1.0], [3, 1], [0.0, 1.0])
    """

    #: Error of the fitted quantiles' ranks, as a share of the rows, with 99 % confidence.
    rank_error: float = RANK_ERROR

    def __init__(self, schema: Schema, max_distinct: int = 5_000_000) -> None:
        if not isinstance(schema, Schema):
            raise TypeError(
                f"Preprocessor takes a Schema. Received schema={schema!r}. `Schema.infer(df, "
                "labels=[...])` proposes one."
            )
        self.schema = schema
        self.max_distinct = integer("Preprocessor", "max_distinct", max_distinct, 1)
        self._statistics: Statistics | None = None
        self._fitted: Fitted | None = None
        #: What the `grow` that made this one did to each table, `Growth` by column; None where
        #: none did, or it was saved since.
        self.growth: dict[str, Growth] | None = None

    def fit(self, source: Rows, progress: bool = True, rows: int | None = None) -> Preprocessor:
        """Reads the source once, in chunks; replaces what was fitted before.

        Label columns may be missing. Memory is bounded by `max_distinct` values a column
        and a few chunks of 65,536 rows. The same rows in the same order give the same fit,
        whatever source they come from. Warnings say which texts, such as NA, stood for missing
        numbers, and which list columns have cells too long to be kept whole.

        Args:
            source: see the class.
            progress: whether to show a progress bar if the output is a terminal.
            rows: int >= 1, how many of the source's first rows are read, or None for all. A
                stream that does not end needs it.

        Returns:
            The Preprocessor itself.

        Raises:
            ValueError: if a column is missing, a label is none of its task's, a row
                names no task of the schema, or there are no rows.
            TypeError: if a column does not hold what the schema says.
        """
        statistics = Statistics(self.schema, self.max_distinct)
        self._count(statistics, source, progress, integer("fit", "rows", rows, 1, optional=True))
        self._set(statistics)
        for notice in notices(self._ready(), statistics):
            warnings.warn(notice, stacklevel=2)
        return self

    def _count(self, statistics, source, progress, rows=None):
        """One pass over the rows, or over the first ones."""
        opened = open_source(source)
        with _progress_bar(progress, rows or opened.num_rows) as advance:
            chunks = raw_chunks(opened, statistics.required_columns)
            if rows is not None:
                chunks = first_rows(chunks, rows)
            # One thread counts a chunk while this one reads the next.
            for num_rows in prefetch_map(statistics.add, chunks, workers=1):
                advance(num_rows)
        check_rows(statistics.num_rows)

    def _set(self, statistics):
        self._statistics = statistics
        self._fitted = Fitted.of(statistics)
        self.growth = None

    def merge(self, other: Preprocessor) -> Preprocessor:
        """A new Preprocessor, as if fitted on the rows of both.

        Counts and vocabularies are equal to those (up to `max_distinct`), moments up to
        rounding, quantiles within `rank_error`. Neither part changes. A column that holds
        integers in one part and text in the other holds text.

        Raises:
            ValueError: if the schemas differ, a part is not fitted, or was saved with
                `state=False`.
        """
        if not isinstance(other, Preprocessor) or other.schema != self.schema:
            raise ValueError(
                "Only Preprocessors with equal schemas can be merged. Received other="
                f"{other!r} with another schema. Fit all parts with the same schema."
            )
        merged = Preprocessor(self.schema, max(self.max_distinct, other.max_distinct))
        merged._set(self._counted().merge(other._counted()))
        return merged

    def grow(
        self,
        source: Rows,
        *,
        moments: Literal["frozen", "update"] = "frozen",
        evict_after: int | None = None,
        schema: Schema | None = None,
        renamed: Mapping[str, str] | None = None,
        vectors: Mapping[str, Any] | None = None,
        progress: bool = True,
    ) -> Preprocessor:
        """A new Preprocessor that knows the values of later rows too; this one stays as it is.

        Values that have an id keep it, also where their share of the rows falls. A value of
        the source that has none gets one if it has been seen `min_count` times in all fits and
        growths together: the most frequent one first, ties by value, at the end of the vocabulary,
        as far as `max_size` leaves room. Columns that share a table grow together; what is hashed
        does not grow. The length of list columns, and the units of regressions' labels, stay. A
        column of integers in which text comes becomes one of text, with the same ids.
        `MultiTaskModel.grow` makes a trained model of as many rows.

        With `evict_after` a value loses its id that the last so many growths have not seen, and
        counts from 0 on again. Its id is free: new values get free ids before those at the end. So
        an id may mean another value than before. **A model that was not grown along must not be
        served with the new Preprocessor**: it would read the row of the value that is gone. Each
        model carries its own Preprocessor, and is safe.

        Without counts (saved with `state=False`, or in a `.keras` file of an earlier version) a
        new value is admitted by its count in this source alone, and `moments="update"` is an error.

        Args:
            source: see the class; rows since the last fit or growth. Rows that were counted before
                count again.
            moments: `"frozen"`: means, spreads and quantiles of numbers, vectors and times stay, so
                that rows are encoded as before; or `"update"`: they are those of all rows so far,
                so that all numbers move a little under the model that was trained.
            evict_after: int >= 1, or None to keep all values.
            schema: `Schema` with the same tasks and further columns, which are fitted on the
                source; None for the same columns.
            renamed: dict by name of a column of its name in `schema`, for those that differ.
            vectors: dict by `Pretrained` column of further vectors, as the column takes them.
                Values that have a vector keep it.
            progress: see `fit`.

        Returns:
            Preprocessor. Its `growth` says what was done, until it is saved.

        Raises:
            ValueError: if nothing was fitted, `schema` lacks or changes a column or has other
                tasks, a row names a task that there is not (see `add_task`), a `max_size` is below
                the ids that there are, or as `fit`.
            TypeError: as `fit`.

        Example:

        >>> import pandas as pd
        >>> schema = tfmoe.Schema([tfmoe.Categorical("city")], [tfmoe.Binary("click")])
        >>> first = pd.DataFrame({"city": ["Rome", "Oslo", "Rome"], "click": [0, 1, 0]})
        >>> later = pd.DataFrame({"city": ["Bonn", "Bonn", "Oslo"], "click": [1, 1, 0]})
        >>> prep = tfmoe.Preprocessor(schema).fit(first).grow(later)
        >>> prep.vocabulary("city").to_pylist()
        ['Rome', 'Oslo', 'Bonn']
        >>> prep.growth["city"].added
        1
        """
        check_choice("grow", "moments", moments, ("frozen", "update"))
        integer("grow", "evict_after", evict_after, 1, optional=True)
        fitted, before = self._ready(), self._statistics
        if before is None and moments == "update" and self.fitted:
            raise ValueError(
                "Moments of all rows need those of the rows before. Received "
                'moments="update" for a Preprocessor without counts. Leave it out, or load one '
                "that was saved with its counts."
            )
        schema = self.schema if schema is None else schema
        names = renamed_columns(self.schema, schema, renamed)
        seen = Statistics(schema, self.max_distinct)
        for old, new in names.items():
            if old in fitted.fits:
                seen.codecs[new].adopt(fitted.fits[old])
            if len(fitted.vocabularies.get(old, ())):
                seen.dtypes[new] = fitted.dtypes[old]
        _adopt_vectors(seen, dict(vectors or {}))
        self._count(seen, source, progress)
        counted = None if before is None else before.renamed(schema, names)
        found = grown(fitted, counted, seen, names, moments == "update", evict_after)
        other = Preprocessor(schema, self.max_distinct)
        other._fitted, other._statistics, other.growth = found
        for notice in notices(found.fitted, seen, grown=True):
            warnings.warn(notice, stacklevel=2)
        return other

    def grown_from(self, other: Preprocessor) -> bool:
        """Whether `grow` has made this one of another, in one step or several, or both are alike.

        Where it has, an id that both have means the same value, unless it was freed in between.
        """
        fitted = self._ready()
        return digest(other._ready()) in (*fitted.ancestors, digest(fitted))

    def _counted(self) -> Statistics:
        """What a pass has counted.

        Raises:
            ValueError: if there was none, or the counts were not saved.
        """
        if self._statistics is None:
            raise ValueError(
                "Both parts must be fitted and hold their counts to be merged. Received one "
                f"with fitted={self.fitted} and no counts. Fit it, or save it with "
                "`save(path)` rather than `save(path, state=False)`."
            )
        return self._statistics

    def select(self, tasks: str | Iterable[str]) -> Preprocessor:
        """A new Preprocessor of the same columns with some of the tasks, fitted alike.

        Args:
            tasks: sequence of task names; see `Schema.select`.
        """
        return self._under(self.schema.select(tasks))

    def without(self, column: str) -> Preprocessor:
        """A new Preprocessor without one of the columns, fitted alike; rows need not have it.

        Args:
            column: name of a column; see `Schema.without`.
        """
        other = Preprocessor(self.schema.without(column), self.max_distinct)
        other._fitted = self._ready().under(other.schema)
        return other

    def add_task(
        self,
        task: Task,
        rows: Rows | None = None,
        mean: float | None = None,
        std: float | None = None,
    ) -> Preprocessor:
        """A new Preprocessor of the same columns with one more task, fitted alike.

        The task comes last.

        Args:
            task: `Binary`, `Regression` or `Multiclass`; see `Schema.add`.
            rows: a source with the new task's labels, of which their mean and standard
                deviation are fitted. Without, `label_means` is NaN for the task.
            mean, std: float, what the labels of a `Regression` are standardised by, instead
                of those of `rows`.

        Raises:
            ValueError: if the labels of a `Regression` are to be standardised, and neither `rows`
                nor `mean` and `std` are given.
        """
        grown = self._under(self.schema.add(task))
        means, moments = _new_labels(grown.schema, task, rows, mean, std)
        grown._fitted = grown._ready().with_labels(means, moments)
        return grown

    def with_label_moments(self, moments: Mapping[str, tuple[float, float]]) -> Preprocessor:
        """A copy with other moments of labels, by task; see `label_moments`."""
        other = self._under(self.schema)
        other._fitted = self._ready().with_labels({}, moments)
        return other

    def _under(self, schema):
        """What was fitted, under a schema with other tasks."""
        other = Preprocessor(schema, self.max_distinct)
        other._fitted, other.growth = self._ready().under(schema), self.growth
        if self._statistics is not None:
            other._statistics = self._statistics.under(schema)
        return other

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

    def save(self, path: PathLike, state: bool = True) -> None:
        """Writes a folder with `preprocessor.json` and `arrays.npz`, without pickles.

        Args:
            path: folder or URL of one, made if there is none; nothing is overwritten, and the
                two files appear when both are written.
            state: whether to keep the counts and sketches that `merge` and `grow` need.
                Without them the folder holds only what encoding needs.

        Raises:
            FileExistsError: if a Preprocessor is saved there.
            ValueError: if columns need `fit`.
        """
        statistics = self._statistics if state else None
        storage.save(path, self.schema, self._ready(), statistics)

    @classmethod
    def load(cls, path: PathLike) -> Preprocessor:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: if there is no saved Preprocessor at `path`.
            ValueError: if it was written by a newer version.
        """
        schema, fitted, statistics = storage.load(path)
        loaded = cls(schema, statistics.max_distinct) if statistics else cls(schema)
        loaded._fitted, loaded._statistics = fitted, statistics
        return loaded

    def digest(self) -> str:
        """A text that differs where what encodes rows does, such as a vocabulary."""
        return storage.digest(self.schema, self._ready())

    @property
    def fitted(self) -> bool:
        """Whether `fit` has run (or a fitted one was loaded)."""
        return self._fitted is not None and self._fitted.num_rows > 0

    @property
    def num_rows(self) -> int:
        """Rows seen in fitting; 0 before."""
        return self._fitted.num_rows if self._fitted else 0

    @property
    def table_sizes(self) -> dict[str, int]:
        """Rows of the embedding table of each column that owns one: `{name: int}`.

        `FIRST_ID` plus the vocabulary's size, the hash buckets, or `num_buckets`.
        """
        return self._ready().table_sizes(self.schema)

    @property
    def lengths(self) -> dict[str, int]:
        """Numbers or ids of a row, of each column that has several: positions of a list
        (`max_length`, or as many as the cells seen have), numbers of a vector, also of those of a
        `Pretrained`."""
        return dict(self._ready().lengths)

    @property
    def dtypes(self) -> dict[str, str]:
        """`"int"` or `"string"` for each column of values, as declared or seen."""
        return dict(self._ready().dtypes)

    @property
    def label_means(self) -> dict[str, Any]:
        """Mean of each task's present labels; for `Multiclass` class frequencies `(c,)`.

        NaN for a task of which no label was seen.
        """
        return dict(self._ready().label_means)

    @property
    def label_moments(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation of each regression's present labels, if any was seen.

        A model standardises its labels by them, if its task says so: see `Regression`.
        """
        return dict(self._ready().label_moments)

    @property
    def numeric(self) -> dict[str, NumericFit]:
        """`NumericFit` of each `Numeric` column."""
        return dict(self._ready().numeric)

    @property
    def fits(self) -> dict[str, Any]:
        """What was fitted of each `Vector`, `Timestamp` and `Pretrained`."""
        return dict(self._ready().fits)

    @property
    def tables(self) -> dict[str, Vocabulary | HashTable]:
        """What turns values into ids, of each column that owns a table of values."""
        return dict(self._ready().tables)

    def vocabulary(self, column: str) -> pa.Array:
        """The values that have ids of their own, in the order of their ids from 3 on.

        Args:
            column: name of a categorical column, or of a `Pretrained`; one that shares has its
                owner's.

        Returns:
            Arrow array, int64 or large_string; null where a value has lost its id, see `grow`.

        Raises:
            ValueError: if the column hashes or is numeric.
        """
        tables = self._ready().tables
        found = {c.name: tables.get(c.table) for c in self.schema.columns}
        with_one = {n: one.values for n, one in found.items() if isinstance(one, Vocabulary)}
        if column not in with_one:
            raise ValueError(
                "Only a categorical column that does not hash has a vocabulary. Received "
                f"column={column!r}; columns with one are {list(with_one)}."
            )
        return with_one[column]

    def _encoder(self, labels):
        return RowEncoder(self.schema, self._ready(), labels)

    def _ready(self) -> Fitted:
        """What encoding needs; made from the schema alone if that suffices.

        Raises:
            ValueError: naming the columns that need `fit`.
        """
        if self._fitted is None:
            names = unfitted_columns(self.schema)
            if names:
                raise ValueError(
                    "This Preprocessor must be fitted before use. Received fitted=False with "
                    f"columns {names} that need `fit`. Call `fit(source)`; or give "
                    "`hash_buckets` to categorical columns, `max_length` to lists and "
                    'transform="none" to numbers.'
                )
            self._fitted = Fitted.of(Statistics(self.schema, self.max_distinct))
        return self._fitted


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


def _adopt_vectors(statistics, vectors):
    """Gives codecs of `Pretrained` columns further vectors.

    Raises:
        ValueError: if a column is none.
    """
    known = {c.name for c in statistics.schema.columns if isinstance(c, Pretrained)}
    if not set(vectors) <= known:
        raise ValueError(
            f"Vectors are of `Pretrained` columns, of {sorted(known)}. Received vectors of "
            f"{sorted(vectors)}."
        )
    for name, given in vectors.items():
        codec = statistics.codecs[name]
        codec.adopt(codec.with_more(codec.fit(None), given))


def _new_labels(schema, task, rows, mean, std):
    """Mean and moments of a new task's labels, both by task."""
    if (mean is None) != (std is None) or (std is not None and not 0 < std < float("inf")):
        raise ValueError(
            "Labels are standardised by `mean` and `std`, which is above 0. Received "
            f"mean={mean!r}, std={std!r}. Give both, or `rows` to fit them on."
        )
    given = {} if mean is None else {task.name: (float(mean), float(std))}
    if rows is not None:
        statistics = Statistics(schema, 1)
        chunks = raw_chunks(open_source(rows), lambda names: label_columns(schema, names, task))
        for chunk in chunks:
            statistics.add_labels(chunk)
        fitted = Fitted.of(statistics)
        seen = {name: fitted.label_moments[name] for name in {task.name} & {*fitted.label_moments}}
        return {task.name: fitted.label_means[task.name]}, {**seen, **given}
    if isinstance(task, Regression) and task.standardize and not given:
        raise ValueError(
            "The labels of a regression are standardised by their mean and standard deviation, "
            f"which nobody has told. Received task={task.name!r} without `rows`. Give rows with "
            "its labels, or `mean` and `std`, or declare Regression(..., standardize=False)."
        )
    return ({} if mean is None else {task.name: float(mean)}), given


def _arrays(encoder, words):
    """Packed rows as dicts of arrays that do not hold each other's memory."""
    parts = encoder.unpack(words, words.view(np.float32))
    if not encoder.labels:
        return _contiguous(parts)
    return tuple(map(_contiguous, parts))


def _contiguous(arrays):
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


@contextlib.contextmanager
def _progress_bar(wanted, total):
    """A function to be called with the number of rows done since the last call."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
    from rich.text import Text

    console = Console(stderr=True)
    if not (wanted and console.is_terminal):
        yield lambda rows: None
        return

    class Speed(ProgressColumn):
        def render(self, task):
            return Text(f"{task.completed:,.0f} rows, {task.speed or 0:,.0f} rows/s")

    columns = (TextColumn("fit"), BarColumn(), Speed())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("fit", total=total)
        yield lambda rows: bar.advance(task, rows)
