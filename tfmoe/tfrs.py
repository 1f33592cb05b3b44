"""TensorFlow Recommenders: Keras 3 layers and models inside a `tfrs.Model`.

TensorFlow Recommenders is written for Keras 2 and imports only if the environment variable
`TF_USE_LEGACY_KERAS` is 1 when TensorFlow is first used; `tf.keras` is the package `tf_keras`
then. `import keras` is Keras 3 as before, and tfmoe works beside it, but its layers are no
layers of `tf.keras`: a `tfrs.Model` would not train them. `KerasLayer` makes them such.
"""

from __future__ import annotations

import os
from typing import Any

if os.environ.get("TF_USE_LEGACY_KERAS") not in ("1", "true", "True"):
    raise ImportError(
        "tfmoe.tfrs is for TensorFlow Recommenders, which needs Keras 2. Received "
        f"TF_USE_LEGACY_KERAS={os.environ.get('TF_USE_LEGACY_KERAS')!r}. Set that environment "
        "variable to 1 before the process starts. With Keras 3 alone use tfmoe as it is, and "
        "keras_rs for retrieval."
    )
try:
    import tf_keras
except ImportError as error:
    raise ImportError("tfmoe.tfrs needs more packages: pip install 'tfmoe[tfrs]'.") from error

import keras
import tensorflow as tf


@tf_keras.saving.register_keras_serializable("tfmoe")
class KerasLayer(tf_keras.layers.Layer):
    """A Keras 3 layer or model as a layer of `tf_keras`: trained, saved, exported with it.

    Its weights are the wrapper's, those that are trainable and those that are not; its losses
    (regularizers, a gate's `entropy_reg`) are added to the wrapper's; `training` is passed on.
    A `tfrs.Model` whose optimizer is one of `tf.keras` trains it like its own layers.

    Args:
        layer: Keras 3 layer or model. One that is not built yet is built for the shape of its
            first input.
        name: str, or None for the layer's own with `_of_keras_3` behind.

    Call arguments:
        inputs: the layer's first argument.
        training: bool or None.

    Returns:
        What the layer returns.

    Raises:
        ValueError: if `layer` is no layer of Keras 3.

    Example:

    >>> mixture = KerasLayer(tfmoe.MMoE(num_tasks=2, num_experts=4, hidden_units=(32,)))
    >>> mixture(tf.ones((3, 8))).shape
    TensorShape([3, 2, 32])
    """

    def __init__(self, layer: keras.layers.Layer, name: str | None = None, **kwargs: Any) -> None:
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(
                "KerasLayer takes a layer or model of Keras 3, such as tfmoe.MMoE(...). "
                f"Received layer={layer!r}."
            )
        super().__init__(name=name or f"{layer.name}_of_keras_3", **kwargs)
        # Past `__setattr__`: tf_keras must see the variables, not what holds them.
        object.__setattr__(self, "layer", layer)
        if layer.built:
            self._adopt()

    def build(self, input_shape: Any) -> None:
        if not self.layer.built:
            shape = tf.nest.map_structure(lambda one: tuple(one.as_list()), input_shape)
            with tf.init_scope():
                self.layer.build(shape)
            self._adopt()
        super().build(input_shape)

    def _adopt(self) -> None:
        """Lets checkpoints and SavedModels find the variables."""
        self.values = [variable.value for variable in self.layer.variables]

    @property
    def trainable_weights(self) -> list[tf.Variable]:
        if not self.trainable:
            return []
        return [variable.value for variable in self.layer.trainable_variables]

    @property
    def non_trainable_weights(self) -> list[tf.Variable]:
        trained = {id(weight) for weight in self.trainable_weights}
        values = [variable.value for variable in self.layer.variables]
        return [value for value in values if id(value) not in trained]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        outputs = self.layer(inputs, training=training)
        for loss in self.layer.losses:
            self.add_loss(loss)
        return outputs

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "layer": keras.saving.serialize_keras_object(self.layer)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> KerasLayer:
        return cls(keras.saving.deserialize_keras_object(config.pop("layer")), **config)
