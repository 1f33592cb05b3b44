"""Transformer blocks over a history and the candidate behind it."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Tensor
from tfmoe.features.embedding import Embedding
from tfmoe.features.interest.base import Interest
from tfmoe.features.pooling import last_place
from tfmoe.schema.poolings import MOST_DROPPED


@registered
class InterestTransformer(Interest):
    r"""Transformer blocks over a history with the candidate as last token, of which it is read.

        x = [h_1 + p_1, ..., h_n + p_n, t + p_0]
        x <- LN(x + attention(x)),  x <- LN(x + W2 relu(W1 x + b1) + b2)

    `p` is a learned vector of how many positions before the candidate a value stands. Where the
    history's vectors are longer than the candidate's, that has zeros. In the last block only the
    candidate's token is computed. In a `MultiTaskModel` it is `tfmoe.BST`, the pooling of a
    `Sequence`.

    Args:
        num_heads: int >= 1; must divide `d`.
        num_layers: int >= 1, number of blocks.
        hidden_units: int >= 1, units of `W1`, or None for `4 d`.
        dropout_rate: float in [0, 0.999], of the attention's and the feed-forward part's outputs.

    Call arguments:
        history: float tensor `(b, l, d)`, oldest first. `l` is known where the layer is built;
            afterwards it may be smaller.
        candidate: float tensor `(b, c)`, `c <= d`.
        present: bool tensor `(b, l)`, False at padding, which has no part in anything.
        training: bool.

    Returns:
        Float tensor `(b, d)`.

    Raises:
        ValueError: if a number is out of range, `num_heads` does not divide `d`, or the length is
            not known.

    Source: Chen et al., 2019, https://arxiv.org/abs/1905.06874.

    Example:

    >>> history, candidate = np.ones((2, 5, 4)), np.ones((2, 4))
    >>> InterestTransformer()(history, candidate, np.ones((2, 5), bool)).shape
    TensorShape([2, 4])
    """

    def __init__(
        self,
        num_heads: int = 2,
        num_layers: int = 1,
        hidden_units: int | None = None,
        dropout_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        owner = "InterestTransformer"
        self.num_heads = validation.integer(owner, "num_heads", num_heads, 1)
        self.num_layers = validation.integer(owner, "num_layers", num_layers, 1)
        self.hidden_units = validation.integer(
            owner, "hidden_units", hidden_units, 1, optional=True
        )
        self.dropout_rate = validation.number(
            owner, "dropout_rate", dropout_rate, least=0, most=MOST_DROPPED
        )

    def make(self, length: int | None, size: int, compared: int) -> None:
        if size % self.num_heads:
            raise ValueError(
                f"InterestTransformer needs num_heads to divide the size of the history's vectors. "
                f"Received num_heads={self.num_heads} with {size} units."
            )
        if length is None:
            raise ValueError(
                "InterestTransformer has a vector for each position of the history. Received one "
                "of any length. Give the length as part of its shape: of a `Sequence` its "
                "`max_length`."
            )
        policy = self.dtype_policy
        self.positions = Embedding(length + 1, size, dtype=policy, name="positions")
        self.positions.build((None, None))
        self.blocks = [
            _Block(
                self.num_heads,
                self.hidden_units or 4 * size,
                self.dropout_rate,
                dtype=policy,
                name=f"block_{i}",
            )
            for i in range(self.num_layers)
        ]
        for block in self.blocks:
            block.build((None, None, size))

    def call(
        self, history: Tensor, candidate: Tensor, present: Tensor, training: bool | None = None
    ) -> Tensor:
        before = last_place(present) + 1 - ops.arange(ops.shape(present)[1], dtype="int32")
        # A history that is longer than any that was built for has its oldest position there.
        steps = ops.clip(before, 0, self.positions.num_rows - 1)
        steps = ops.pad(steps, [[0, 0], [0, 1]])
        gap = history.shape[-1] - candidate.shape[-1]
        target = ops.pad(candidate, [[0, 0], [0, gap]])[:, None]
        tokens = ops.concatenate([history, target], axis=1) + self.positions(steps)
        present = ops.concatenate([present, ops.ones_like(present[:, :1])], axis=1)
        for block in self.blocks[:-1]:
            tokens = block(tokens, tokens, present, training=training)
        return self.blocks[-1](tokens[:, -1:], tokens, present, training=training)[:, 0]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "num_layers": self.num_layers,
            "hidden_units": self.hidden_units,
            "dropout_rate": self.dropout_rate,
        }


class _Block(keras.layers.Layer):
    """One block, of some tokens `(b, q, d)` that look at all `(b, l, d)`."""

    def __init__(self, num_heads: int, hidden_units: int, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_heads, self.hidden_units, self.rate = num_heads, hidden_units, rate

    def build(self, shape: Any) -> None:
        size, policy = shape[-1], self.dtype_policy
        self.attention = keras.layers.MultiHeadAttention(
            self.num_heads, size // self.num_heads, dtype=policy, name="attention"
        )
        self.attention.build(shape, shape)
        self.norms = [
            keras.layers.LayerNormalization(epsilon=1e-6, dtype=policy, name=f"norm_{i}")
            for i in range(2)
        ]
        self.hidden = keras.layers.Dense(
            self.hidden_units, activation="relu", dtype=policy, name="hidden"
        )
        self.output_layer = keras.layers.Dense(size, dtype=policy, name="output")
        self.drop = keras.layers.Dropout(self.rate, dtype=policy, name="drop")
        for layer, units in ((self.hidden, size), (self.output_layer, self.hidden_units)):
            layer.build((None, None, units))
        for norm in self.norms:
            norm.build(shape)

    def call(
        self, tokens: Tensor, all_tokens: Tensor, present: Tensor, training: Any = None
    ) -> Tensor:
        seen = self.attention(
            tokens, all_tokens, attention_mask=present[:, None], training=training
        )
        tokens = self.norms[0](tokens + self.drop(seen, training=training))
        made = self.output_layer(self.hidden(tokens))
        return self.norms[1](tokens + self.drop(made, training=training))
