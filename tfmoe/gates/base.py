"""What all gates share: counts, the router, schedules, usage, and records of a call."""

import keras
import numpy as np
from keras import ops

from tfmoe import validation
from tfmoe.compute import nested
from tfmoe.compute.device import check_tasks
from tfmoe.compute.weights import paired, taken
from tfmoe.gates.balance import BalanceLoss
from tfmoe.gates.output import GateOutput
from tfmoe.gates.routers import MLPRouter, ScoreHead
from tfmoe.gates.rows import Rows
from tfmoe.gates.schedules import is_schedule
from tfmoe.gates.task_router import MixedHead, TaskHead, TaskRouter


class Gate(keras.layers.Layer):
    """A router that makes scores and a selector that makes weights of them.

    A gate says in `score_parts` how many scores a task needs, and in `select` how they
    become weights. With `trainable=False` it behaves in training as at inference: it draws no
    noise, adds no losses and moves no averages.

    Args:
        num_tasks: int >= 1, or None to take it from the mixture that holds the gate.
        num_experts: int >= 2, or None likewise.
        router: `"linear"` makes the scores from the input with one matmul for all
            tasks; `"static"` has one set of scores for all examples; an `MLPRouter`
            puts a small network before the matmul; a `TaskRouter` is one router that is
            told the task.
        balance: one balance loss or a sequence of them, such as `SwitchLoss()`, added
            to the loss in training.
        kept: sequence of int, or None. A gate that chooses among `num_choices` experts
            of which only these are there: it emits the weights that the whole gate
            gives them, in this order, and `num_experts` is their number. `extract`
            makes such gates.
        num_choices: int, with `kept`: how many experts there were.
        usage_decay: float between 0 and 1, or None. With it, weights that are not trained
            keep for each task and expert the average, over training steps, of the share
            of the task's rows that chose the expert; a step counts this factor less with
            each later one that has rows of the task. See `usage`.

    Call arguments:
        inputs: float tensor `(b, f)`.
        task: int tensor `(b,)`, where each row has one task: its number, from 0. Only the
            row's own router is computed then, and a gate of one task takes all rows for it.
            None where each row has all tasks.
        ids: int tensor `(b,)`, for a gate that hashes; others do not look at it.
        training: bool.
        return_aux: bool; if True, also return a record of what losses and reports need.
        row_mask: float tensor `(b,)`, 0 for rows that do not count, such as padding, in the
            gate's losses, its load and its usage, else 1; None if all count. Not named `mask`,
            which Keras fills in from whatever layer came before.

    Returns:
        Float tensor `(b, t, e)`, `(1, t, e)` with a static router, `(b, 1, e)` with `task`.
        With `return_aux` also the call's `GateOutput`.

    Source of the usage: Chen et al., 2023, https://arxiv.org/abs/2212.08066, with a decay
    of 0.95. Differs from the authors' code in shares instead of counts, in that tasks
    without rows rest, and in the correction of the start.
    """

    # The most non-zeros in a row of one task once the gate has decided; None if unknown.
    num_nonzeros: int | None = None
    # Whether rows keep to `num_nonzeros` always, not only once the gate has decided.
    always_sparse = False
    # Whether weights can be exactly 0 at all.
    selects = True
    # Whether an expert without weight still gives the gate a gradient in training.
    trains_unselected = False
    # Whether `call` needs `ids`.
    needs_ids = False
    # Of how many tasks a gate's one task is a convex mix, see `ExtendedGate`; None for most.
    mix_of = None

    def __init__(
        self,
        num_tasks=None,
        num_experts=None,
        router="linear",
        balance=(),
        kept=None,
        num_choices=None,
        usage_decay=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        name = type(self).__name__
        least = 2 if kept is None else 1
        num_tasks = validation.integer(name, "num_tasks", num_tasks, 1, optional=True)
        num_experts = validation.integer(name, "num_experts", num_experts, least, optional=True)
        self.num_tasks, self.num_experts = num_tasks, num_experts
        self.kept, self._num_choices = _kept(name, kept, num_choices, num_experts)
        router = nested.given(router)
        if router not in ("linear", "static") and not isinstance(router, MLPRouter | TaskRouter):
            raise ValueError(
                f'{name} takes `router` "linear", "static", an MLPRouter or a TaskRouter. '
                f"Received router={router!r}."
            )
        # Not through `self`: Keras would track the recipe's own weights, if it has any.
        config = router
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

    @property
    def num_choices(self):
        """How many experts the scores tell apart; more than `num_experts` with `kept`."""
        return self._num_choices or self.num_experts

    @property
    def id_column(self):
        """Name of the column whose ids it hashes, or None."""
        return None

    @property
    def task_groups(self):
        """Slices of its tasks whose outputs are to be mixed apart from each other."""
        return [slice(None)]

    def numbers(self, experts):
        """Some of its experts, given by index, by their numbers among those it chooses from."""
        return [e if self.kept is None else self.kept[e] for e in experts]

    def keep(self, experts):
        """Chooses as before, and emits the weights of only some of its experts.

        Args:
            experts: list of int, indices of those that stay.
        """
        num_choices, self.kept = self.num_choices, tuple(self.numbers(experts))
        self._num_choices, self.num_experts = num_choices, len(self.kept)

    def freeze(self):
        """Leaves only what belongs to the newest task to be trained."""
        self.trainable = False

    def copy_from(self, other, tasks):
        """Takes over a gate's weights, of those that belong to tasks the given ones.

        All but the scores of each task either have nothing to do with tasks, and keep their
        shape, or have one axis for them.

        Args:
            other: built `Gate` of the same kind.
            tasks: list of int, for each of this gate's tasks its index in the other one.

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

    def score_parts(self):
        """List of `Scores`: what the selector needs for one task."""
        raise NotImplementedError

    def select(self, scores, rows, training):
        """Scores `(b, t, s)` in float32 to `(probabilities, weights)`, each `(b, t, c)`.

        `c` is `num_choices`. What belongs to a task is that of `rows.task`, if rows have
        one task each; the second axis is then 1.
        """
        raise NotImplementedError

    def logits(self, scores):
        """The scores `(b, t, c)` that rank the experts, or None where nothing does."""
        return None

    def spread(self, scores):
        """Standard deviations `(b, t, c)` of the noise on the logits, or None without."""
        return None

    def converged(self, scores):
        """Share `(b, t)` of a task's selectors that have decided, or None.

        None where a gate has nothing that could be undecided.
        """
        return None

    def scheduled(self):
        """List of the constructor's arguments that may be schedules."""
        return []

    def now(self, value):
        """A number, or what a schedule says at the gate's current training step."""
        return value(self.steps) if is_schedule(value) else value

    def build(self, input_shape):
        validation.check_known(self, "num_tasks", "num_experts")
        if self.kept is not None and len(self.kept) != self.num_experts:
            raise ValueError(
                f"{type(self).__name__} emits a weight for each expert in `kept`. Received "
                f"kept={list(self.kept)} with num_experts={self.num_experts}."
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

    def make_head(self, input_shape):
        """Makes the weights from which `scores` come."""
        given = {"dtype": self.dtype_policy, "name": "head"}
        num_tasks = self.mix_of or self.num_tasks
        if isinstance(self.router, TaskRouter):
            self.head = TaskHead(self.router, num_tasks, self.score_parts(), **given)
        else:
            if isinstance(self.router, MLPRouter):
                self.router.build(input_shape)
                input_shape = self.router.compute_output_shape(input_shape)
            static = self.router == "static"
            self.head = ScoreHead(num_tasks, self.score_parts(), static=static, **given)
        if self.mix_of:
            self.head = MixedHead(self.head, **given)
        self.head.build(input_shape)

    def scores(self, inputs, task, ids):
        """What a call is given to scores `(b, t, s)` in float32, `(b, 1, s)` with `task`."""
        hidden = self.router(inputs) if isinstance(self.router, MLPRouter) else inputs
        return self.head(hidden, task=task)

    def call(self, inputs, task=None, ids=None, training=False, return_aux=False, row_mask=None):
        if task is not None:
            task = self._checked_task(task)
        # A frozen gate draws no noise and moves no averages.
        training = training and self.trainable
        scores = self.scores(inputs, task, ids)
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
        if self.kept is not None:
            record = record._replace(
                probabilities=ops.take(probabilities, self.kept, axis=-1),
                weights=ops.take(weights, self.kept, axis=-1),
            )
        output = ops.cast(record.weights, self.compute_dtype)
        return (output, record) if return_aux else output

    def compute_output_shape(self, input_shape):
        return (1 if self.router == "static" else input_shape[0], self.num_tasks, self.num_experts)

    def compute_output_spec(
        self, inputs, task=None, ids=None, training=False, return_aux=False, row_mask=None
    ):
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
    def usage(self):
        """How often experts were chosen in training, as an average over its steps.

        NumPy array `(t, e)`, shares of each task's rows, NaN for tasks that had none yet.
        None without `usage_decay`, or before the gate is built.
        """
        if self.usage_decay is None or not self.built:
            return None
        sums, total = (ops.convert_to_numpy(v) for v in (self.usage_sums, self.usage_total))
        usage = np.where(total > 0, sums / np.where(total > 0, total, 1), np.nan)
        return usage if self.kept is None else usage[:, list(self.kept)]

    def get_config(self):
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            "num_experts": self.num_experts,
            "router": self._router_config,
            "balance": [keras.saving.serialize_keras_object(loss) for loss in self.balance],
            "kept": None if self.kept is None else list(self.kept),
            "num_choices": self._num_choices,
            "usage_decay": self.usage_decay,
        }


def _kept(name, kept, num_choices, num_experts):
    """Both as attributes, checked."""
    if kept is None and num_choices is None:
        return None, None
    num_choices = validation.integer(name, "num_choices", num_choices, 2)
    kept = tuple(validation.plain(kept) or ())
    if not kept or len(set(kept)) < len(kept) or not set(kept) <= set(range(num_choices)):
        raise ValueError(
            f"{name} takes as `kept` different experts from 0 to num_choices - 1. Received "
            f"kept={list(kept)} with num_choices={num_choices}."
        )
    return kept, num_choices
