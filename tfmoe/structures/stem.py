"""Experts of each task's own on embedding tables of its own, which other tasks read only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmoe import validation
from tfmoe.compute import nested
from tfmoe.compute.device import check_tasks
from tfmoe.compute.math import mix
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Activation, Initializer, Shape, Tensor
from tfmoe.gates.base import Gate
from tfmoe.gates.output import GateOutput
from tfmoe.structures.recipes import PERCEPTRONS, take_recipes
from tfmoe.structures.specified import Specified
from tfmoe.structures.streams import gate_streams, of_task


@registered
class STEM(Specified):
    r"""Shared and task-specific embeddings: every task has embedding tables of its own.

        y_t = sum_i c_t[ti] own_ti(x_t) + sum_j c_t[j] shared_j(x_s)
              + sum_{k != t, i} c_t[ki] stop_gradient(own_ki(x_k))

    where `x_t` is the encoding of a row from the tables of task `t`, `x_s` that from the tables
    that all share, and `c_t` a gate that reads `x_t + x_s`. So a task reads the other tasks'
    experts as they are, and what is a task's own, tables and experts, is trained by it alone.

    With `t` tasks a model has `t + 1` embedding tables a column: `t + 1` times the memory of one,
    in the tables and in what an optimizer keeps for them. All experts are computed for every row.

    Args:
        num_tasks: int >= 1, or None to take it from the model that holds it.
        num_task_experts: int >= 1, `m`, own experts of each task.
        num_shared_experts: int >= 1.
        hidden_units: sequence of int >= 1, units of an expert's layers; the last is `u`.
        gate: a gate without `num_tasks` and `num_experts`, a recipe; None means `SoftmaxGate()`.
            The experts of the first task come first, shared ones last.
        activation, dropout, layer_norm, kernel_initializer: of the experts, see `Experts`.
        expert_ids, task_ids, num_trained_tasks: which experts are there, the tasks' numbers when it
            was trained, and how many there were; None for all. `extract` makes such structures.

    Call arguments:
        inputs: float tensor `(b, t + 1, f)`, the encodings of a row, the shared one last;
            `Encoder(..., copies=t + 1)` makes them. After `extract` those of `encodings`.
        task: int tensor `(b,)`, the task of each row, or None where a row has them all.
        context: dict of tensors; `{"ids": int tensor (b,)}` for a `HashGate`, else None.
        training: bool.
        return_aux: bool; if True, also return the gate's output.

    Returns:
        Float tensor `(b, t, u)`, or `(b, 1, u)` with `task`; with `return_aux` also a list with
        the `GateOutput`.

    Raises:
        ValueError: if a count is too small, `gate` is no gate or selects more experts than there
            are, or inputs have another shape.

    Example:

    >>> STEM(num_tasks=2, hidden_units=(16, 8))(np.ones((4, 3, 5))).shape
    TensorShape([4, 2, 8])

    Source: Su et al., 2024, https://arxiv.org/abs/2308.13537. Differs from it in that there is one
    level: the paper's gate of the shared stream, which weighs all experts and stops no gradient,
    makes what a second level would read, and is left out. The gate is linear by default; a
    `router=tfmoe.MLPRouter(...)` makes it deeper.
    """

    input_kind = "copies"

    def __init__(
        self,
        num_tasks: int | None = None,
        num_task_experts: int = 2,
        num_shared_experts: int = 2,
        hidden_units: Sequence[int] = (256, 128),
        gate: Gate | None = None,
        activation: Activation = "relu",
        dropout: float = 0.0,
        layer_norm: bool = False,
        kernel_initializer: Initializer = "glorot_uniform",
        expert_ids: Sequence[int] | None = None,
        task_ids: Sequence[int] | None = None,
        num_trained_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_tasks, **kwargs)
        self.num_task_experts = validation.integer("STEM", "num_task_experts", num_task_experts, 1)
        self.num_shared_experts = validation.integer(
            "STEM", "num_shared_experts", num_shared_experts, 1
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
        self.expert_ids = validation.plain(expert_ids)
        self.task_ids = validation.plain(task_ids)
        self.num_trained_tasks = num_trained_tasks
        self.gate: Any = None

    @property
    def gates(self) -> list[Gate]:
        return [] if self.gate is None else [self.gate]

    @property
    def context_columns(self) -> dict[str, str]:
        return {} if self._id_column is None else {"ids": self._id_column}

    @property
    def _num_own(self) -> int:
        """How many experts of tasks' own there were in training; shared ones come after."""
        return (self.num_trained_tasks or self.num_tasks) * self.num_task_experts

    @property
    def pool(self) -> list[int]:
        """The numbers of the experts that are there."""
        num = self._num_own + self.num_shared_experts
        return list(range(num)) if self.expert_ids is None else list(self.expert_ids)

    @property
    def task_numbers(self) -> list[int]:
        """The tasks' numbers when it was trained."""
        return list(range(self.num_tasks)) if self.task_ids is None else list(self.task_ids)

    @property
    def encodings(self) -> list[int]:
        """The encodings that it reads: tasks' numbers when it was trained, the shared one last."""
        read = {e // self.num_task_experts for e in self.pool if e < self._num_own}
        return [*sorted(read | set(self.task_numbers)), self.num_trained_tasks or self.num_tasks]

    def build(self, input_shape: Shape) -> None:
        validation.check_known(self, "num_tasks")
        pool, encodings = self.pool, self.encodings
        if len(input_shape) != 3 or input_shape[1] != len(encodings):
            raise ValueError(
                f"STEM of {self.num_tasks} tasks takes inputs of shape (batch, {len(encodings)}, "
                f"features), one encoding each and the shared one last. Received shape "
                f"{tuple(input_shape)}. Encoder(..., copies={len(encodings)}) makes them."
            )
        size, num = input_shape[-1], self._num_own
        owners = [e // self.num_task_experts if e < num else encodings[-1] for e in pool]
        self._read = [encodings.index(owner) for owner in owners]
        self._streams = [encodings.index(t) for t in self.task_numbers]
        # Whose gradients reach an expert: its own task's, or all.
        self._trains = np.array(
            [[owner in (t, encodings[-1]) for owner in owners] for t in self.task_numbers]
        )
        self.experts = nested.filled(
            self._experts_config, "STEM", name="experts", num_experts=len(pool)
        )
        self.experts.build((None, len(pool), size))
        num += self.num_shared_experts
        cut = {"expert_ids": pool, "num_choices": num} if len(pool) < num else {}
        self.gate = nested.filled(
            self._gate_config,
            "STEM",
            name="gate",
            num_tasks=self.num_tasks,
            num_experts=len(pool),
            **cut,
        )
        self.gate.build((None, size))

    def call(
        self,
        inputs: Tensor,
        task: Tensor | None = None,
        context: dict[str, Tensor] | None = None,
        training: bool = False,
        return_aux: bool = False,
    ) -> Tensor | tuple[Tensor, list[GateOutput]]:
        ids = (context or {}).get("ids")
        outputs = self.experts(ops.take(inputs, self._read, axis=1), training=training)
        seen = ops.take(inputs, self._streams, axis=1) + inputs[:, -1:]
        trains = ops.convert_to_tensor(self._trains, dtype=outputs.dtype)
        if task is None:
            weights, record = gate_streams(self.gate, seen, None, ids, training)
            trains = trains[None]
        else:
            task = ops.cast(task, "int32")
            check_tasks("STEM", task, self.num_tasks)
            weights, record = self.gate(
                of_task(seen, task), task=task, ids=ids, training=training, return_aux=True
            )
            trains = ops.take(trains, task, axis=0)[:, None]
        weights = ops.cast(weights, outputs.dtype)
        mixed = mix(outputs, weights * trains)
        mixed = mixed + mix(ops.stop_gradient(outputs), weights * (1 - trains))
        return (mixed, [record]) if return_aux else mixed

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.num_tasks, self.hidden_units[-1])

    def gate_specs(
        self, inputs: Tensor, task: Tensor | None, ids: Tensor | None
    ) -> list[GateOutput]:
        seen = keras.KerasTensor((inputs.shape[0], inputs.shape[-1]), dtype=inputs.dtype)
        return [self.gate.compute_output_spec(seen, task=task, ids=ids, return_aux=True)[1]]

    def select(
        self, experts: Sequence[Sequence[int]], tasks: Sequence[int] | None = None
    ) -> dict[str, Any]:
        tasks = range(self.num_tasks) if tasks is None else tasks
        config = nested.config_of(self)
        config["config"]["num_tasks"] = None
        kept, pool, numbers = list(experts[0]), self.pool, self.task_numbers
        if kept != list(range(len(pool))) or list(tasks) != list(range(len(numbers))):
            config["config"].update(
                expert_ids=[int(pool[e]) for e in kept],
                task_ids=[int(numbers[t]) for t in tasks],
                num_trained_tasks=self.num_trained_tasks or self.num_tasks,
            )
        return config

    def copy_from(
        self,
        other: Any,
        tasks: Sequence[int],
        experts: Sequence[Sequence[int]] | None = None,
    ) -> None:
        theirs = other.pool
        self.experts.copy_from(other.experts, [theirs.index(number) for number in self.pool])
        self.gate.copy_from(other.gate, tasks)

    def get_config(self) -> dict[str, Any]:
        experts = self._experts_config["config"]
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            "num_task_experts": self.num_task_experts,
            "num_shared_experts": self.num_shared_experts,
            "gate": self._gate_config,
            **{name: experts[name] for name in PERCEPTRONS},
            "expert_ids": self.expert_ids,
            "task_ids": self.task_ids,
            "num_trained_tasks": self.num_trained_tasks,
        }
