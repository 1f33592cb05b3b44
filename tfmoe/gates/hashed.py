"""A gate without weights: an id's hash names its expert."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Shape, Tensor
from tfmoe.gates.base import Gate
from tfmoe.gates.output import GateOutput
from tfmoe.gates.routers import ScoreSpec
from tfmoe.gates.rows import Rows


@registered
class HashGate(Gate):
    r"""Gives each id one expert, at random but for good.

        weights[b, t, e] = 1 if hash(ids[b]) mod num_experts == e else 0

    Nothing is learned: what a trained gate gains over it is what routing by content is
    worth. All rows with a missing or unknown value share one id, and so one expert.

    Args:
        num_tasks, num_experts, expert_ids, num_choices, usage_decay: see `Gate`. The hash
            names one of `num_choices` experts.
        column: str or None, the categorical column whose ids a model passes on as
            `ids`.
        per_task: bool; whether each task hashes in a way of its own, so that an id may
            get another expert for each.
        seed: int >= 0; another seed gives other experts.
        task_ids: sequence of int >= 0, with `per_task` the way in which each task hashes; None
            means 0, 1, 2, ... An added task, and those of an extracted model, keep theirs.

    Call arguments:
        inputs: float tensor `(b, f)`, not looked at.
        task: int tensor `(b,)` or None, the row's task; see `Gate`.
        ids: int tensor `(b,)`.

    Returns:
        Float tensor `(b, t, e)` with a single 1 in a row, or none where that expert is not
        among `expert_ids`. In the record, `scores` and `probabilities` are the same.

    Raises:
        ValueError: if a count is too small, `column` is no name, `seed` is negative,
            `router` or `balance` is given, or `ids` are missing or no vector of integers.

    Example:

    >>> gate = HashGate(num_tasks=1, num_experts=4)
    >>> gate(np.ones((6, 3)), ids=np.arange(6)).numpy()[:, 0].argmax(axis=-1).tolist()
    [0, 3, 2, 3, 1, 1]

    Source: Roller et al., 2021, https://arxiv.org/abs/2106.04426. The hash is the finalizer
    of MurmurHash3 with 32 bits, so neighbouring ids get unrelated experts.
    """

    num_nonzeros = 1
    always_sparse = True
    needs_ids = True

    def __init__(
        self,
        num_tasks: int | None = None,
        num_experts: int | None = None,
        column: str | None = None,
        per_task: bool = False,
        seed: int = 0,
        task_ids: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        for name in ("router", "balance"):
            if kwargs.get(name):
                raise ValueError(
                    f"HashGate learns nothing, so it takes no `{name}`. Received "
                    f"{name}={kwargs[name]!r}. Leave it out."
                )
        super().__init__(num_tasks, num_experts, **kwargs)
        if column is not None and not (isinstance(column, str) and column):
            raise ValueError(
                "HashGate takes as `column` the name of a categorical column, or None. "
                f"Received column={column!r}."
            )
        seed = validation.integer("HashGate", "seed", seed, 0)
        self.column, self.per_task, self.seed = column, per_task, seed
        task_ids = validation.plain(task_ids)
        right = task_ids is None or all(validation.is_integer(i) and i >= 0 for i in task_ids)
        if not right or (task_ids is not None and num_tasks not in (None, len(task_ids))):
            raise ValueError(
                "HashGate takes `task_ids` as an integer of at least 0 for each of its tasks, or "
                f"None. Received task_ids={task_ids!r} with num_tasks={num_tasks!r}."
            )
        self.task_ids = task_ids

    @property
    def id_column(self) -> str | None:
        return self.column

    def told(self, tasks: Sequence[int]) -> dict[str, Any]:
        ids = self.task_ids or list(range(self.num_tasks))
        return {"task_ids": [ids[task] for task in tasks] if self.per_task else None}

    def score_parts(self) -> list[ScoreSpec]:
        return [ScoreSpec(self.num_choices, None, None, None)]

    def make_head(self, input_shape: Shape) -> None:
        """Nothing is learned."""

    def scores(self, inputs: Tensor, task: Tensor | None, ids: Tensor | None) -> Tensor:
        exact = keras.backend.result_type(self.compute_dtype, "float32")
        return ops.one_hot(self._experts(self._checked(ids), task), self.num_choices, dtype=exact)

    def select(self, scores: Tensor, rows: Rows, training: bool) -> tuple[Tensor, Tensor]:
        return scores, scores

    def compute_output_spec(
        self,
        inputs: Tensor,
        task: Tensor | None = None,
        ids: Tensor | None = None,
        training: bool = False,
        return_aux: bool = False,
        row_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, GateOutput]:
        if ids is None:
            self._checked(ids)
        return super().compute_output_spec(inputs, task, ids, training, return_aux, row_mask)

    def _checked(self, ids):
        if ids is None:
            column = f"column {self.column!r}" if self.column else "a categorical column"
            raise ValueError(
                f"HashGate routes by the ids of {column}. Received ids=None. Call it with "
                "`ids`, or name the column in `HashGate(column=...)` inside a MultiTaskModel."
            )
        ids = ops.convert_to_tensor(ids)
        if len(ids.shape) != 1 or "int" not in keras.backend.standardize_dtype(ids.dtype):
            raise ValueError(
                "HashGate takes `ids` as integers of shape (batch,). Received ids of shape "
                f"{tuple(ids.shape)} and type {keras.backend.standardize_dtype(ids.dtype)}."
            )
        return ops.cast(ids, "int32")

    def _experts(self, ids, task):
        """Int tensor `(b, t)`, or `(b, 1)` with `task`."""
        ways = (self.task_ids or range(self.num_tasks)) if self.per_task else [0]
        salts = [_signed(self.seed + 0x9E3779B9 * way) for way in ways]
        salts = _hashed(ops.convert_to_tensor([salts], dtype="int32"))
        if task is not None and self.per_task:
            salts = ops.take(salts[0], task, axis=0)[:, None]
        # Without the sign, which the remainder of a negative number depends on.
        hashes = ops.bitwise_and(_hashed(ops.bitwise_xor(ids[:, None], salts)), 0x7FFFFFFF)
        chosen = ops.mod(hashes, self.num_choices)
        if self.per_task or task is not None:
            return chosen
        return ops.repeat(chosen, self.num_tasks, axis=1)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["router"]
        own = {"column": self.column, "per_task": self.per_task, "seed": self.seed}
        return {**config, **own, "task_ids": self.task_ids}


def _signed(value):
    """The int32 with the lowest 32 bits of an integer."""
    return (value + 2**31) % 2**32 - 2**31


def _hashed(x):
    """The 32-bit finalizer of MurmurHash3, on int32, which all backends multiply alike."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        # The mask takes away the sign that a shift of a negative number draws in.
        x = ops.bitwise_xor(x, ops.bitwise_and(ops.right_shift(x, shift), 2 ** (32 - shift) - 1))
        x = x * _signed(factor)
    return x
