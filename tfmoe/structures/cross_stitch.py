"""A network for each task, whose layers are mixed with those of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from tfmoe.compute.initializers import reseeded
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Activation, Initializer, Shape, Tensor
from tfmoe.experts.mlp import Experts
from tfmoe.gates.output import GateOutput
from tfmoe.structures.recipes import PERCEPTRONS
from tfmoe.structures.streams import Streams


@registered
class CrossStitch(Streams):
    r"""Cross-stitch networks: one network a task, and after each layer a learned linear mix.

        x_t = sum_s alpha[t, s] layer_s(x_s)

    in each layer; in the first all `x_s` are the inputs. The matrices `alpha`, one a layer, start
    with `self_weight` on the diagonal, and the rest of 1 spread over the other tasks.

    Args:
        num_tasks: int >= 1, or None to take it from the model that holds it.
        hidden_units: sequence of int >= 1, units of each task's layers; the last is `u`.
        self_weight: float, what a task's own layer starts with.
        activation, dropout, layer_norm, kernel_initializer: of the layers, see `Experts`.
        num_streams, task_ids: made by `extract`, which keeps all networks, because each task
            reads them all, and emits those of its tasks.

    Call arguments:
        inputs: float tensor `(b, f)`.
        task: int tensor `(b,)`, the task of each row, or None where a row has them all. All
            networks are computed for it.
        context: ignored.
        training: bool, for the dropout.
        return_aux: bool; if True, also return an empty list: there is no gate.

    Returns:
        Float tensor `(b, t, u)`, or `(b, 1, u)` with `task`; with `return_aux` a pair.

    Raises:
        ValueError: if a count is too small, or inputs have another rank.

    Example:

    >>> CrossStitch(num_tasks=2, hidden_units=(16, 8))(np.ones((3, 5))).shape
    TensorShape([3, 2, 8])

    Source: Misra et al., 2016, https://arxiv.org/abs/1604.03539. Differs from it in layers of
    equal size that start apart, instead of two trained networks.
    """

    def __init__(
        self,
        num_tasks: int | None = None,
        hidden_units: Sequence[int] = (256, 128),
        self_weight: float = 0.9,
        activation: Activation = "relu",
        dropout: float = 0.0,
        layer_norm: bool = False,
        kernel_initializer: Initializer = "glorot_uniform",
        num_streams: int | None = None,
        task_ids: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_tasks, num_streams, task_ids, **kwargs)
        recipe = Experts(
            1, hidden_units, activation, dropout, layer_norm, kernel_initializer, dtype="float32"
        )
        self.hidden_units, self.self_weight = recipe.hidden_units, float(self_weight)
        self._options = recipe.get_config()
        self.layers: list[Experts] = []
        self.stitches: list[Any] = []

    def build_streams(self, input_shape: Shape) -> None:
        num, size = self.num_streams, input_shape[-1]
        options = {name: self._options[name] for name in PERCEPTRONS[1:]}
        rest = (1 - self.self_weight) / max(num - 1, 1)
        start = np.full((num, num), rest) + np.eye(num) * (self.self_weight - rest)
        for i, units in enumerate(self.hidden_units):
            layer = Experts(
                num, (units,), **reseeded(options, i), dtype=self.dtype_policy, name=f"layer_{i}"
            )
            layer.build((None, size) if i == 0 else (None, num, size))
            self.layers.append(layer)
            self.stitches.append(
                self.add_weight(
                    name=f"stitch_{i}",
                    shape=(num, num),
                    initializer=lambda shape, dtype: ops.convert_to_tensor(start, dtype),
                )
            )
            size = units

    def streams(
        self, inputs: Tensor, task: Tensor | None, ids: Tensor | None, training: bool
    ) -> tuple[Tensor, list[GateOutput]]:
        hidden = inputs
        for layer, stitch in zip(self.layers, self.stitches, strict=True):
            outputs = layer(hidden, training=training)
            hidden = ops.matmul(ops.cast(stitch, outputs.dtype), outputs)
        return hidden, []

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **{name: self._options[name] for name in PERCEPTRONS},
            "self_weight": self.self_weight,
        }
