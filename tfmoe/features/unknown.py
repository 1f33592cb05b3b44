"""Known values that count as unknown at times, so that the unknown one is trained."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Shape, Tensor
from tfmoe.schema.columns import FIRST_ID, UNKNOWN_ID


@registered
class UnknownIds(keras.layers.Layer):
    """Puts the unknown id in the place of known ids at random, in training; see `Categorical`.

    Args:
        rate: float in [0, 1], with what probability.
        seed: int or None, of the draws.

    Call arguments:
        ids: int tensor of any shape. Ids below 3, padding and the missing one among them, stay.
        training: bool. Nothing is drawn without, or where the layer is frozen.

    Returns:
        Int tensor of the same shape.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = validation.number("UnknownIds", "rate", rate, least=0, most=1)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, ids: Tensor, training: bool = False) -> Tensor:
        if not training or not self.trainable:
            return ids
        drawn = keras.random.uniform(ops.shape(ids), seed=self.seed_generator)
        chosen = ops.logical_and(drawn < self.rate, ids >= FIRST_ID)
        return ops.where(chosen, ops.full_like(ids, UNKNOWN_ID), ids)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
