"""What a tower's numbers say of a label: values, probabilities, logits of chains."""

from __future__ import annotations

import math
from collections.abc import Sequence

from keras import ops

from tfmoe.compute.types import Tensor
from tfmoe.schema.links import ESCM2
from tfmoe.schema.tasks import Binary, Regression, Task

# A conditional probability is at most 1 / (1 + this).
_LEAST_ODDS = 1e-6
# As in the authors' code, the square root of Keras's epsilon.
_LEAST_SIGMA = 1e-7**0.5


def regression_value(task: Task, logits: Tensor) -> Tensor:
    """The expected label `(b,)`, standardised, of a regression's logits `(b,)` or `(b, 3)`."""
    loss = task.loss if isinstance(task, Regression) else "mse"
    if loss == "poisson":
        return ops.exp(logits)
    if loss == "lognormal":
        # Of the sum of logarithms, for one factor may be 0 and the other infinite.
        return ops.exp(ops.log_sigmoid(logits[:, 0]) + _log_mean(logits))
    return logits


def lognormal_parts(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Of logits `(b, 3)` the probability of a label above 0, and the mean of such labels."""
    return ops.sigmoid(logits[:, 0]), ops.exp(_log_mean(logits))


def _log_mean(logits: Tensor) -> Tensor:
    return logits[:, 1] + ops.square(lognormal_sigma(logits)) / 2


def lognormal_sigma(logits: Tensor) -> Tensor:
    """The deviation `(b,)` of the logarithm, of logits `(b, 3)`; never so small that it divides."""
    return ops.maximum(ops.softplus(logits[:, 2]), _LEAST_SIGMA)


def chain_logit(parent: Tensor, conditional: Tensor) -> Tensor:
    """The logit of `sigmoid(parent) sigmoid(conditional)`.

        log(e^(a + c) / (1 + e^a + e^c)) = a + c - logsumexp(0, a, c)

    It is right where the probabilities themselves would round to 0 or 1.
    """
    largest = ops.stop_gradient(ops.maximum(ops.maximum(parent, conditional), 0.0))
    total = ops.exp(-largest) + ops.exp(parent - largest) + ops.exp(conditional - largest)
    return parent + conditional - largest - ops.log(total)


def conditional_logit(parent: Tensor, chain: Tensor) -> Tensor:
    """The logit of `sigmoid(chain) / sigmoid(parent)`, or of nearly 1 if that is above 1.

    With `r = log sigmoid(chain) - log sigmoid(parent)` it is `r - log(1 - e^r)`.
    """
    ratio = ops.minimum(ops.softplus(-parent) - ops.softplus(-chain), -_LEAST_ODDS)
    return ratio - ops.log(-ops.expm1(ratio))


def serving_shift(task: Task) -> float:
    """What is added to a binary task's logit, so that sampling and weights change no prediction."""
    if not isinstance(task, Binary):
        return 0.0
    return math.log(task.negatives_kept / task.positive_weight)


def imputed_name(task: Task) -> str:
    """What the logits of a task's imputation tower are called; no task can be called that."""
    return f"{task.name} imputed"


def imputed_tasks(tasks: Sequence[Task]) -> list[int]:
    """Indices of the tasks that have an imputation tower."""
    links = [getattr(task, "link", None) for task in tasks]
    return [i for i, link in enumerate(links) if isinstance(link, ESCM2) and link.method == "dr"]
