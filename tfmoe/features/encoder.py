"""From the Preprocessor's ids and floats to one vector a row, or to tokens."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmoe import validation
from tfmoe.compute.initializers import PerCopy, member_initializer
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Initializer, Shape, Tensor
from tfmoe.compute.weights import copy_weights
from tfmoe.features.embedding import Embedding
from tfmoe.features.interest.base import last_place
from tfmoe.features.interest.history import History, histories_of
from tfmoe.schema.columns import PADDING_ID, Categorical, Column, MultiCategorical, Sequence
from tfmoe.schema.schema import Schema


@registered
class Encoder(keras.layers.Layer):
    r"""Embeds ids, pools lists, and concatenates all columns.

    The output has the columns in the schema's order: a number as it is, an id as its
    embedding, a list as the mean, sum, maximum or last of its values' embeddings (id 0 is
    padding and does not count; a list without values gives zeros). A sequence whose pooling
    has a candidate is weighed by it, or read together with it, see `tfmoe.TargetAttention` and
    `tfmoe.BST`, and with it those that are aligned with it: what they give together is parted
    among them, so that each column gives a vector of its own size. Columns that share a table make
    one look-up.

    With `tokens=d` the output is a set of tokens, for structures with attention: first the
    columns that are no `Sequence`, in the schema's order, one token each,

        token = vector @ W + bias

    where `vector` is what the column would give above (a number is a vector of size 1)
    and every column has a `W` and a `bias` of its own; then the sequences, not pooled,
    one token a position, oldest first, with a learned embedding of the position added.

    With `copies=n` the output is `n` such vectors, each from tables of its own; numbers are the
    same in all. The `n` tables of a column lie side by side in one of `(rows, n * dim)`, so that
    there is still one look-up a table, of a row `n` times as wide. Tables, their gradients and the
    optimizer's averages of them take `n` times the memory.

    Args:
        schema: `Schema`, or what its `to_dict` returns.
        table_sizes: dict by column that owns an embedding table of its number of rows;
            `Preprocessor.table_sizes`.
        embeddings_initializer: Keras initializer of the tables, and of the tokens' biases
            and positions. The matrices `W` start at the scale of their own fan-in.
        tokens: int >= 1, the size `d` of a token, or None for one vector a row.
        copies: int >= 1, `n`, or None for one vector a row. Each copy's tables are drawn alone.
        embeddings_regularizer: float >= 0, the factor of an L2 loss of the tables, or None for
            none; a column's own `regularizer` comes before. It is of those rows that a batch looks
            up, each counted once, however often it comes: `factor * sum_ids ||table[id]||^2` over
            the distinct ids of the batch but padding.

    Call arguments:
        features: dict of tensors by column name: float `(b,)` for a number, int `(b,)`
            for an id, int `(b, length)` for a list. As tokens, a sequence may be shorter than
            its `max_length`, not longer.

    Returns:
        Float tensor `(b, f)`, `f` the sum of the columns' sizes. With `copies` `(b, n, f)`. With
        `tokens` a pair, float `(b, c, d)` and bool `(b, c)`, False at a sequence's padding.

    Raises:
        ValueError: if the size of a table is missing, a column is missing among the features,
            a sequence that is to be tokens has no known length, or both `tokens` and `copies`
            are given.

    Example:

    >>> schema = tfmoe.Schema([tfmoe.Numeric("age"), tfmoe.Categorical("city", dim=4)],
    ...                       [tfmoe.Binary("click")])
    >>> encoder = Encoder(schema, table_sizes={"city": 10})
    >>> encoder({"age": np.array([0.5]), "city": np.array([3])}).shape
    TensorShape([1, 5])
    >>> encoder = Encoder(schema, table_sizes={"city": 10}, tokens=8)
    >>> tokens, mask = encoder({"age": np.array([0.5]), "city": np.array([3])})
    >>> tokens.shape, mask.numpy().tolist()
    (TensorShape([1, 2, 8]), [[True, True]])
    """

    def __init__(
        self,
        schema: Schema | dict[str, Any],
        table_sizes: Mapping[str, int],
        embeddings_initializer: Initializer = "uniform",
        tokens: int | None = None,
        copies: int | None = None,
        embeddings_regularizer: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.embeddings_regularizer = validation.number(
            "Encoder", "embeddings_regularizer", embeddings_regularizer, 0, optional=True
        )
        self.tokens = validation.integer("Encoder", "tokens", tokens, 1, optional=True)
        self.copies = validation.integer("Encoder", "copies", copies, 1, optional=True)
        if tokens is not None and copies is not None:
            raise ValueError(
                "Encoder makes tokens, or several vectors a row. Received "
                f"tokens={tokens} and copies={copies}. Leave out one."
            )
        self.schema = schema if isinstance(schema, Schema) else Schema.from_dict(schema)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.groups: dict[str, list[Any]] = {}
        for column in self._columns:
            if column.embeds:
                owner = column.table if isinstance(column, Categorical) else column.name
                self.groups.setdefault(owner, []).append(column)
        tables: dict[str, Any] = {owner: self.schema.column(owner) for owner in self.groups}
        unsized = sorted(set(self.groups) - set(table_sizes))
        if unsized:
            raise ValueError(
                "Encoder needs the number of rows of every embedding table. Received "
                f"table_sizes={dict(table_sizes)}, without {unsized}. A fitted "
                "Preprocessor has them as `table_sizes`."
            )
        self.table_sizes = {owner: int(table_sizes[owner]) for owner in self.groups}
        self._factors = {
            f"table_{owner}": self.embeddings_regularizer or 0.0
            if table.regularizer is None
            else table.regularizer
            for owner, table in tables.items()
        }
        self.tables = {
            owner: Embedding(
                self.table_sizes[owner],
                tables[owner].dim * (self.copies or 1),
                # One initializer draws the same numbers at each call: tables would
                # start alike.
                self._initializer(index),
                dtype=self.dtype_policy,
                name=f"table_{owner}",
            )
            for index, owner in enumerate(self.groups)
        }

        # Tokens are not pooled: attention is the structure's.
        self.histories = [] if tokens else histories_of(self._columns)
        self.interests = {
            history.name: history.layer(self.dtype_policy) for history in self.histories
        }

    def build(self, input_shape: dict[str, Shape]) -> None:
        for table in self.tables.values():
            table.build((None,))
        for history in self.histories:
            size, compared = map(self._size_of, (history.names, history.candidates))
            length = input_shape[history.name][1]
            shapes = (None, length, size), (None, compared), (None, length)
            self.interests[history.name].build(*shapes)
        if self.tokens is None:
            return
        self.maps: dict[str, Any] = {}
        self.biases: dict[str, Any] = {}
        self.positions: dict[str, Any] = {}
        for index, column in enumerate(self.schema.columns):
            name, size = column.name, self._size(column)
            self.maps[name] = self.add_weight(
                name=f"map_{name}", shape=(size, self.tokens), initializer="lecun_normal"
            )
            self.biases[name] = self._add_vectors(f"bias_{name}", (self.tokens,), index)
            if isinstance(column, Sequence):
                length = column.max_length or input_shape[name][1]
                if length is None:
                    raise ValueError(
                        "Encoder has a vector for each position of a sequence that is to be "
                        f"tokens. Received {name!r} of any length, with max_length=None. Set "
                        "its `max_length`."
                    )
                shape = (length, self.tokens)
                self.positions[name] = self._add_vectors(f"positions_{name}", shape, index)

    @property
    def _columns(self) -> tuple[Any, ...]:
        """The schema's columns; what kinds of column differ in is known only at run time."""
        return tuple(self.schema.columns)

    def _initializer(self, index: int) -> Any:
        own = member_initializer(self.embeddings_initializer, index)
        return own if self.copies is None else PerCopy(own, self.copies)

    def _add_vectors(self, name: str, shape: tuple[int, ...], index: int) -> Any:
        salt = len(shape)  # a column's bias and its positions
        initializer = member_initializer(self.embeddings_initializer, index, salt)
        return self.add_weight(name=name, shape=shape, initializer=initializer)

    @property
    def sizes(self) -> list[int]:
        """The sizes of the columns' vectors, in the schema's order."""
        return [self._size(column) for column in self._columns]

    def _size_of(self, names: Iterable[str]) -> int:
        """The sizes of some columns' vectors, added up."""
        return sum(self._size(self.schema.column(name)) for name in names)

    def _size(self, column: Any) -> int:
        """The size of a column's vector, in one copy."""
        owner = column.table if isinstance(column, Categorical) else column.name
        return self.tables[owner].dim // (self.copies or 1) if column.embeds else 1

    def call(
        self, features: dict[str, Tensor], training: bool | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        missing = [c.name for c in self.schema.columns if c.name not in features]
        if missing:
            raise ValueError(
                f"Encoder reads every column of its schema. Received features={sorted(features)}, "
                f"without {missing}. `Preprocessor.arrays` and `dataset` make them all."
            )
        vectors = {}
        for owner, columns in self.groups.items():
            vectors.update(self._vectors_of(self.tables[owner], columns, features))
        of_history = {name for history in self.histories for name in history.names}
        encoded = {}
        for column in self._columns:
            name = column.name
            if not column.embeds:
                encoded[name] = ops.cast(features[name], self.compute_dtype)[:, None]
            elif name not in of_history:
                encoded[name] = self._pool(column, features[name], vectors[name])
        for history in self.histories:
            encoded.update(self._interest(history, features, vectors, encoded, training))
        if self.tokens is not None:
            return self._as_tokens(encoded, features)
        if self.copies is not None:
            for column in self._columns:
                encoded[column.name] = self._in_copies(column, encoded[column.name])
        return ops.concatenate([encoded[column.name] for column in self.schema.columns], axis=-1)

    def part(self, encoded: Tensor, names: Iterable[str]) -> Tensor:
        """What some columns have given of its output.

        Args:
            encoded: `(b, f)` or `(b, n, f)`, as the call returns it without `tokens`.
            names: names of columns.

        Returns:
            `(b, g)` or `(b, n, g)`, in the order of the names.
        """
        places, start = {}, 0
        for column in self.schema.columns:
            places[column.name] = slice(start, start := start + self._size(column))
        parts = [encoded[..., places[name]] for name in names]
        return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)

    def _in_copies(self, column: Any, vector: Tensor) -> Tensor:
        """A column's vectors `(b, n * dim)` as `(b, n, dim)`; a number `(b, 1)` `n` times."""
        if column.embeds:
            return ops.reshape(vector, (-1, self.copies, self._size(column)))
        return ops.repeat(vector[:, None], self.copies, axis=1)

    def copy_from(self, other: Encoder, copies: Iterable[int]) -> None:
        """Takes over the weights of an encoder with more copies.

        Args:
            other: built `Encoder` of the same columns.
            copies: for each of this one's copies its place in the other one.
        """
        for name, table in self.tables.items():
            values = ops.convert_to_numpy(other.tables[name].embeddings)
            apart = values.reshape(len(values), other.copies, -1)[:, list(copies)]
            table.embeddings.assign(np.ascontiguousarray(apart).reshape(len(values), -1))
        for name, layer in self.interests.items():
            copy_weights(other.interests[name], layer)

    def _as_tokens(
        self, encoded: dict[str, Tensor], features: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The columns' vectors as tokens `(b, c, d)`, and the mask `(b, c)`."""
        single = [c.name for c in self.schema.columns if not isinstance(c, Sequence)]
        tokens, masks = [], []
        if single:
            parts = [ops.matmul(encoded[n], self.maps[n]) + self.biases[n] for n in single]
            tokens.append(ops.stack(parts, axis=1))
            masks.append(ops.ones((ops.shape(parts[0])[0], len(parts)), "bool"))
        for name, positions in self.positions.items():
            present = features[name] != PADDING_ID
            added = self.biases[name] + positions[: ops.shape(present)[1]]
            tokens.append(ops.matmul(encoded[name], self.maps[name]) + added)
            masks.append(present)
        return ops.concatenate(tokens, axis=1), ops.concatenate(masks, axis=1)

    def _pool(self, column: Column, ids: Tensor, vectors: Tensor) -> Tensor:
        """A list column's vectors `(b, length, d)` to `(b, d)`; others as they are."""
        is_history = self.tokens is not None and isinstance(column, Sequence)
        if is_history or not isinstance(column, MultiCategorical):
            return vectors
        return _pooled(vectors, ids, str(column.pooling))

    def _look_up(self, table: Embedding, ids: Tensor) -> Tensor:
        """Vectors of ids, and their table's loss where it has one and is trained."""
        vectors = table(ids)
        factor = self._factors[table.name]
        if factor and table.trainable:
            self.add_loss(factor * _square_norm(ids, vectors))
        return vectors

    def _vectors_of(
        self, table: Embedding, columns: list[Any], features: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """One look-up for all columns of a table; dict by column name of `(b, dim)`, or of lists
        `(b, length, dim)`."""
        ids = [features[column.name] for column in columns]
        if len(columns) == 1:
            return {columns[0].name: self._look_up(table, ids[0])}
        wide = [i[:, None] if len(i.shape) == 1 else i for i in ids]
        vectors = self._look_up(table, ops.concatenate(wide, axis=1))
        found, start = {}, 0
        for column, own, two_axes in zip(columns, ids, wide, strict=True):
            stop = start + ops.shape(two_axes)[1]
            part = vectors[:, start] if len(own.shape) == 1 else vectors[:, start:stop]
            found[column.name] = part
            start = stop
        return found

    def _interest(
        self,
        history: History,
        features: dict[str, Tensor],
        vectors: dict[str, Tensor],
        encoded: dict[str, Tensor],
        training: bool | None,
    ) -> dict[str, Tensor]:
        """What a history and those that are aligned with it give; dict of `(b, dim)`."""
        present = [features[name] != PADDING_ID for name in history.names]
        mask = functools.reduce(ops.logical_or, present)
        parts = [
            vectors[name] * ops.cast(own, self.compute_dtype)[..., None]
            for name, own in zip(history.names, present, strict=True)
        ]
        candidates = [encoded[name] for name in history.candidates]
        if self.copies is None:
            pooled = self._pool_by(history, parts, candidates, mask, training)
            return dict(zip(history.names, pooled, strict=True))
        # Copies are rows to the layer, which has no tables and is one for all of them.
        copies, length = self.copies, ops.shape(mask)[1]
        parts = [
            ops.reshape(part, (-1, length, copies, part.shape[-1] // copies)) for part in parts
        ]
        parts = [ops.transpose(part, (0, 2, 1, 3)) for part in parts]
        parts = [ops.reshape(part, (-1, length, part.shape[-1])) for part in parts]
        candidates = [ops.reshape(one, (-1, one.shape[-1] // copies)) for one in candidates]
        mask = ops.repeat(mask, copies, axis=0)
        pooled = self._pool_by(history, parts, candidates, mask, training)
        wide = [ops.reshape(part, (-1, copies * part.shape[-1])) for part in pooled]
        return dict(zip(history.names, wide, strict=True))

    def _pool_by(
        self,
        history: History,
        parts: list[Tensor],
        candidates: list[Tensor],
        mask: Tensor,
        training: bool | None,
    ) -> list[Tensor]:
        layer = self.interests[history.name]
        pooled = layer(_beside(parts), _beside(candidates), mask, training=training)
        if len(parts) == 1:
            return [pooled]
        ends = np.cumsum([part.shape[-1] for part in parts])[:-1].tolist()
        return ops.split(pooled, ends, axis=-1)

    def compute_output_shape(self, input_shape: dict[str, Shape]) -> Any:
        columns, batch = self.schema.columns, next(iter(input_shape.values()))[0]
        if self.tokens is None:
            size = sum(self.sizes)
            return (batch, size) if self.copies is None else (batch, self.copies, size)
        counts = [input_shape[c.name][1] if isinstance(c, Sequence) else 1 for c in columns]
        count = None if None in counts else sum(counts)
        return (batch, count, self.tokens), (batch, count)

    def compute_output_spec(
        self, features: dict[str, Tensor], training: bool | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        shapes = self.compute_output_shape({name: x.shape for name, x in features.items()})
        if self.tokens is None:
            return keras.KerasTensor(shapes, dtype=self.compute_dtype)
        tokens, mask = shapes
        return (
            keras.KerasTensor(tokens, dtype=self.compute_dtype),
            keras.KerasTensor(mask, dtype="bool"),
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "schema": self.schema.to_dict(),
            "table_sizes": self.table_sizes,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "tokens": self.tokens,
            "copies": self.copies,
            "embeddings_regularizer": self.embeddings_regularizer,
        }


def _beside(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)


def _square_norm(ids: Tensor, vectors: Tensor) -> Tensor:
    """`sum ||vector||^2` over distinct ids but padding, of ids and their vectors `(..., d)`.

    Sorted, the first of equal ids is seen without a tensor as long as the table, and in shapes
    that XLA knows. The gradient goes through the look-up that there is, so that it stays one.
    """
    flat = ops.reshape(ids, (-1,))
    squares = ops.reshape(ops.sum(ops.square(ops.cast(vectors, "float32")), axis=-1), (-1,))
    order = ops.argsort(flat)
    ordered = ops.take(flat, order)
    before = ops.concatenate([ops.full_like(ordered[:1], PADDING_ID), ordered[:-1]])
    # Padding, the smallest id, is never another than the one before it.
    return ops.sum(ops.where(ordered != before, ops.take(squares, order), 0.0))


def _pooled(vectors: Tensor, ids: Tensor, pooling: str) -> Tensor:
    """Lists' vectors `(b, length, d)` and ids `(b, length)` to `(b, d)`."""
    present = ops.expand_dims(ids != PADDING_ID, -1)
    if pooling == "last":
        places = ops.arange(ops.shape(ids)[1], dtype="int32")
        last = ops.cast(places == last_place(ids != PADDING_ID), vectors.dtype)
        return ops.einsum("bl,bld->bd", last, vectors)
    if pooling == "max":
        lowest = ops.full_like(vectors, -6e4)  # finite in half precision too
        highest = ops.max(ops.where(present, vectors, lowest), axis=1)
        return ops.where(ops.any(present, axis=1), highest, ops.zeros_like(highest))
    mask = ops.cast(present, vectors.dtype)
    total = ops.sum(vectors * mask, axis=1)
    if pooling == "sum":
        return total
    return total / ops.maximum(ops.sum(mask, axis=1), 1)
