"""The row's vector crossed with itself."""

from __future__ import annotations

from typing import Any

import keras

from tfmoe import validation
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Shape, Tensor


@registered
class Cross(keras.layers.Layer):
    r"""Cross layers of DCN-v2, one after the other.

        x_{l+1} = x_0 * (W_l x_l + b_l) + x_l

    They are `keras_rs.layers.FeatureCross`, of the extra `tfmoe[rs]`.

    Args:
        num_layers: int >= 1.
        projection_dim: int >= 1 or None; with a number `W_l` has that rank.

    Call arguments:
        inputs: float tensor `(b, f)`, `x_0`.

    Returns:
        Float tensor `(b, f)`.

    Raises:
        ValueError: if a number is too small.
        ImportError: if keras_rs is not installed.

    Source: Wang et al., 2020, https://arxiv.org/abs/2008.13535.
    """

    def __init__(
        self, num_layers: int = 2, projection_dim: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_layers = validation.integer("Cross", "num_layers", num_layers, 1)
        self.projection_dim = validation.integer(
            "Cross", "projection_dim", projection_dim, 1, optional=True
        )

    def build(self, input_shape: Shape) -> None:
        try:
            import keras_rs
        except ImportError as error:
            raise ImportError(
                "Cross is made of keras_rs's layers, which are not installed. Install them: "
                'pip install "tfmoe[rs]".'
            ) from error
        self.crosses = [
            keras_rs.layers.FeatureCross(
                projection_dim=self.projection_dim, dtype=self.dtype_policy, name=f"cross_{i}"
            )
            for i in range(self.num_layers)
        ]
        for cross in self.crosses:
            cross.build(input_shape)
            # It leaves the layers inside for its first call, when optimizers are built already.
            if self.projection_dim is None:
                cross.dense.build(input_shape)
            else:
                cross.down_proj_dense.build(input_shape)
                cross.dense.build((*input_shape[:-1], self.projection_dim))

    def call(self, inputs: Tensor) -> Tensor:
        crossed = inputs
        for cross in self.crosses:
            crossed = cross(inputs, crossed)
        return crossed

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "projection_dim": self.projection_dim,
        }
