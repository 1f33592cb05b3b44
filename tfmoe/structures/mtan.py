"""One network for all, from whose layers each task picks by attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from tfmoe.compute.initializers import reseeded
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Activation, Initializer, Shape, Tensor
from tfmoe.experts.mlp import Experts
from tfmoe.gates.output import GateOutput
from tfmoe.structures.recipes import PERCEPTRONS
from tfmoe.structures.streams import Streams


@registered
class MTAN(Streams):
    r"""Multi-task attention over a shared trunk.

        s_l = layer_l(s_{l-1})                            the trunk, the same for all tasks
        a_tl = sigmoid(V_tl relu(W_tl [s_l; a_t(l-1)]))    a mask a task and layer
        a_t(l) = a_tl * s_l

    with `s_0` the inputs, and in the first layer no `a_t0`. The outputs are the last `a_t`.

    Args:
        num_tasks: int >= 1, or None to take it from the model that holds it.
        hidden_units: sequence of int >= 1, units of the trunk's layers; the last is `u`.
        attention_units: int >= 1, units between `W` and `V`.
        activation, dropout, layer_norm, kernel_initializer: of the trunk, see `Experts`.
        num_streams, task_ids: made by `extract`, which keeps all masks and emits those of its
            tasks.

    Call arguments:
        inputs: float tensor `(b, f)`.
        task: int tensor `(b,)`, the task of each row, or None where a row has them all. All
            tasks are computed for it.
        context: ignored.
        training: bool, for the dropout.
        return_aux: bool; if True, also return an empty list: there is no gate.

    Returns:
        Float tensor `(b, t, u)`, or `(b, 1, u)` with `task`; with `return_aux` a pair.

    Raises:
        ValueError: if a count is too small, or inputs have another rank.

    Example:

    >>> MTAN(num_tasks=2, hidden_units=(16, 8))(np.ones((3, 5))).shape
    TensorShape([3, 2, 8])

    Source: Liu et al., 2019, https://arxiv.org/abs/1803.10704, whose trunk is convolutional. Here
    layers are dense, and a mask is a perceptron of one hidden layer.
    """

    def __init__(
        self,
        num_tasks: int | None = None,
        hidden_units: Sequence[int] = (256, 128),
        attention_units: int = 32,
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
        self.hidden_units, self._options = recipe.hidden_units, recipe.get_config()
        self.attention_units = attention_units
        options = {name: self._options[name] for name in PERCEPTRONS[1:]}
        self.trunk = [
            Experts(1, (units,), **reseeded(options, i), dtype=self.dtype_policy, name=f"trunk_{i}")
            for i, units in enumerate(self.hidden_units)
        ]
        self.masks: list[Experts] = []

    def build_streams(self, input_shape: Shape) -> None:
        num, last = self.num_streams, 0
        for i, (layer, units) in enumerate(zip(self.trunk, self.hidden_units, strict=True)):
            layer.build(input_shape)
            input_shape = (None, units)
            mask = Experts(
                num,
                (self.attention_units, units),
                kernel_initializer=reseeded(self._options["kernel_initializer"], i + 100),
                last_activation="sigmoid",
                dtype=self.dtype_policy,
                name=f"mask_{i}",
            )
            mask.build((None, units) if i == 0 else (None, num, units + last))
            self.masks.append(mask)
            last = units

    def streams(
        self, inputs: Tensor, task: Tensor | None, ids: Tensor | None, training: bool
    ) -> tuple[Tensor, list[GateOutput]]:
        trunk, attended = inputs, None
        for layer, mask in zip(self.trunk, self.masks, strict=True):
            common = layer(trunk, training=training)
            trunk = common[:, 0]
            seen = trunk
            if attended is not None:
                repeated = ops.repeat(common, self.num_streams, axis=1)
                seen = ops.concatenate([repeated, attended], axis=-1)
            attended = mask(seen, training=training) * common
        return attended, []

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **{name: self._options[name] for name in PERCEPTRONS},
            "attention_units": self.attention_units,
        }
