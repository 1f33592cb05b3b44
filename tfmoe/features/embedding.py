"""An embedding whose updates are right when ids repeat in a batch."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute import thresholds
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Initializer, Shape, Tensor


@registered
class Embedding(keras.layers.Layer):
    r"""A table of vectors, looked up by id.

        output[...] = table[ids[...]]

    On TensorFlow, Keras optimizers square each slice of a sparse gradient on its own,
    so that Adam, Adagrad, RMSprop and Ftrl take wrong steps when an id occurs twice in
    a batch. The gradient of this layer has each row once: up to 30,000 rows
    (`tfmoe.compute.thresholds`: `dense_rows`) it is a dense table, above `IndexedSlices` of
    the distinct ids, which rules out XLA (`jit_compile`). That holds for one call a step:
    two calls of a large table give two sets of slices. In a `MultiTaskModel` whose optimizer
    walks through whole tables anyway, as Keras's Adam does, every gradient is dense.

    Args:
        num_rows: int >= 1, number of ids.
        dim: int >= 1, size of a vector.
        embeddings_initializer: Keras initializer.
        rows_multiple: int >= 1; the table is filled up with rows of 0, which no id reads, to a
            multiple of it, so that as many devices can each hold a part.

    Call arguments:
        ids: int tensor of any shape, values in `[0, num_rows)`.

    Returns:
        Float tensor of the shape of `ids` plus `(dim,)`.

    Raises:
        ValueError: if a count is too small.

    Example:

    >>> Embedding(num_rows=10, dim=4)(np.array([[1, 2, 2]])).shape
    TensorShape([1, 3, 4])
    """

    def __init__(
        self,
        num_rows: int,
        dim: int,
        embeddings_initializer: Initializer = "uniform",
        rows_multiple: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rows_multiple = validation.integer("Embedding", "rows_multiple", rows_multiple, 1)
        num_rows = validation.integer("Embedding", "num_rows", num_rows, 1)
        dim = validation.integer("Embedding", "dim", dim, 1)
        self.num_rows, self.dim = num_rows, dim
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self._is_small = num_rows <= thresholds.current().dense_rows
        if not self._is_small and keras.backend.backend() == "tensorflow":
            self.supports_jit = False
        # A model that knows that XLA will not compile the step says so by False, and one whose
        # optimizer gains nothing from a sparse gradient likewise.
        self.may_be_compiled = True
        self.may_be_sparse = True

    def build(self, input_shape: Shape) -> None:
        # Not cast as a whole under half precision: only the rows that are read are.
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(filled_up(self.num_rows, self.rows_multiple), self.dim),
            initializer=_ZeroFilled(self.embeddings_initializer, self.num_rows)
            if self.num_rows % self.rows_multiple
            else self.embeddings_initializer,
            autocast=False,
        )

    def call(self, ids: Tensor) -> Tensor:
        if keras.backend.backend() != "tensorflow":
            vectors = ops.take(self.embeddings, ids, axis=0)
        elif self._is_small or not self.may_be_sparse:
            vectors = _look_up_dense(self.embeddings.value, ids, self.may_be_compiled)
        else:
            vectors = _look_up_distinct(self.embeddings.value, ids)
        return ops.cast(vectors, self.compute_dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape, self.dim)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_rows": self.num_rows,
            "dim": self.dim,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "rows_multiple": self.rows_multiple,
        }


def filled_up(num_rows: int, multiple: int) -> int:
    """How many rows a table has that is filled up to a multiple."""
    return -(-num_rows // multiple) * multiple


class _ZeroFilled(keras.initializers.Initializer):
    """Another initializer's rows, and rows of 0: a filled up table starts as the other does."""

    def __init__(self, initializer: Any, num_rows: int) -> None:
        self.initializer, self.num_rows = initializer, num_rows

    def __call__(self, shape: Shape, dtype: Any = None) -> Tensor:
        rows = self.initializer((self.num_rows, *shape[1:]), dtype=dtype)
        return ops.pad(rows, ((0, shape[0] - self.num_rows), (0, 0)))


def _look_up_dense(variable: Any, ids: Tensor, may_be_compiled: bool) -> Tensor:
    """`variable[ids]` on TensorFlow, with the gradient as a dense table.

    Of two operations that sum it, XLA does not know the faster one (0.6 to 1.0 of the time on a
    Xeon, the same on an AMD processor). Of single numbers the other is faster: 0.2 of the time.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def look_up(table: Tensor, ids: Tensor) -> tuple[Tensor, Any]:
        def gradient(upstream: Tensor) -> tuple[Tensor, None]:
            rows, flat = tf.reshape(upstream, (-1, table.shape[1])), tf.reshape(ids, (-1,))
            if may_be_compiled or table.shape[1] == 1:
                return tf.math.unsorted_segment_sum(rows, flat, table.shape[0]), None
            places = tf.range(tf.size(flat))

            def added_up() -> Tensor:
                return tf.raw_ops.SparseSegmentSumGrad(
                    grad=rows, indices=flat, segment_ids=places, output_dim0=table.shape[0]
                )

            # Without rows it would return uninitialised memory.
            some = tf.size(flat) > 0
            return tf.cond(some, added_up, lambda: tf.zeros_like(table)), None

        return tf.gather(table, ids), gradient

    return look_up(tf.convert_to_tensor(variable), ids)


def _look_up_distinct(variable: Any, ids: Tensor) -> Tensor:
    """`variable[ids]` on TensorFlow, with the gradient as one slice a distinct id."""
    import tensorflow as tf

    distinct, inverse = tf.unique(tf.reshape(ids, (-1,)))
    rows = tf.nn.embedding_lookup(variable, distinct)
    vectors = tf.gather(rows, inverse)
    return tf.reshape(vectors, tf.concat([tf.shape(ids), [variable.shape[1]]], 0))
