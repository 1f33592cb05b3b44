"""Experts that each weigh the features they read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from tfmoe import validation
from tfmoe.compute.initializers import PerMember
from tfmoe.compute.registered import registered
from tfmoe.experts.mlp import Experts


@registered
class FeatureGatedExperts(Experts):
    r"""Multi-layer perceptrons, each behind a low-rank gate of its own on its inputs.

        outputs[b, e] = expert_e(x * 2 sigmoid(x @ A_e @ B_e))

    with the product by element, for `x` the input of expert `e`, `A_e` of shape `(f, r)` and `B_e`
    of shape `(r, f)`. Where both are 0 the gate is 1. Each expert has inputs of its own, so the
    first layer reads `(b, e, f)` whether or not all are given the same.

    Args:
        num_experts: int >= 1.
        hidden_units: sequence of int >= 1, units of each layer; the last is `u`.
        rank: int >= 1, `r`.
        **kwargs: see `Experts`; `kernel_initializer` is that of `A` and `B` too.

    Call arguments:
        inputs: float tensor `(b, f)`, the same for all experts, or `(b, e, f)`.
        training: bool, for the dropout.

    Returns:
        Float tensor `(b, e, u)`.

    Raises:
        ValueError: if `rank` is too small, only some experts are `chosen`, or as `Experts`.
    """

    def __init__(
        self, num_experts: int, hidden_units: Sequence[int], rank: int = 8, **kwargs: Any
    ) -> None:
        super().__init__(num_experts, hidden_units, **kwargs)
        self.rank = validation.integer("FeatureGatedExperts", "rank", rank, 1)

    def build(self, input_shape: Any) -> None:
        batch, size = input_shape[0], input_shape[-1]
        self.downs = self._add_matrices("down", (size, self.rank), salt=1)
        self.ups = self._add_matrices("up", (self.rank, size), salt=2)
        super().build((batch, self.num_experts, size))

    def _add_matrices(self, name: str, shape: tuple[int, int], salt: int) -> Any:
        # Salts that no layer of the networks has.
        initializer = PerMember(self.kernel_initializer, salt=1_000 + salt)
        return self.add_weight(name=name, shape=(self.num_experts, *shape), initializer=initializer)

    def call(self, inputs: Any, chosen: Any = None, training: bool = False) -> Any:
        if chosen is not None:
            raise ValueError(
                "FeatureGatedExperts compute all experts of a row. Received `chosen`. Leave it out."
            )
        same = len(inputs.shape) == 2
        low = ops.einsum("bf,efr->ber" if same else "bef,efr->ber", inputs, self.downs)
        gates = 2 * ops.sigmoid(ops.einsum("ber,erf->bef", low, self.ups))
        return super().call((inputs[:, None] if same else inputs) * gates, training=training)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rank": self.rank}
