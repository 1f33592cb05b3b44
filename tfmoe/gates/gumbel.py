"""The Gumbel-softmax gate: noise in training, and a choice that learns as if it were soft."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Initializer, Tensor
from tfmoe.gates.logits import LogitGate, largest, softmax_of_chosen
from tfmoe.gates.rows import Rows
from tfmoe.gates.schedules import Schedule, number_or_schedule, schedule_config
from tfmoe.gates.task_router import Router


@registered
class GumbelGate(LogitGate):
    r"""Draws experts at random in training, by their scores, and takes the best after it.

    With `H = inputs @ W_t` and `T` the temperature, and in training `H + G` with `G`
    standard Gumbel noise in place of `H`:

        soft[b, t] = softmax(H / T)
        weights[b, t] = softmax of the k largest of H / T, 0 for all others

    The weights learn by the straight-through estimator: their gradient is that of
    `soft`, as if nothing had been cut off. So every score learns, also with
    `num_nonzeros=1`, where the chosen expert's weight is always 1.

    Args:
        num_tasks, num_experts, router, balance, expert_ids, num_choices, usage_decay: see `Gate`.
        num_nonzeros: int >= 1, experts chosen for a task (all of them if there are
            fewer), or None for the soft gate, whose weights are `soft`.
        temperature: float > 0, or one of keras.optimizers.schedules over the training
            steps, such as `ExponentialDecay(1.0, 1000, 0.9)`. Small values bring `soft`
            near to a choice, and make gradients rare and large. A value below 1e-6
            counts as 1e-6.
        kernel_initializer: Keras initializer.
        seed: int or None, for the noise.

    Call arguments:
        inputs: float tensor `(b, f)`.
        task: int tensor `(b,)` or None, the row's task; see `Gate`.
        training: bool, for the noise.

    Returns:
        Float tensor `(b, t, e)` with `min(k, e)` non-zeros in a row, which sum to 1; all
        above 0 for the soft gate. With a static router `(1, t, e)`: one draw for all
        examples of a batch, where they do not have one task each.

    Raises:
        ValueError: if a count is too small, or `temperature` is not above 0.

    Example:

    >>> gate = GumbelGate(num_tasks=1, num_experts=4)
    >>> gate(np.ones((1, 3))).numpy().max().item()
    1.0

    Source: Jang et al., 2017, section 2, https://arxiv.org/abs/1611.01144, and Maddison
    et al., 2017, https://arxiv.org/abs/1611.00712. They choose one; that the k largest
    of `H + G` are k draws without replacement is Kool et al., 2019, section 3,
    https://arxiv.org/abs/1903.06059, and weighing them by their softmax is ours.
    """

    trains_unselected = True

    def __init__(
        self,
        num_tasks: int | None = None,
        num_experts: int | None = None,
        num_nonzeros: int | None = 1,
        temperature: float | Schedule = 1.0,
        router: Router = "linear",
        kernel_initializer: Initializer = "lecun_normal",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_tasks, num_experts, router, kernel_initializer, **kwargs)
        num_nonzeros = validation.integer(
            "GumbelGate", "num_nonzeros", num_nonzeros, 1, optional=True
        )
        self.num_nonzeros = num_nonzeros
        self.always_sparse = self.selects = num_nonzeros is not None
        self.temperature = number_or_schedule(
            "GumbelGate", "temperature", temperature, least=0, above=True
        )
        self.seed = validation.plain(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def scheduled(self) -> list[str]:
        return ["temperature"]

    def select(self, scores: Tensor, rows: Rows, training: bool) -> tuple[Tensor, Tensor]:
        if training:
            # Never 0, whose logarithm is infinite, nor so small that it is flushed to 0.
            uniform = keras.random.uniform(
                ops.shape(scores), 1e-37, 1.0, dtype=scores.dtype, seed=self.seed_generator
            )
            scores = scores - ops.log(-ops.log(uniform))
        # A schedule may end at 0.
        scores = ops.divide(scores, ops.maximum(self.now(self.temperature), 1e-6))
        soft = ops.softmax(scores, axis=-1)
        if self.num_nonzeros is None:
            return soft, soft
        values, _, one_hot = largest(scores, self.num_nonzeros)
        hard = ops.stop_gradient(softmax_of_chosen(values, one_hot))
        if not training:
            # Experts without weight may not have been computed, and so give it no gradient.
            return soft, hard
        # In this order: `(hard + soft) - soft` would leave a rounding error where 0 is due.
        return soft, hard + (soft - ops.stop_gradient(soft))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_nonzeros": self.num_nonzeros,
            "temperature": schedule_config(self.temperature),
            "seed": self.seed,
        }
