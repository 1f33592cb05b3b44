"""The Preprocessor: fits a table once and encodes rows for training and serving."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from tfmoe.data.batch.chunks import check_rows, first_rows, prefetch_map, raw_chunks
from tfmoe.data.batch.reading import RowReading
from tfmoe.data.encode.columns import NumericFit
from tfmoe.data.encode.rows import RowEncoder
from tfmoe.data.encode.vocabulary import HashTable, Vocabulary
from tfmoe.data.fit import storage
from tfmoe.data.fit.fitted import Fitted, notices, unfitted_columns
from tfmoe.data.fit.growth import Growth, digest, grown, renamed_columns
from tfmoe.data.fit.new_labels import new_labels, told_labels
from tfmoe.data.fit.progress import progress_bar
from tfmoe.data.fit.sketches import RANK_ERROR
from tfmoe.data.fit.statistics import Statistics
from tfmoe.data.read.source import Rows, open_source
from tfmoe.files import PathLike
from tfmoe.schema.pretrained import Pretrained
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Task
from tfmoe.validation import check_choice, checks_arguments, integer

if TYPE_CHECKING:
    import pyarrow as pa


@checks_arguments
class Preprocessor(RowReading):
    """Turns raw rows into what a model reads: ids, floats, labels, weights.

    `fit` reads a table once and keeps vocabularies, moments and quantiles; `dataset` and
    `arrays` encode rows with them. Ids are 0 padding, 1 missing, 2 unknown, then the
    vocabulary by falling count (ties by value). The rules for each kind of column are
    in `tfmoe.schema.columns` and, to the bit, in `tfmoe.data.encode.columns`.

    A source of rows is a DataFrame; a dict of arrays of equal length; a path, URL, glob or
    folder, or a list of them, of CSV or TSV files (perhaps gzipped), Parquet, Arrow IPC
    (`.arrow`, `.feather`) or ORC files, or TFRecord files of `tf.train.Example`, of which a
    record, or a whole file, may lack what others have; an iterable of DataFrames, or a callable
    that returns an iterator of them, which need not end: a stream. A callable with a parameter
    `start` leaves out so many rows at the beginning. Files are read in chunks and never held as
    a whole; they must not change as long as a dataset reads them. A text file that is written
    otherwise than its name says is described behind its path, each part only if needed:
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
        with progress_bar(progress, rows or opened.num_rows) as advance:
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
            ValueError: if the schemas or the vectors of a `Pretrained` differ, a part is not
                fitted, or was saved with `state=False`.
        """
        if not isinstance(other, Preprocessor) or other.schema != self.schema:
            raise ValueError(
                "Only Preprocessors with equal schemas can be merged. Received other="
                f"{other!r} with another schema. Fit all parts with the same schema."
            )
        merged = Preprocessor(self.schema, max(self.max_distinct, other.max_distinct))
        parts = self._counted(), other._counted()
        fits, others = self._ready().fits, other._ready().fits
        for column in self.schema.columns:
            name = column.name
            if isinstance(column, Pretrained) and not fits[name].equals(others[name]):
                raise ValueError(
                    "Parts of one table are merged, which have the same vectors. Received others "
                    f"for column {name!r}. Fit all parts with all vectors, or grow one part: "
                    "`grow(rows, vectors=...)`."
                )
        merged._set(parts[0].merge(parts[1]))
        told = told_labels(merged._ready(), (self._ready(), other._ready()))
        merged._fitted = merged._ready().with_labels(*told)
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
        # What is served asks for integers or text, also of a column that hashes.
        known: Mapping[str, str | None] = {}
        if self.fitted:
            known = fitted.dtypes if before is None else before.dtypes
        for old, new in names.items():
            if old in fitted.fits:
                seen.codecs[new].adopt(fitted.fits[old])
            if new in seen.dtypes and known.get(old):
                seen.dtypes[new] = known[old]
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
        return self._under(self.schema.without(column))

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
        means, moments, counted = new_labels(grown.schema, task, rows, mean, std)
        grown._fitted = grown._ready().with_labels(means, moments)
        if counted is not None and grown._statistics is not None:
            grown._statistics.labels[task.name] = counted
        return grown

    def with_label_moments(self, moments: Mapping[str, tuple[float, float]]) -> Preprocessor:
        """A copy with other moments of labels, by task; see `label_moments`."""
        other = self._under(self.schema)
        other._fitted = self._ready().with_labels({}, moments)
        return other

    def _under(self, schema):
        """What was fitted, under a schema with other tasks or fewer columns."""
        other = Preprocessor(schema, self.max_distinct)
        other._fitted = self._ready().under(schema)
        if self.growth is not None:
            names = {column.name for column in schema.columns}
            other.growth = {name: one for name, one in self.growth.items() if name in names}
        if self._statistics is not None:
            other._statistics = self._statistics.under(schema)
        return other

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

    def _encoder(self, labels: bool) -> RowEncoder:
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
