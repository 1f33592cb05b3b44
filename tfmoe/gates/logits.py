"""Gates with one logit an expert, and the choice of the largest."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfmoe.compute.math import shares
from tfmoe.compute.types import Initializer, Tensor
from tfmoe.gates.base import Gate
from tfmoe.gates.routers import ScoreSpec
from tfmoe.gates.task_router import Router


class LogitGate(Gate):
    """A gate whose scores are logits: one for each expert that it chooses from.

    A subclass says in `select` how they become weights.

    Args:
        num_tasks, num_experts, router: see `Gate`.
        kernel_initializer: Keras initializer of the kernel that makes the logits.
        **kwargs: further arguments of `Gate`.
    """

    def __init__(
        self,
        num_tasks: int | None = None,
        num_experts: int | None = None,
        router: Router = "linear",
        kernel_initializer: Initializer = "lecun_normal",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_tasks, num_experts, router, **kwargs)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def score_parts(self) -> list[ScoreSpec]:
        return [ScoreSpec(self.num_choices, self.kernel_initializer, None, "random_uniform")]

    def logits(self, scores: Tensor) -> Tensor:
        return scores

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest of scores `(b, t, c)`, or all if there are fewer.

    Returns:
        Their values and their indices `(b, t, k)`, and the indices as one-hot rows
        `(b, t, k, c)`.
    """
    num_choices = scores.shape[-1]
    values, chosen = ops.top_k(scores, min(k, num_choices))
    return values, chosen, ops.one_hot(chosen, num_choices, dtype=scores.dtype)


def softmax_of_chosen(values: Tensor, one_hot: Tensor) -> Tensor:
    """Softmax over chosen values `(b, t, k)` in their places `(b, t, c)`, 0 elsewhere."""
    return ops.einsum("btk,btke->bte", shares(values), one_hot)
