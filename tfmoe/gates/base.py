"""What every gate is: the contract for one of your own, and what gates share.

A gate is a router and a selector. The router turns what the gate sees into scores, the selector
turns scores into weights; this base class has the routers, so that a gate of your own says only
what its scores are and how they become weights, and can then be used, saved, extracted from,
extended by `add_task` and reported on like any other, without a change to tfmoe:

    @keras.saving.register_keras_serializable("mine")
    class SigmoidGate(tfmoe.Gate):
        selects = False  # no weight is ever exactly 0

        def score_parts(self):
            return [tfmoe.ScoreSpec(self.num_choices)]

        def select(self, scores, rows, training):
            weights = keras.ops.sigmoid(scores)
            return weights, weights

Axes: `b` rows, `f` features, `t` tasks, `s` scores of a task, `c` experts the gate chooses from
(`num_choices`), `e` experts whose weights it emits (`num_experts`). `c` is more than `e` only in
an extracted model, which keeps some experts; the base class takes care of it. Where each row has
one task, the tensors of a call are `(b, 1, .)` and belong to `rows.task`.

It must have:

- `score_parts()`, what the scores are and how their weights start;
- `select(scores, rows, training)`, scores `(b, t, s)` to weights `(b, t, c)`;
- arguments of its own, if any, in `__init__` after `num_tasks` and `num_experts`, with
  `**kwargs` handed on to `super().__init__`, and in `get_config`.

It may have, for what they say of themselves below:

- `num_nonzeros`, `always_sparse`, `selects`, `trains_unselected`: what sparse compute relies on;
- `logits`, `spread`: for the balance losses that need them;
- `converged`: for reports;
- `scheduled`: arguments that change over the training steps;
- `build`, for weights beside the scores': each either has nothing to do with tasks and experts, or
  one axis for the tasks (`num_tasks`) or for the experts it chooses from (`num_choices`);
- `needs_ids` and `id_column`, to see the ids of a column; `make_head` and `scores`, to do without
  a router.

`tfmoe.gates.logits.LogitGate` is the base of gates with one logit an expert.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmoe import validation
from tfmoe.compute import nested
from tfmoe.compute.device import check_tasks
from tfmoe.compute.types import Shape, Tensor
from tfmoe.compute.weights import paired, taken
from tfmoe.gates.balance import BalanceLoss
from tfmoe.gates.output import GateOutput
from tfmoe.gates.routers import MLPRouter, ScoreHead, ScoreSpec
from tfmoe.gates.rows import Rows
from tfmoe.gates.schedules import is_schedule
from tfmoe.gates.task_router import MixedHead, Router, TaskHead, TaskRouter
from tfmoe.validation import checks_arguments


@checks_arguments
class Gate(keras.layers.Layer):
    """A router that makes scores, and a selector that turns them into weights of experts.

    The abstract class of all gates; the module `tfmoe.gates.base` says how to write one. With
    `trainable=False` a gate behaves in training as at inference: it draws no noise, adds no
    losses and moves no averages.

    Args:
        num_tasks: int >= 1, or None to take it from the structure that holds the gate.
        num_experts: int >= 2, or None likewise.
        router: `"linear"` makes the scores from the input with one matmul for all
            tasks; `"static"` has one set of scores for all examples; an `MLPRouter`
            puts a small network before the matmul; a `TaskRouter` is one router that is
            told the task.
        balance: one balance loss or a sequence of them, such as `SwitchLoss()`, added
            to the loss in training.
        expert_ids: sequence of int, or None. A gate that chooses among `num_choices`
            experts of which only these are there: it emits the weights that the whole gate
            gives them, in this order, and `num_experts` is their number. `extract`
            makes such gates.
        num_choices: int, with `expert_ids`: how many experts there were.
        usage_decay: float between 0 and 1, or None. With it, weights that are not trained
            keep for each task and expert the average, over training steps, of the share
            of the task's rows that chose the expert; a step counts this factor less with
            each later one that has rows of the task. See `usage`.

    Call arguments:
        inputs: float tensor `(b, f)`; or `(b, t, f)`, without `task`, where each task reads
            something of its own in a row.
        task: int tensor `(b,)`, where each row has one task: its number, from 0. Only the
            row's own router is computed then, and a gate of one task takes all rows for it.
            None where each row has all tasks.
        ids: int tensor `(b,)`, for a gate that hashes; others do not look at it.
        training: bool.
        return_aux: bool; if True, also return what losses and reports need.
        row_mask: float tensor `(b,)`, 0 for rows that do not count, such as padding, in the
            gate's losses, its load and its usage, else 1; None if all count. Not named `mask`,
            which Keras fills in from whatever layer came before.

    Returns:
        Float tensor `(b, t, e)`, `(1, t, e)` with a static router, `(b, 1, e)` with `task`.
        With `return_aux` also the call's `GateOutput`.

    Raises:
        ValueError: if an argument is out of range or of the wrong kind.

    Source of the usage: Chen et al., 2023, https://arxiv.org/abs/2212.08066, with a decay
    of 0.95. Differs from the authors' code in shares instead of counts, in that tasks
    without rows rest, and in the correction of the start.
    """

    #: The most non-zeros in a row of one task once the gate has decided; None if unknown.
    num_nonzeros: int | None = None
    #: Whether rows keep to `num_nonzeros` always, not only once the gate has decided.
    always_sparse: bool = False
    #: Whether weights can be exactly 0 at all.
    selects: bool = True
    #: Whether an expert without weight still gives the gate a gradient in training.
    trains_unselected: bool = False
    #: Whether `call` needs `ids`.
    needs_ids: bool = False

    #: The fewest experts that it weighs, unless `expert_ids` says that others were cut.
    _fewest_experts = 2

    former_arguments = ("kept",)

    def __init__(
        self,
        num_tasks: int | None = None,
        num_experts: int | None = None,
        router: Router = "linear",
        balance: BalanceLoss | Sequence[BalanceLoss] = (),
        expert_ids: Sequence[int] | None = None,
        num_choices: int | None = None,
        usage_decay: float | None = None,
        **kwargs: Any,
    ) -> None:
        name = type(self).__name__
        expert_ids = nested.renamed(name, kwargs, "kept", "expert_ids", expert_ids)
        super().__init__(**kwargs)
        least = self._fewest_experts if expert_ids is None else 1
        num_tasks = validation.integer(name, "num_tasks", num_tasks, 1, optional=True)
        num_experts = validation.integer(name, "num_experts", num_experts, least, optional=True)
        # None only in a recipe, whose holder fills them in.
        self.num_tasks: Any = num_tasks
        self.num_experts: Any = num_experts
        self.expert_ids, self._num_choices = _checked_ids(name, expert_ids, num_choices)
        router = nested.given(router)
        if router not in ("linear", "static") and not isinstance(router, MLPRouter | TaskRouter):
            raise ValueError(
                f'{name} takes `router` "linear", "static", an MLPRouter or a TaskRouter. '
                f"Received router={router!r}."
            )
        # Not through `self`: Keras would track the recipe's own weights, if it has any.
        config: Any = router
        if isinstance(router, MLPRouter):
            config = nested.config_of(router)
            router = nested.filled(config, name, name="router")
        elif isinstance(router, TaskRouter):
            config = nested.config_of(router)
        self._router_config, self.router = config, router
        balance = balance if isinstance(balance, list | tuple) else (balance,)
        self.balance = tuple(nested.given(loss) for loss in balance)
        if not all(isinstance(loss, BalanceLoss) for loss in self.balance):
            raise ValueError(
                f"{name} takes as `balance` losses such as tfmoe.SwitchLoss(). "
                f"Received balance={balance!r}."
            )
        if usage_decay is not None and not 0 < usage_decay < 1:
            raise ValueError(
                f"{name}'s `usage_decay` weighs past steps and must be between 0 and 1, or None. "
                f"Received usage_decay={usage_decay!r}. Try 0.95."
            )
        self.usage_decay = usage_decay
        self._num_mixed: int | None = None

    @property
    def num_choices(self) -> int:
        """How many experts it chooses from; more than `num_experts` with `expert_ids`."""
        return self._num_choices or self.num_experts

    @property
    def least_experts(self) -> int:
        """How many experts it needs; one may be left where others were cut."""
        return self._fewest_experts if self.expert_ids is None else 1

    @property
    def id_column(self) -> str | None:
        """Name of the column whose ids it hashes, or None."""
        return None

    @property
    def task_groups(self) -> list[slice]:
        """Slices of its tasks whose outputs are to be mixed apart from each other."""
        return [slice(None)]

    def numbers(self, experts: Iterable[int]) -> list[int]:
        """Some of its experts, given by index, by their numbers among those it chooses from."""
        return [e if self.expert_ids is None else self.expert_ids[e] for e in experts]

    def keep(self, experts: Iterable[int]) -> None:
        """Chooses as before, and emits the weights of only some of its experts.

        Args:
            experts: indices of those that stay.
        """
        num_choices, self.expert_ids = self.num_choices, tuple(self.numbers(experts))
        self._num_choices, self.num_experts = num_choices, len(self.expert_ids)

    def told(self, tasks: Sequence[int]) -> dict[str, Any]:
        """Of its config what a gate of only some of its tasks is to be told of their places.

        Args:
            tasks: for each of that gate's tasks its index in this one.
        """
        return {}

    def freeze(self) -> None:
        """Leaves only what belongs to the newest task to be trained."""
        self.trainable = False

    def copy_from(self, other: Gate, tasks: Sequence[int]) -> None:
        """Takes over a gate's weights, of those that belong to tasks the given ones.

        All but the scores of each task either have nothing to do with tasks, and keep their
        shape, or have one axis for them.

        Args:
            other: built `Gate` of the same kind.
            tasks: for each of this gate's tasks its index in the other one.

        Raises:
            ValueError: if it cannot be told which part of a weight belongs to a task.
        """
        # A gate that computes its weights without scores has no head.
        scores = {id(weight) for weight in self.head.weights} if hasattr(self, "head") else ()
        for target, values in paired(other, self):
            if id(target) in scores and values.shape[-1] != target.shape[-1]:
                # A task's scores lie side by side, `(f, t * s)`.
                apart = values.reshape(*values.shape[:-1], other.num_tasks, -1)[..., tasks, :]
                values = apart.reshape(target.shape)
            target.assign(taken(values, target, tasks, other.num_tasks, other))

    def score_parts(self) -> list[ScoreSpec]:
        """What the selector needs of the router: the scores `(s,)` of one task, part by part.

        Called when the gate is built, once `num_experts` is known, and whenever a shape is asked
        for. The parts lie one after the other in the last axis of `scores`.
        """
        raise NotImplementedError

    def select(self, scores: Tensor, rows: Rows, training: bool) -> tuple[Tensor, Tensor]:
        """The selector: weights from scores.

        Losses of the gate's own are added here, with `add_loss`, and averages moved, both if
        `training` is true and only then; `rows` has the sums and means over a batch's rows that
        leave out what does not count.

        Args:
            scores: float32 `(b, t, s)`, `(b, 1, s)` where rows have one task each, `(1, t, s)`
                with a static router.
            rows: which rows count, and their tasks. What belongs to a task is that of
                `rows.task`, if that is not None.
            training: bool.

        Returns:
            Pair of float32 `(b, t, c)`: probabilities of all experts before anything was cut,
            and weights, at least 0. Both may be the same.
        """
        raise NotImplementedError

    def logits(self, scores: Tensor) -> Tensor | None:
        """The scores `(b, t, c)` that rank the experts, or None where nothing does."""
        return None

    def spread(self, scores: Tensor) -> Tensor | None:
        """Standard deviations `(b, t, c)` of the noise on the logits, or None without."""
        return None

    def converged(self, scores: Tensor) -> Tensor | None:
        """Share `(b, t)` of a task's selectors that have decided, or None.

        None where a gate has nothing that could be undecided.
        """
        return None

    def scheduled(self) -> list[str]:
        """Names of the constructor's arguments that may be schedules; `now` reads them."""
        return []

    def now(self, value: Any) -> Any:
        """A number, or what a schedule says at the gate's current training step."""
        return value(self.steps) if is_schedule(value) else value

    def build(self, input_shape: Shape) -> None:
        validation.check_known(self, "num_tasks", "num_experts")
        if self.expert_ids is not None and len(self.expert_ids) != self.num_experts:
            raise ValueError(
                f"{type(self).__name__} emits a weight for each expert in `expert_ids`. Received "
                f"expert_ids={list(self.expert_ids)} with num_experts={self.num_experts}."
            )
        if len(input_shape) != 2:
            raise ValueError(
                f"{type(self).__name__} takes inputs of shape (batch, features). Received "
                f"shape {tuple(input_shape)}."
            )
        if any(is_schedule(getattr(self, name)) for name in self.scheduled()):
            self.steps = self.add_weight(
                name="steps",
                shape=(),
                dtype="int32",
                initializer="zeros",
                trainable=False,
                aggregation="only_first_replica",
            )
        if self.usage_decay is not None:
            self._make_usage()
        self.make_head(input_shape)

    def mix_tasks(self, num_tasks: int) -> None:
        """Makes the scores of its one task a convex mix of those of so many others.

        To be called before it is built, of a gate of one task; see `ExtendedGate`.
        """
        self._num_mixed = num_tasks

    def make_head(self, input_shape: Shape) -> None:
        """Makes the weights from which `scores` come, the layer `head`."""
        given = {"dtype": self.dtype_policy, "name": "head"}
        num_tasks = self._num_mixed or self.num_tasks
        if isinstance(self.router, TaskRouter):
            self.head = TaskHead(self.router, num_tasks, self.score_parts(), **given)
        else:
            if isinstance(self.router, MLPRouter):
                self.router.build(input_shape)
                input_shape = self.router.compute_output_shape(input_shape)
            static = self.router == "static"
            self.head = ScoreHead(num_tasks, self.score_parts(), static=static, **given)
        if self._num_mixed:
            self.head = MixedHead(self.head, **given)
        self.head.build(input_shape)

    def scores(self, inputs: Tensor, task: Tensor | None, ids: Tensor | None) -> Tensor:
        """The router: scores `(b, t, s)` in float32, `(b, 1, s)` with `task`."""
        hidden = self.router(inputs) if isinstance(self.router, MLPRouter) else inputs
        return self.head(hidden, task=task)

    def _scores_of(self, inputs, task, ids):
        if len(inputs.shape) == 2:
            return self.scores(inputs, task, ids)
        num, size = inputs.shape[1:]
        if self.router == "static" or self.needs_ids:
            return self.scores(inputs[:, 0], None, ids)
        # Each row once for each task, with what that task reads.
        tasks = ops.tile(ops.arange(num, dtype="int32"), [ops.shape(inputs)[0]])
        scores = self.scores(ops.reshape(inputs, (-1, size)), tasks, None)
        return ops.reshape(scores, (-1, num, scores.shape[-1]))

    def call(
        self,
        inputs: Tensor,
        task: Tensor | None = None,
        ids: Tensor | None = None,
        training: bool = False,
        return_aux: bool = False,
        row_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, GateOutput]:
        if task is not None:
            task = self._checked_task(task)
        # A frozen gate draws no noise and moves no averages.
        training = training and self.trainable
        scores = self._scores_of(inputs, task, ids)
        # One row stands for all with a static router, and always counts.
        row_mask = None if task is None and self.router == "static" else row_mask
        rows = Rows(self.num_tasks, task, row_mask)
        probabilities, weights = self.select(scores, rows, training)
        record = GateOutput(
            mask=() if row_mask is None else ops.cast(row_mask, scores.dtype),
            probabilities=probabilities,
            scores=scores,
            task=() if task is None else task,
            weights=weights,
        )
        if training:
            for loss in self.balance:
                self.add_loss(loss(self, record))
            if hasattr(self, "steps"):
                self.steps.assign_add(1)
            if self.usage_decay is not None:
                self._move_usage(weights, rows)
        if self.expert_ids is not None:
            record = record._replace(
                probabilities=ops.take(probabilities, self.expert_ids, axis=-1),
                weights=ops.take(weights, self.expert_ids, axis=-1),
            )
        output = ops.cast(record.weights, self.compute_dtype)
        return (output, record) if return_aux else output

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (1 if self.router == "static" else input_shape[0], self.num_tasks, self.num_experts)

    def compute_output_spec(
        self,
        inputs: Tensor,
        task: Tensor | None = None,
        ids: Tensor | None = None,
        training: bool = False,
        return_aux: bool = False,
        row_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, GateOutput]:
        static = task is None and self.router == "static"
        batch, num = 1 if static else inputs.shape[0], 1 if task is not None else self.num_tasks
        shape = (batch, num, self.num_experts)
        output = keras.KerasTensor(shape, dtype=self.compute_dtype)
        if not return_aux:
            return output
        exact = keras.backend.result_type(self.compute_dtype, "float32")
        num_scores = sum(part.size for part in self.score_parts())
        masked = row_mask is not None and not static
        record = GateOutput(
            mask=keras.KerasTensor((batch,), dtype=exact) if masked else (),
            probabilities=keras.KerasTensor(shape, dtype=exact),
            scores=keras.KerasTensor((batch, num, num_scores), dtype=exact),
            task=() if task is None else keras.KerasTensor((batch,), dtype="int32"),
            weights=keras.KerasTensor(shape, dtype=exact),
        )
        return output, record

    def _checked_task(self, task):
        task = ops.convert_to_tensor(task)
        if len(task.shape) != 1 or "int" not in keras.backend.standardize_dtype(task.dtype):
            raise ValueError(
                f"{type(self).__name__} takes `task` as integers of shape (batch,). Received "
                f"task of shape {tuple(task.shape)} and type "
                f"{keras.backend.standardize_dtype(task.dtype)}. Give the number of each row's "
                "task, or None where each row has all tasks."
            )
        task = ops.cast(task, "int32")
        if self.num_tasks == 1:
            # It takes all rows for its own.
            return ops.zeros_like(task)
        check_tasks(type(self).__name__, task, self.num_tasks)
        return task

    def _make_usage(self):
        if not self.selects:
            raise ValueError(
                f"`usage_decay` averages how often an expert is chosen. Received usage_decay="
                f"{self.usage_decay} for {type(self).__name__}, which gives all experts some "
                "weight. Leave it out, or use a gate such as TopKGate()."
            )

        def average(name, size):
            return self.add_weight(
                name=name,
                shape=(self.num_tasks, size),
                dtype=keras.backend.result_type(self.variable_dtype, "float32"),
                initializer="zeros",
                trainable=False,
                autocast=False,
                aggregation="mean",
            )

        self.usage_sums = average("usage_sums", self.num_choices)
        # What the weights of all steps so far add up to, by which the sums are divided.
        self.usage_total = average("usage_total", 1)

    def _move_usage(self, weights, rows):
        counts = rows.counts(weights)
        chosen = rows.sums(ops.cast(weights > 0, weights.dtype)) / ops.maximum(counts, 1)
        rate = (1 - self.usage_decay) * ops.cast(counts > 0, counts.dtype)
        for variable, value in ((self.usage_sums, chosen), (self.usage_total, 1.0)):
            step = rate * (value - ops.cast(variable, counts.dtype))
            variable.assign_add(ops.cast(step, variable.dtype))

    @property
    def usage(self) -> np.ndarray | None:
        """How often experts were chosen in training, as an average over its steps.

        NumPy array `(t, e)`, shares of each task's rows, NaN for tasks that had none yet.
        None without `usage_decay`, or before the gate is built.
        """
        if self.usage_decay is None or not self.built:
            return None
        sums, total = (ops.convert_to_numpy(v) for v in (self.usage_sums, self.usage_total))
        usage = np.where(total > 0, sums / np.where(total > 0, total, 1), np.nan)
        return usage if self.expert_ids is None else usage[:, list(self.expert_ids)]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            "num_experts": self.num_experts,
            "router": self._router_config,
            "balance": [keras.saving.serialize_keras_object(loss) for loss in self.balance],
            "expert_ids": None if self.expert_ids is None else list(self.expert_ids),
            "num_choices": self._num_choices,
            "usage_decay": self.usage_decay,
        }


def _checked_ids(name, expert_ids, num_choices):
    """`expert_ids` and `num_choices` as attributes."""
    if expert_ids is None and num_choices is None:
        return None, None
    num_choices = validation.integer(name, "num_choices", num_choices, 2)
    ids = tuple(validation.plain(expert_ids) or ())
    if not ids or len(set(ids)) < len(ids) or not set(ids) <= set(range(num_choices)):
        raise ValueError(
            f"{name} takes as `expert_ids` different experts from 0 to num_choices - 1. Received "
            f"expert_ids={list(ids)} with num_choices={num_choices}."
        )
    return ids, num_choices
