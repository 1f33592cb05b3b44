"""The first-order term: a weight for every value of every column, beside the network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from tfmoe.compute.math import narrowed, wide_dtype
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Shape, Tensor
from tfmoe.features.embedding import Embedding
from tfmoe.features.pooling import nonzero, weights_of
from tfmoe.schema.columns import PADDING_ID
from tfmoe.schema.schema import Schema


@registered
class Wide(keras.layers.Layer):
    r"""What each column says of each task by itself, `(b, t, n)`, to be added to its logits.

        output[b, t] = sum_numbers x w_t + sum_ids w_t[id] + sum_lists mean over a list of w_t[id]

    A list with weights has a weighted mean, and a time by its parts the mean of theirs. All weights
    start at 0. Every column has weights of its own, also where columns share a table
    of embeddings.

    Args:
        schema: `Schema`, or what its `to_dict` returns.
        table_sizes: dict by column that owns an embedding table of its number of rows.
        num_outputs: sequence of int >= 1, for each task how many logits it has; `n` is the most.
        rows_multiple: int >= 1, of the rows of every table, see `Embedding`.

    Call arguments:
        features: dict of tensors by column name, see `Encoder`.

    Returns:
        Float tensor `(b, t, n)`.

    Source: Cheng et al., 2016, https://arxiv.org/abs/1606.07792.
    """

    def __init__(
        self,
        schema: Schema | dict[str, Any],
        table_sizes: Mapping[str, int],
        num_outputs: Sequence[int],
        rows_multiple: int = 1,
        **kwargs: Any,
    ) -> None:
        # Numbers and weights come as they are: half precision does not hold them all.
        super().__init__(autocast=False, **kwargs)
        self.rows_multiple = rows_multiple
        self.schema = schema if isinstance(schema, Schema) else Schema.from_dict(schema)
        self.table_sizes = {name: int(size) for name, size in table_sizes.items()}
        self.num_outputs = tuple(int(num) for num in num_outputs)
        self._width = len(self.num_outputs) * max(self.num_outputs)
        self.tables = {
            column.name: Embedding(
                self.table_sizes[column.table],
                self._width,
                "zeros",
                rows_multiple,
                dtype=self.dtype_policy,
                name=f"wide_{column.name}",
            )
            for column in self.schema.columns
            if column.embeds
        }
        self._numbers = [column.name for column in self.schema.columns if not column.embeds]

    def build(self, input_shape: Mapping[str, Shape]) -> None:
        for table in self.tables.values():
            table.build((None,))
        if self._numbers:
            wide = [input_shape[name][1:] for name in self._numbers]
            shape = (sum(math.prod(own) for own in wide), self._width)
            self.kernel = self.add_weight(name="kernel", shape=shape, initializer="zeros")

    def call(self, features: dict[str, Tensor]) -> Tensor:
        total: Any = 0.0
        if self._numbers:
            numbers = [narrowed(features[name], self.compute_dtype) for name in self._numbers]
            wide = [x if len(x.shape) > 1 else x[:, None] for x in numbers]
            kernel = ops.cast(self.kernel, self.compute_dtype)
            total = ops.matmul(ops.concatenate(wide, axis=1), kernel)
        for name, table in self.tables.items():
            ids = features[name]
            weights = table(ids)
            if len(ids.shape) > 1:
                dtype = wide_dtype(weights)
                shares = ops.cast(ids != PADDING_ID, dtype)
                given = weights_of(self.schema.column(name), features)
                shares = shares if given is None else shares * ops.cast(given, dtype)
                shares = shares / nonzero(ops.sum(ops.abs(shares), axis=1, keepdims=True))
                summed = ops.sum(ops.cast(weights, dtype) * shares[..., None], axis=1)
                weights = narrowed(summed, weights.dtype)
            total = total + weights
        return ops.reshape(total, (-1, len(self.num_outputs), max(self.num_outputs)))

    def added(self, logits: Any, features: dict[str, Tensor], task: Tensor | None) -> Any:
        """Towers' logits with the term added; `logits` and `task` as of `Towers`."""
        term = self(features)
        if task is not None:
            own = ops.take_along_axis(term, ops.cast(task, "int32")[:, None, None], axis=1)
            return logits + ops.cast(own[:, 0], logits.dtype)
        return [
            values + ops.cast(term[:, t, :num], values.dtype)
            for t, (values, num) in enumerate(zip(logits, self.num_outputs, strict=True))
        ]

    def copy_from(self, other: Wide, tasks: Sequence[int]) -> None:
        """Takes over the weights of another, of the same columns, for some of its tasks."""
        pairs = [(other.tables[name].embeddings, t.embeddings) for name, t in self.tables.items()]
        if self._numbers:
            pairs.append((other.kernel, self.kernel))
        for source, target in pairs:
            values = ops.convert_to_numpy(source)
            apart = values.reshape(len(values), len(other.num_outputs), -1)[:, list(tasks)]
            target.assign(apart[..., : max(self.num_outputs)].reshape(target.shape))

    def compute_output_spec(self, features: dict[str, Tensor]) -> Tensor:
        batch = next(iter(features.values())).shape[0]
        shape = (batch, len(self.num_outputs), max(self.num_outputs))
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "schema": self.schema.to_dict(),
            "table_sizes": self.table_sizes,
            "num_outputs": list(self.num_outputs),
            "rows_multiple": self.rows_multiple,
        }
