"""The gate of task-aware sparse mixtures: the best experts, with their probabilities."""

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute.math import shares
from tfmoe.compute.registered import registered
from tfmoe.gates.base import Gate
from tfmoe.gates.routers import Scores
from tfmoe.gates.task_router import TaskRouter


@registered
class TaskAwareGate(Gate):
    r"""Routes by the example and its task, and keeps the `num_nonzeros` likeliest experts.

    With scores `H` of a router that knows the task:

        weights[b, t] = the k largest of softmax(H), 0 for all others

    The softmax comes before the choice and runs over all experts. So an expert's weight
    is its probability: a row sums to less than 1, scores of experts that were not chosen
    get a gradient too, and with `num_nonzeros=1` the choice is learned. A gate of which only
    some experts are `kept` gives them these same weights.

    Nothing here asks that all experts be used. Where many of them end without rows
    (`GateReport` says so), `MutualInformationLoss` spreads the tasks over them.

    Args:
        num_tasks, num_experts, balance, kept, num_choices, usage_decay: see `Gate`.
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

    always_sparse = True

    def __init__(
        self,
        num_tasks=None,
        num_experts=None,
        num_nonzeros=2,
        router=None,
        renormalize=False,
        kernel_initializer="lecun_normal",
        **kwargs,
    ):
        router = TaskRouter() if router is None else router
        super().__init__(num_tasks, num_experts, router, **kwargs)
        num_nonzeros = validation.integer("TaskAwareGate", "num_nonzeros", num_nonzeros, 1)
        self.num_nonzeros = num_nonzeros
        self.renormalize = renormalize
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def score_parts(self):
        return [Scores(self.num_choices, self.kernel_initializer, None, "random_uniform")]

    def select(self, scores, rows, training):
        probabilities = ops.softmax(scores, axis=-1)
        values, chosen = ops.top_k(scores, min(self.num_nonzeros, self.num_choices))
        one_hot = ops.one_hot(chosen, self.num_choices, dtype=scores.dtype)
        if self.renormalize:
            return probabilities, ops.einsum("btk,btke->bte", shares(values), one_hot)
        return probabilities, probabilities * ops.sum(one_hot, axis=2)

    def logits(self, scores):
        return scores

    def get_config(self):
        return {
            **super().get_config(),
            "num_nonzeros": self.num_nonzeros,
            "renormalize": self.renormalize,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
