"""Sub-networks whose connections are learned, and switched off one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute.initializers import PerMember, reseeded
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Activation, Initializer, Shape, Tensor
from tfmoe.experts.mlp import Experts
from tfmoe.gates.output import GateOutput
from tfmoe.structures.recipes import PERCEPTRONS
from tfmoe.structures.streams import Streams

#: The hard concrete distribution's stretch and temperature.
LOW, HIGH, BETA = -0.1, 1.1, 2 / 3


@registered
class SNR(Streams):
    r"""Sub-network routing: layers of sub-networks, and between them connections that may close.

        input_j = sum_i z_ij W_ij output_i

    for each sub-network `j` of the next layer, and at last for each task. The `z` are between 0
    and 1, drawn once a step in training from a hard concrete distribution of which a learned
    `log_alpha` says how likely 0 is; at inference they are what it gives without a draw. `penalty`
    times the expected number of open connections is added to the loss.

    Args:
        num_tasks: int >= 1, or None to take it from the model that holds it.
        num_subnetworks: int >= 1, sub-networks of each layer.
        hidden_units: sequence of int >= 1, units of a sub-network of each layer; the last is
            `u`, also of what a task gets.
        kind: `"transform"`, with a matrix `W_ij` a connection; or `"average"`, without, for
            layers of one size.
        penalty: float >= 0, for each connection that is likely to be open.
        activation, dropout, layer_norm, kernel_initializer: of the sub-networks, see `Experts`.
        num_streams, task_ids: made by `extract`, which keeps all sub-networks, because each
            task may read them all, and emits those of its tasks.

    Call arguments:
        inputs: float tensor `(b, f)`.
        task: int tensor `(b,)`, the task of each row, or None where a row has them all. All
            tasks are computed for it.
        context: ignored.
        training: bool; draws the `z`, unless the layer is frozen.
        return_aux: bool; if True, also return an empty list: there is no gate.

    Returns:
        Float tensor `(b, t, u)`, or `(b, 1, u)` with `task`; with `return_aux` a pair.

    Raises:
        ValueError: if a count is too small, `kind` is unknown, sizes differ where connections
            have no matrix, or inputs have another rank.

    Example:

    >>> SNR(num_tasks=2, hidden_units=(16, 8))(np.ones((3, 5))).shape
    TensorShape([3, 2, 8])

    Source: Ma et al., 2019, https://doi.org/10.1609/aaai.v33i01.3301216; hard concrete: Louizos et
    al., 2018, https://arxiv.org/abs/1712.01312. The paper leaves the start open: `log_alpha` starts
    at 2, with which connections are open at inference by 0.96 and seldom closed in a draw, and
    matrices are drawn smaller by the root of the number of sub-networks, whose outputs are added
    up. With `kind="average"` sums grow with that number in each layer: normalise them, or take few.
    """

    def __init__(
        self,
        num_tasks: int | None = None,
        num_subnetworks: int = 4,
        hidden_units: Sequence[int] = (256, 128),
        kind: Literal["transform", "average"] = "transform",
        penalty: float = 1e-4,
        activation: Activation = "relu",
        dropout: float = 0.0,
        layer_norm: bool = False,
        kernel_initializer: Initializer = "glorot_uniform",
        num_streams: int | None = None,
        task_ids: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_tasks, num_streams, task_ids, **kwargs)
        self.num_subnetworks = validation.integer("SNR", "num_subnetworks", num_subnetworks, 1)
        recipe = Experts(
            1, hidden_units, activation, dropout, layer_norm, kernel_initializer, dtype="float32"
        )
        self.hidden_units = recipe.hidden_units
        if kind not in ("transform", "average"):
            raise ValueError(f'SNR takes `kind` "transform" or "average". Received kind={kind!r}.')
        if kind == "average" and len(set(self.hidden_units)) > 1:
            raise ValueError(
                'SNR with kind="average" adds outputs up as they are, so all layers need one '
                f'size. Received hidden_units={self.hidden_units}. Use kind="transform".'
            )
        if not penalty >= 0:
            raise ValueError(
                f"SNR takes `penalty` as a number of at least 0. Received penalty={penalty!r}."
            )
        self.kind, self.penalty = kind, float(penalty)
        self._options = recipe.get_config()
        self._initializer = keras.initializers.get(kernel_initializer)
        self.layers: list[Experts] = []
        self.log_alphas: list[Any] = []
        self.transforms: list[Any] = []
        self.seed_generator = keras.random.SeedGenerator()

    def build_streams(self, input_shape: Shape) -> None:
        num = self.num_subnetworks
        options = {name: self._options[name] for name in PERCEPTRONS[1:]}
        for i, units in enumerate(self.hidden_units):
            layer = Experts(
                num, (units,), **reseeded(options, i), dtype=self.dtype_policy, name=f"layer_{i}"
            )
            layer.build(input_shape if i == 0 else (None, num, units))
            self.layers.append(layer)
            is_last = i == len(self.hidden_units) - 1
            following = self.num_streams if is_last else num
            size = units if is_last else self.hidden_units[i + 1]
            self.log_alphas.append(
                self.add_weight(
                    name=f"log_alpha_{i}",
                    shape=(num, following),
                    initializer=keras.initializers.Constant(2.0),
                    autocast=False,
                )
            )
            if self.kind == "transform":
                self.transforms.append(
                    self.add_weight(
                        name=f"transform_{i}",
                        shape=(num * following, units, size),
                        # What follows adds up those of all sub-networks.
                        initializer=PerMember(
                            self._initializer, i + len(self.hidden_units), 1 / math.sqrt(num)
                        ),
                    )
                )

    def streams(
        self, inputs: Tensor, task: Tensor | None, ids: Tensor | None, training: bool
    ) -> tuple[Tensor, list[GateOutput]]:
        draws = training and self.trainable
        hidden = inputs
        for i, layer in enumerate(self.layers):
            hidden = layer(hidden, training=training)
            scores = ops.convert_to_tensor(self.log_alphas[i])
            if draws and self.penalty:
                shift = BETA * math.log(-LOW / HIGH)
                self.add_loss(self.penalty * ops.sum(ops.sigmoid(scores - shift)))
            z = ops.cast(self._opened(scores, draws), hidden.dtype)
            if self.kind == "average":
                hidden = ops.einsum("bif,ij->bjf", hidden, z)
            else:
                num, following = z.shape
                kernels = ops.reshape(
                    ops.cast(self.transforms[i], hidden.dtype),
                    (num, following, *self.transforms[i].shape[1:]),
                )
                hidden = ops.einsum("bif,ijfg->bjg", hidden, kernels * z[:, :, None, None])
        return hidden, []

    def _opened(self, scores: Tensor, draws: bool) -> Tensor:
        """How far each connection is open, from 0 to 1."""
        if draws:
            uniform = keras.random.uniform(
                scores.shape, 1e-6, 1 - 1e-6, dtype=scores.dtype, seed=self.seed_generator
            )
            scores = (ops.log(uniform) - ops.log(1 - uniform) + scores) / BETA
        return ops.clip(ops.sigmoid(scores) * (HIGH - LOW) + LOW, 0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **{name: self._options[name] for name in PERCEPTRONS},
            "num_subnetworks": self.num_subnetworks,
            "kind": self.kind,
            "penalty": self.penalty,
        }
