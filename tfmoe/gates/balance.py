"""Losses that keep a gate's experts evenly used, or its logits small."""

from __future__ import annotations

from typing import Any, Self

from keras import ops

from tfmoe.compute.registered import registered
from tfmoe.compute.types import Tensor
from tfmoe.gates.output import GateOutput


class BalanceLoss:
    """A term of the loss that a gate adds in training.

    All are differentiable, take every row of the batch for every task, also rows without
    a label, and do not change with the number of rows or tasks. Where rows have one task
    each, a row counts for its own, and tasks without rows in the batch do not count.

    Args:
        weight: float >= 0.
    """

    def __init__(
        self,
        weight: float,
    ) -> None:
        if not weight >= 0:
            raise ValueError(
                f"{type(self).__name__} is weighed by `weight`, which must be at least 0. "
                f"Received weight={weight}."
            )
        self.weight = weight

    def __call__(self, gate: Any, record: GateOutput) -> Tensor:
        """Scalar: `weight` times `compute`."""
        return self.weight * self.compute(gate, record)

    def compute(self, gate: Any, record: GateOutput) -> Tensor:
        """Scalar, from a gate and the `GateOutput` of one call, before anything was dropped."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {"weight": self.weight}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)


class UsageLoss(BalanceLoss):
    """A balance loss that compares how much the experts are used.

    Args:
        weight: float >= 0.
        per_task: bool or None. If False the tasks are pooled: all together they should use
            all experts evenly, and each may have experts of its own. If True every task is
            asked to use all experts evenly, and the loss is the mean over the tasks; with
            a static router it contradicts any selection. None means True where each row
            has one task, and False where each row has all.
    """

    def __init__(
        self,
        weight: float,
        per_task: bool | None = None,
    ) -> None:
        super().__init__(weight)
        self.per_task = per_task

    def sums(self, gate: Any, record: GateOutput, values: Tensor) -> tuple[Tensor, Tensor]:
        """Sums `(g, e)` of values `(b, t, e)` over the rows of what is balanced together.

        Returns:
            Pair: the sums, and how many rows each is of, `(g, 1)`.
        """
        rows = record.rows(gate.num_tasks)
        found = rows.sums(values), rows.counts(values)
        if self.per_task or (self.per_task is None and rows.task is not None):
            return found
        return tuple(ops.sum(sums, axis=0, keepdims=True) for sums in found)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "per_task": self.per_task}


@registered
class ImportanceLoss(UsageLoss):
    r"""Asks for experts of equal total weight.

        weight * CV(importance)^2,   importance[e] = sum_b,t weights[b, t, e]

    where CV is the standard deviation over the experts divided by their mean: 0 if they
    are equal, `e - 1` if one expert has everything. For any gate; works on the weights
    after the selection.

    Args:
        weight: float >= 0.
        per_task: bool or None; whether every task, rather than all together, should use
            the experts evenly. True contradicts the selection of a static gate. None means
            True where each row has one task.

    Raises:
        ValueError: if `weight` is negative.

    Example:

    >>> gate = tfmoe.TopKGate(2, 4, balance=tfmoe.ImportanceLoss())
    >>> _ = gate(np.ones((8, 3)), training=True)
    >>> len(gate.losses)
    1

    Source: Shazeer et al., 2017, section 4, https://arxiv.org/abs/1701.06538.
    Differs from it in pooling the tasks, of which the paper has one.
    """

    def __init__(
        self,
        weight: float = 0.1,
        per_task: bool | None = None,
    ) -> None:
        super().__init__(weight, per_task)

    def compute(self, gate: Any, record: GateOutput) -> Tensor:
        return _squared_variation(*self.sums(gate, record, record.weights))


@registered
class LoadLoss(UsageLoss):
    r"""Asks for experts that are chosen equally often, by a smooth estimate.

        weight * CV(load)^2,   load[e] = sum_b,t Phi((l[b, t, e] - h[b, t, e]) / sigma)

    `l` are the gate's logits, `Phi` the normal distribution function, and `h` the k-th
    largest of the OTHER experts' logits, which `e` must exceed to be chosen: `Phi` is the
    probability that it does so if noise of spread `sigma` is added to its logit. With
    k >= e all are always chosen and the loss is 0. For gates that rank experts by logits
    and choose `num_nonzeros` of them, such as `TopKGate`.

    Args:
        weight: float >= 0.
        per_task: bool or None; whether every task, rather than all together, should use
            the experts evenly. True contradicts the selection of a static gate. None means
            True where each row has one task.
        sigma: float > 0, the spread for gates that add no noise, in units of the logits:
            how far from the threshold a logit may be and still be drawn to it. A noisy
            `TopKGate` brings its own spread, which then learns from this loss too.

    Raises:
        ValueError: if `weight` is negative or `sigma` not above 0; when called, if the
            gate has no `num_nonzeros` or ranks nothing.

    Example:

    >>> gate = tfmoe.TopKGate(
    ...     2, 4, noisy=True, balance=[tfmoe.ImportanceLoss(), tfmoe.LoadLoss()]
    ... )
    >>> _ = gate(np.ones((8, 3)), training=True)
    >>> len(gate.losses)
    2

    Source: Shazeer et al., 2017, appendix A, https://arxiv.org/abs/1701.06538.
    Differs from it in pooling the tasks, in gates without noise, and in that `h` is of
    the logits without noise, where the paper has them with the noise that was drawn.
    """

    def __init__(
        self,
        weight: float = 0.1,
        per_task: bool | None = None,
        sigma: float = 1.0,
    ) -> None:
        super().__init__(weight, per_task)
        if not sigma > 0:
            raise ValueError(
                "LoadLoss divides by the spread `sigma`, which must be above 0. Received "
                f"sigma={sigma}. Take about the spread of the gate's logits."
            )
        self.sigma = sigma

    def compute(self, gate: Any, record: GateOutput) -> Tensor:
        logits = _logits(self, gate, record)
        k = gate.num_nonzeros
        if k is None:
            raise ValueError(
                "LoadLoss counts how often an expert is among the `num_nonzeros` that a gate "
                f"chooses. Received gate={type(gate).__name__}, which has no such number. "
                "Use ImportanceLoss."
            )
        if k >= logits.shape[-1]:
            return ops.zeros((), dtype=logits.dtype)
        spread = gate.spread(record.scores)
        largest, _ = ops.top_k(logits, k + 1)
        last, next_one = largest[..., k - 1 : k], largest[..., k : k + 1]
        threshold = ops.where(logits > next_one, next_one, last)
        # A learned spread may fall to 0, where the estimate would jump.
        spread = self.sigma if spread is None else ops.maximum(spread, 1e-2)
        distance = (logits - threshold) / spread
        chosen = 0.5 * (1 + ops.erf(distance / 2**0.5))
        return _squared_variation(*self.sums(gate, record, chosen))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "sigma": self.sigma}


@registered
class SwitchLoss(UsageLoss):
    r"""Lowers the probability of experts in proportion to how often they are chosen.

        weight * e * sum_e f[e] * P[e]

    `f` is each expert's share of what was chosen (weights that are not 0, all of them
    together 1), `P` its mean probability before the selection; only `P` has a gradient.
    1 for an even use. It needs a gate that cuts something off: where all experts are in
    every row, as with `SoftmaxGate`, it is constant.

    Args:
        weight: float >= 0.
        per_task: bool or None; whether every task, rather than all together, should use
            the experts evenly. True contradicts the selection of a static gate. None means
            True where each row has one task.

    Raises:
        ValueError: if `weight` is negative.

    Example:

    >>> gate = tfmoe.TopKGate(2, 4, balance=tfmoe.SwitchLoss(0.02))
    >>> gate.get_config()["balance"][0]["config"]
    {'weight': 0.02, 'per_task': None}

    Source: Fedus et al., 2021, https://arxiv.org/abs/2101.03961.
    Differs from it in k > 1 choices a row and in pooling the tasks.
    """

    def __init__(
        self,
        weight: float = 0.01,
        per_task: bool | None = None,
    ) -> None:
        super().__init__(weight, per_task)

    def compute(self, gate: Any, record: GateOutput) -> Tensor:
        weights = record.weights
        chosen, counts = self.sums(gate, record, ops.cast(weights > 0, weights.dtype))
        share = chosen / ops.maximum(ops.sum(chosen, axis=-1, keepdims=True), 1)
        mean = self.sums(gate, record, record.probabilities)[0] / ops.maximum(counts, 1)
        even = _mean_of_groups(ops.sum(share * mean, axis=-1), counts)
        return weights.shape[-1] * even


@registered
class ZLoss(BalanceLoss):
    r"""Keeps logits small, where half precision is exact and the softmax can still move.

        weight * mean_b,t (log sum_e exp(logits[b, t, e]))^2

    For gates that rank experts by logits, such as `SoftmaxGate` and `TopKGate`.

    Args:
        weight: float >= 0.

    Raises:
        ValueError: if `weight` is negative; when called, if the gate ranks nothing.

    Example:

    >>> gate = tfmoe.SoftmaxGate(2, 4, balance=tfmoe.ZLoss())
    >>> _ = gate(np.ones((8, 3)), training=True)
    >>> len(gate.losses)
    1

    Source: Zoph et al., 2022, https://arxiv.org/abs/2202.08906.
    """

    def __init__(
        self,
        weight: float = 1e-3,
    ) -> None:
        super().__init__(weight)

    def compute(self, gate: Any, record: GateOutput) -> Tensor:
        squares = ops.square(ops.logsumexp(_logits(self, gate, record), axis=-1))
        return ops.mean(record.rows(gate.num_tasks).mean(squares))


def _logits(loss, gate, record):
    logits = gate.logits(record.scores)
    if logits is None:
        raise ValueError(
            f"{type(loss).__name__} needs logits that rank the experts. Received "
            f"gate={type(gate).__name__}, which has none. Use ImportanceLoss."
        )
    return logits


def _squared_variation(usage, counts):
    """Mean over groups of the squared coefficient of variation of `(g, e)` over `e`."""
    # Divided before it is squared, and guarded: a gate may give no weight at all.
    mean = ops.maximum(ops.mean(usage, axis=-1, keepdims=True), 1e-6)
    return _mean_of_groups(ops.var(usage / mean, axis=-1), counts)


def _mean_of_groups(values, counts):
    """Mean of `(g,)` over the groups that have rows."""
    there = ops.cast(counts[:, 0] > 0, values.dtype)
    return ops.sum(values * there) / ops.maximum(ops.sum(there), 1)
