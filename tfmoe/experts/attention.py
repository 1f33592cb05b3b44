"""Attention whose heads are experts: each token has its own few of them."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute.dispatch import Slots
from tfmoe.compute.initializers import PerMember
from tfmoe.compute.math import mix
from tfmoe.compute.registered import registered

# Finite in half precision, so that a row of nothing but padding gives no NaN.
MASKED = -3e4


@registered
class MoEAttention(keras.layers.Layer):
    r"""Self-attention over tokens, of which every head is an expert.

    Expert `e` has a projection `Q_e` of queries, `(d, h)`, and one of outputs, `O_e`,
    `(h, d)`; keys and values are one head that all experts share:

        head_e[i] = softmax_j(tokens[i] @ Q_e . tokens[j] @ K / sqrt(h)) @ (tokens @ V) @ O_e
        output[i] = sum_e weights[i, e] * head_e[i]

    over the tokens `j` of the same example that are present and, if `causal`, not after
    `i`. Only the heads that are chosen for a token are computed. With `kv_bias` the
    values have a bias, `(h,)`. One of the keys would add the same to all logits of a query, which
    the softmax takes away again: there is none, and the function is that of a layer with both.

    Args:
        num_experts: int >= 1.
        head_dim: int >= 1, `h`.
        causal: bool.
        kv_bias: bool.

    Call arguments:
        tokens: float tensor `(b, c, d)`.
        present: bool tensor `(b, c)`, False at padding.
        weights: float tensor `(b * c, k)`, of the chosen experts; 0 where a token has
            fewer. `(b * c, e)`, of all, without `chosen`.
        chosen: int tensor `(b * c, k)`, the experts of each token, each at most once,
            with `num_experts` where a token has fewer than k. None means all experts.

    Returns:
        Float tensor `(b, c, d)`.

    Raises:
        ValueError: if a count is too small.

    Source: Chen et al., 2023, https://arxiv.org/abs/2212.08066, after Zhang et al., 2022,
    https://arxiv.org/abs/2210.05144.
    """

    def __init__(
        self,
        num_experts: int,
        head_dim: int,
        causal: bool = False,
        kv_bias: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        num_experts = validation.integer("MoEAttention", "num_experts", num_experts, 1)
        head_dim = validation.integer("MoEAttention", "head_dim", head_dim, 1)
        self.num_experts, self.head_dim, self.causal = num_experts, head_dim, causal
        self.kv_bias = kv_bias

    def build(self, input_shape: Any) -> None:
        size, head = input_shape[-1], self.head_dim

        def stacked(name: str, *shape: int) -> Any:
            initializer = PerMember("glorot_uniform")
            return self.add_weight(name=name, shape=shape, initializer=initializer)

        self.queries = stacked("queries", self.num_experts, size, head)
        self.outputs = stacked("outputs", self.num_experts, head, size)
        self.keys = self.add_weight(name="keys", shape=(size, head))
        self.values = self.add_weight(name="values", shape=(size, head))
        if self.kv_bias:
            self.value_bias = self.add_weight(name="value_bias", shape=(head,), initializer="zeros")

    def call(self, tokens: Any, present: Any, weights: Any, chosen: Any = None) -> Any:
        flat = ops.reshape(tokens, (-1, tokens.shape[-1]))
        if chosen is None:
            queries = ops.einsum("nd,edh->neh", flat, self.queries)
            heads = self._attend(queries, tokens, present)
            # Weighed before the projection: not all heads' outputs are ever in memory.
            weighed = ops.reshape(heads * weights[..., None], (-1, heads.shape[1] * self.head_dim))
            outputs = ops.matmul(weighed, ops.reshape(self.outputs, (-1, self.outputs.shape[-1])))
        else:
            slots = Slots.of(flat, chosen, self.num_experts)
            heads = self._attend(slots.matmul(self.queries).gather(), tokens, present)
            rows = slots.refill(heads).matmul(self.outputs).gather()
            outputs = mix(rows, weights[:, None])[:, 0]
        return ops.reshape(outputs, ops.shape(tokens))

    def _attend(self, queries: Any, tokens: Any, present: Any) -> Any:
        """What every head of every token reads: queries and result `(b * c, k, h)`."""
        num, count = queries.shape[1], ops.shape(tokens)[1]
        keys = ops.matmul(tokens, self.keys)
        values = ops.matmul(tokens, self.values)
        if self.kv_bias:
            values = values + self.value_bias
        queries = ops.reshape(queries, (-1, count * num, self.head_dim))
        logits = ops.matmul(queries, ops.swapaxes(keys, 1, 2)) * self.head_dim**-0.5
        seen = ops.reshape(present, (-1, 1, count))
        if self.causal:
            places = ops.arange(count)
            seen = seen & (places <= ops.repeat(places, num)[:, None])
        exact = ops.cast(logits, keras.backend.result_type(logits.dtype, "float32"))
        shares = ops.softmax(ops.where(seen, exact, MASKED), axis=-1)
        heads = ops.matmul(ops.cast(shares, values.dtype), values)
        return ops.reshape(heads, (-1, num, self.head_dim))

    def compute_output_spec(
        self, tokens: Any, present: Any, weights: Any, chosen: Any = None
    ) -> Any:
        return keras.KerasTensor(tokens.shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "head_dim": self.head_dim,
            "causal": self.causal,
            "kv_bias": self.kv_bias,
        }
