"""The Preprocessor's look-ups as a TensorFlow graph: what serving does with raw rows.

The twin of `tfmoe.data.encode.rows`, by the same rules, those of `tfmoe.data.encode.columns`; what
each kind of column does is in `tfmoe.data.encode.codecs`.
Where a table has None, a request has NaN for a number, `MISSING_INT` for an integer, the empty
string for a string, or one of the column's `missing`; lists are padded to a common length with the
same. A row's task comes as its key's text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tfmoe.data.encode.codecs import codec_of, codecs_of
from tfmoe.data.encode.codecs.base import single_values
from tfmoe.data.encode.codecs.categorical import CategoricalCodec
from tfmoe.data.encode.vocabulary import label_spellings

if TYPE_CHECKING:
    import pandas as pd
    import tensorflow as tf

    from tfmoe.data.preprocessor import Preprocessor
    from tfmoe.schema.columns import Column

NO_TASK = -1


def is_text(preprocessor: Preprocessor, column: Column) -> bool:
    """Whether the raw column holds strings of a categorical column."""
    codec = codec_of(column, preprocessor.schema)
    return isinstance(codec, CategoricalCodec) and codec.is_text(preprocessor)


def signature(preprocessor: Preprocessor, task: bool = True) -> dict[str, tf.TensorSpec]:
    """Dict of `tf.TensorSpec` by name, of a column or its weights: what a request holds.

    Args:
        preprocessor: `Preprocessor`.
        task: whether a request names its rows' tasks, if the schema has a `task_column`.
    """
    import tensorflow as tf

    specs = {}
    for codec in codecs_of(preprocessor.schema).values():
        for given, (dtype, axes) in codec.signature(preprocessor).items():
            specs[given] = tf.TensorSpec((None,) * axes, dtype, name=given)
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
        Dict by name of the signature: float64, int64 or object (str) `(n,)`; `(n, longest)` for
        list cells.
    """
    arrays = {}
    for codec in codecs_of(preprocessor.schema).values():
        arrays.update(codec.request(df, preprocessor))
    name = preprocessor.schema.task_column
    if name and task:
        arrays[name] = single_values(df[name], name, text=True)
    return arrays


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
        self._codecs = codecs_of(preprocessor.schema)
        for codec in self._codecs.values():
            codec.hold(self)
        if preprocessor.schema.task_column:
            self.tables["_task"] = self._task_table()

    def __call__(self, raw: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Dict of raw tensors by column name to dict of features by column name.

        The task is left out where `raw` lacks it, and `NO_TASK` where its key is unknown.
        """
        features: dict[str, Any] = {}
        for codec in self._codecs.values():
            features.update(codec.graph(raw, self))
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
