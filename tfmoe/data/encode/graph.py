"""The Preprocessor's look-ups as a TensorFlow graph: what serving does with raw rows.

The twin of `tfmoe.data.encode.rows`, by the same rules, those of `tfmoe.data.encode.columns`.
Where a table has None, a request has NaN for a number, `MISSING_INT` for an integer, the empty
string for a string, or one of the column's `missing`; lists are padded to a common length with the
same. A row's task comes as its key's text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tfmoe.data.arrow import missing_numbers, to_floats
from tfmoe.data.encode.columns import SMALLEST, SMALLEST_FEATURE
from tfmoe.data.encode.hashing import HASH_KEY
from tfmoe.data.encode.vocabulary import label_spellings
from tfmoe.data.kinds import is_null, to_arrow
from tfmoe.data.numerals import SPELLINGS
from tfmoe.data.read.tables import one_array
from tfmoe.schema.columns import (
    FIRST_ID,
    MISSING_ID,
    MISSING_INT,
    MISSING_STRING,
    PADDING_ID,
    UNKNOWN_ID,
    Categorical,
    MultiCategorical,
    Numeric,
)
from tfmoe.schema.histories import list_groups

if TYPE_CHECKING:
    import pandas as pd
    import tensorflow as tf

    from tfmoe.data.preprocessor import Preprocessor
    from tfmoe.schema.columns import Column

NO_TASK = -1


def is_text(preprocessor: Preprocessor, column: Column) -> bool:
    """Whether the raw column holds strings."""
    if isinstance(column, Numeric):
        return False
    return preprocessor.dtypes[column.name] == "string" or _is_separated(column)


def _is_separated(column):
    return isinstance(column, MultiCategorical) and column.separator is not None


def is_padded(column: Column) -> bool:
    """Whether the raw column is a matrix: a list of values a row."""
    return isinstance(column, MultiCategorical) and column.separator is None


def signature(preprocessor: Preprocessor, task: bool = True) -> dict[str, tf.TensorSpec]:
    """Dict of `tf.TensorSpec` by column name: what a request holds.

    Args:
        preprocessor: `Preprocessor`.
        task: whether a request names its rows' tasks, if the schema has a `task_column`.
    """
    import tensorflow as tf

    specs = {}
    for column in preprocessor.schema.columns:
        dtype = tf.float64 if isinstance(column, Numeric) else tf.int64
        if is_text(preprocessor, column):
            dtype = tf.string
        shape = (None, None) if is_padded(column) else (None,)
        specs[column.name] = tf.TensorSpec(shape, dtype, name=column.name)
    name = preprocessor.schema.task_column
    if name and task:
        specs[name] = tf.TensorSpec((None,), tf.string, name=name)
    return specs


def request(
    preprocessor: Preprocessor, df: pd.DataFrame, task: bool = True
) -> dict[str, np.ndarray]:
    """Raw rows of a DataFrame as the arrays of a request.

    Args:
        preprocessor: `Preprocessor`.
        df: DataFrame with the schema's raw columns.
        task: see `signature`.

    Returns:
        Dict by column name: float64, int64 or object (str) `(n,)`; `(n, longest)` for
        list cells.
    """
    arrays = {}
    for column in preprocessor.schema.columns:
        cells = df[column.raw_name].tolist()
        text = is_text(preprocessor, column)
        if isinstance(column, Numeric):
            raw = one_array(to_arrow(df[column.raw_name], column.raw_name, numbers=True))
            # A request has numbers, also those that stand for a missing one.
            texts = column.missing and tuple(m for m in column.missing if isinstance(m, str))
            arrays[column.name] = to_floats(raw, column.raw_name, texts, element=column.element)
        elif is_padded(column):
            arrays[column.name] = _padded(cells, text)
        else:
            arrays[column.name] = _single_values(cells, text)
    name = preprocessor.schema.task_column
    if name and task:
        arrays[name] = _single_values(df[name].tolist(), text=True)
    return arrays


def _single_values(cells, text):
    """Cells as text or integers, with what a request has where one is missing."""
    missing = MISSING_STRING if text else MISSING_INT
    values = [missing if is_null(c) else _as_text(c) if text else int(c) for c in cells]
    return np.array(values, object if text else "int64")


def _as_text(cell):
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)  # pandas turns integers with gaps into floats
    return cell.decode() if isinstance(cell, bytes) else str(cell)


def _padded(cells, text):
    lists = [[] if cell is None or isinstance(cell, float) else list(cell) for cell in cells]
    missing = MISSING_STRING if text else MISSING_INT
    width = max([1, *map(len, lists)])
    rows = [_single_values(cell + [missing] * (width - len(cell)), text) for cell in lists]
    return np.stack(rows) if rows else np.zeros((0, width), object if text else "int64")


def _without_subnormals(values, smallest):
    # Some machines have them and others do not: here none has.
    import tensorflow as tf

    return tf.where(tf.abs(values) < smallest, tf.zeros_like(values), values)


class GraphEncoder:
    """Turns a request's tensors into the model's features, as `RowEncoder` does with rows.

    Args:
        preprocessor: fitted `Preprocessor`.

    Attributes:
        tables: dict of `tf.lookup.StaticHashTable`. What is exported must hold them.
    """

    def __init__(self, preprocessor: Preprocessor) -> None:
        self.preprocessor = preprocessor
        self.tables: dict[str, Any] = {}
        for column in preprocessor.schema.columns:
            if isinstance(column, Categorical) and not self._buckets(column):
                self._table(column)
        if preprocessor.schema.task_column:
            self.tables["_task"] = self._task_table()

    def __call__(self, raw: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Dict of raw tensors by column name to dict of features by column name.

        The task is left out where `raw` lacks it, and `NO_TASK` where its key is unknown.
        """
        columns = self.preprocessor.schema.columns
        features = {
            column.name: self._numeric(column, raw[column.name])
            if isinstance(column, Numeric)
            else self._ids(column, raw[column.name])
            for column in columns
        }
        for group in list_groups(columns):
            names = [column.name for column in group]
            cut = self._lists(group, [features[name] for name in names])
            features |= dict(zip(names, cut, strict=True))
        name = self.preprocessor.schema.task_column
        if name in raw:
            features[name] = self.tables["_task"].lookup(raw[name])
        return features

    def _task_table(self):
        import tensorflow as tf

        keys = list(self.preprocessor.schema.task_keys)
        places = dict(zip(keys, range(len(keys)), strict=True))
        places |= {text: places[key] for text, key in label_spellings(keys).items()}
        initializer = tf.lookup.KeyValueTensorInitializer(
            tf.constant(list(places)), tf.constant(list(places.values()), tf.int32)
        )
        return tf.lookup.StaticHashTable(initializer, NO_TASK)

    def _buckets(self, column):
        return self.preprocessor.schema.column(column.table).hash_buckets

    def _value_table(self, column: Column) -> Any:
        """The column's `Vocabulary` or `HashTable`."""
        return self.preprocessor.tables[getattr(column, "table", "")]

    def _table(self, column):
        """The vocabulary of the column, keyed as its raw values are."""
        import tensorflow as tf

        text = is_text(self.preprocessor, column)
        key = f"{column.table}_{'text' if text else 'int'}"
        if key not in self.tables:
            values = np.asarray(self.preprocessor.vocabulary(column.name))
            keys = [str(value) for value in values.tolist()] if text else values.tolist()
            ids = [*range(FIRST_ID, FIRST_ID + len(keys))]
            if text:
                aliases = self._value_table(column).aliases
                keys, ids = [*keys, *aliases], [*ids, *aliases.values()]
            initializer = tf.lookup.KeyValueTensorInitializer(
                tf.constant(keys, tf.string if text else tf.int64, shape=(len(keys),)),
                tf.constant(ids, tf.int64, shape=(len(keys),)),
            )
            self.tables[key] = tf.lookup.StaticHashTable(initializer, UNKNOWN_ID)
        return self.tables[key]

    def _numeric(self, column, raw):
        import tensorflow as tf

        fit = self.preprocessor.numeric[column.name]
        missing = ~tf.math.is_finite(raw)
        for marker in missing_numbers(column.missing):
            missing |= raw == np.float64(marker)
        values = tf.where(missing, np.float64(0 if fit.fill is None else fit.fill), raw)
        values = _without_subnormals(values, SMALLEST)
        missing = missing if fit.fill is None else tf.zeros_like(missing)
        if column.embeds:
            boundaries = tf.constant(np.asarray(fit.boundaries, "float64"))
            ids = FIRST_ID + tf.searchsorted(boundaries[None], values[None], side="right")[0]
            return tf.where(missing, MISSING_ID, ids)
        if column.transform == "none":
            feature = tf.clip_by_value(values, np.float64(-3e38), np.float64(3e38))
        else:
            if column.transform == "log":
                values = tf.sign(values) * tf.math.log1p(tf.abs(values))
            apart = _without_subnormals(values - np.float64(fit.mean), SMALLEST)
            scaled = apart * np.float64(fit.scale)
            feature = tf.clip_by_value(scaled, np.float64(-100), np.float64(100))
        feature = _without_subnormals(tf.cast(feature, tf.float32), SMALLEST_FEATURE)
        return tf.where(missing, np.float32(0), feature)

    def _ids(self, column, raw):
        import tensorflow as tf

        if _is_separated(column):
            raw = tf.strings.split(raw, column.separator).to_tensor(MISSING_STRING)
            raw = tf.strings.strip(raw) if column.strip else raw
        text = raw.dtype == tf.string
        table = self._value_table(column)
        missing = tf.zeros_like(raw, tf.bool)
        for marker in table.missing.texts if text else table.missing.integers:
            missing |= raw == (marker if text else np.int64(marker))
        buckets = self._buckets(column)
        if buckets:
            words = raw if text else tf.strings.as_string(raw)
            for spelled, meant in SPELLINGS.items() if text and table.one_spelling else ():
                words = tf.where(words == spelled, meant, words)
            ids = FIRST_ID + tf.strings.to_hash_bucket_strong(words, buckets, key=HASH_KEY)
        else:
            ids = self._table(column).lookup(raw)
        ids = tf.cast(ids, tf.int32)
        return tf.where(
            missing, PADDING_ID if isinstance(column, MultiCategorical) else MISSING_ID, ids
        )

    def _lists(self, group, ids):
        """Ids `(b, l)` of columns that share positions to the fixed length.

        Where no cell of a row has elements, each has the missing id first.
        """
        import tensorflow as tf

        length = self.preprocessor.lengths[group[0].name]
        width = tf.reduce_max([tf.shape(own)[1] for own in ids])
        ids = [tf.pad(own, [[0, 0], [0, width - tf.shape(own)[1]]]) for own in ids]
        present = tf.reduce_any([own != PADDING_ID for own in ids], axis=0)
        # One place more, so that a request of width 0 has a maximum.
        ends = tf.pad(tf.where(present, tf.range(width) + 1, 0), [[0, 0], [0, 1]])
        start = tf.zeros_like(ends[:, 0])
        if group[0].keeps_last:
            start = tf.maximum(tf.reduce_max(ends, axis=1) - length, 0)
        kept = start[:, None] + tf.range(length)
        cut = [tf.gather(tf.pad(own, [[0, 0], [0, length]]), kept, batch_dims=1) for own in ids]
        empty = tf.reduce_all([own == PADDING_ID for own in cut], axis=[0, 2])[:, None]
        first = tf.one_hot(0, length, MISSING_ID, PADDING_ID, dtype=tf.int32)[None]
        return [tf.where(empty, first, own) for own in cut]
