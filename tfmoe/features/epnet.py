"""The encoded columns weighed by what the scenario makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Activation, Initializer, Shape, Tensor
from tfmoe.experts.mlp import Experts


@registered
class EPNet(keras.layers.Layer):
    r"""Weighs every number of a row's input, between 0 and 2, by scenario and row.

        output = x * 2 sigmoid(MLP([prior; stop_gradient(x)]))

    With `MultiTaskModel(..., input_gate=EPNet())` it stands between the encoder and the
    structure, and `prior` is the embedding of the scenario.

    Args:
        hidden_units: sequence of int >= 1, units of the MLP's hidden layers.
        activation, kernel_initializer: see `Experts`.

    Call arguments:
        inputs: float tensor `(b, f)`.
        prior: float tensor `(b, p)`.

    Returns:
        Float tensor `(b, f)`.

    Raises:
        ValueError: if a size is too small.

    Example:

    >>> EPNet(hidden_units=(8,))(np.ones((2, 5)), np.ones((2, 3))).shape
    TensorShape([2, 5])

    Source: Chang et al., 2023, https://arxiv.org/abs/2302.01115.
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (64,),
        activation: Activation = "relu",
        kernel_initializer: Initializer = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_units = validation.sizes("EPNet", "hidden_units", hidden_units)
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, inputs_shape: Shape, prior_shape: Shape) -> None:
        size = inputs_shape[-1]
        self.network = Experts(
            1,
            (*self.hidden_units, size),
            self.activation,
            kernel_initializer=self.kernel_initializer,
            last_activation="sigmoid",
            dtype=self.dtype_policy,
            name="network",
        )
        self.network.build((None, size + prior_shape[-1]))

    def call(self, inputs: Tensor, prior: Tensor) -> Tensor:
        given = ops.concatenate([prior, ops.stop_gradient(inputs)], axis=-1)
        return inputs * (2 * self.network(given)[:, 0])

    def compute_output_shape(self, inputs_shape: Shape, prior_shape: Shape) -> Shape:
        return inputs_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "hidden_units": list(self.hidden_units),
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
