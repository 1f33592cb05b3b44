"""The gate of task-aware sparse mixtures: the best experts, with their probabilities."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfmoe import validation
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Initializer, Tensor
from tfmoe.gates.logits import LogitGate, largest, softmax_of_chosen
from tfmoe.gates.rows import Rows
from tfmoe.gates.task_router import Router, TaskRouter


@registered
class TaskAwareGate(LogitGate):
    r"""Routes by the example and its task, and keeps the `num_nonzeros` likeliest experts.

    With scores `H` of a router that knows the task:

        weights[b, t] = the k largest of softmax(H), 0 for all others

    The softmax comes before the choice and runs over all experts. So an expert's weight
    is its probability: a row sums to less than 1, scores of experts that were not chosen
    get a gradient too, and with `num_nonzeros=1` the choice is learned. A gate of which only
    some experts are left (`expert_ids`) gives them these same weights.

    Nothing here asks that all experts be used. Where many of them end without rows
    (`GateReport` says so), `MutualInformationLoss` spreads the tasks over them.

    Args:
        num_tasks, num_experts, balance, expert_ids, num_choices, usage_decay: see `Gate`.
        num_nonzeros: int >= 1, experts chosen for a task; all of them if there are
            fewer.
        router: a `TaskRouter`, by which tasks share all but an embedding; `"linear"` for a
            router of its own for each task; others see `Gate`. None means `TaskRouter()`.
        renormalize: bool; whether weights are divided by their sum over the chosen. Rows
            then sum to 1, and with `num_nonzeros=1` the choice is never learned.
        kernel_initializer: Keras initializer.

    Call arguments:
        inputs: float tensor `(b, f)`.
        task: int tensor `(b,)` or None, the row's task; see `Gate`.

    Returns:
        Float tensor `(b, t, e)`, or `(b, 1, e)` with `task`, with `min(k, e)` non-zeros in a
        row. In the record, `probabilities` are the whole softmax.

    Raises:
        ValueError: if a count is too small.

    Example:

    >>> gate = TaskAwareGate(num_tasks=3, num_experts=4)
    >>> weights = gate(np.ones((2, 5)), task=np.array([2, 0]))
    >>> weights.shape, int(np.count_nonzero(weights))
    (TensorShape([2, 1, 4]), 4)

    Source: Gupta et al., 2022, https://arxiv.org/abs/2204.07689, which has both kinds of
    router; its exact formula is not known here.
    """

    num_nonzeros: int
    always_sparse = True

    def __init__(
        self,
        num_tasks: int | None = None,
        num_experts: int | None = None,
        num_nonzeros: int = 2,
        router: Router | None = None,
        renormalize: bool = False,
        kernel_initializer: Initializer = "lecun_normal",
        **kwargs: Any,
    ) -> None:
        router = TaskRouter() if router is None else router
        super().__init__(num_tasks, num_experts, router, kernel_initializer, **kwargs)
        num_nonzeros = validation.integer("TaskAwareGate", "num_nonzeros", num_nonzeros, 1)
        self.num_nonzeros = num_nonzeros
        self.renormalize = renormalize

    def select(self, scores: Tensor, rows: Rows, training: bool) -> tuple[Tensor, Tensor]:
        probabilities = ops.softmax(scores, axis=-1)
        values, _, one_hot = largest(scores, self.num_nonzeros)
        if self.renormalize:
            return probabilities, softmax_of_chosen(values, one_hot)
        return probabilities, probabilities * ops.sum(one_hot, axis=2)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_nonzeros": self.num_nonzeros,
            "renormalize": self.renormalize,
        }
