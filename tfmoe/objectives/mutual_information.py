"""The loss that matches experts to tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from tfmoe import keras_private
from tfmoe.compute.math import log_or_zero
from tfmoe.compute.registered import registered
from tfmoe.compute.replicas import num_replicas, sum_over_replicas
from tfmoe.compute.types import Tensor
from tfmoe.gates.base import Gate
from tfmoe.gates.output import GateOutput


def mutual_information(joint: Tensor) -> Tensor:
    """Of tasks and experts, in nats, a scalar; 0 log 0 counts as 0.

    Args:
        joint: `(t, e)`, at least 0, of any sum above 0.
    """
    joint = joint / ops.maximum(ops.sum(joint), 1e-30)
    tasks, experts = ops.sum(joint, axis=1, keepdims=True), ops.sum(joint, axis=0, keepdims=True)
    # Differences: the product of two small sums may be 0, and its square, in a gradient, sooner.
    return ops.sum(joint * (log_or_zero(joint) - log_or_zero(tasks) - log_or_zero(experts)))


def joint_of(record: GateOutput, with_label: Tensor, num_tasks: int) -> Tensor:
    """How much of each expert each task's rows get, `(t, e)`: sums of the full softmax.

    Args:
        record: a gate's `GateOutput`.
        with_label: float `(b, t)`, which rows have which labels; `(b,)` where each row has
            a task of its own.
        num_tasks: int.
    """
    shares = record.probabilities
    # A static gate's one row stands for all; one with a task of its own is a batch of one.
    if shares.shape[0] == 1 and not record.has_task:
        return ops.sum(with_label, axis=0)[:, None] * shares[0]
    if record.has_mask:
        shares = shares * ops.cast(record.mask, shares.dtype)[:, None, None]
    # A record may have several rows for each of the batch, one a token.
    rows = ops.shape(with_label)[0]
    shares = ops.sum(ops.reshape(shares, (rows, -1, *shares.shape[1:])), axis=1)
    if not record.has_task:
        return ops.einsum("bt,bte->te", with_label, shares)
    # `record.task` repeats the row's task for each of its tokens.
    task = ops.reshape(record.task, (rows, -1))[:, 0]
    labelled = ops.one_hot(task, num_tasks, dtype=shares.dtype) * with_label[:, None]
    return ops.matmul(ops.transpose(labelled), shares[:, 0])


@registered
class MutualInformationLoss:
    r"""Asks that each task uses few experts and each expert serves few tasks.

    From the gate's full probabilities, before anything is cut, of the rows that have a
    task's label:

        M[t, e] = sum_x p_t(e | x),  P = M / sum(M)
        loss = - weight * sum_te P log(P / (P_T P_E))

    summed over the gates of a mixture that tell tasks apart. Experts of a task's own, as PLE has
    them, are others than those of another task. The mutual information of tasks
    and experts is 0 where all tasks use the experts alike, and at most the entropy of the
    tasks (`log t` if all have as many rows), which tasks on disjoint experts reach. It looks at
    a task's mean only: it asks neither that a row's weights be sparse nor that a task use its
    experts evenly. Uniform gates are a point where its gradient is 0. On inputs of mean 0 a
    linear router's means stay near uniform whatever it learns, which leaves little to move:
    use an `MLPRouter`. With few rows a task in a batch the information is overestimated;
    `momentum` helps.

    Args:
        weight: float >= 0. Values in use are 0.0005 to 0.03; where rows have all labels it
            is weighed against the sum of the tasks' losses, and more may be needed.
        task_prior: `"counts"`, each task weighs as its number of labels, or `"uniform"`,
            all alike: then a rare task counts as much as any.
        momentum: float in [0, 1). M becomes an exponential average over the training
            steps, of which the gradient sees the newest part, `1 - momentum` of it. It
            is not saved: a model that was loaded begins a new average.

    Pass it to `MultiTaskModel.compile(aux_losses=[...])`; the history then has
    `mutual_information`, its mean over the gates, in nats.

    Raises:
        ValueError: if an argument is out of range.

    Source: Chen et al., 2023, https://arxiv.org/abs/2212.08066, and its code. `task_prior`
    and `momentum` are ours.
    """

    def __init__(
        self, weight: float = 0.005, task_prior: str = "counts", momentum: float = 0.0
    ) -> None:
        if not 0 <= weight < float("inf"):
            raise ValueError(
                "MutualInformationLoss needs a finite `weight` of at least 0. Received "
                f"weight={weight!r}."
            )
        if task_prior not in ("counts", "uniform"):
            raise ValueError(
                'MutualInformationLoss takes `task_prior` "counts" or "uniform". Received '
                f"task_prior={task_prior!r}."
            )
        if not 0 <= momentum < 1:
            raise ValueError(
                "MutualInformationLoss needs `momentum` of at least 0 and below 1. Received "
                f"momentum={momentum!r}."
            )
        self.weight, self.task_prior, self.momentum = weight, task_prior, momentum

    def information(self, joint: Tensor) -> Tensor:
        """The mutual information under the prior, a scalar."""
        if self.task_prior == "uniform":
            total = ops.sum(joint, axis=1, keepdims=True)
            joint = joint / ops.where(total > 0, total, ops.ones_like(total))
        return mutual_information(joint)

    def get_config(self) -> dict[str, Any]:
        return {
            "weight": self.weight,
            "task_prior": self.task_prior,
            "momentum": self.momentum,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)


class InformationTracker(keras.metrics.Mean):
    """Computes the loss over a model's gates, and is the mean of the mutual information.

    The averages over steps go on from epoch to epoch; `reset_state` leaves them.

    Args:
        loss: `MutualInformationLoss`.
        gates: dict by place among the mixture's gates of those that tell tasks apart.
        numbers: dict likewise, of what `Structure.expert_numbers` says; None if all say None.
    """

    def __init__(
        self,
        loss: MutualInformationLoss,
        gates: Mapping[int, Gate],
        numbers: Mapping[int, Sequence[Sequence[int]] | None] | None = None,
        name: str = "mutual_information",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        keras_private.say_better(self, "up")
        self.loss, self.places = loss, tuple(gates)
        self.num_tasks = gates[self.places[0]].num_tasks
        self._placed = {place: _placing(own) for place, own in (numbers or {}).items() if own}
        sizes = {
            place: self._placed[place].shape[-1] if place in self._placed else gate.num_experts
            for place, gate in gates.items()
        }
        self.joints = [
            self.add_variable(
                (self.num_tasks, size), "zeros", aggregation="mean", name=f"joint_{i}"
            )
            for i, size in enumerate(sizes.values())
            if loss.momentum
        ]

    def add(self, records: Sequence[GateOutput], with_label: Tensor, training: bool) -> Tensor:
        """The loss of a batch, a scalar.

        Args:
            records: list of all gates' `GateOutput`s.
            with_label: see `joint_of`.
            training: bool; the averages over steps are of training steps only.
        """
        informations = []
        for i, place in enumerate(self.places):
            joint = sum_over_replicas(joint_of(records[place], with_label, self.num_tasks))
            if place in self._placed:
                joint = ops.einsum("te,tep->tp", joint, ops.array(self._placed[place]))
            if self.joints and training:
                past = self.loss.momentum * ops.convert_to_tensor(self.joints[i])
                joint = past + (1 - self.loss.momentum) * joint
                self.joints[i].assign(ops.stop_gradient(joint))
            informations.append(self.loss.information(joint))
        information = sum(informations)
        # All replicas count the step; together they count it once.
        self.update_state(
            ops.stop_gradient(information) / len(self.places), sample_weight=1 / num_replicas()
        )
        return -self.loss.weight * information


def tracker_of(loss: Any, mixture: Any) -> InformationTracker:
    """The `InformationTracker` of a mixture.

    Raises:
        ValueError: if no gate of it tells tasks apart, or `loss` is of another kind.
    """
    if not isinstance(loss, MutualInformationLoss):
        raise ValueError(
            "compile takes as `aux_losses` a MutualInformationLoss or a list with one. "
            f"Received {loss!r}. Balance losses are arguments of gates."
        )
    gates = {place: gate for place, gate in enumerate(mixture.gates) if _tells_apart(mixture, gate)}
    if not gates:
        raise ValueError(
            "MutualInformationLoss matches experts to tasks, by gates that tell tasks apart. "
            f"Received a mixture {type(mixture).__name__} without one. Use MMoE or ModSquad "
            "with at least two tasks, or leave the loss out."
        )
    numbers = {place: mixture.expert_numbers(gate) for place, gate in gates.items()}
    return InformationTracker(loss, gates, numbers)


def _placing(numbers: Sequence[Sequence[int]]) -> np.ndarray:
    """1 where a task's expert is one among those of all: float `(t, e, p)`."""
    return np.eye(1 + np.max(numbers), dtype="float32")[np.array(numbers)]


def _tells_apart(mixture: Any, gate: Gate) -> bool:
    """Whether a gate has a row for each task, not for all of them or for groups of them."""
    tasks = list(range(mixture.num_tasks or gate.num_tasks))
    return gate.num_tasks == len(tasks) > 1 and mixture.gate_rows(tasks, gate) == tasks
