"""The towers' hidden layers weighed by whom a row is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute.dense import batched_dense
from tfmoe.compute.initializers import PerMember
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Activation, Initializer, Shape, Tensor
from tfmoe.compute.weights import copy_weights
from tfmoe.experts.mlp import Experts


@registered
class PPNet(keras.layers.Layer):
    r"""Weighs the units of every task's tower, between 0 and 2, by the ids that personalise.

        h_tl <- h_tl * 2 sigmoid(MLP([prior; stop_gradient(x)]))_tl

    for the hidden layer `l` of task `t`'s tower. With
    `MultiTaskModel(..., tower_gate=PPNet(["user_id", "movie_id"]))` `x` is the encoded row before
    `interactions` and `prior` what these columns have given of it, both as an `EPNet` has weighed
    them, if there is one.

    Args:
        columns: sequence of str, names of columns such as those of user and item.
        hidden_units: sequence of int >= 1, at least one: units of the MLP's hidden layers, which
            the tasks share.
        activation, kernel_initializer: see `Experts`.
        num_tasks, tower_units: how many towers there are, and the units of their hidden layers;
            None to take both from the model.

    Call arguments:
        inputs: float tensor `(b, f)`, `x`.
        prior: float tensor `(b, p)`.

    Returns:
        List of float tensors `(b, t, u)`, one for each hidden layer of the towers.

    Raises:
        ValueError: if there are no columns, a size is too small, or towers have no hidden layer.

    Source: Chang et al., 2023, https://arxiv.org/abs/2302.01115. Differs from it in that the prior
    is weighed by the `EPNet` too.
    """

    def __init__(
        self,
        columns: Sequence[str],
        hidden_units: Sequence[int] = (64,),
        activation: Activation = "relu",
        kernel_initializer: Initializer = "glorot_uniform",
        num_tasks: int | None = None,
        tower_units: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        names = [columns] if isinstance(columns, str) else list(columns)
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(
                "PPNet takes the names of columns that personalise, such as those of user and "
                f"item. Received columns={columns!r}."
            )
        self.columns = tuple(names)
        self.hidden_units = validation.sizes("PPNet", "hidden_units", hidden_units)
        if not self.hidden_units:
            raise ValueError("PPNet needs at least one hidden layer. Received hidden_units=().")
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.num_tasks: Any = validation.integer("PPNet", "num_tasks", num_tasks, 1, optional=True)
        self.tower_units: Any = None
        if tower_units is not None:
            self.tower_units = validation.sizes("PPNet", "tower_units", tower_units)
            if not self.tower_units:
                raise ValueError(
                    "PPNet weighs the hidden layers of towers. Received tower_units=(), towers "
                    "without any. Give them some, or leave PPNet out."
                )

    def build(self, inputs_shape: Shape, prior_shape: Shape) -> None:
        validation.check_known(self, "num_tasks", "tower_units")
        self.hidden = Experts(
            1,
            self.hidden_units,
            self.activation,
            kernel_initializer=self.kernel_initializer,
            dtype=self.dtype_policy,
            name="hidden",
        )
        self.hidden.build((None, inputs_shape[-1] + prior_shape[-1]))
        shape = (self.num_tasks, self.hidden_units[-1], sum(self.tower_units))
        initializer = PerMember(self.kernel_initializer, salt=-1)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=initializer)
        self.bias = self.add_weight(name="bias", shape=shape[::2], initializer="zeros")

    def call(self, inputs: Tensor, prior: Tensor) -> list[Tensor]:
        given = ops.concatenate([prior, ops.stop_gradient(inputs)], axis=-1)
        hidden = ops.repeat(self.hidden(given), self.num_tasks, axis=1)
        scores = ops.stack(batched_dense(hidden, self.kernel, self.bias), axis=1)
        gates, start = [], 0
        for units in self.tower_units:
            gates.append(2 * ops.sigmoid(scores[..., start : start + units]))
            start += units
        return gates

    def copy_from(self, other: PPNet, tasks: Sequence[int]) -> None:
        """Takes over the weights of another, for some of its tasks."""
        copy_weights(other.hidden, self.hidden)
        for name in ("kernel", "bias"):
            values = ops.convert_to_numpy(getattr(other, name))
            getattr(self, name).assign(values[list(tasks)])

    def compute_output_spec(self, inputs: Tensor, prior: Tensor) -> list[Tensor]:
        return [
            keras.KerasTensor((inputs.shape[0], self.num_tasks, units), dtype=self.compute_dtype)
            for units in self.tower_units
        ]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "columns": list(self.columns),
            "hidden_units": list(self.hidden_units),
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "num_tasks": self.num_tasks,
            "tower_units": self.tower_units and list(self.tower_units),
        }
