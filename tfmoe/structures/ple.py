"""Experts of each task's own beside shared ones, in levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute import nested
from tfmoe.compute.device import check_tasks
from tfmoe.compute.initializers import reseeded
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Activation, Dispatch, Initializer, Shape, Tensor
from tfmoe.gates.base import Gate
from tfmoe.gates.output import GateOutput
from tfmoe.structures.ple_level import PLELevel
from tfmoe.structures.recipes import PERCEPTRONS, check_dispatch, check_flat, take_recipes
from tfmoe.structures.specified import Specified
from tfmoe.structures.streams import of_rows, of_task


@registered
class PLE(Specified):
    r"""Progressive layered extraction: each task has experts of its own beside shared ones.

        x_t' = sum_i g_t(x_t)[i] own_ti(x_t) + sum_j g_t(x_t)[m + j] shared_j(x_s)
        x_s' = sum_ti h(x_s)[ti] own_ti(x_t) + sum_j h(x_s)[j] shared_j(x_s)

    in each level, for `m` own experts `i` of task `t` and shared experts `j`; in the first level
    `x_t = x_s = inputs`, and the last has no `x_s'`. The outputs are the last level's `x_t'`.

    Public implementations disagree; here, as in the paper, a task's gate reads its own stream
    and weighs its own and the shared experts, and the shared gate reads the shared stream and
    weighs ALL experts of the level. The experts of a level are alike in size.

    Args:
        num_tasks: int >= 1, or None to take it from the model that holds it.
        num_levels: int >= 1; with one level this is `CGC`.
        num_task_experts: int >= 1, `m`, own experts of each task in each level.
        num_shared_experts: int >= 1, shared experts of each level.
        hidden_units: sequence of int >= 1, units of an expert's layers, in every level; the last
            is `u`.
        gate: a gate without `num_tasks` and `num_experts`, a recipe for all gates; None means
            `SoftmaxGate()`. To a task's gate its own experts are 0 to `m - 1`, the shared ones
            come after; to the shared gate those of the first task come first, the shared ones last.
        activation, dropout, layer_norm, kernel_initializer: of the experts, see `Experts`.
        dispatch: `"sparse"` computes only experts that have a weight, of those that read what
            all read: in the first level, and, where a row has one task, in the last. There a row
            goes through its own task's experts and the shared ones only, with any gate.
            `"dense"` computes all; `"auto"` is sparse where that was measured to be faster.
        expert_ids: for each level a pair of lists, which experts are there; None for all.
            `extract` makes such structures.
        num_trained_tasks: int, with `expert_ids`: how many tasks there were.

    Call arguments:
        inputs: float tensor `(b, f)`.
        task: int tensor `(b,)`, the task of each row, or None where a row has them all. With three
            levels and more, all tasks of the first levels are computed for it, because the
            shared stream depends on them.
        context: dict of tensors; `{"ids": int tensor (b,)}` for a `HashGate`, else None.
        training: bool.
        return_aux: bool; if True, also return the gate outputs. By these the `i`-th own experts of
            all tasks have one number: losses that compare tasks by expert, such as
            `MutualInformationLoss`, would take them for one.

    Returns:
        Float tensor `(b, t, u)`, or `(b, 1, u)` with `task`; with `return_aux` also a list with a
        `GateOutput` of each level's `gate` and, but in the last, of its `shared_gate`.

    Raises:
        ValueError: if a count is too small, `gate` is no gate or selects more experts than there
            are, or inputs have another rank.

    Example:

    >>> PLE(num_tasks=2, num_levels=2, hidden_units=(16, 8))(np.ones((3, 5))).shape
    TensorShape([3, 2, 8])

    Source: Tang et al., 2020, https://doi.org/10.1145/3383313.3412236.
    """

    def __init__(
        self,
        num_tasks: int | None = None,
        num_levels: int = 2,
        num_task_experts: int = 2,
        num_shared_experts: int = 2,
        hidden_units: Sequence[int] = (256, 128),
        gate: Gate | None = None,
        activation: Activation = "relu",
        dropout: float = 0.0,
        layer_norm: bool = False,
        kernel_initializer: Initializer = "glorot_uniform",
        dispatch: Dispatch = "auto",
        expert_ids: Sequence[Sequence[Sequence[int]]] | None = None,
        num_trained_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_tasks, **kwargs)
        name = type(self).__name__
        self.num_levels = validation.integer(name, "num_levels", num_levels, 1)
        self.num_task_experts = validation.integer(name, "num_task_experts", num_task_experts, 1)
        self.num_shared_experts = validation.integer(
            name, "num_shared_experts", num_shared_experts, 1
        )
        check_dispatch(name, dispatch)
        self.dispatch = dispatch
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
        self.num_trained_tasks = num_trained_tasks
        self.levels: list[PLELevel] = []

    @property
    def gates(self) -> list[Gate]:
        return [gate for level in self.levels for gate in level.gates]

    @property
    def context_columns(self) -> dict[str, str]:
        return {} if self._id_column is None else {"ids": self._id_column}

    def computes_sparsely(self, one_task: bool = False) -> bool:
        return any(
            most is not None
            for i, level in enumerate(self.levels)
            if i == 0 or (one_task and i == self.num_levels - 1)
            for most, _ in level.most_selected(one_task, training=True)
        )

    def build(self, input_shape: Shape) -> None:
        validation.check_known(self, "num_tasks")
        check_flat(type(self).__name__, input_shape)
        size, units = input_shape[-1], self.hidden_units[-1]
        for i in range(self.num_levels):
            own, pool = self.expert_ids[i] if self.expert_ids else (None, None)
            level = PLELevel(
                self.num_tasks,
                (self.num_task_experts, self.num_shared_experts),
                self.num_trained_tasks or self.num_tasks,
                reseeded(self._experts_config, 2 * i),
                reseeded(self._gate_config, 2 * i),
                shares=i < self.num_levels - 1,
                dispatch=self.dispatch,
                own=own,
                pool=pool,
                dtype=self.dtype_policy,
                name=f"level_{i}",
            )
            self.levels.append(level)
            level.build((None, size) if i == 0 else (None, self.num_tasks, units))

    def call(
        self,
        inputs: Tensor,
        task: Tensor | None = None,
        context: dict[str, Tensor] | None = None,
        training: bool = False,
        return_aux: bool = False,
    ) -> Tensor | tuple[Tensor, list[GateOutput]]:
        ids = (context or {}).get("ids")
        if task is not None:
            task = ops.cast(task, "int32")
            check_tasks(type(self).__name__, task, self.num_tasks)
        streams, shared = inputs, inputs
        records: list[GateOutput] = []
        for i, level in enumerate(self.levels):
            left = self.num_levels - 1 - i
            if task is not None and i > 0 and left == 0:
                # Nothing but the row's own task is asked for any more.
                streams = streams[:, 0] if streams.shape[1] == 1 else of_task(streams, task)
            # A shared gate to come weighs the experts of all tasks, which read their streams.
            all_go_on = left > 1
            streams, shared, own = level(
                streams, shared, task, ids, training=training, all_go_on=all_go_on
            )
            if all_go_on and task is not None:
                own = [of_rows(record, task) for record in own]
            records += own
        return (streams, records) if return_aux else streams

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.num_tasks, self.hidden_units[-1])

    def gate_specs(
        self, inputs: Tensor, task: Tensor | None, ids: Tensor | None
    ) -> list[GateOutput]:
        records, size = [], inputs.shape[1]
        for level in self.levels:
            seen = keras.KerasTensor((inputs.shape[0], size), dtype=inputs.dtype)
            records += [
                gate.compute_output_spec(seen, task=task, ids=ids, return_aux=True)[1]
                for gate in level.gates
            ]
            size = self.hidden_units[-1]
        return records

    def expert_numbers(self, gate: Gate) -> list[list[int]] | None:
        (level,) = (one for one in self.levels if any(gate is own for own in one.gates))
        return level.numbers(gate)

    def kept(self, experts: Sequence[Sequence[int]], tasks: Sequence[int]) -> list[list[int]]:
        found: list[list[int]] = []
        used = list(experts)
        for i, level in enumerate(self.levels):
            m, num_own = len(level.own), level.own_experts.num_experts
            own = [e for e in used[0] if e < m] or [0]
            shared = {e - m for e in used[0] if e >= m}
            others: list[int] = []
            by_task = [t * m + e for t in tasks for e in own]
            if level.shared_gate is not None:
                shared |= {e - num_own for e in used[1] if e >= num_own}
                others = [e for e in used[1] if e < num_own and e not in by_task]
                if others and i > 0:
                    raise ValueError(
                        "A task is extracted from a PLE of three or more levels if the shared "
                        "gates behind the first weigh no other task's experts, whose streams "
                        f"would be needed. Received one in which that of level {i} does. Extract "
                        "all tasks, or train with a sparse gate or two levels."
                    )
            kept_shared = sorted(shared) or [0]
            found.append([*own, *(m + e for e in kept_shared)])
            if level.shared_gate is not None:
                found.append([*by_task, *others, *(num_own + e for e in kept_shared)])
            used = used[len(level.gates) :]
        return found

    def select(
        self, experts: Sequence[Sequence[int]], tasks: Sequence[int] | None = None
    ) -> dict[str, Any]:
        tasks = range(self.num_tasks) if tasks is None else tasks
        config = nested.config_of(self)
        config["config"]["num_tasks"] = None
        whole = [list(range(gate.num_experts)) for gate in self.gates]
        if list(tasks) == list(range(self.num_tasks)) and [list(e) for e in experts] == whole:
            return config
        ids, left = [], [list(own) for own in experts]
        for level in self.levels:
            m, num_own = len(level.own), level.own_experts.num_experts
            own = [e for e in left[0] if e < m]
            places = [t * m + e for t in tasks for e in own]
            if level.shared_gate is None:
                places += [num_own + e - m for e in left[0] if e >= m]
            else:
                places = left[1]
            ids.append([[level.own[e] for e in own], [level.pool[p] for p in places]])
            left = left[len(level.gates) :]
        config["config"].update(
            expert_ids=ids, num_trained_tasks=self.num_trained_tasks or self.num_tasks
        )
        return config

    def copy_from(
        self,
        other: Any,
        tasks: Sequence[int],
        experts: Sequence[Sequence[int]] | None = None,
    ) -> None:
        for own, level in zip(self.levels, other.levels, strict=True):
            own.copy_from(level, tasks)

    def get_config(self) -> dict[str, Any]:
        experts = self._experts_config["config"]
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            "num_levels": self.num_levels,
            "num_task_experts": self.num_task_experts,
            "num_shared_experts": self.num_shared_experts,
            "gate": self._gate_config,
            **{name: experts[name] for name in PERCEPTRONS},
            "dispatch": self.dispatch,
            "expert_ids": self.expert_ids,
            "num_trained_tasks": self.num_trained_tasks,
        }
