"""What all gates share: counts, the router, schedules, the records for losses and reports."""

import keras
from keras import ops

from tfmoe import recipe
from tfmoe.gates.balance import BalanceLoss
from tfmoe.gates.routers import MLPRouter, ScoreHead
from tfmoe.gates.schedules import is_schedule


class Gate(keras.layers.Layer):
    """A router that makes scores and a selector that makes weights of them.

    A gate says in `score_parts` how many scores a task needs, and in `select` how they
    become weights.

    Args:
        num_tasks: int >= 1, or None to take it from the mixture that holds the gate.
        num_experts: int >= 2, or None likewise.
        router: `"linear"` makes the scores from the input with one matmul for all
            tasks; `"static"` has one set of scores for all examples; an `MLPRouter`
            puts a small network before the matmul.
        balance: one balance loss or a sequence of them, such as `SwitchLoss()`, added
            to the loss in training.
        kept: sequence of int, or None. A gate that chooses among `num_choices` experts
            of which only these are there: it emits the weights that the whole gate
            gives them, in this order, and `num_experts` is their number. `extract`
            makes such gates.
        num_choices: int, with `kept`: how many experts there were.

    Call arguments:
        inputs: float tensor `(b, f)`.
        ids: int tensor `(b,)`, for a gate that hashes; others do not look at it.
        training: bool.
        return_aux: bool; if True, also return a record of what losses and reports need.

    Returns:
        Float tensor `(b, t, e)`, or `(1, t, e)` with a static router. With
        `return_aux` also a dict of float32 tensors: `scores` `(b, t, s)`,
        `probabilities` `(b, t, e)` before anything was cut, and `weights` `(b, t, e)`.
    """

    # The most non-zeros in a row of one task once the gate has decided; None if unknown.
    num_nonzeros = None
    # Whether rows keep to `num_nonzeros` always, not only once the gate has decided.
    always_sparse = False
    # Whether weights can be exactly 0 at all.
    selects = True
    # Whether an expert without weight still gives the gate a gradient in training.
    trains_unselected = False
    # Whether `call` needs `ids`.
    needs_ids = False

    def __init__(
        self,
        num_tasks=None,
        num_experts=None,
        router="linear",
        balance=(),
        kept=None,
        num_choices=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        name = type(self).__name__
        least = 2 if kept is None else 1
        recipe.check_counts(
            name, optional=True, num_tasks=(num_tasks, 1), num_experts=(num_experts, least)
        )
        self.num_tasks, self.num_experts = num_tasks, num_experts
        self.kept, self._num_choices = _kept(name, kept, num_choices, num_experts)
        router = recipe.given(router)
        if router not in ("linear", "static") and not isinstance(router, MLPRouter):
            raise ValueError(
                f'{name} takes `router` "linear", "static" or an MLPRouter. '
                f"Received router={router!r}."
            )
        # Not through `self`: Keras would track the recipe's own weights, if it has any.
        config = router
        if isinstance(router, MLPRouter):
            config = recipe.config_of(router)
            router = recipe.filled(config, name, name="router")
        self._router_config, self.router = config, router
        balance = balance if isinstance(balance, list | tuple) else (balance,)
        self.balance = tuple(recipe.given(loss) for loss in balance)
        if not all(isinstance(loss, BalanceLoss) for loss in self.balance):
            raise ValueError(
                f"{name} takes as `balance` losses such as tfmoe.SwitchLoss(). "
                f"Received balance={balance!r}."
            )

    @property
    def num_choices(self):
        """How many experts the scores tell apart; more than `num_experts` with `kept`."""
        return self._num_choices or self.num_experts

    def score_parts(self):
        """List of `Scores`: what the selector needs for one task."""
        raise NotImplementedError

    def select(self, scores, training):
        """Scores `(b, t, s)` in float32 to `(probabilities, weights)`, each `(b, t, c)`.

        `c` is `num_choices`.
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
        recipe.check_known(self, "num_tasks", "num_experts")
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
        self.make_head(input_shape)

    def make_head(self, input_shape):
        """Makes the weights from which `scores` come."""
        if isinstance(self.router, MLPRouter):
            self.router.build(input_shape)
            input_shape = self.router.compute_output_shape(input_shape)
        self.head = ScoreHead(
            self.num_tasks,
            self.score_parts(),
            static=self.router == "static",
            dtype=self.dtype_policy,
            name="head",
        )
        self.head.build(input_shape)

    def scores(self, inputs, ids):
        """What a call is given to scores `(b, t, s)` in float32."""
        hidden = self.router(inputs) if isinstance(self.router, MLPRouter) else inputs
        return self.head(hidden)

    def call(self, inputs, ids=None, training=False, return_aux=False):
        scores = self.scores(inputs, ids)
        probabilities, weights = self.select(scores, training)
        record = {"scores": scores, "probabilities": probabilities, "weights": weights}
        if training:
            for loss in self.balance:
                self.add_loss(loss(self, record))
            if hasattr(self, "steps"):
                self.steps.assign_add(1)
        if self.kept is not None:
            for key in ("probabilities", "weights"):
                record[key] = ops.take(record[key], self.kept, axis=-1)
        output = ops.cast(record["weights"], self.compute_dtype)
        return (output, record) if return_aux else output

    def compute_output_spec(self, inputs, ids=None, training=False, return_aux=False):
        batch = 1 if self.router == "static" else inputs.shape[0]
        shape = (batch, self.num_tasks, self.num_experts)
        output = keras.KerasTensor(shape, dtype=self.compute_dtype)
        if not return_aux:
            return output
        exact = keras.backend.result_type(self.compute_dtype, "float32")
        num_scores = sum(part.size for part in self.score_parts())
        record = {
            "scores": keras.KerasTensor((batch, self.num_tasks, num_scores), dtype=exact),
            "probabilities": keras.KerasTensor(shape, dtype=exact),
            "weights": keras.KerasTensor(shape, dtype=exact),
        }
        return output, record

    def get_config(self):
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            "num_experts": self.num_experts,
            "router": self._router_config,
            "balance": [keras.saving.serialize_keras_object(loss) for loss in self.balance],
            "kept": None if self.kept is None else list(self.kept),
            "num_choices": self._num_choices,
        }


def _kept(name, kept, num_choices, num_experts):
    """Both as attributes, checked."""
    if kept is None and num_choices is None:
        return None, None
    recipe.check_counts(name, num_choices=(num_choices, 2))
    kept = tuple(kept or ())
    if not kept or len(set(kept)) < len(kept) or not set(kept) <= set(range(num_choices)):
        raise ValueError(
            f"{name} takes as `kept` different experts from 0 to num_choices - 1. Received "
            f"kept={list(kept)} with num_choices={num_choices}."
        )
    return kept, num_choices
