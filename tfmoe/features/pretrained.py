"""A table of vectors that were made elsewhere."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfmoe import validation
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Initializer, Shape, Tensor
from tfmoe.features.embedding import Embedding, filled_up
from tfmoe.schema.columns import FIRST_ID


@registered
class PretrainedEmbedding(keras.layers.Layer):
    """Vectors by id, perhaps frozen, perhaps multiplied by a learned matrix; see `Pretrained`.

    The vectors of padding, missing and unknown values, ids 0 to 2, are learned at any rate.

    Args:
        num_rows: int >= 4, number of ids.
        size: int >= 1, size of the vectors.
        train_vectors: bool, whether they are trained.
        projection: int >= 1, units of the matrix, or None.
        embeddings_initializer: Keras initializer of the three. The vectors are 0 until `start_at`.
        rows_multiple: see `Embedding`; of the vectors, without the three.

    Call arguments:
        ids: int tensor of any shape, values in `[0, num_rows)`.

    Returns:
        Float tensor of the shape of `ids` plus `(dim,)`: the matrix's units or the vectors' size.
    """

    def __init__(
        self,
        num_rows: int,
        size: int,
        train_vectors: bool = False,
        projection: int | None = None,
        embeddings_initializer: Initializer = "uniform",
        rows_multiple: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        owner = "PretrainedEmbedding"
        self.rows_multiple = validation.integer(owner, "rows_multiple", rows_multiple, 1)
        self.num_rows = validation.integer(owner, "num_rows", num_rows, FIRST_ID + 1)
        self.size = validation.integer(owner, "size", size, 1)
        self.train_vectors = train_vectors
        self.projection = validation.integer(owner, "projection", projection, 1, optional=True)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.special = Embedding(
            FIRST_ID, size, self.embeddings_initializer, dtype=self.dtype_policy, name="special"
        )
        num = num_rows - FIRST_ID
        # A frozen table is a weight and no layer: of a layer all would be trained where somebody
        # sets `model.trainable`.
        self.vectors = (
            Embedding(num, size, "zeros", rows_multiple, dtype=self.dtype_policy, name="vectors")
            if train_vectors
            else None
        )

    @property
    def dim(self) -> int:
        """Size of what is returned."""
        return self.projection or self.size

    @property
    def _learned(self) -> list[Embedding]:
        return [self.special] if self.vectors is None else [self.special, self.vectors]

    @property
    def may_be_compiled(self) -> bool:
        """See `Embedding`."""
        return self.special.may_be_compiled

    @may_be_compiled.setter
    def may_be_compiled(self, value: bool) -> None:
        for table in self._learned:
            table.may_be_compiled = value

    @property
    def may_be_sparse(self) -> bool:
        """See `Embedding`."""
        return self.special.may_be_sparse

    @may_be_sparse.setter
    def may_be_sparse(self, value: bool) -> None:
        for table in self._learned:
            table.may_be_sparse = value

    def build(self, input_shape: Shape) -> None:
        self.special.build(input_shape)
        if self.vectors is None:
            self.frozen = self.add_weight(
                name="frozen",
                shape=(filled_up(self.num_rows - FIRST_ID, self.rows_multiple), self.size),
                initializer="zeros",
                trainable=False,
                autocast=False,
            )
        else:
            self.vectors.build(input_shape)
        if self.projection is not None:
            self.kernel = self.add_weight(
                name="kernel", shape=(self.size, self.projection), initializer="glorot_uniform"
            )

    def start_at(self, vectors: np.ndarray) -> None:
        """Takes the vectors, float `(num_rows - 3, size)`."""
        table = self.frozen if self.vectors is None else self.vectors.embeddings
        filled = table.shape[0] - len(vectors)
        table.assign(np.pad(vectors, ((0, filled), (0, 0))))

    def call(self, ids: Tensor) -> Tensor:
        special = self.special(ops.minimum(ids, FIRST_ID - 1))
        places = ops.maximum(ids - FIRST_ID, 0)
        if self.vectors is None:
            vectors = ops.cast(ops.take(self.frozen, places, axis=0), self.compute_dtype)
        else:
            vectors = self.vectors(places)
        found = ops.where((ids < FIRST_ID)[..., None], special, vectors)
        return found if self.projection is None else ops.matmul(found, self.kernel)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape, self.dim)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_rows": self.num_rows,
            "size": self.size,
            "train_vectors": self.train_vectors,
            "projection": self.projection,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "rows_multiple": self.rows_multiple,
        }
