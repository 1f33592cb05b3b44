"""The dense gate of MMoE."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfmoe.compute.registered import registered
from tfmoe.compute.types import Initializer, Tensor
from tfmoe.gates.logits import LogitGate
from tfmoe.gates.rows import Rows
from tfmoe.gates.task_router import Router


@registered
class SoftmaxGate(LogitGate):
    r"""The dense gate of MMoE: every expert gets some weight.

    With one matrix `W_t` of shape `(f, e)` per task, and `T` the temperature:

        weights[b, t] = softmax(inputs[b] @ W_t / T)

    All `W_t` lie side by side in one kernel, so the gate is a single matmul
    however many tasks there are.

    Args:
        num_tasks, num_experts, router, balance, expert_ids, num_choices: see `Gate`.
        temperature: float > 0. Below 1 sharpens the weights, above 1 flattens
            them.
        kernel_initializer: Keras initializer.

    Call arguments:
        inputs: float tensor `(b, f)`.
        task: int tensor `(b,)` or None, the row's task; see `Gate`.

    Returns:
        Float tensor `(b, t, e)`; non-negative, each row sums to 1 over `e`. With a
        static router `(1, t, e)`.

    Raises:
        ValueError: if a count is too small, or `temperature` is not above 0.

    Example:

    >>> gate = SoftmaxGate(num_tasks=2, num_experts=4, kernel_initializer="zeros")
    >>> gate(np.ones((1, 3))).numpy()[0, 0].tolist()
    [0.25, 0.25, 0.25, 0.25]

    Source: Ma et al., 2018, section 4.2, eq. 8, https://doi.org/10.1145/3219819.3220007.
    Differs from it in `temperature` (the paper has T = 1) and in the static router.
    """

    selects = False

    def __init__(
        self,
        num_tasks: int | None = None,
        num_experts: int | None = None,
        temperature: float = 1.0,
        router: Router = "linear",
        kernel_initializer: Initializer = "lecun_normal",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_tasks, num_experts, router, kernel_initializer, **kwargs)
        if not temperature > 0:
            raise ValueError(
                "SoftmaxGate divides its scores by `temperature`, which must be "
                f"above 0. Received temperature={temperature}. For a nearly hard "
                "choice use a small value such as 0.1, or DSelectKGate for exact "
                "zeros."
            )
        self.temperature = temperature

    def select(self, scores: Tensor, rows: Rows, training: bool) -> tuple[Tensor, Tensor]:
        weights = ops.softmax(scores / self.temperature, axis=-1)
        return weights, weights

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "temperature": self.temperature,
        }
