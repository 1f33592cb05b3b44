"""One level of PLE: experts of each task's own, experts for all, and gates between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfmoe.compute import nested
from tfmoe.compute.initializers import reseeded
from tfmoe.compute.math import mix
from tfmoe.compute.types import Dispatch, Shape, Tensor
from tfmoe.gates.base import Gate
from tfmoe.gates.output import GateOutput
from tfmoe.structures.selected import mix_selected, selecting_pays
from tfmoe.structures.streams import gate_streams, of_task


class PLELevel(keras.layers.Layer):
    """Streams of tasks, and one that they share, through one level.

    Experts have numbers: `t * m + i` is the `i`-th own one of task `t`, and the shared ones come
    after those of all tasks. A task's gate numbers its own from 0 to `m - 1`, and the shared ones
    from `m` on.

    Args:
        num_tasks: int >= 1.
        sizes: pair of int, `m` own experts a task and the shared ones, when it was trained.
        num_trained_tasks: int, the tasks that it was trained with.
        experts: config of `Experts`, a recipe of all its experts.
        gate: config of a gate, a recipe of its gates.
        shares: bool; whether there is a gate for the shared stream.
        dispatch: see `PLE`.
        own: list of int, which own experts of each task are there, or None for all.
        pool: list of int, the numbers of all experts that are there: first those of `own`, then
            others that only the shared gate weighs, then shared ones; or None for all.
    """

    gate: Gate
    shared_gate: Gate | None

    def __init__(
        self,
        num_tasks: int,
        sizes: tuple[int, int],
        num_trained_tasks: int,
        experts: dict[str, Any],
        gate: dict[str, Any],
        shares: bool,
        dispatch: Dispatch,
        own: Sequence[int] | None = None,
        pool: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        each, num_shared = sizes
        self.num_tasks, self.dispatch = num_tasks, dispatch
        first_shared = num_trained_tasks * each
        num_choices = first_shared + num_shared
        self.own = list(range(each) if own is None else own)
        self.pool = list(range(num_choices) if pool is None else pool)
        shared = [number - first_shared for number in self.pool if number >= first_shared]
        cut = len(self.own) + len(shared) < each + num_shared
        self.gate = nested.filled(
            gate,
            "PLE",
            name="gate",
            num_tasks=num_tasks,
            num_experts=len(self.own) + len(shared),
            **({"expert_ids": self.own + [each + j for j in shared]} if cut else {}),
            **({"num_choices": each + num_shared} if cut else {}),
        )
        # Not in the class, where torch, which keeps layers apart, would find it first.
        self.shared_gate = None
        if shares:
            # In another order is cut too: the gate's weights come in that of the pool.
            cut = self.pool != list(range(num_choices))
            self.shared_gate = nested.filled(
                reseeded(gate, 1),
                "PLE",
                name="shared_gate",
                num_tasks=1,
                num_experts=len(self.pool),
                **({"expert_ids": self.pool, "num_choices": num_choices} if cut else {}),
            )
        num_own = len(self.pool) - len(shared)
        named = {"own_experts": (num_own, 0), "shared_experts": (len(shared), 1)}
        self.own_experts, self.shared_experts = (
            nested.filled(reseeded(experts, i), "PLE", name=name, num_experts=num)
            for name, (num, i) in named.items()
        )

    @property
    def gates(self) -> list[Gate]:
        return [self.gate] if self.shared_gate is None else [self.gate, self.shared_gate]

    def numbers(self, gate: Gate) -> list[list[int]] | None:
        """See `Structure.expert_numbers`."""
        if gate is not self.gate:
            return None
        m, num = len(self.own), self.num_tasks
        shared = list(range(num * m, num * m + self.shared_experts.num_experts))
        return [[*range(t * m, t * m + m), *shared] for t in range(num)]

    def build(self, input_shape: Shape) -> None:
        # Streams apart, `(b, t, f)`, or `(b, f)` where all experts read the same.
        batch, *apart, size = input_shape
        num = self.own_experts.num_experts
        self.own_experts.build((batch, num, size) if apart else (batch, size))
        for layer in (self.shared_experts, *self.gates):
            layer.build((batch, size))

    def call(
        self,
        streams: Tensor,
        shared: Tensor,
        task: Tensor | None = None,
        ids: Tensor | None = None,
        training: bool = False,
        all_go_on: bool = False,
    ) -> tuple[Tensor, Tensor | None, list[GateOutput]]:
        """The streams after this level.

        Args:
            streams: `(b, f)` if all own experts that are asked for read the same, else
                `(b, t, f)`.
            shared: `(b, f)`.
            task: int `(b,)`, the one task for which a row counts; None if it does for all.
            ids: int `(b,)`, for gates that hash.
            training: bool.
            all_go_on: bool; whether with `task` the streams of all tasks are made all the same,
                rather than that of each row's task alone.

        Returns:
            Triple of `(b, t, u)`, or `(b, 1, u)` of rows' tasks alone; `(b, u)`, or None without
            a gate for it; the gates' outputs.
        """
        weights, record = self._weights(streams, task, all_go_on, ids, training)
        of_all, records = None, [record]
        if self.shared_gate is not None:
            # Told a task, so that a static gate has rows as the other one does.
            told = None if task is None else ops.zeros_like(task)
            of_all, own = self.shared_gate(
                shared, task=told, ids=ids, training=training, return_aux=True
            )
            records.append(own)
        task = None if all_go_on else task
        same = len(streams.shape) == 2
        mixed = self._of_one_input if same else self._of_streams
        return *mixed(streams, shared, task, weights, of_all, records, training), records

    def _weights(
        self,
        streams: Tensor,
        task: Tensor | None,
        all_go_on: bool,
        ids: Tensor | None,
        training: bool,
    ) -> tuple[Tensor, GateOutput]:
        """The task gate's weights `(b, t, e)`, `(1, t, e)` or `(b, 1, e)`, and its record."""
        options = {"ids": ids, "training": training, "return_aux": True}
        apart = len(streams.shape) == 3
        if task is None or not all_go_on:
            if task is not None and apart:
                streams = of_task(streams, task)
            return self.gate(streams, task=task, **options)
        if not apart:
            streams = ops.repeat(streams[:, None], self.num_tasks, axis=1)
        return gate_streams(self.gate, streams, task, ids, training)

    def _of_one_input(
        self,
        inputs: Tensor,
        shared: Tensor,
        task: Tensor | None,
        weights: Tensor,
        of_all: Tensor | None,
        records: list[GateOutput],
        training: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Where own experts read the same: as one mixture of own, another of shared experts."""
        cast = self._by_kind(weights, of_all, task)
        exact = self._by_kind(
            records[0].weights, records[-1].weights if of_all is not None else None, task
        )
        most = self.most_selected(task is not None, training)
        outputs: Any = 0
        for i, experts in enumerate((self.own_experts, self.shared_experts)):
            x, draws = (inputs, shared)[i], bool(experts.dropout)
            outputs += mix_selected(experts, x, cast[i], exact[i], *most[i], training, draws)
        return (outputs, None) if of_all is None else (outputs[:, :-1], outputs[:, -1])

    def _by_kind(
        self, weights: Tensor, of_all: Tensor | None = None, task: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Weights of own and of shared experts, tasks first and the shared stream last."""
        own, shared = [self._placed(weights, task)], [weights[..., len(self.own) :]]
        if of_all is not None:
            num = self.own_experts.num_experts
            own.append(of_all[..., :num])
            shared.append(of_all[..., num:])
        return ops.concatenate(own, axis=1), ops.concatenate(shared, axis=1)

    def _placed(self, weights: Tensor, task: Tensor | None) -> Tensor:
        """Of tasks' weights `(b, t, m + s)` those of their own experts, as `(b, t, e)` of all."""
        num, m = self.num_tasks, len(self.own)
        if task is None:
            is_own = ops.eye(num, dtype=weights.dtype)[None, :, :, None]
        else:
            is_own = ops.one_hot(task, num, dtype=weights.dtype)[:, None, :, None]
        placed = weights[:, :, None, :m] * is_own
        placed = ops.reshape(placed, (-1, placed.shape[1], num * m))
        rest = self.own_experts.num_experts - num * m
        return ops.pad(placed, [(0, 0), (0, 0), (0, rest)]) if rest else placed

    def _of_streams(
        self,
        streams: Tensor,
        shared: Tensor,
        task: Tensor | None,
        weights: Tensor,
        of_all: Tensor | None,
        records: list[GateOutput],
        training: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Where each task's own experts read that task's stream: all experts are computed."""
        num, m = self.num_tasks, len(self.own)
        own = self.own_experts(ops.repeat(streams, m, axis=1), training=training)
        others = self.shared_experts(shared, training=training)
        apart = ops.reshape(own, (-1, num, m, own.shape[-1]))
        if task is not None:
            apart = ops.take_along_axis(apart, task[:, None, None, None], axis=1)
        outputs = ops.sum(ops.cast(weights[..., :m, None], own.dtype) * apart, axis=2)
        outputs = outputs + mix(others, weights[..., m:])
        if of_all is None:
            return outputs, None
        return outputs, mix(ops.concatenate([own, others], axis=1), of_all)[:, 0]

    def most_selected(self, one_task: bool, training: bool) -> list[tuple[int | None, bool]]:
        """For own and for shared experts, how many of a row are computed, None for all.

        Beside it, whether no row may ask for more. Of the own experts a row of one task asks for
        its task's at most, whatever the gate.
        """
        gate, shares, m = self.gate, self.shared_gate is not None, len(self.own)
        selects = gate.selects and not (training and gate.trains_unselected)
        k = gate.num_nonzeros if selects else None
        num_tasks = 1 if one_task else self.num_tasks
        found: list[tuple[int | None, bool]] = []
        for experts, each in ((self.own_experts, m), (self.shared_experts, None)):
            num = experts.num_experts
            ours = num if each is None else each
            if training and gate.trains_unselected:
                # An expert without weight is to give the gate its gradient.
                found.append((None, True))
                continue
            most = num_tasks * min(k or ours, ours)
            certain = gate.always_sparse or (k or ours) >= ours
            if shares:
                most += min(k or num, num)
                certain = gate.always_sparse or most >= num
            pays = most < num and (
                self.dispatch == "sparse"
                or (self.dispatch == "auto" and selecting_pays(experts, most, certain))
            )
            found.append((most if pays else None, certain))
        return found

    def copy_from(self, other: PLELevel, tasks: Sequence[int]) -> None:
        """Takes over the weights of a level with more tasks, or more experts."""
        places = [other.pool.index(number) for number in self.pool]
        num, num_other = self.own_experts.num_experts, other.own_experts.num_experts
        self.own_experts.copy_from(other.own_experts, places[:num])
        self.shared_experts.copy_from(other.shared_experts, [p - num_other for p in places[num:]])
        self.gate.copy_from(other.gate, tasks)
        for own, gate in zip(self.gates[1:], other.gates[1:], strict=True):
            own.copy_from(gate, [0])
