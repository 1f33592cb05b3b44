"""From the Preprocessor's ids and floats to one vector a row, or to tokens."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmoe import validation
from tfmoe.compute.initializers import PerCopy, member_initializer, of_vectors
from tfmoe.compute.math import narrowed, parted
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Initializer, Shape, Tensor
from tfmoe.compute.weights import copy_weights
from tfmoe.features.embedding import Embedding
from tfmoe.features.interest.history import History, histories_of, pooled_by_candidate
from tfmoe.features.looked_up import square_norm
from tfmoe.features.pooling import pooled, weights_of
from tfmoe.features.pretrained import PretrainedEmbedding
from tfmoe.features.unknown import UnknownIds
from tfmoe.schema.columns import PADDING_ID, Sequence
from tfmoe.schema.pretrained import Pretrained
from tfmoe.schema.schema import Schema


@registered
class Encoder(keras.layers.Layer):
    r"""Embeds ids, pools lists, and concatenates all columns.

    The output has the columns in the schema's order: a number as it is, an id as its
    embedding, a list as the mean, sum, maximum or last of its values' embeddings (id 0 is
    padding and does not count; a list without values gives zeros), perhaps weighted, a vector as
    it is, a time as its parts side by side. A sequence whose pooling has a candidate is weighed by
    it, or read together with it, see `tfmoe.TargetAttention` and `tfmoe.BST`, and with it those
    that are aligned with it: what they give together is parted among them, so that each column
    gives a vector of its own size. Columns that share a table make one look-up.

    With `tokens=d` the output is a set of tokens, for structures with attention: first the
    columns that are no `Sequence`, in the schema's order, one token each,

        token = vector @ W + bias

    where `vector` is what the column would give above (a number is a vector of size 1)
    and every column has a `W` and a `bias` of its own; then the sequences, not pooled,
    one token a position, oldest first, with a learned embedding of the position added.

    With `copies=n` the output is `n` such vectors, each from tables of its own; numbers are the
    same in all, and so are vectors of `Pretrained`. The `n` tables of a column lie side by side in
    one of `(rows, n * dim)`, so that there is still one look-up a table, of a row `n` times as
    wide. Tables, their gradients and the optimizer's averages of them take `n` times the memory.

    Args:
        schema: `Schema`, or what its `to_dict` returns.
        table_sizes: dict by column that owns an embedding table of its number of rows;
            `Preprocessor.table_sizes`.
        embeddings_initializer: Keras initializer of the tables, and of the tokens' biases
            and positions; None for normal numbers of a deviation of 1e-4. The matrices `W` start
            at the scale of their own fan-in.
        tokens: int >= 1, the size `d` of a token, or None for one vector a row.
        copies: int >= 1, `n`, or None for one vector a row. Each copy's tables are drawn alone.
        embeddings_regularizer: float >= 0, the factor of an L2 loss of the tables, or None for
            none; a column's own `regularizer` comes before. It is of those rows that a batch looks
            up, each counted once, however often it comes: `factor * sum_ids ||table[id]||^2` over
            the distinct ids of the batch but padding.
        lengths: dict by column of the size of each `Vector` whose schema has none, of the vectors
            of each `Pretrained`, and perhaps of others; `Preprocessor.lengths`.
        rows_multiple: int >= 1, of the rows of every table, see `Embedding`.

    Call arguments:
        features: dict of tensors by column name: float `(b,)` for a number, float `(b, size)` for
            a vector, int `(b,)` for an id, int `(b, length)` for a list, and float `(b, length)`
            for its weights. As tokens, a sequence may be shorter than
            its `max_length`, not longer.
        training: bool.
        return_features: whether to return a pair, with the features that were read second: in
            training some ids are unknown ones then, see `Categorical`.

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
        embeddings_initializer: Initializer | None = None,
        tokens: int | None = None,
        copies: int | None = None,
        embeddings_regularizer: float | None = None,
        lengths: Mapping[str, int] | None = None,
        rows_multiple: int = 1,
        **kwargs: Any,
    ) -> None:
        # Numbers and weights come as they are: half precision does not hold them all.
        super().__init__(autocast=False, **kwargs)
        self.rows_multiple = validation.integer("Encoder", "rows_multiple", rows_multiple, 1)
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
        known = {c.name for c in self._columns if c.is_sized and c.width is None and not c.is_list}
        given = dict(lengths or {})
        self.lengths = {name: int(given[name]) for name in known & {*given}}
        unsized = sorted(known - set(self.lengths))
        if unsized:
            raise ValueError(
                "Encoder needs the size of every vector. Received lengths="
                f"{given}, without {unsized}. A fitted Preprocessor has them "
                "as `lengths`; or give Vector its `size`."
            )
        self.embeddings_initializer = of_vectors(embeddings_initializer)
        self.groups: dict[str, list[Any]] = {}
        for column in self._columns:
            if column.embeds:
                self.groups.setdefault(column.table, []).append(column)
        tables: dict[str, Any] = {owner: self.schema.column(owner) for owner in self.groups}
        unsized = sorted(set(self.groups) - set(table_sizes))
        if unsized:
            raise ValueError(
                "Encoder needs the number of rows of every embedding table. Received "
                f"table_sizes={dict(table_sizes)}, without {unsized}. A fitted "
                "Preprocessor has them as `table_sizes`."
            )
        rates = {c.name: getattr(c, "unknown_rate", 0.0) for c in self._columns}
        self.unknown = {
            name: UnknownIds(rate, name=f"unknown_{name}") for name, rate in rates.items() if rate
        }
        self.table_sizes = {owner: int(table_sizes[owner]) for owner in self.groups}
        self._factors = {f"table_{name}": self._factor(column) for name, column in tables.items()}
        self.tables = {
            owner: self._table(tables[owner], index) for index, owner in enumerate(self.groups)
        }

        # Tokens are not pooled: attention is the structure's.
        self.histories = [] if tokens else histories_of(self._columns)
        self.interests = {
            history.name: history.layer(self.dtype_policy) for history in self.histories
        }

    def _factor(self, column: Any) -> float:
        """The factor of the loss of a column's table; vectors of elsewhere have none."""
        own = getattr(column, "regularizer", None)
        given = self.embeddings_regularizer if own is None else own
        return 0.0 if given is None or isinstance(column, Pretrained) else given

    def _table(self, column: Any, index: int) -> Any:
        # One initializer draws the same numbers at each call: tables would start alike.
        name, rows = f"table_{column.name}", self.table_sizes[column.name]
        if isinstance(column, Pretrained):
            return PretrainedEmbedding(
                rows,
                self.lengths[column.name],
                column.trainable,
                column.projection,
                member_initializer(self.embeddings_initializer, index),
                self.rows_multiple,
                dtype=self.dtype_policy,
                name=name,
            )
        dim = column.dim * (self.copies or 1)
        own = self._initializer(index)
        return Embedding(rows, dim, own, self.rows_multiple, dtype=self.dtype_policy, name=name)

    def start_at(self, fits: Mapping[str, Any]) -> None:
        """Takes over the vectors of `Pretrained` columns; `Preprocessor.fits`."""
        for name, table in self.tables.items():
            if isinstance(table, PretrainedEmbedding):
                table.start_at(fits[name].vectors)

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

    def token_counts(self, lengths: Mapping[str, int]) -> list[int]:
        """How many tokens each column is, in the tokens' order: those of sequences come last.

        Args:
            lengths: dict by sequence of its positions.
        """
        last = [column.name for column in self._columns if isinstance(column, Sequence)]
        single = len(self._columns) - len(last)
        return [1] * single + [lengths[name] for name in last]

    def _size_of(self, names: Iterable[str]) -> int:
        """The sizes of some columns' vectors, added up."""
        return sum(self._size(self.schema.column(name)) for name in names)

    def _size(self, column: Any) -> int:
        """The size of a column's vector, in one copy."""
        several = column.is_wide and not column.is_list
        count = self.lengths.get(column.name) or column.width or 0 if several else 1
        if not column.embeds:
            return count
        table = self.tables[column.table]
        copied = self.copies is not None and not isinstance(table, PretrainedEmbedding)
        return count * (table.dim // self.copies if copied else table.dim)

    def call(
        self,
        features: dict[str, Tensor],
        training: bool | None = None,
        return_features: bool = False,
    ) -> Any:
        missing = [name for name in self.schema.feature_names if name not in features]
        if missing:
            raise ValueError(
                f"Encoder reads every column of its schema. Received features={sorted(features)}, "
                f"without {missing}. `Preprocessor.arrays` and `dataset` make them all."
            )
        drawn = {name: layer(features[name]) for name, layer in self.unknown.items()}
        features = {**features, **drawn}
        encoded = self._encoded(features, training)
        return (encoded, features) if return_features else encoded

    def _encoded(self, features: dict[str, Tensor], training: bool | None) -> Any:
        vectors = {}
        for owner, columns in self.groups.items():
            vectors.update(self._vectors_of(self.tables[owner], columns, features))
        of_history = {name for history in self.histories for name in history.names}
        encoded = {}
        for column in self._columns:
            name = column.name
            if not column.embeds:
                numbers = narrowed(features[name], self.compute_dtype)
                encoded[name] = numbers if column.is_wide else numbers[:, None]
            elif name not in of_history:
                encoded[name] = self._pool(column, features, vectors[name])
        for history in self.histories:
            encoded.update(self._interest(history, features, vectors, encoded, training))
        if self.tokens is not None:
            return self._as_tokens(encoded, features)
        if self.copies is not None:
            parts = self._apart(encoded, list(encoded.values()))
            encoded = dict(zip(encoded, parts, strict=True))
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

    def copy_from(self, other: Encoder, copies: Iterable[int]) -> None:
        """Takes over the weights of an encoder with more copies.

        Args:
            other: built `Encoder` of the same columns.
            copies: for each of this one's copies its place in the other one.
        """
        for name, table in self.tables.items():
            if isinstance(table, PretrainedEmbedding):
                copy_weights(other.tables[name], table)
                continue
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
        maps, biases, positions = (
            {name: ops.cast(own, self.compute_dtype) for name, own in weights.items()}
            for weights in (self.maps, self.biases, self.positions)
        )
        tokens, masks = [], []
        if single:
            parts = [ops.matmul(encoded[n], maps[n]) + biases[n] for n in single]
            tokens.append(ops.stack(parts, axis=1))
            masks.append(ops.ones((ops.shape(parts[0])[0], len(parts)), "bool"))
        for name, own in positions.items():
            present = features[name] != PADDING_ID
            added = biases[name] + own[: ops.shape(present)[1]]
            tokens.append(ops.matmul(encoded[name], maps[name]) + added)
            masks.append(present)
        return ops.concatenate(tokens, axis=1), ops.concatenate(masks, axis=1)

    def _pool(self, column: Any, features: dict[str, Tensor], vectors: Tensor) -> Tensor:
        """A list column's vectors `(b, length, d)` to `(b, d)`; others as they are, in one row."""
        is_history = self.tokens is not None and isinstance(column, Sequence)
        if is_history or not column.is_wide:
            return vectors
        if not column.is_list:
            return self._side_by_side(vectors)
        weights = weights_of(column, features)
        return pooled(vectors, features[column.name], str(column.pooling), weights)

    def _side_by_side(self, vectors: Tensor) -> Tensor:
        """Several ids' vectors `(b, k, n * dim)` to `(b, n * k * dim)`, copy by copy."""
        count, size = vectors.shape[1], vectors.shape[2]
        if self.copies is not None:
            apart = ops.reshape(vectors, (-1, count, self.copies, size // self.copies))
            vectors = ops.transpose(apart, (0, 2, 1, 3))
        return ops.reshape(vectors, (-1, count * size))

    def _look_up(self, table: Embedding, ids: Tensor) -> Tensor:
        """Vectors of ids, and their table's loss where it has one and is trained."""
        vectors = table(ids)
        factor = self._factors[table.name]
        if factor and table.trainable:
            self.add_loss(factor * square_norm(ids, vectors))
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
        parts = parted(vectors, [ops.shape(own)[1] for own in wide])
        return {
            column.name: part[:, 0] if len(own.shape) == 1 else part
            for column, own, part in zip(columns, ids, parts, strict=True)
        }

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
        parts = [
            vectors[name] * ops.cast(own, self.compute_dtype)[..., None]
            for name, own in zip(history.names, present, strict=True)
        ]
        weights = weights_of(self.schema.column(history.name), features)
        if weights is not None:
            # Of a value that is missing it is missing too, but its position may have others.
            weights = ops.where(features[history.name] == PADDING_ID, 1.0, weights)
        found = pooled_by_candidate(
            self.interests[history.name],
            self._apart(history.names, parts),
            self._apart(history.candidates, [encoded[name] for name in history.candidates]),
            functools.reduce(ops.logical_or, present),
            weights,
            training,
        )
        wide = [ops.reshape(part, (-1, (self.copies or 1) * part.shape[-1])) for part in found]
        return dict(zip(history.names, wide, strict=True))

    def _apart(self, names: Iterable[str], vectors: list[Tensor]) -> list[Tensor]:
        """Columns' vectors `(b, ..., n * dim)` as `(b, n, ..., dim)`; without copies `n` is 1.

        What has no copies, numbers and vectors of elsewhere, is the same in all.
        """
        copies, parts = self.copies or 1, []
        for name, vector in zip(names, vectors, strict=True):
            size = self._size(self.schema.column(name))
            if vector.shape[-1] == copies * size:
                inner = (ops.shape(vector)[1],) if len(vector.shape) == 3 else ()
                vector = ops.reshape(vector, (-1, *inner, copies, size))
                parts.append(ops.swapaxes(vector, 1, 2) if inner else vector)
            else:
                parts.append(ops.repeat(vector[:, None], copies, axis=1))
        return parts

    def compute_output_shape(self, input_shape: dict[str, Shape]) -> Any:
        batch = next(iter(input_shape.values()))[0]
        if self.tokens is None:
            size = sum(self.sizes)
            return (batch, size) if self.copies is None else (batch, self.copies, size)
        lengths = {name: shape[1] for name, shape in input_shape.items() if len(shape) > 1}
        counts = self.token_counts(lengths)
        count = None if None in counts else sum(counts)
        return (batch, count, self.tokens), (batch, count)

    def compute_output_spec(
        self,
        features: dict[str, Tensor],
        training: bool | None = None,
        return_features: bool = False,
    ) -> Any:
        encoded = self._spec(features)
        if not return_features:
            return encoded
        read = {name: keras.KerasTensor(x.shape, x.dtype) for name, x in features.items()}
        return encoded, read

    def _spec(self, features: dict[str, Tensor]) -> Any:
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
            "lengths": self.lengths or None,
            "rows_multiple": self.rows_multiple,
        }
