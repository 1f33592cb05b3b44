"""The simplest sharing: one network for all tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from tfmoe import validation
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Activation, Initializer, Shape, Tensor
from tfmoe.experts.mlp import Experts
from tfmoe.gates.output import GateOutput
from tfmoe.structures.recipes import PERCEPTRONS
from tfmoe.structures.specified import Specified


@registered
class SharedBottom(Specified):
    r"""One network whose output every task's tower reads.

        output[b, t] = network(inputs)[b]    for every t

    Args:
        num_tasks: int >= 1, or None to take it from the model that holds it.
        hidden_units: sequence of int >= 1, units of the layers; the last is `u`.
        activation, dropout, layer_norm, kernel_initializer: see `Experts`.

    Call arguments:
        inputs: float tensor `(b, f)`.
        task: int tensor `(b,)`, the task of each row, or None where a row has them all.
        training: bool, for the dropout.
        context: ignored.
        return_aux: bool; if True, also return an empty list: there is no gate.

    Returns:
        Float tensor `(b, t, u)`, or `(b, 1, u)` with `task`; with `return_aux` a pair.

    Raises:
        ValueError: if a count is too small, or `dropout` is outside [0, 1).

    Example:

    >>> SharedBottom(num_tasks=2, hidden_units=(16, 8))(np.ones((3, 5))).shape
    TensorShape([3, 2, 8])

    Source: Caruana, 1997, https://doi.org/10.1023/A:1007379606734.
    """

    only_copies = True

    def __init__(
        self,
        num_tasks: int | None = None,
        hidden_units: Sequence[int] = (256, 128),
        activation: Activation = "relu",
        dropout: float = 0.0,
        layer_norm: bool = False,
        kernel_initializer: Initializer = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_tasks, **kwargs)
        self.bottom = Experts(
            1,
            hidden_units,
            activation,
            dropout,
            layer_norm,
            kernel_initializer,
            dtype=self.dtype_policy,
            name="bottom",
        )

    def build(self, input_shape: Shape) -> None:
        validation.check_known(self, "num_tasks")
        self.bottom.build(input_shape)

    def call(
        self,
        inputs: Tensor,
        task: Tensor | None = None,
        context: dict[str, Tensor] | None = None,
        training: bool = False,
        return_aux: bool = False,
    ) -> Tensor | tuple[Tensor, list[GateOutput]]:
        outputs = self.bottom(inputs, training=training)
        if task is None:
            outputs = ops.repeat(outputs, self.num_tasks, axis=1)
        return (outputs, []) if return_aux else outputs

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, _, units = self.bottom.compute_output_shape(input_shape)
        return (batch, self.num_tasks, units)

    def shared_point(self) -> str:
        return "outputs"

    def extended(self, like: Sequence[int], routing: str) -> dict[str, Any]:
        return self.select([])

    def freeze(self) -> None:
        self.bottom.trainable = False

    def get_config(self) -> dict[str, Any]:
        config = self.bottom.get_config()
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            **{name: config[name] for name in PERCEPTRONS},
        }
