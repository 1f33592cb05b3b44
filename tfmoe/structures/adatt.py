"""Adaptive task-to-task fusion: each task reads all tasks' experts, and its own once more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute import nested
from tfmoe.compute.initializers import reseeded
from tfmoe.compute.math import mix
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Activation, Initializer, Shape, Tensor
from tfmoe.gates.base import Gate
from tfmoe.gates.output import GateOutput
from tfmoe.structures.recipes import PERCEPTRONS, take_recipes
from tfmoe.structures.streams import Streams, gate_streams, specs_of_rows


@registered
class AdaTT(Streams):
    r"""Adaptive task-to-task fusion.

        x_t' = sum_e g_t(x_t)[e] f_e + sum_i v_ti f_ti

    in each level, with the experts `f_e` of all tasks and the shared ones, each of which reads its
    own task's stream, or the shared stream; `f_ti` is the `i`-th own expert of task `t`, and `v_ti`
    a weight that is learned, whatever the input. In the first level all streams are the inputs. The
    shared stream is made as the tasks' are, from a gate of its own and the shared experts as its
    own ones; the last level needs none.

    Args:
        num_tasks: int >= 1, or None to take it from the model that holds it.
        num_levels: int >= 1.
        num_task_experts: int >= 1, `m`, own experts of each task in each level.
        num_shared_experts: int >= 0, shared experts of each level.
        hidden_units: sequence of int >= 1, units of an expert's layers, in every level; the last
            is `u`.
        gate: a gate without `num_tasks` and `num_experts`, a recipe for all gates; None means
            `SoftmaxGate()`. The experts of the first task come first, shared ones last.
        activation, dropout, layer_norm, kernel_initializer: of the experts, see `Experts`.
        num_streams, task_ids: made by `extract`, which keeps all streams, because each task
            reads them all, and emits those of its tasks.

    Call arguments:
        inputs: float tensor `(b, f)`.
        task: int tensor `(b,)`, the task of each row, or None where a row has them all. All
            streams are computed for it.
        context: dict of tensors; `{"ids": int tensor (b,)}` for a `HashGate`, else None.
        training: bool.
        return_aux: bool; if True, also return the gate outputs.

    Returns:
        Float tensor `(b, t, u)`, or `(b, 1, u)` with `task`; with `return_aux` also a list with a
        `GateOutput` of each level's `gate` and, with shared experts, but in the last level, of
        its `shared_gate`.

    Raises:
        ValueError: if a count is too small, `gate` is no gate, or inputs have another rank.

    Example:

    >>> AdaTT(num_tasks=2, hidden_units=(16, 8))(np.ones((3, 5))).shape
    TensorShape([3, 2, 8])

    Source: Li et al., 2023, https://arxiv.org/abs/2304.03838. The `v` start anywhere within
    `1 / sqrt(m)`, and at 1 where each task has one expert.
    """

    def __init__(
        self,
        num_tasks: int | None = None,
        num_levels: int = 2,
        num_task_experts: int = 2,
        num_shared_experts: int = 0,
        hidden_units: Sequence[int] = (256, 128),
        gate: Gate | None = None,
        activation: Activation = "relu",
        dropout: float = 0.0,
        layer_norm: bool = False,
        kernel_initializer: Initializer = "glorot_uniform",
        num_streams: int | None = None,
        task_ids: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_tasks, num_streams, task_ids, **kwargs)
        self.num_levels = validation.integer("AdaTT", "num_levels", num_levels, 1)
        self.num_task_experts = validation.integer("AdaTT", "num_task_experts", num_task_experts, 1)
        self.num_shared_experts = validation.integer(
            "AdaTT", "num_shared_experts", num_shared_experts, 0
        )
        take_recipes(
            self,
            gate,
            hidden_units=hidden_units,
            activation=activation,
            dropout=dropout,
            layer_norm=layer_norm,
            kernel_initializer=kernel_initializer,
        )
        self.levels: list[_Level] = []

    @property
    def gates(self) -> list[Gate]:
        return [gate for level in self.levels for gate in level.gates]

    @property
    def context_columns(self) -> dict[str, str]:
        return {} if self._id_column is None else {"ids": self._id_column}

    def build_streams(self, input_shape: Shape) -> None:
        size = input_shape[-1]
        for i in range(self.num_levels):
            level = _Level(
                self.num_streams,
                self.num_task_experts,
                self.num_shared_experts,
                reseeded(self._experts_config, i),
                reseeded(self._gate_config, 2 * i),
                shares=bool(self.num_shared_experts) and i < self.num_levels - 1,
                dtype=self.dtype_policy,
                name=f"level_{i}",
            )
            level.build((None, size))
            self.levels.append(level)
            size = self.hidden_units[-1]

    def streams(
        self, inputs: Tensor, task: Tensor | None, ids: Tensor | None, training: bool
    ) -> tuple[Tensor, list[GateOutput]]:
        streams = ops.repeat(inputs[:, None], self.num_streams, axis=1)
        shared = inputs if self.num_shared_experts else None
        records: list[GateOutput] = []
        for level in self.levels:
            streams, shared, own = level(streams, shared, task, ids, training=training)
            records += own
        return streams, records

    def gate_specs(
        self, inputs: Tensor, task: Tensor | None, ids: Tensor | None
    ) -> list[GateOutput]:
        records, size = [], inputs.shape[1]
        for level in self.levels:
            seen = keras.KerasTensor((inputs.shape[0], size), dtype=inputs.dtype)
            for gate in level.gates:
                records.append(gate.compute_output_spec(seen, ids=ids, return_aux=True)[1])
            size = self.hidden_units[-1]
        return records if task is None else specs_of_rows(records, inputs.shape[0])

    def get_config(self) -> dict[str, Any]:
        experts = self._experts_config["config"]
        return {
            **super().get_config(),
            "num_levels": self.num_levels,
            "num_task_experts": self.num_task_experts,
            "num_shared_experts": self.num_shared_experts,
            "gate": self._gate_config,
            **{name: experts[name] for name in PERCEPTRONS},
        }


class _Level(keras.layers.Layer):
    """Experts of all tasks, the tasks' gate, and one for the shared stream."""

    shared_gate: Gate | None

    def __init__(
        self,
        num_tasks: int,
        num_own: int,
        num_shared: int,
        experts: dict[str, Any],
        gate: dict[str, Any],
        shares: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_tasks, self.num_own, self.num_shared = num_tasks, num_own, num_shared
        num = num_tasks * num_own + num_shared
        self.experts = nested.filled(experts, "AdaTT", name="experts", num_experts=num)
        counts = {"num_experts": num}
        self.gate = nested.filled(gate, "AdaTT", name="gate", num_tasks=num_tasks, **counts)
        # Not in the class, where torch, which keeps layers apart, would find it first.
        self.shared_gate = None
        if shares:
            recipe = reseeded(gate, 1)
            self.shared_gate = nested.filled(
                recipe, "AdaTT", name="shared_gate", num_tasks=1, **counts
            )

    @property
    def gates(self) -> list[Gate]:
        return [self.gate] if self.shared_gate is None else [self.gate, self.shared_gate]

    def build(self, input_shape: Shape) -> None:
        size = input_shape[-1]
        self.experts.build((None, self.experts.num_experts, size))
        for gate in self.gates:
            gate.build((None, size))
        self.own_weights = self._residual("own_weights", (self.num_tasks, self.num_own))
        if self.shared_gate is not None:
            self.shared_weights = self._residual("shared_weights", (1, self.num_shared))

    def _residual(self, name: str, shape: tuple[int, int]) -> Any:
        limit = shape[1] ** -0.5
        start = "ones" if shape[1] == 1 else keras.initializers.RandomUniform(-limit, limit)
        return self.add_weight(name=name, shape=shape, initializer=start)

    def call(
        self,
        streams: Tensor,
        shared: Tensor | None,
        task: Tensor | None = None,
        ids: Tensor | None = None,
        training: bool = False,
    ) -> tuple[Tensor, Tensor | None, list[GateOutput]]:
        num, m = self.num_tasks, self.num_own
        read = ops.repeat(streams, m, axis=1)
        if shared is not None:
            common = ops.repeat(shared[:, None], self.num_shared, axis=1)
            read = ops.concatenate([read, common], axis=1)
        outputs = self.experts(read, training=training)
        weights, record = gate_streams(self.gate, streams, task, ids, training)
        own = ops.reshape(outputs[:, : num * m], (-1, num, m, outputs.shape[-1]))
        own_weights = ops.cast(self.own_weights, outputs.dtype)[:, :, None]
        mixed = mix(outputs, weights) + ops.sum(own * own_weights, axis=2)
        if self.shared_gate is None:
            return mixed, None, [record]
        of_all, of_shared = self.shared_gate(shared, ids=ids, training=training, return_aux=True)
        own_weights = ops.cast(self.shared_weights, outputs.dtype)[:, :, None]
        common = mix(outputs, of_all)[:, 0] + ops.sum(outputs[:, num * m :] * own_weights, axis=1)
        return mixed, common, [record, of_shared]
