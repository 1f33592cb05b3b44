"""Experts in two levels: first of groups of tasks, then of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from tfmoe import validation
from tfmoe.compute import nested
from tfmoe.compute.device import check_tasks
from tfmoe.compute.initializers import PerMember, reseeded
from tfmoe.compute.math import mix, shares
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Initializer, Shape, Tensor
from tfmoe.compute.weights import copy_weights
from tfmoe.experts.feature_gated import FeatureGatedExperts
from tfmoe.gates.base import Gate
from tfmoe.gates.output import GateOutput
from tfmoe.structures.recipes import check_flat, take_recipes
from tfmoe.structures.specified import Specified
from tfmoe.structures.streams import gate_streams, of_rows, of_task, specs_of_rows


@registered
class HoME(Specified):
    r"""A hierarchy of experts: of groups of tasks, then of each task.

    The first level makes a stream for each group `g` of tasks, and one that all share:

        z_g = sum_i (c_g(x)[i] + d_g(x)[i]) group_gi(x) + sum_j c_g(x)[n + j] shared_j(x)
        z_s = sum_gi c_s(x)[gi] group_gi(x) + sum_j (c_s(x)[j] + d_s(x)[j]) shared_j(x)

    for `n` experts `i` of each group and shared experts `j`. The second makes the outputs, for a
    task `t` of group `g`, from experts of the task's own and others of the group and of all:

        y_t = sum_i (c_t(z)[i] + d_t(z)[i]) own_ti(z_g)
              + sum_i c_t(z)[m + i] group_gi'(z_g) + sum_j c_t(z)[m + n + j] shared_j'(z_s)

    with `z = [z_g; z_s]`. The `c` are gates. The `d` are self gates, which pass some of its own
    experts on to every stream, whatever the gate selects: a softmax of `inputs @ W`, a sigmoid if
    there is one own expert. An expert is a perceptron of layers `swish(norm(x @ W + b))` behind
    a low-rank gate on its inputs, `x * 2 sigmoid(x @ A @ B)`.

    Args:
        num_tasks: int >= 1, or None to take it from the model that holds it.
        groups: sequence of sequences of int, the tasks' numbers by group, each task in one; None
            for one group of all. A group may be empty, as `extract` leaves it whose tasks go: the
            shared stream reads its experts.
        num_task_experts: int >= 1, `m`, own experts of each task.
        num_group_experts: int >= 1, `n`, experts of each group, in each level.
        num_shared_experts: int >= 1, shared experts of each level.
        hidden_units: sequence of int >= 1, units of an expert's layers, in each level; the last
            is `u`.
        rank: int >= 1, of the gates on experts' inputs.
        gate: a gate without `num_tasks` and `num_experts`, a recipe for all gates; None means
            `SoftmaxGate()`. To a group's gate its own experts are 0 to `n - 1`, to a task's its own
            0 to `m - 1`, then its group's, and shared ones come last; to the shared gate those of
            the first group come first.
        dropout: float in [0, 1), after every layer of an expert, in training.
        kernel_initializer: Keras initializer of experts, of the gates on their inputs, and of self
            gates.
        expert_ids: which of a task gate's experts are there, by its numbers; None for all.
            `extract` makes such structures.

    Call arguments:
        inputs: float tensor `(b, f)`.
        task: int tensor `(b,)`, the task of each row, or None where a row has them all. All tasks
            are computed for it.
        context: dict of tensors; `{"ids": int tensor (b,)}` for a `HashGate`, else None.
        training: bool.
        return_aux: bool; if True, also return the gate outputs.

    Returns:
        Float tensor `(b, t, u)`, or `(b, 1, u)` with `task`; with `return_aux` also a list with a
        `GateOutput` of the groups' gate, of the shared gate and of the tasks' gate. By the first
        and the last the own experts of all groups, or tasks, have one number.

    Raises:
        ValueError: if a count is too small, a task is in no group or in two, `gate` is no gate or
            selects more experts than there are, or inputs have another rank.

    Example:

    >>> HoME(num_tasks=3, groups=[[0, 2], [1]], hidden_units=(16, 8))(np.ones((4, 5))).shape
    TensorShape([4, 3, 8])

    Source: Wang et al., 2024, https://arxiv.org/abs/2408.05430. Differs from it in the norm: layer
    norm in the place of batch norm, under which a row's training would depend on its batch-mates.
    Chosen here, where accounts of the paper leave room: every layer of an expert has norm and
    swish, an expert's gate on its inputs is one, not a mix of several, both levels have as many
    experts a group and as many shared ones, of one size, and a self gate reads what the gate
    beside it reads.
    """

    def __init__(
        self,
        num_tasks: int | None = None,
        groups: Sequence[Sequence[int]] | None = None,
        num_task_experts: int = 2,
        num_group_experts: int = 2,
        num_shared_experts: int = 2,
        hidden_units: Sequence[int] = (256, 128),
        rank: int = 8,
        gate: Gate | None = None,
        dropout: float = 0.0,
        kernel_initializer: Initializer = "glorot_uniform",
        expert_ids: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_tasks, **kwargs)
        self.groups = _checked_groups(groups, self.num_tasks)
        counts = {
            "num_task_experts": num_task_experts,
            "num_group_experts": num_group_experts,
            "num_shared_experts": num_shared_experts,
        }
        counts = {n: validation.integer("HoME", n, value, 1) for n, value in counts.items()}
        self.num_task_experts, self.num_group_experts, self.num_shared_experts = counts.values()
        self.rank = validation.integer("HoME", "rank", rank, 1)
        take_recipes(
            self,
            gate,
            FeatureGatedExperts,
            hidden_units=hidden_units,
            rank=self.rank,
            activation="swish",
            dropout=dropout,
            layer_norm=True,
            kernel_initializer=kernel_initializer,
        )
        self.expert_ids = validation.plain(expert_ids)
        self.group_gate: Any = None
        self.shared_gate: Any = None
        self.task_gate: Any = None

    @property
    def gates(self) -> list[Gate]:
        gates = [self.group_gate, self.shared_gate, self.task_gate]
        return [gate for gate in gates if gate is not None]

    @property
    def context_columns(self) -> dict[str, str]:
        return {} if self._id_column is None else {"ids": self._id_column}

    @property
    def group_of(self) -> list[int]:
        """The group of each task."""
        if self.groups is None:
            return [0] * self.num_tasks
        found = {t: g for g, tasks in enumerate(self.groups) for t in tasks}
        return [found[t] for t in range(self.num_tasks)]

    @property
    def _numbers(self) -> tuple[list[int], list[int], list[int]]:
        """Which own, group's and shared experts a task's gate has, each counted from 0."""
        m, n = self.num_task_experts, self.num_group_experts
        ids = range(m + n + self.num_shared_experts) if self.expert_ids is None else self.expert_ids
        own = [e for e in ids if e < m]
        return own, [e - m for e in ids if m <= e < m + n], [e - m - n for e in ids if e >= m + n]

    def gate_rows(self, tasks: Sequence[int], gate: Gate) -> list[int]:
        return [self.group_of[t] for t in tasks] if gate is self.group_gate else list(tasks)

    def expert_numbers(self, gate: Gate) -> list[list[int]] | None:
        if gate is self.group_gate:
            n, first = self.num_group_experts, self.num_groups * self.num_group_experts
            shared = range(first, first + self.num_shared_experts)
            return [[*range(g * n, g * n + n), *shared] for g in range(self.num_groups)]
        if gate is not self.task_gate:
            return None
        m, n, s = map(len, self._numbers)
        groups = self.num_tasks * m
        first = groups + len(self._present) * n
        places = [groups + self._present.index(g) * n for g in self.group_of]
        return [
            [*range(t * m, t * m + m), *range(place, place + n), *range(first, first + s)]
            for t, place in enumerate(places)
        ]

    def build(self, input_shape: Shape) -> None:
        validation.check_known(self, "num_tasks")
        check_flat("HoME", input_shape)
        if self.groups is not None:
            _check_all_tasks(self.groups, self.num_tasks)
        size, units = input_shape[-1], self.hidden_units[-1]
        self.num_groups = 1 if self.groups is None else len(self.groups)
        n, s = self.num_group_experts, self.num_shared_experts
        num_meta = self.num_groups * n + s
        self.meta_experts = self._make_experts(0, "meta_experts", num_meta)
        self.meta_experts.build((None, size))
        self.group_gate = self._make_gate(0, "group_gate", self.num_groups, n + s)
        self.shared_gate = self._make_gate(1, "shared_gate", 1, num_meta)
        own, of_group, shared = self._numbers
        numbers, full = (len(own), len(of_group), len(shared)), self.num_task_experts + n + s
        cut: dict[str, Any] = {}
        if sum(numbers) < full:
            cut = {"expert_ids": self.expert_ids, "num_choices": full}
        self.task_gate = self._make_gate(2, "task_gate", self.num_tasks, sum(numbers), **cut)
        # Of groups whose tasks are gone only the first level's experts are there.
        self._present = sorted(set(self.group_of))
        num_pool = self.num_tasks * numbers[0] + len(self._present) * numbers[1] + numbers[2]
        self.task_experts = self._make_experts(1, "task_experts", num_pool)
        self.task_experts.build((None, num_pool, units))
        for gate, read in zip(self.gates, (size, size, 2 * units), strict=True):
            gate.build((None, read))
        self.group_self_gate = self._make_self_gate(0, "group", (self.num_groups, size, n))
        self.shared_self_gate = self._make_self_gate(1, "shared", (1, size, s))
        shape = (self.num_tasks, 2 * units, len(own))
        self.task_self_gate = self._make_self_gate(2, "task", shape)

    def _make_experts(self, i: int, name: str, num: int) -> FeatureGatedExperts:
        config = reseeded(self._experts_config, i)
        return nested.filled(config, "HoME", name=name, num_experts=num)

    def _make_gate(self, i: int, name: str, num_tasks: int, num: int, **cut: Any) -> Gate:
        config = reseeded(self._gate_config, i)
        known = {"num_tasks": num_tasks, "num_experts": num, **cut}
        return nested.filled(config, "HoME", name=name, **known)

    def _make_self_gate(self, i: int, name: str, shape: tuple[int, ...]) -> Any:
        initializer = self._experts_config["config"]["kernel_initializer"]
        return self.add_weight(
            name=f"{name}_self_gate", shape=shape, initializer=PerMember(initializer, salt=i)
        )

    def call(
        self,
        inputs: Tensor,
        task: Tensor | None = None,
        context: dict[str, Tensor] | None = None,
        training: bool = False,
        return_aux: bool = False,
    ) -> Tensor | tuple[Tensor, list[GateOutput]]:
        ids = (context or {}).get("ids")
        group = None
        if task is not None:
            task = ops.cast(task, "int32")
            check_tasks("HoME", task, self.num_tasks)
            group = ops.take(ops.convert_to_tensor(self.group_of, "int32"), task)
        groups, shared, records = self._meta_level(inputs, group, ids, training)
        outputs, record = self._task_level(groups, shared, task, ids, training)
        records.append(record)
        if task is not None:
            outputs = of_task(outputs, task)[:, None]
            places = (group, task, task)
            records = [of_rows(one, own) for one, own in zip(records, places, strict=True)]
        return (outputs, records) if return_aux else outputs

    def _meta_level(
        self, inputs: Tensor, group: Tensor | None, ids: Tensor | None, training: bool
    ) -> tuple[Tensor, Tensor, list[GateOutput]]:
        """The groups' streams `(b, g, u)`, the shared one `(b, u)`, and the gates' outputs."""
        num, n = self.num_groups, self.num_group_experts
        outputs = self.meta_experts(inputs, training=training)
        of_groups, shared = outputs[:, : num * n], outputs[:, num * n :]
        apart = ops.reshape(of_groups, (-1, num, n, outputs.shape[-1]))
        options = {"ids": ids, "training": training, "return_aux": True}
        if group is None:
            weights, record = self.group_gate(inputs, **options)
        else:
            read = ops.repeat(inputs[:, None], num, axis=1)
            weights, record = gate_streams(self.group_gate, read, group, ids, training)
        of_all, of_shared = self.shared_gate(inputs, **options)
        weights = ops.cast(weights, outputs.dtype)
        own = weights[..., :n] + _self_weights(inputs, self.group_self_gate)
        streams = ops.sum(own[..., None] * apart, axis=2) + mix(shared, weights[..., n:])
        common = mix(outputs, of_all) + mix(shared, _self_weights(inputs, self.shared_self_gate))
        return streams, common[:, 0], [record, of_shared]

    def _task_level(
        self,
        groups: Tensor,
        shared: Tensor,
        task: Tensor | None,
        ids: Tensor | None,
        training: bool,
    ) -> tuple[Tensor, GateOutput]:
        """All tasks' outputs `(b, t, u)`, and the gate's output."""
        num, counts = self.num_tasks, [len(numbers) for numbers in self._numbers]
        streams = ops.take(groups, self.group_of, axis=1)
        read = [
            ops.repeat(streams, counts[0], axis=1),
            ops.repeat(ops.take(groups, self._present, axis=1), counts[1], axis=1),
            ops.repeat(shared[:, None], counts[2], axis=1),
        ]
        outputs = self.task_experts(ops.concatenate(read, axis=1), training=training)
        stops = [num * counts[0], num * counts[0] + len(self._present) * counts[1]]
        own, of_groups, common = ops.split(outputs, stops, axis=1)
        units = outputs.shape[-1]
        own = ops.reshape(own, (-1, num, counts[0], units))
        of_groups = ops.reshape(of_groups, (-1, len(self._present), counts[1], units))
        of_groups = ops.take(of_groups, [self._present.index(g) for g in self.group_of], axis=1)
        seen = ops.concatenate([streams, ops.repeat(shared[:, None], num, axis=1)], axis=-1)
        weights, record = gate_streams(self.task_gate, seen, task, ids, training)
        weights = ops.cast(weights, outputs.dtype)
        added = _self_weights(seen, self.task_self_gate)
        of_own = (weights[..., : counts[0]] + added)[..., None]
        of_group = weights[..., counts[0] : counts[0] + counts[1], None]
        mixed = ops.sum(of_own * own, axis=2) + ops.sum(of_group * of_groups, axis=2)
        return mixed + mix(common, weights[..., counts[0] + counts[1] :]), record

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.num_tasks, self.hidden_units[-1])

    def gate_specs(
        self, inputs: Tensor, task: Tensor | None, ids: Tensor | None
    ) -> list[GateOutput]:
        records = [
            gate.compute_output_spec(inputs, ids=ids, return_aux=True)[1] for gate in self.gates
        ]
        return records if task is None else specs_of_rows(records, inputs.shape[0])

    def kept(self, experts: Sequence[Sequence[int]], tasks: Sequence[int]) -> list[list[int]]:
        # Every stream reads its own experts by the self gate. The first level stays whole, for
        # the shared stream is made of all groups.
        used = experts[2]
        own, of_group, _ = (len(numbers) for numbers in self._numbers)
        of_groups = [e for e in used if own <= e < own + of_group] or [own]
        of_all = [e for e in used if e >= own + of_group] or [own + of_group]
        return [
            list(range(self.group_gate.num_experts)),
            list(range(self.shared_gate.num_experts)),
            [*range(own), *of_groups, *of_all],
        ]

    def select(
        self, experts: Sequence[Sequence[int]], tasks: Sequence[int] | None = None
    ) -> dict[str, Any]:
        config = nested.config_of(self)
        config["config"]["num_tasks"] = None
        if len(experts[2]) < self.task_gate.num_experts:
            config["config"]["expert_ids"] = [int(e) for e in self.task_gate.numbers(experts[2])]
        if self.groups is not None and tasks is not None:
            places = {t: place for place, t in enumerate(tasks)}
            config["config"]["groups"] = [
                [places[t] for t in group if t in places] for group in self.groups
            ]
        return config

    def copy_from(
        self,
        other: Any,
        tasks: Sequence[int],
        experts: Sequence[Sequence[int]] | None = None,
    ) -> None:
        for name in ("meta_experts", "group_gate", "shared_gate"):
            copy_weights(getattr(other, name), getattr(self, name))
        for name in ("group_self_gate", "shared_self_gate"):
            getattr(self, name).assign(getattr(other, name))
        self.task_gate.copy_from(other.task_gate, tasks)
        self.task_self_gate.assign(ops.take(other.task_self_gate, list(tasks), axis=0))
        self.task_experts.copy_from(other.task_experts, self._places_in(other, tasks))

    def _places_in(self, other: HoME, tasks: Sequence[int]) -> list[int]:
        """For each of the task level's experts its place in a structure with more of them."""
        (own, of_group, shared), theirs = self._numbers, other._numbers
        each, n = len(theirs[0]), len(theirs[1])
        first_of_groups = other.num_tasks * each
        first_shared = first_of_groups + len(other._present) * n
        return [
            *(t * each + theirs[0].index(e) for t in tasks for e in own),
            *(
                first_of_groups + other._present.index(g) * n + theirs[1].index(e)
                for g in self._present
                for e in of_group
            ),
            *(first_shared + theirs[2].index(e) for e in shared),
        ]

    def get_config(self) -> dict[str, Any]:
        experts = self._experts_config["config"]
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            "groups": None if self.groups is None else [list(group) for group in self.groups],
            "num_task_experts": self.num_task_experts,
            "num_group_experts": self.num_group_experts,
            "num_shared_experts": self.num_shared_experts,
            "hidden_units": list(self.hidden_units),
            "rank": self.rank,
            "gate": self._gate_config,
            "dropout": experts["dropout"],
            "kernel_initializer": experts["kernel_initializer"],
            "expert_ids": self.expert_ids,
        }


def _self_weights(inputs: Tensor, kernel: Tensor) -> Tensor:
    """Weights `(b, t, i)` of `i` own experts, from `(b, f)` or `(b, t, f)`, and `(t, f, i)`."""
    equation = "bf,tfi->bti" if len(inputs.shape) == 2 else "btf,tfi->bti"
    scores = ops.einsum(equation, inputs, ops.cast(kernel, inputs.dtype))
    return ops.sigmoid(scores) if scores.shape[-1] == 1 else shares(scores)


def _checked_groups(groups: Any, num_tasks: int | None) -> list[list[int]] | None:
    """The argument `groups` as lists, or a ValueError."""
    if groups is None:
        return None
    groups = validation.plain(groups)
    if not isinstance(groups, list | tuple) or not all(isinstance(g, list | tuple) for g in groups):
        raise ValueError(
            "HoME takes `groups` as sequences of tasks' numbers. Received "
            f"groups={groups!r}. With tasks 0 to 2 write for example groups=[[0, 2], [1]]."
        )
    groups = [list(group) for group in groups]
    if num_tasks is not None:
        _check_all_tasks(groups, num_tasks)
    return groups


def _check_all_tasks(groups: list[list[int]], num_tasks: int) -> None:
    """Raises ValueError unless every task is in one group."""
    if sorted(t for group in groups for t in group) != list(range(num_tasks)):
        raise ValueError(
            f"HoME needs each task, 0 to {num_tasks - 1}, in one of its `groups`. Received "
            f"groups={groups}. Number them in the order of the schema's tasks."
        )
