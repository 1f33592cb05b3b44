"""From the Preprocessor's ids and floats to one vector a row."""

import keras
from keras import ops

from tfmoe.columns import PADDING_ID, Categorical, MultiCategorical
from tfmoe.embedding import Embedding
from tfmoe.initializers import member_initializer
from tfmoe.schema import Schema


@keras.saving.register_keras_serializable("tfmoe")
class Encoder(keras.layers.Layer):
    r"""Embeds the ids, pools the lists, and puts all columns side by side.

    The output has the columns in the schema's order: a number as it is, an id as its
    embedding, a list as the mean, sum or maximum of its values' embeddings (id 0 is
    padding and does not count; a list of nothing but padding is 0). Columns that share
    a table make one look-up.

    Args:
        schema: `Schema`, or what its `to_dict` returns.
        table_sizes: dict, for each column that owns an embedding table its number of
            rows; `Preprocessor.table_sizes`.
        embeddings_initializer: Keras initializer of the tables.

    Call arguments:
        features: dict of tensors by column name: float `(b,)` for a number, int `(b,)`
            for an id, int `(b, length)` for a list.

    Returns:
        Float tensor `(b, f)`, `f` the sum of the columns' sizes.

    Raises:
        ValueError: if the size of a table or a column is missing.

    Example:

    >>> schema = tfmoe.Schema([tfmoe.Numeric("age"), tfmoe.Categorical("city", dim=4)],
    ...                       [tfmoe.Binary("click")])
    >>> encoder = Encoder(schema, table_sizes={"city": 10})
    >>> encoder({"age": np.array([0.5]), "city": np.array([3])}).shape
    TensorShape([1, 5])
    """

    def __init__(self, schema, table_sizes, embeddings_initializer="uniform", **kwargs):
        super().__init__(**kwargs)
        self.schema = schema if isinstance(schema, Schema) else Schema.from_dict(schema)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.groups = {}
        for column in self.schema.columns:
            if column.embeds:
                owner = column.table if isinstance(column, Categorical) else column.name
                self.groups.setdefault(owner, []).append(column)
        unsized = sorted(set(self.groups) - set(table_sizes))
        if unsized:
            raise ValueError(
                "Encoder needs the number of rows of every embedding table. Received "
                f"table_sizes={dict(table_sizes)}, without {unsized}. A fitted "
                "Preprocessor has them as `table_sizes`."
            )
        self.table_sizes = {owner: int(table_sizes[owner]) for owner in self.groups}
        self.tables = {
            owner: Embedding(
                self.table_sizes[owner],
                self.schema.column(owner).dim,
                # One initializer draws the same numbers at each call: tables would
                # start alike.
                member_initializer(self.embeddings_initializer, index),
                dtype=self.dtype_policy,
                name=f"table_{owner}",
            )
            for index, owner in enumerate(self.groups)
        }

    def build(self, input_shape):
        for table in self.tables.values():
            table.build((None,))

    def call(self, features):
        missing = [c.name for c in self.schema.columns if c.name not in features]
        if missing:
            raise ValueError(
                f"Encoder reads every column of its schema. Received features={sorted(features)}, "
                f"without {missing}. `Preprocessor.arrays` and `dataset` make them all."
            )
        encoded = {}
        for owner, columns in self.groups.items():
            encoded.update(self._embed(self.tables[owner], columns, features))
        for column in self.schema.columns:
            if not column.embeds:
                encoded[column.name] = ops.cast(features[column.name], self.compute_dtype)[:, None]
        return ops.concatenate([encoded[column.name] for column in self.schema.columns], axis=-1)

    def _embed(self, table, columns, features):
        """One look-up for all columns of a table; dict of `(b, dim)` by column name."""
        ids = [features[column.name] for column in columns]
        if len(columns) == 1:
            return {columns[0].name: _pool(columns[0], ids[0], table(ids[0]))}
        wide = [i[:, None] if len(i.shape) == 1 else i for i in ids]
        vectors = table(ops.concatenate(wide, axis=1))
        pooled, start = {}, 0
        for column, own, two_axes in zip(columns, ids, wide, strict=True):
            stop = start + ops.shape(two_axes)[1]
            part = vectors[:, start] if len(own.shape) == 1 else vectors[:, start:stop]
            pooled[column.name] = _pool(column, own, part)
            start = stop
        return pooled

    def compute_output_shape(self, input_shape):
        embedded = sum(self.tables[owner].dim * len(group) for owner, group in self.groups.items())
        plain = sum(not column.embeds for column in self.schema.columns)
        return (next(iter(input_shape.values()))[0], embedded + plain)

    def get_config(self):
        return {
            **super().get_config(),
            "schema": self.schema.to_dict(),
            "table_sizes": self.table_sizes,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }


def _pool(column, ids, vectors):
    """A list column's vectors `(b, length, d)` to `(b, d)`; others as they are."""
    if not isinstance(column, MultiCategorical):
        return vectors
    present = ops.expand_dims(ids != PADDING_ID, -1)
    if column.pooling == "max":
        lowest = ops.full_like(vectors, -6e4)  # finite in half precision too
        highest = ops.max(ops.where(present, vectors, lowest), axis=1)
        return ops.where(ops.any(present, axis=1), highest, ops.zeros_like(highest))
    mask = ops.cast(present, vectors.dtype)
    total = ops.sum(vectors * mask, axis=1)
    if column.pooling == "sum":
        return total
    return total / ops.maximum(ops.sum(mask, axis=1), 1)
