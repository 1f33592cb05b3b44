"""Ready Keras layers as experts."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfmoe.compute import nested
from tfmoe.compute.registered import registered
from tfmoe.compute.weights import copy_weights
from tfmoe.keras_private import flatten_layers


@registered
class GivenExperts(keras.layers.Layer):
    """Ready layers side by side, as experts.

    Args:
        layers: sequence of Keras layers `(b, ...) -> (b, u)`, used as they are: weights,
            `trainable` and all.

    Call arguments:
        inputs: tensor `(b, ...)`.

    Returns:
        Tensor `(b, e, u)`.
    """

    def __init__(self, layers: Sequence[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        layers = [nested.given(layer) for layer in layers]
        strangers = [layer for layer in layers if not isinstance(layer, keras.layers.Layer)]
        if strangers or len({id(layer) for layer in layers}) < len(layers):
            raise ValueError(
                f"`experts` are different Keras layers, one an expert. Received experts={layers!r}."
            )
        self.layers = layers
        # As they came: a layer's config says more once it is built.
        self._layer_configs = [nested.config_of(layer) for layer in layers]

    def build(self, input_shape: Any) -> None:
        shapes = [self._shape_of(layer, input_shape) for layer in self.layers]
        if len(set(shapes)) > 1 or len(shapes[0]) != 2:
            raise ValueError(
                "`experts` map the input to (batch, units), with the same units each. "
                f"Received experts that map {tuple(input_shape)} to {shapes}."
            )

        self._units = shapes[0][-1]

    def _shape_of(self, layer: Any, input_shape: Any) -> tuple[Any, ...]:
        """What a layer makes of inputs of a shape; builds it, and the layers inside it."""
        if layer.built:
            # Not every layer says so by itself.
            with contextlib.suppress(NotImplementedError):
                return tuple(layer.compute_output_shape(input_shape))
        return tuple(layer(keras.KerasTensor(input_shape, dtype=self.compute_dtype)).shape)

    def adopt(self, original: GivenExperts) -> None:
        """Takes over weights, and what is frozen, from the layers these are copies of."""
        for ours, theirs in zip(self.layers, original.layers, strict=True):
            if theirs.built:
                ours.set_weights(theirs.get_weights())
            # A layer takes those within it along, which come later.
            pairs = zip(flatten_layers(ours), flatten_layers(theirs), strict=False)
            for own, given in pairs:
                if own.trainable != given.trainable:
                    own.trainable = given.trainable

    def copy_from(self, other: Any, expert_ids: Sequence[int] | None = None) -> None:
        """Takes over the weights of all or some of other experts, given by index."""
        ids = range(len(other.layers)) if expert_ids is None else expert_ids
        for ours, e in zip(self.layers, ids, strict=True):
            copy_weights(other.layers[e], ours)

    def call(self, inputs: Any) -> Any:
        # Layers keep the precision they were made with.
        outputs = [ops.cast(layer(inputs), self.compute_dtype) for layer in self.layers]
        return ops.stack(outputs, axis=1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        if not self.built:
            self.build(input_shape)
        return (input_shape[0], len(self.layers), self._units)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "layers": self._layer_configs}
