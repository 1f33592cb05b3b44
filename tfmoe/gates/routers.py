"""Routers: what a gate may see, turned into raw scores `(b, t, s)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute import dispatch
from tfmoe.compute.initializers import member_initializer
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Initializer, Shape, Tensor


class ScoreSpec(NamedTuple):
    """Some of one task's scores, which start alike: what a gate asks of its router.

    Attributes:
        size: int, how many scores.
        kernel: Keras initializer of the weights that make them from the input.
        bias: Keras initializer of their bias, or None for no bias.
        static: Keras initializer of the scores themselves where there is no input.
    """

    size: int
    kernel: Initializer = "lecun_normal"
    bias: Initializer | None = None
    static: Initializer = "random_uniform"


def _side_by_side(parts, num_tasks, which):
    """Initializer of `(n, t * s)`: each part drawn alone, then put side by side."""

    def draw(shape, dtype=None):
        drawn = []
        for index, part in enumerate(parts):
            initializer = keras.initializers.get(getattr(part, which) or "zeros")
            # Kernel, bias and static scores may be given one and the same initializer.
            initializer = member_initializer(initializer, index, salt=len(which))
            values = initializer((shape[0], num_tasks * part.size), dtype=dtype)
            drawn.append(ops.reshape(values, (shape[0], num_tasks, part.size)))
        return ops.reshape(ops.concatenate(drawn, axis=-1), shape)

    return draw


def add_score_weights(
    layer: keras.layers.Layer, size: int, parts: Sequence[ScoreSpec], num_tasks: int
) -> tuple[Any, Any]:
    """Adds to a layer what makes scores: kernel `(size, t * s)`, bias `(t * s,)` or None."""
    width = num_tasks * sum(part.size for part in parts)
    # Two axes, not three: with `(f, t, s)` an initializer would count `f * t` inputs per
    # output and start the gate too flat.
    kernel = layer.add_weight(
        name="kernel",
        shape=(size, width),
        initializer=_side_by_side(parts, num_tasks, "kernel"),
        autocast=False,
    )
    if all(part.bias is None for part in parts):
        return kernel, None
    draw = _side_by_side(parts, num_tasks, "bias")
    bias = layer.add_weight(
        name="bias",
        shape=(width,),
        initializer=lambda shape, dtype=None: draw((1, *shape), dtype)[0],
        autocast=False,
    )
    return kernel, bias


class ScoreHead(keras.layers.Layer):
    """`(b, f)` to scores `(b, t, s)`: one matmul for all tasks, in float32.

    Half precision would overflow in the sum over features that softmax then
    exponentiates, and scores that differ by less than a few thousandths would tie: so the
    weights are not rounded to it either.

    Args:
        num_tasks: int >= 1.
        parts: list of `ScoreSpec`.
        static: bool; if True there is no input and the scores are `(1, t, s)`.

    Call arguments:
        inputs: float tensor `(b, f)`.
        task: int32 `(b,)` or None; with it only the scores of each row's own task are
            made, `(b, 1, s)`.
    """

    def __init__(
        self,
        num_tasks: int,
        parts: Sequence[ScoreSpec],
        static: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_tasks, self.parts, self.static = num_tasks, parts, static
        self.num_scores = sum(part.size for part in parts)

    def build(self, input_shape: Shape) -> None:
        width = self.num_tasks * self.num_scores
        if self.static:
            # One row, so that the parts are laid out as in a kernel.
            self.scores = self.add_weight(
                name="scores",
                shape=(1, width),
                initializer=_side_by_side(self.parts, self.num_tasks, "static"),
                autocast=False,
            )
            return
        self.kernel, self.bias = add_score_weights(
            self, input_shape[-1], self.parts, self.num_tasks
        )

    def call(self, inputs: Tensor, task: Tensor | None = None) -> Tensor:
        exact = keras.backend.result_type(self.compute_dtype, "float32")
        if self.static:
            return self._of_tasks(ops.cast(self.scores, exact), task)
        inputs, kernel = ops.cast(inputs, exact), ops.cast(self.kernel, exact)
        one = task is not None and self.num_tasks > 1
        scores = self._own(inputs, kernel, task) if one else self._all(inputs, kernel)
        return scores if self.bias is None else scores + self._of_tasks(self.bias, task)

    def _all(self, inputs, kernel):
        scores = ops.matmul(inputs, kernel)
        return ops.reshape(scores, (-1, self.num_tasks, self.num_scores))

    def _own(self, inputs, kernel, task):
        """Scores `(b, 1, s)` of each row's own task."""
        num, features = self.num_tasks, kernel.shape[0]
        if not dispatch.pays(1, num, features * self.num_scores, certain=True):
            return ops.take_along_axis(self._all(inputs, kernel), task[:, None, None], axis=1)
        kernels = ops.reshape(kernel, (features, num, self.num_scores))
        slots = dispatch.Slots.of(inputs, task[:, None], num)
        return slots.matmul(ops.transpose(kernels, (1, 0, 2))).gather()

    def _of_tasks(self, values, task):
        """What all examples share: `(1, t, s)`, or `(b, 1, s)` for the rows' tasks."""
        exact = keras.backend.result_type(self.compute_dtype, "float32")
        values = ops.reshape(ops.cast(values, exact), (self.num_tasks, self.num_scores))
        return values[None] if task is None else ops.take(values, task, axis=0)[:, None]


@registered
class MLPRouter(keras.layers.Layer):
    """Makes a gate's scores with a small network that all tasks share up to its head.

    Pass it to a gate: `DSelectKGate(router=MLPRouter((64,)))`.

    Args:
        hidden_units: sequence of int >= 1, units of the hidden layers.
        activation: Keras activation of the hidden layers.
        kernel_initializer: Keras initializer of the hidden layers.

    Call arguments:
        inputs: float tensor `(b, f)`.

    Returns:
        Float tensor `(b, hidden_units[-1])`, from which the gate's head makes scores.
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (64,),
        activation: Any = "relu",
        kernel_initializer: Initializer = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_units = validation.sizes("MLPRouter", "hidden_units", hidden_units)
        if not self.hidden_units:
            raise ValueError(
                "MLPRouter needs at least one hidden layer. Received hidden_units=(). "
                'For none use router="linear".'
            )
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.layers = [
            keras.layers.Dense(
                units,
                activation=self.activation,
                kernel_initializer=member_initializer(self.kernel_initializer, salt=i),
                dtype=self.dtype_policy,
                name=f"hidden_{i}",
            )
            for i, units in enumerate(self.hidden_units)
        ]

    def build(self, input_shape: Shape) -> None:
        for layer in self.layers:
            layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)

    def call(self, inputs: Tensor) -> Tensor:
        for layer in self.layers:
            inputs = layer(inputs)
        return inputs

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.hidden_units[-1])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "hidden_units": list(self.hidden_units),
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
