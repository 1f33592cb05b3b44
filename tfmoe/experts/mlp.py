"""Experts: networks of one shape, side by side."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute.dense import activated, affine, apart, is_unrolled
from tfmoe.compute.dispatch import Slots
from tfmoe.compute.dropout import Dropout
from tfmoe.compute.initializers import PerMember
from tfmoe.compute.math import add_bias
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Activation, Initializer, Tensor
from tfmoe.compute.weights import copy_weights


@registered
class Experts(keras.layers.Layer):
    r"""`num_experts` multi-layer perceptrons of one shape, computed together.

    Every hidden layer of expert `e` is

        h <- dropout(activation(norm(h @ W_e + b_e)))

    Args:
        num_experts: int >= 1.
        hidden_units: sequence of int >= 1, units of each layer; the last is `u`.
        activation: Keras activation, after every layer.
        dropout: float in [0, 1), after every activation, in training.
        layer_norm: bool; normalise each expert's units before the activation.
        kernel_initializer: Keras initializer. Each expert draws alone, at the scale of
            its own fan-in, also under a seed of the user's.
        last_activation: Keras activation of the last layer, or None for the same as after
            the others.

    Call arguments:
        inputs: float tensor `(b, f)`, the same for all experts, or `(b, e, f)`, one
            for each.
        chosen: int tensor `(b, k)`, only these experts of each row, each at most once,
            with `num_experts` where a row has fewer than k; or `(k,)`, the same for all
            rows. Only for inputs `(b, f)`. None means all experts.
        training: bool, for the dropout.

    Returns:
        Float tensor `(b, e, u)`, or `(b, k, u)` of the chosen; entries without an expert are
        undefined, yet finite.

    Raises:
        ValueError: if a count is too small, `dropout` is outside [0, 1), or the input
            has another rank or number of experts.

    Example:

    >>> Experts(num_experts=4, hidden_units=(16, 8))(np.ones((2, 3))).shape
    TensorShape([2, 4, 8])
    """

    def __init__(
        self,
        num_experts: int,
        hidden_units: Sequence[int],
        activation: Activation = "relu",
        dropout: float = 0.0,
        layer_norm: bool = False,
        kernel_initializer: Initializer = "glorot_uniform",
        last_activation: Activation | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        num_experts = validation.integer("Experts", "num_experts", num_experts, 1)
        if not 0 <= dropout < 1:
            raise ValueError(
                "Experts drop a share of units, so `dropout` must be at least 0 and "
                f"below 1. Received dropout={dropout}."
            )
        self.num_experts = num_experts
        self.hidden_units = validation.sizes("Experts", "hidden_units", hidden_units)
        self.activation = keras.activations.get(activation)
        self.dropout = dropout
        self.layer_norm = layer_norm
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.last_activation = None
        if last_activation is not None:
            self.last_activation = keras.activations.get(last_activation)

    def build(self, input_shape: Any) -> None:
        if len(input_shape) not in (2, 3) or (
            len(input_shape) == 3 and input_shape[1] != self.num_experts
        ):
            raise ValueError(
                "Experts take inputs of shape (batch, features), or (batch, "
                f"{self.num_experts}, features) with one input for each expert. Received "
                f"shape {tuple(input_shape)}."
            )
        if len(input_shape) == 2 and not self.hidden_units:
            raise ValueError(
                "Experts that share an input need a layer each. Received hidden_units=()."
            )
        self.kernels, self.biases, self.scales, self.offsets, self.dropouts = [], [], [], [], []
        inputs = input_shape[-1]
        for i, units in enumerate(self.hidden_units):
            self.kernels.append(
                self.add_weight(
                    name=f"kernel_{i}",
                    shape=(self.num_experts, inputs, units),
                    initializer=PerMember(self.kernel_initializer, salt=i),
                )
            )
            self.biases.append(self._add_vectors(f"bias_{i}", units, "zeros"))
            if self.layer_norm:
                self.scales.append(self._add_vectors(f"scale_{i}", units, "ones"))
                self.offsets.append(self._add_vectors(f"offset_{i}", units, "zeros"))
            if self.dropout:
                self.dropouts.append(Dropout(self.dropout, dtype=self.dtype_policy))
            inputs = units

    def _add_vectors(self, name: str, units: int, initializer: str) -> Any:
        return self.add_weight(name=name, shape=(self.num_experts, units), initializer=initializer)

    def call(self, inputs: Any, chosen: Any = None, training: bool = False) -> Any:
        if chosen is not None and len(chosen.shape) == 2:
            return self.through(Slots.of(inputs, chosen, self.num_experts), training).gather()
        layers = self._weights_by_layer()
        if chosen is None:
            return self._all(inputs, layers, self.num_experts, training)
        layers = [[ops.take(w, chosen, axis=0) for w in weights] for weights in layers]
        return self._all(inputs, layers, chosen.shape[0], training)

    def _weights_by_layer(self) -> list[Any]:
        """A list of the layers' weights: kernel, bias, and those of the norm."""
        norms = (self.scales, self.offsets) if self.layer_norm else ()
        return list(zip(self.kernels, self.biases, *norms, strict=True))

    def _all(self, inputs: Tensor, layers: list[Any], num: int, training: bool) -> Tensor:
        """Every row through `num` experts, whose weights are `layers`."""
        first = layers[0][0].shape[1:] if layers else ()
        if is_unrolled(num, first, training):
            layers = [[ops.unstack(w, num) for w in weights] for weights in layers]
            outputs = []
            for e, hidden in enumerate(apart(inputs, num)):
                for i, weights in enumerate(layers):
                    kernel, bias, *norm = (w[e] for w in weights)
                    hidden = add_bias(ops.matmul(hidden, kernel), bias)
                    hidden = self._finish(i, hidden, *norm, training=training)
                outputs.append(hidden)
            return ops.stack(outputs, axis=1)
        # All at once, experts first; what has no axis for examples gets one.
        hidden = inputs if len(inputs.shape) == 2 else ops.transpose(inputs, (1, 0, 2))
        for i, (kernel, bias, *norm) in enumerate(layers):
            norm = [w[:, None] for w in norm]
            hidden = self._finish(i, affine(hidden, kernel, bias), *norm, training=training)
        return ops.transpose(hidden, (1, 0, 2))

    def through(
        self, slots: Slots, training: bool = False, gates: Sequence[Tensor] | None = None
    ) -> Slots:
        """Pairs through the layers of their experts.

        Args:
            slots: `Slots`.
            training: bool.
            gates: for each layer `(b, k, u)` what its outputs are multiplied by, or None.
        """
        for i, (kernel, bias, *norm) in enumerate(self._weights_by_layer()):
            finish = functools.partial(self._finish, i, training=training)
            slots = slots.matmul(kernel).add(bias).map(finish, *norm)
            if gates is not None:
                slots = slots.refill(slots.gather() * gates[i])
        return slots

    def gated(self, inputs: Tensor, gates: Sequence[Tensor], training: bool = False) -> Tensor:
        """Every expert's own input through its layers, whose outputs are multiplied.

        Args:
            inputs: `(b, e, f)`.
            gates: for each layer `(b, e, u)`.
            training: bool.

        Returns:
            `(b, e, u)`.
        """
        hidden = ops.transpose(inputs, (1, 0, 2))
        layers = zip(self._weights_by_layer(), gates, strict=True)
        for i, ((kernel, bias, *norm), gate) in enumerate(layers):
            norm = [w[:, None] for w in norm]
            hidden = self._finish(i, affine(hidden, kernel, bias), *norm, training=training)
            hidden = hidden * ops.transpose(gate, (1, 0, 2))
        return ops.transpose(hidden, (1, 0, 2))

    def _finish(self, i: int, hidden: Tensor, *norm: Tensor, training: bool) -> Tensor:
        """What follows matmul and bias of layer `i`.

        Args:
            i: int.
            hidden: `(b, u)`, or `(e, b, u)` with `e` experts or blocks.
            norm: scale and offset `(u,)` or `(e, 1, u)`, if there is a norm.
            training: bool.
        """
        if norm:
            hidden = normalize(hidden) * norm[0] + norm[1]
        is_last = i == len(self.hidden_units) - 1
        activation = self.last_activation if is_last and self.last_activation else self.activation
        hidden = activated(activation, hidden)
        if self.dropout:
            hidden = self.dropouts[i](hidden, training=training)
        return hidden

    def copy_from(self, other: Any, expert_ids: Sequence[int] | None = None) -> None:
        """Takes over the weights of all or some of other experts, given by index."""
        copy_weights(other, self, expert_ids)

    def compute_output_shape(self, input_shape: Any) -> Any:
        units = self.hidden_units[-1] if self.hidden_units else input_shape[-1]
        return (input_shape[0], self.num_experts, units)

    def compute_output_spec(self, inputs: Any, chosen: Any = None, training: bool = False) -> Any:
        batch, num, units = self.compute_output_shape(inputs.shape)
        num = num if chosen is None else chosen.shape[-1]
        return keras.KerasTensor((batch, num, units), dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "hidden_units": list(self.hidden_units),
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "layer_norm": self.layer_norm,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "last_activation": self.last_activation
            and keras.activations.serialize(self.last_activation),
        }


def normalize(hidden: Any) -> Any:
    """Mean 0 and variance 1 over the last axis, computed at least in float32.

    Not `ops.layer_normalization`, which takes the mean away last, as `x / s - mean / s`, and so
    loses digits where the mean is large beside the deviation `s`: at 10 and 0.1 it was 1.8e-5 off,
    this 1.1e-5, and each from the other 0.8e-5.
    """
    exact = ops.cast(hidden, keras.backend.result_type(hidden.dtype, "float32"))
    mean, variance = ops.moments(exact, axes=-1, keepdims=True)
    return ops.cast((exact - mean) * ops.rsqrt(variance + 1e-3), hidden.dtype)
