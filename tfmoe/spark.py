"""Tables that Spark holds: fitted by its workers, and scored there.

`fit` and `predict` send Arrow record batches to functions of ours (`DataFrame.mapInArrow`), so that
tfmoe, and for `predict` TensorFlow, is installed where Spark's Python workers run. PySpark comes
with `pip install 'tfmoe[spark]'`, and needs Java 17 or later.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfmoe import remote
from tfmoe.data.encode.codecs.pretrained import PretrainedCodec, PretrainedFit
from tfmoe.data.fit.fitted import notices
from tfmoe.data.fit.statistics import Statistics
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.data.read.memory import BatchesFragment
from tfmoe.data.read.source import Source
from tfmoe.remote import PathLike
from tfmoe.schema.naming import free_name
from tfmoe.schema.schema import Schema
from tfmoe.validation import checks_arguments, integer

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

_FILES = ("preprocessor.json", "arrays.npz")
# What the rows of a partition come to: what was counted, or what is wrong with them.
_STATES = "part int, error string, type_error boolean, json binary, arrays binary"


@checks_arguments
def fit(df: DataFrame, schema: Schema, max_distinct: int = 5_000_000) -> Preprocessor:
    """Fits a Preprocessor on a Spark table: each partition a part of it, merged here.

    Equal to `Preprocessor.fit` on the same rows as `Preprocessor.merge` promises: counts and
    vocabularies are the same (up to `max_distinct`), moments up to rounding, quantiles within
    `Preprocessor.rank_error`. Parts are merged in the order of partitions, and a partition that
    is computed again, because its worker was lost, gives the same part.

    What each partition has counted comes to the driver, all of it at once: with many distinct
    values use few partitions, and see Spark's `spark.driver.maxResultSize`. Vectors of `Pretrained`
    columns stay with the driver, which reads them if they are in a file; workers get the values.

    Args:
        df: Spark DataFrame with the schema's raw columns; the others are not read.
        schema: `Schema`.
        max_distinct: int >= 1, see `Preprocessor`.

    Returns:
        `Preprocessor`.

    Raises:
        ValueError, TypeError: as `Preprocessor.fit`, which of the rows is said by partition; or
            `df` is no Spark table.
    """
    _check_frame("fit", df)
    max_distinct = integer("fit", "max_distinct", max_distinct, 1)
    here = Statistics(schema, max_distinct)
    wanted = here.required_columns(_names_of(df))
    known = {
        name: codec.fit(None).values
        for name, codec in here.codecs.items()
        if isinstance(codec, PretrainedCodec)
    }
    count = functools.partial(_state, schema.to_dict(), max_distinct, known)
    states = sorted(_mapped(_selected(df, wanted), count, _STATES).collect())
    for state in states:
        if state.error is not None:
            raise (TypeError if state.type_error else ValueError)(state.error)
    if not states:
        raise ValueError(
            "There must be rows to read. Received a Spark table with no rows. Check its filters."
        )
    counted = functools.reduce(Statistics.merge, map(_counted, states)).under(schema)
    counted.codecs = here.codecs  # which have the vectors
    whole = Preprocessor(schema, max_distinct)
    whole._set(counted)
    for notice in notices(whole._ready(), whole._counted()):
        warnings.warn(notice, stacklevel=2)
    return whole


@checks_arguments
def predict(
    df: DataFrame,
    model_path: PathLike,
    keep: Sequence[str] | None = None,
    batch_size: int = 4096,
) -> DataFrame:
    """A Spark table with a model's predictions beside its columns.

    The predictions are those of `model.predict` on the same rows, up to rounding. A worker loads
    the model once, and keeps it as long as Spark keeps the worker. Nothing is computed before
    Spark needs it.

    Args:
        df: Spark DataFrame with the raw columns of the model's schema.
        model_path: of a `.keras` file: an URL, or a path that all workers have.
        keep: names of columns to keep, or None for all.
        batch_size: int >= 1, rows that are scored at once; at most as many as Spark sends, see
            its `spark.sql.execution.arrow.maxRecordsPerBatch`.

    Returns:
        Spark DataFrame of the kept columns and a column for each output of the model: `float`,
        or `array<float>` of a multiclass task. An output that is called as a kept column has
        `_predicted` behind its name.

    Raises:
        FileNotFoundError: if there is no model.
        ValueError: if columns are missing, or `df` is no Spark table.
    """
    _check_frame("predict", df)
    batch_size = integer("predict", "batch_size", batch_size, 1)
    path = remote.address(model_path)
    names = _names_of(df)
    kept = names if keep is None else list(keep)
    absent = [name for name in kept if name not in names]
    if absent:
        raise ValueError(
            f"`keep` names columns of the table, {names}. Received keep={kept}, of which {absent} "
            "are not there."
        )
    from tfmoe.model.load import load_model

    if not remote.exists(path):
        load_model(path)  # which says what is missing
    stamp = remote.stamp(path)
    model = _loaded(path, stamp)
    wanted = list(model.preprocessor._encoder(labels=False).required_columns(names))
    outputs: dict[str, Any] = {}
    for name, width in _widths(model).items():
        outputs[free_name(name, (*kept, *outputs))] = (name, width)
    score = functools.partial(_scored, path, stamp, wanted, kept, outputs, batch_size)
    return _mapped(_selected(df, [*kept, *wanted]), score, _type_of(df, kept, outputs))


def _check_frame(function, df):
    if not hasattr(df, "mapInArrow"):
        raise ValueError(
            f"tfmoe.spark.{function} takes a Spark DataFrame. Received a {type(df).__name__}. "
            "Other tables are for Preprocessor.fit and model.predict."
        )


def _names_of(df: DataFrame) -> list[str]:
    """The columns' names; Spark allows one twice, where no column could be asked for."""
    twice = sorted({name for name in df.columns if df.columns.count(name) > 1})
    if twice:
        raise ValueError(
            f"A table needs different column names. Received {twice} twice. Rename or drop one of "
            "them."
        )
    return list(df.columns)


def _selected(df, names):
    quoted = [f"`{name.replace('`', '``')}`" for name in dict.fromkeys(names)]
    return df.select(*quoted)


def _mapped(df, function, schema):
    with warnings.catch_warnings():
        # What it warns of, pandas, has no part in this.
        warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas")
        return df.mapInArrow(function, schema)


def _state(
    schema: dict[str, Any],
    max_distinct: int,
    known: dict[str, np.ndarray],
    batches: Iterator[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """What the rows of a partition come to, in a row as `_STATES`; runs in a worker.

    Args:
        schema: a `Schema`, as a dict.
        max_distinct: int.
        known: the values that have vectors, by `Pretrained` column. The vectors, which may be
            large and in no file, stay with the driver: cells are but counted here.
        batches: of the partition.
    """
    import pyarrow as pa
    from pyspark import TaskContext

    context: Any = TaskContext.get()
    number = context.partitionId()
    filled = (batch for batch in batches if batch.num_rows)
    first = next(filled, None)
    if first is None:
        return
    row: dict[str, Any] = {"part": number, "error": None, "type_error": None}
    row |= {"json": None, "arrays": None}
    rows = _source(itertools.chain([first], filled), first.schema.names, f"of partition {number}")
    # What it warns of is told of the whole.
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fitted = _fitted(Schema.from_dict(schema), max_distinct, known, rows)
        except (TypeError, ValueError) as error:
            # Another try would end alike.
            row |= {"error": str(error), "type_error": isinstance(error, TypeError)}
        else:
            fitted.save(folder)
            contents = [(Path(folder) / name).read_bytes() for name in _FILES]
            row |= dict(zip(("json", "arrays"), contents, strict=True))
    kinds = [pa.int32(), pa.string(), pa.bool_(), pa.binary(), pa.binary()]
    arrays = [pa.array([value], kind) for value, kind in zip(row.values(), kinds, strict=True)]
    yield pa.RecordBatch.from_arrays(arrays, list(row))


def _fitted(schema, max_distinct, known, rows):
    """A fit whose `Pretrained` columns have but a stand-in of vectors."""
    statistics, fitted = Statistics(schema, max_distinct), Preprocessor(schema, max_distinct)
    for name, values in known.items():
        statistics.codecs[name].adopt(_stand_in(values))
    fitted._count(statistics, rows, progress=False)
    for name, values in known.items():
        # What is counted is counted: of the values the driver needs none.
        statistics.codecs[name].adopt(_stand_in(values[:1]))
    fitted._set(statistics)
    return fitted


def _stand_in(values):
    return PretrainedFit(values, np.zeros((len(values), 1), "float32"))


def _source(batches, names, part=""):
    fragment = BatchesFragment(batches, names, part)
    return Source(lambda: [fragment], listed=False, single_pass=True)


def _counted(state: Any) -> Statistics:
    with tempfile.TemporaryDirectory() as folder:
        for name, contents in zip(_FILES, (state.json, state.arrays), strict=True):
            (Path(folder) / name).write_bytes(contents)
        return Preprocessor.load(folder)._counted()


@functools.lru_cache(maxsize=1)
def _loaded(path: str, stamp: remote.Stamp) -> Any:
    """The model of a file, which is loaded once in a process."""
    from tfmoe.model.load import load_model

    return load_model(path)


def _widths(model: Any) -> dict[str, int | None]:
    """Numbers of a row of each output, None for one that is no list."""
    from tfmoe.serving.sample_rows import typical_rows

    found = model.predict(typical_rows(model.preprocessor, 1), verbose=0)
    return {name: None if one.ndim == 1 else one.shape[1] for name, one in found.items()}


def _type_of(df, kept, outputs):
    from pyspark.sql.types import ArrayType, FloatType, StructField, StructType

    def kind(width):
        return FloatType() if width is None else ArrayType(FloatType())

    fields = [df.schema[name] for name in kept]
    fields += [StructField(name, kind(width)) for name, (_, width) in outputs.items()]
    return StructType(fields)


def _scored(
    path: str,
    stamp: remote.Stamp,
    wanted: list[str],
    kept: list[str],
    outputs: dict[str, tuple[str, int | None]],
    batch_size: int,
    batches: Iterator[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """Batches of kept columns and predictions; runs in a worker."""
    import pyarrow as pa

    for batch in batches:
        if not batch.num_rows:
            continue
        model = _loaded(path, stamp)
        rows = _source([batch], wanted)
        features = model.preprocessor.arrays(rows, labels=False)
        found = model.predict(features, batch_size=batch_size, verbose=0)
        columns = [batch.column(name) for name in kept]
        for name, width in outputs.values():
            values = pa.array(np.ravel(found[name]), pa.float32())
            if width is not None:
                places = np.arange(0, len(values) + 1, width, dtype=np.int32)
                values = pa.ListArray.from_arrays(pa.array(places), values)
            columns.append(values)
        yield pa.RecordBatch.from_arrays(columns, [*kept, *outputs])
