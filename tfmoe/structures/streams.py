"""Structures whose tasks have a stream each, all of which read each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute import nested
from tfmoe.compute.device import check_tasks
from tfmoe.compute.types import Shape, Tensor
from tfmoe.compute.weights import copy_weights
from tfmoe.gates.base import Gate
from tfmoe.gates.output import GateOutput
from tfmoe.structures.recipes import check_flat
from tfmoe.structures.specified import Specified


class Streams(Specified):
    """Base of structures in which each task has a stream, and each stream is made of all.

    So all streams are computed, also where a row has one task, whose stream is then taken; and
    all stay in an extracted model, which emits those of its tasks.

    A subclass has `hidden_units`, makes its layers in `build_streams`, and the streams, with the
    gates' outputs, in `streams`.

    Args:
        num_tasks: int >= 1, or None to take it from the model that holds it.
        num_streams: int, how many streams there are; None for one a task. `extract` sets it.
        task_ids: sequence of int, with `num_streams`: the stream of each task.
    """

    hidden_units: tuple[int, ...]

    def __init__(
        self,
        num_tasks: int | None = None,
        num_streams: int | None = None,
        task_ids: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_tasks, **kwargs)
        self._num_streams = num_streams
        self.task_ids = validation.plain(task_ids)

    @property
    def num_streams(self) -> int:
        """How many streams there are."""
        return self._num_streams or self.num_tasks

    def build_streams(self, input_shape: Shape) -> None:
        """Makes the layers, for inputs `(b, f)`."""
        raise NotImplementedError

    def streams(
        self, inputs: Tensor, task: Tensor | None, ids: Tensor | None, training: bool
    ) -> tuple[Tensor, list[GateOutput]]:
        """All streams' outputs `(b, t, u)`, and the gates' outputs.

        Where a row has one task, the stream `task`, gates are to count it for that one alone.
        """
        raise NotImplementedError

    def build(self, input_shape: Shape) -> None:
        validation.check_known(self, "num_tasks")
        check_flat(type(self).__name__, input_shape)
        self.build_streams((None, input_shape[-1]))

    def call(
        self,
        inputs: Tensor,
        task: Tensor | None = None,
        context: dict[str, Tensor] | None = None,
        training: bool = False,
        return_aux: bool = False,
    ) -> Tensor | tuple[Tensor, list[GateOutput]]:
        if task is not None:
            task = ops.cast(task, "int32")
            check_tasks(type(self).__name__, task, self.num_tasks)
            if self.task_ids is not None:
                task = ops.take(ops.convert_to_tensor(self.task_ids, "int32"), task)
        outputs, records = self.streams(inputs, task, (context or {}).get("ids"), training)
        if task is not None:
            outputs = of_task(outputs, task)[:, None]
            records = [of_rows(record, task) for record in records]
        elif self.task_ids is not None:
            outputs = ops.take(outputs, self.task_ids, axis=1)
        return (outputs, records) if return_aux else outputs

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.num_tasks, self.hidden_units[-1])

    def gate_rows(self, tasks: Sequence[int], gate: Gate) -> list[int]:
        return self._streams_of(tasks)

    def _streams_of(self, tasks: Sequence[int]) -> list[int]:
        return list(tasks) if self.task_ids is None else [self.task_ids[t] for t in tasks]

    def kept(self, experts: Sequence[Sequence[int]], tasks: Sequence[int]) -> list[Any]:
        return [list(range(gate.num_experts)) for gate in self.gates]

    def select(
        self, experts: Sequence[Sequence[int]], tasks: Sequence[int] | None = None
    ) -> dict[str, Any]:
        config = nested.config_of(self)
        config["config"]["num_tasks"] = None
        if tasks is not None and list(tasks) != list(range(self.num_tasks)):
            config["config"].update(
                num_streams=self.num_streams, task_ids=[int(t) for t in self._streams_of(tasks)]
            )
        return config

    def copy_from(
        self,
        other: Any,
        tasks: Sequence[int],
        experts: Sequence[Sequence[int]] | None = None,
    ) -> None:
        copy_weights(other, self)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            "num_streams": self._num_streams,
            "task_ids": self.task_ids,
        }


def of_task(streams: Tensor, task: Tensor) -> Tensor:
    """Of `(b, t, f)` each row's own task, `(b, f)`."""
    return ops.take_along_axis(streams, ops.cast(task, "int32")[:, None, None], axis=1)[:, 0]


def of_rows(record: GateOutput, task: Tensor) -> GateOutput:
    """The record of a gate of all tasks as one of rows of one task each."""
    if record.weights.shape[1] == 1:
        # A gate of one task takes all rows for it.
        task = ops.zeros_like(task)

    def taken(x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            x = ops.broadcast_to(x, (ops.shape(task)[0], *x.shape[1:]))
        return x if x.shape[1] == 1 else ops.take_along_axis(x, task[:, None, None], axis=1)

    return GateOutput(
        probabilities=taken(record.probabilities),
        scores=taken(record.scores),
        task=task,
        weights=taken(record.weights),
    )


def specs_of_rows(records: Sequence[GateOutput], batch: int | None) -> list[GateOutput]:
    """What `of_rows` makes of gates' outputs, for symbols."""

    def narrowed(x: Tensor) -> Tensor:
        return keras.KerasTensor((batch, 1, x.shape[-1]), dtype=x.dtype)

    return [
        GateOutput(
            probabilities=narrowed(record.probabilities),
            scores=narrowed(record.scores),
            task=keras.KerasTensor((batch,), dtype="int32"),
            weights=narrowed(record.weights),
        )
        for record in records
    ]


def gate_streams(
    gate: Gate, streams: Tensor, task: Tensor | None, ids: Tensor | None, training: bool
) -> tuple[Tensor, GateOutput]:
    """What a gate makes of one stream for each of its tasks.

    Args:
        gate: of `t` tasks.
        streams: `(b, t, f)`.
        task: int `(b,)`, the one task for which each row counts, or None if it does for all.
        ids: int `(b,)`, for gates that hash.
        training: bool.

    Returns:
        Pair of weights `(b, t, e)`, or `(1, t, e)` of a static gate without `task`, and its output.
    """
    if task is None:
        return gate(streams, ids=ids, training=training, return_aux=True)
    # Each row once for each task, with that task's stream.
    num, size = streams.shape[1:]
    rows = ops.reshape(streams, (-1, size))
    tasks = ops.tile(ops.arange(num, dtype="int32"), [ops.shape(streams)[0]])
    counts = ops.reshape(ops.one_hot(task, num, dtype="float32"), (-1,))
    weights, record = gate(
        rows,
        task=tasks,
        ids=None if ids is None else ops.repeat(ids, num),
        training=training,
        return_aux=True,
        row_mask=counts,
    )

    def together(x: Tensor) -> Tensor:
        return ops.reshape(x, (-1, num, x.shape[-1]))

    names = ("probabilities", "scores", "weights")
    changed = {name: together(getattr(record, name)) for name in names}
    return together(weights), GateOutput(**changed)
