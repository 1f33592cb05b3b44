"""A gate that was trained, and gates for tasks that came after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from tfmoe import validation
from tfmoe.compute import nested
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Shape, Tensor
from tfmoe.compute.weights import copy_weights
from tfmoe.gates.base import Gate
from tfmoe.gates.output import GateOutput
from tfmoe.gates.routers import MLPRouter
from tfmoe.gates.task_router import MixedHead, TaskRouter

_BY_TASK = ("scores", "probabilities", "weights")


@registered
class ExtendedGate(Gate):
    """Leaves a trained gate as it is and routes tasks added later by gates of their own.

    `MultiTaskModel.add_task` makes it. Each added task has a gate of the same kind for one
    task. What it shares with the others is a frozen copy; what is its own is trained, for
    the newest task:

    - routing "own": its scores' weights, or with a `TaskRouter` its embedding alone;
    - routing "mix": the weights of a convex mix of seen tasks: of their embeddings with a
      `TaskRouter`, of their scores with any other.

    The trained gate runs apart from the added ones, on the same shapes as before, so that
    its weights stay the same to the bit.

    Args:
        num_tasks: int, those of `gate` and the added ones, or None to take it from the
            mixture that holds the gate.
        num_experts: int, or None likewise.
        gate: the trained gate, with its `num_tasks`.
        added: sequence of dicts, one a task: `routing`, "own" or "mix", and `like`, how
            many tasks are mixed.

    Call arguments, returns: see `Gate`.

    Raises:
        ValueError: if the tasks do not add up.
    """

    #: The trained gate says whether others were cut.
    _fewest_experts = 1

    def __init__(
        self,
        num_tasks: int | None = None,
        num_experts: int | None = None,
        gate: Gate | dict[str, Any] | None = None,
        added: Sequence[dict[str, Any]] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(num_tasks, num_experts, **kwargs)
        config = nested.config_of(nested.given(gate))
        self._gate_config, self._added_specs = config, [dict(spec) for spec in added]
        self.base = nested.filled(config, "ExtendedGate", name="base", num_experts=num_experts)
        total = self.base.num_tasks + len(added)
        if num_tasks not in (None, total):
            raise ValueError(
                f"An ExtendedGate has the tasks of its gate, {self.base.num_tasks}, and "
                f"{len(added)} added ones. Received num_tasks={num_tasks}."
            )
        config = {**config, "config": {**config["config"], "num_tasks": None}}
        self.added = [self._of_one_task(config, i, spec) for i, spec in enumerate(added)]
        for name in ("num_nonzeros", "always_sparse", "selects", "trains_unselected", "needs_ids"):
            setattr(self, name, getattr(self.base, name))

    def _of_one_task(self, config, index, spec):
        given = {"num_tasks": 1, "num_experts": self.num_experts}
        if config["config"].get("per_task") and "task_ids" in config["config"]:
            # Of older files an added task hashes as the first one does.
            used = self.base.task_ids or [self.num_base - 1]
            given["task_ids"] = [max(used) + 1 + index]
        gate = nested.filled(config, "ExtendedGate", name=f"added_{index}", **given)
        if spec["routing"] == "mix":
            gate.mix_tasks(spec["like"])
        return gate

    @property
    def id_column(self) -> str | None:
        return self.base.id_column

    @property
    def least_experts(self) -> int:
        return self.base.least_experts

    @property
    def usage(self) -> np.ndarray | None:
        """See `Gate`; that of the trained gate, and of each added task as its own gate saw it."""
        parts = [gate.usage for gate in (self.base, *self.added)]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        # A gate that all tasks share has one row.
        of_base = np.broadcast_to(known[0], (self.num_base, known[0].shape[1]))
        return np.concatenate([of_base, *known[1:]])

    @property
    def task_groups(self) -> list[slice]:
        # Each added task by itself, lest one that comes later move it.
        apart = [slice(index, index + 1) for index in range(self.num_base, self.num_tasks)]
        return [slice(self.num_base), *apart]

    def freeze(self) -> None:
        """Building has left just the newest task's part to be trained."""

    @property
    def num_base(self) -> int:
        """How many tasks the trained gate has."""
        return self.base.num_tasks

    def build(self, input_shape: Shape) -> None:
        validation.check_known(self, "num_tasks", "num_experts")
        for gate in (self.base, *self.added):
            gate.build(input_shape)
            gate.trainable = gate is self.added[-1]
        self._free(self.added[-1], self._added_specs[-1]["routing"])

    def _free(self, gate, routing):
        """Leaves trainable only what is the newest task's own."""
        if isinstance(gate.router, MLPRouter):
            gate.router.trainable = False
        own = {"mix"} if routing == "mix" else {"embeddings"}
        if routing == "mix" or isinstance(gate.router, TaskRouter):
            for weight in gate.trainable_weights:
                weight.trainable = weight.name in own

    def call(
        self,
        inputs: Tensor,
        task: Tensor | None = None,
        ids: Tensor | None = None,
        training: bool = False,
        return_aux: bool = False,
        row_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, GateOutput]:
        options = {"ids": ids, "training": training, "row_mask": row_mask, "return_aux": True}
        if task is None:
            outputs = [gate(inputs, **options) for gate in (self.base, *self.added)]
            weights, records = zip(*outputs, strict=True)
            output = ops.concatenate(weights, axis=1)
            record = records[0]._replace(
                **{
                    name: ops.concatenate([getattr(one, name) for one in records], axis=1)
                    for name in _BY_TASK
                }
            )
        else:
            task = self._checked_task(task)
            old = ops.minimum(task, self.num_base - 1)
            output, record = self.base(inputs, task=old, **options)
            record = record._replace(task=task)
            for index, gate in enumerate(self.added, self.num_base):
                mine = (task == index)[:, None, None]
                # Rows of other tasks count neither in its losses nor in its averages.
                own_mask = ops.cast(task == index, "float32")
                if row_mask is not None:
                    own_mask = own_mask * ops.cast(row_mask, "float32")
                its = {**options, "row_mask": own_mask}
                weights, own = gate(inputs, task=ops.zeros_like(task), **its)
                output = ops.where(mine, weights, output)
                record = record._replace(
                    **{
                        name: ops.where(mine, getattr(own, name), getattr(record, name))
                        for name in _BY_TASK
                    }
                )
        return (output, record) if return_aux else output

    def compute_output_spec(
        self,
        inputs: Tensor,
        task: Tensor | None = None,
        ids: Tensor | None = None,
        training: bool = False,
        return_aux: bool = False,
        row_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, GateOutput]:
        specs = self.base.compute_output_spec(
            inputs, task=task, ids=ids, return_aux=True, row_mask=row_mask
        )

        def widened(spec):
            if task is not None or len(spec.shape) != 3:
                return spec
            shape = (spec.shape[0], self.num_tasks, spec.shape[2])
            return keras.KerasTensor(shape, dtype=spec.dtype)

        output, record = tree.map_structure(widened, specs)
        return (output, record) if return_aux else output

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "gate": self._gate_config,
            "added": [dict(spec) for spec in self._added_specs],
        }


def extended(gate: Gate, num_like: int, routing: str) -> dict[str, Any]:
    """The recipe of a gate with one more task.

    Args:
        gate: built `Gate`.
        num_like: int, how many tasks the new one is like.
        routing: "own" or "mix".
    """
    spec = {"routing": routing, "like": num_like}
    trained = nested.config_of(gate)
    if isinstance(gate, ExtendedGate):
        trained["config"].update(num_tasks=None, num_experts=None)
        trained["config"]["added"].append(spec)
        return trained
    trained["config"].update(num_tasks=gate.num_tasks, num_experts=None)
    return nested.config_of(ExtendedGate(gate=trained, added=[spec]))


def copy_extended(old: Gate, new: ExtendedGate, like: Sequence[int]) -> None:
    """Fills an `ExtendedGate`; its newest gate from those of the tasks it is like."""
    base, added = (old.base, old.added) if isinstance(old, ExtendedGate) else (old, [])
    copy_weights(base, new.base)
    for trained, gate in zip(added, new.added, strict=False):
        copy_weights(trained, gate)
    newest = new.added[-1]
    if isinstance(getattr(newest, "head", None), MixedHead):
        # In the order in which a gate of all these tasks has them.
        source = _gate_of(base, like)
        copy_weights(source.head, newest.head.head)
        if hasattr(newest.router, "weights"):
            copy_weights(source.router, newest.router)
        for target, values in zip(_beside_scores(newest), _beside_scores(source), strict=True):
            values = ops.convert_to_numpy(values)
            whole = values.shape == tuple(target.shape)
            target.assign(values if whole else values.mean(axis=0, keepdims=True))
        return
    sources = [_gate_of(base, [index]) for index in like]
    for target, *values in zip(
        newest.weights, *(source.weights for source in sources), strict=True
    ):
        mean = np.mean([ops.convert_to_numpy(value) for value in values], axis=0)
        target.assign(mean)


def _beside_scores(gate):
    """A gate's variables that scores are not made of: permutations, biases, averages."""
    made = {id(v) for part in (gate.head, gate.router) for v in getattr(part, "variables", ())}
    return [variable for variable in gate.variables if id(variable) not in made]


def _gate_of(gate, rows):
    """A gate of only some of a gate's tasks."""
    config = nested.config_of(gate)
    config["config"].update(num_tasks=None, **gate.told(rows))
    part = nested.filled(config, "add_task", num_tasks=len(rows))
    part.build(gate.get_build_config()["input_shape"])
    part.copy_from(gate, rows)
    return part
