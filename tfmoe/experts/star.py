"""Networks that scenarios share, each with factors of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from tfmoe import validation
from tfmoe.compute.dropout import Dropout
from tfmoe.compute.initializers import PerMember
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Tensor
from tfmoe.experts.mlp import Experts


@registered
class StarExperts(Experts):
    r"""Multi-layer perceptrons of which every scenario has a form of its own.

    Every kernel, bias, scale and offset of network `n` in scenario `s` is

        kernel_n * (1 + factor_ns)    bias_n + shift_ns
        scale_n * (1 + stretch_ns)    offset_n + move_ns

    with the product by element. What belongs to a scenario starts at 0, so that all start as the
    shared network, and stays there for one that no row was of.

    Args:
        num_networks: int >= 1, `n`.
        num_scenarios: int >= 1, `s`.
        hidden_units, activation, dropout, layer_norm, kernel_initializer, last_activation: see
            `Experts`, of which this has one for each pair, network by network: pair
            `n * num_scenarios + s`.

    Call arguments:
        inputs: float tensor `(b, f)`.
        chosen: int tensor `(b, k)`, the pairs to compute for each row, each at most once.
        training: bool, for the dropout.

    Returns:
        Float tensor `(b, k, u)`.

    Source: Sheng et al., 2021, https://arxiv.org/abs/2101.11427. There the factor itself is the
    weight, started at 1: the same, but for a weight decay, which here draws a scenario to the
    shared network, and there to nothing.
    """

    def __init__(
        self, num_networks: int, num_scenarios: int, hidden_units: Sequence[int], **kwargs: Any
    ) -> None:
        self.num_networks = validation.integer("StarExperts", "num_networks", num_networks, 1)
        self.num_scenarios = validation.integer("StarExperts", "num_scenarios", num_scenarios, 1)
        super().__init__(self.num_networks * self.num_scenarios, hidden_units, **kwargs)

    def build(self, input_shape: Any) -> None:
        self.parts: list[list[tuple[Any, Any]]] = []
        self.dropouts: list[Any] = []
        inputs = input_shape[-1]
        for i, units in enumerate(self.hidden_units):
            initializer = PerMember(self.kernel_initializer, salt=i)
            names: list[tuple[str, tuple[int, ...], Any]] = [
                (f"kernel_{i}", (inputs, units), initializer),
                (f"bias_{i}", (units,), "zeros"),
            ]
            if self.layer_norm:
                names += [(f"scale_{i}", (units,), "ones"), (f"offset_{i}", (units,), "zeros")]
            self.parts.append([self._pair(*one) for one in names])
            if self.dropout:
                self.dropouts.append(Dropout(self.dropout, dtype=self.dtype_policy))
            inputs = units

    def _pair(self, name: str, shape: tuple[int, ...], initializer: Any) -> tuple[Any, Any]:
        """A weight that is shared, and what scenarios have beside it."""
        shared = self.add_weight(
            name=name, shape=(self.num_networks, *shape), initializer=initializer
        )
        own = self.add_weight(
            name=f"own_{name}",
            shape=(self.num_networks, self.num_scenarios, *shape),
            initializer="zeros",
        )
        return shared, own

    def _weights_by_layer(self) -> list[Any]:
        return self.weights_by_layer(self.compute_dtype)

    def weights_by_layer(self, dtype: str) -> list[Any]:
        """For each layer kernels `(n s, f, u)` and biases `(n s, u)`, and those of the norm."""
        layers = []
        for pairs in self.parts:
            kernel, bias, *norm = [[ops.cast(w, dtype) for w in pair] for pair in pairs]
            layers.append([_scaled(*kernel), _shifted(*bias)])
            if norm:
                layers[-1] += [_scaled(*norm[0]), _shifted(*norm[1])]
        return layers

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["num_experts"]
        return {
            **config,
            "num_networks": self.num_networks,
            "num_scenarios": self.num_scenarios,
        }


def _scaled(shared: Tensor, own: Tensor) -> Tensor:
    return _flat(shared[:, None] * (1 + own))


def _shifted(shared: Tensor, own: Tensor) -> Tensor:
    return _flat(shared[:, None] + own)


def _flat(values: Tensor) -> Tensor:
    return ops.reshape(values, (-1, *values.shape[2:]))
