"""The sparse gate of Shazeer et al., whose choice jumps."""

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute.math import shares
from tfmoe.compute.registered import registered
from tfmoe.gates.base import Gate
from tfmoe.gates.routers import Scores


@registered
class TopKGate(Gate):
    r"""Keeps the `num_nonzeros` highest scores and takes their softmax.

    With `H = inputs @ W_t`, and in training, if `noisy`, `H + eps * softplus(inputs @ N_t)`
    with `eps` standard normal:

        weights[b, t] = softmax of the k largest of H, 0 for all others

    The softmax comes after the choice, so a row sums to 1 over the chosen; what is not
    chosen is exactly 0 and gets no gradient. With `num_nonzeros=1` the one weight is
    always 1, so the scores get no gradient at all and the choice is never learned.

    Args:
        num_tasks, num_experts, router, balance, kept, num_choices, usage_decay: see `Gate`.
        num_nonzeros: int >= 1, experts chosen for a task; all of them if there are
            fewer.
        noisy: bool; add learned noise in training. It doubles the scores.
        kernel_initializer: Keras initializer.
        seed: int or None, for the noise.

    Call arguments:
        inputs: float tensor `(b, f)`.
        task: int tensor `(b,)` or None, the row's task; see `Gate`.
        training: bool, for the noise.

    Returns:
        Float tensor `(b, t, e)` with `min(k, e)` non-zeros in a row, which sum to 1.
        With a static router `(1, t, e)`.

    Raises:
        ValueError: if a count is too small.

    Example:

    >>> gate = TopKGate(num_tasks=1, num_experts=4, num_nonzeros=2)
    >>> int(np.count_nonzero(gate(np.ones((1, 3)))))
    2

    Source: Shazeer et al., 2017, section 2.1, https://arxiv.org/abs/1701.06538.
    Differs from it in `noisy=False` by default.
    """

    always_sparse = True

    def __init__(
        self,
        num_tasks=None,
        num_experts=None,
        num_nonzeros=2,
        noisy=False,
        router="linear",
        kernel_initializer="lecun_normal",
        seed=None,
        **kwargs,
    ):
        super().__init__(num_tasks, num_experts, router, **kwargs)
        num_nonzeros = validation.integer("TopKGate", "num_nonzeros", num_nonzeros, 1)
        self.num_nonzeros = num_nonzeros
        self.noisy = noisy
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.seed = validation.plain(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed) if noisy else None

    def score_parts(self):
        part = Scores(self.num_choices, self.kernel_initializer, None, "random_uniform")
        if not self.noisy:
            return [part]
        # The noise starts at softplus(0) = 0.69 for every expert.
        return [part, Scores(self.num_choices, "zeros", None, "zeros")]

    def select(self, scores, rows, training):
        clean = scores[..., : self.num_choices]
        if self.noisy and training:
            noise = keras.random.normal(
                ops.shape(clean), dtype=clean.dtype, seed=self.seed_generator
            )
            clean = clean + noise * self.spread(scores)
        values, chosen = ops.top_k(clean, min(self.num_nonzeros, self.num_choices))
        one_hot = ops.one_hot(chosen, self.num_choices, dtype=clean.dtype)
        weights = ops.einsum("btk,btke->bte", shares(values), one_hot)
        return ops.softmax(clean, axis=-1), weights

    def logits(self, scores):
        return scores[..., : self.num_choices]

    def spread(self, scores):
        return ops.softplus(scores[..., self.num_choices :]) if self.noisy else None

    def get_config(self):
        return {
            **super().get_config(),
            "num_nonzeros": self.num_nonzeros,
            "noisy": self.noisy,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "seed": self.seed,
        }
