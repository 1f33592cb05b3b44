"""What all gates share: counts, the router, the records for losses and reports."""

import keras
from keras import ops

from tfmoe import recipe
from tfmoe.gates.routers import MLPRouter, ScoreHead


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

    Call arguments:
        inputs: float tensor `(b, f)`.
        training: bool.
        return_aux: bool; if True, also return a record of what losses and reports need.

    Returns:
        Float tensor `(b, t, e)`, or `(1, t, e)` with a static router. With
        `return_aux` also a dict of float32 tensors: `scores` `(b, t, s)`,
        `probabilities` `(b, t, e)` before anything was cut, and `weights` `(b, t, e)`.
    """

    def __init__(self, num_tasks=None, num_experts=None, router="linear", **kwargs):
        super().__init__(**kwargs)
        name = type(self).__name__
        recipe.check_counts(
            name, optional=True, num_tasks=(num_tasks, 1), num_experts=(num_experts, 2)
        )
        self.num_tasks, self.num_experts = num_tasks, num_experts
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

    def score_parts(self):
        """List of `Scores`: what the selector needs for one task."""
        raise NotImplementedError

    def select(self, scores, training):
        """Scores `(b, t, s)` in float32 to `(probabilities, weights)`, each `(b, t, e)`."""
        raise NotImplementedError

    def build(self, input_shape):
        recipe.check_known(self, "num_tasks", "num_experts")
        if len(input_shape) != 2:
            raise ValueError(
                f"{type(self).__name__} takes inputs of shape (batch, features). Received "
                f"shape {tuple(input_shape)}."
            )
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

    def call(self, inputs, training=False, return_aux=False):
        hidden = self.router(inputs) if isinstance(self.router, MLPRouter) else inputs
        scores = self.head(hidden)
        probabilities, weights = self.select(scores, training)
        output = ops.cast(weights, self.compute_dtype)
        if return_aux:
            record = {"scores": scores, "probabilities": probabilities, "weights": weights}
            return output, record
        return output

    def compute_output_spec(self, inputs, training=False, return_aux=False):
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
        }
