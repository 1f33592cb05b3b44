"""The sparse gate of Shazeer et al., whose choice jumps."""

from __future__ import annotations

from typing import Any, Self

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Initializer, Tensor
from tfmoe.gates.logits import LogitGate, largest, softmax_of_chosen
from tfmoe.gates.routers import ScoreSpec
from tfmoe.gates.rows import Rows
from tfmoe.gates.task_router import Router

# What Mod-Squad's code adds to the share of a chosen expert.
_LEAST = 1e-4


@registered
class TopKGate(LogitGate):
    r"""Keeps the `num_nonzeros` highest scores and takes their softmax, or that of all.

    With `H = inputs @ W_t`, and in training, if `noisy`, `H + eps * softplus(inputs @ N_t)`
    with `eps` standard normal:

        weights[b, t] = softmax of the k largest of H, 0 for all others

    The softmax comes after the choice, so a row sums to 1 over the chosen; what is not
    chosen is exactly 0 and gets no gradient. With `num_nonzeros=1` the one weight is
    always 1, so the scores get no gradient at all and the choice is never learned.

    With `renormalize=False`, as in Mod-Squad, it comes before the choice:

        weights[b, t] = softmax(H) + 1e-4 where that is among the k largest, 0 for all others

    so that a row sums to less than 1, the less the more experts there are, and the scores of
    all experts get a gradient, also with `num_nonzeros=1`.

    Args:
        num_tasks, num_experts, router, balance, expert_ids, num_choices, usage_decay: see `Gate`.
        num_nonzeros: int >= 1, experts chosen for a task; all of them if there are
            fewer.
        noisy: bool; add learned noise in training. It doubles the scores.
        kernel_initializer: Keras initializer.
        seed: int or None, for the noise.
        renormalize: bool, see above; None for True, but in a `ModSquad` or `ModSquadBlock` for
            False.

    Call arguments:
        inputs: float tensor `(b, f)`.
        task: int tensor `(b,)` or None, the row's task; see `Gate`.
        training: bool, for the noise.

    Returns:
        Float tensor `(b, t, e)` with `min(k, e)` non-zeros in a row, which sum to 1 unless
        `renormalize` is False. With a static router `(1, t, e)`.

    Raises:
        ValueError: if a count is too small, or `renormalize` is no bool.

    Example:

    >>> gate = TopKGate(num_tasks=1, num_experts=4, num_nonzeros=2)
    >>> int(np.count_nonzero(gate(np.ones((1, 3)))))
    2

    Source: Shazeer et al., 2017, section 2.1, https://arxiv.org/abs/1701.06538.
    Differs from it in `noisy=False` by default. Without renormalising: the code of Chen et al.,
    2023, https://arxiv.org/abs/2212.08066.
    """

    num_nonzeros: int
    always_sparse = True

    def __init__(
        self,
        num_tasks: int | None = None,
        num_experts: int | None = None,
        num_nonzeros: int = 2,
        noisy: bool = False,
        router: Router = "linear",
        kernel_initializer: Initializer = "lecun_normal",
        seed: int | None = None,
        renormalize: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_tasks, num_experts, router, kernel_initializer, **kwargs)
        if renormalize not in (None, True, False):
            raise ValueError(
                "TopKGate takes `renormalize` as True, False or None. Received "
                f"renormalize={renormalize!r}. False keeps the softmax over all experts."
            )
        self.renormalize = renormalize
        num_nonzeros = validation.integer("TopKGate", "num_nonzeros", num_nonzeros, 1)
        self.num_nonzeros = num_nonzeros
        self.noisy = noisy
        self.seed = validation.plain(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed) if noisy else None

    def score_parts(self) -> list[ScoreSpec]:
        parts = super().score_parts()
        if not self.noisy:
            return parts
        # The noise starts at softplus(0) = 0.69 for every expert.
        return [*parts, ScoreSpec(self.num_choices, "zeros", None, "zeros")]

    def select(self, scores: Tensor, rows: Rows, training: bool) -> tuple[Tensor, Tensor]:
        clean = scores[..., : self.num_choices]
        if self.noisy and training:
            noise = keras.random.normal(
                ops.shape(clean), dtype=clean.dtype, seed=self.seed_generator
            )
            clean = clean + noise * self.spread(scores)
        values, _, one_hot = largest(clean, self.num_nonzeros)
        probabilities = ops.softmax(clean, axis=-1)
        if self.renormalize is not False:
            return probabilities, softmax_of_chosen(values, one_hot)
        # Chosen by score, for of shares that are 0 in half precision none is the larger.
        return probabilities, (probabilities + _LEAST) * ops.sum(one_hot, axis=-2)

    def logits(self, scores: Tensor) -> Tensor:
        return scores[..., : self.num_choices]

    def spread(self, scores: Tensor) -> Tensor | None:
        return ops.softplus(scores[..., self.num_choices :]) if self.noisy else None

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_nonzeros": self.num_nonzeros,
            "noisy": self.noisy,
            "seed": self.seed,
            "renormalize": self.renormalize,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        # Older files do not say it, wherever the gate was.
        return super().from_config({"renormalize": True, **config})
