"""The last tensor that all tasks share, and their gradients there, combined in one backward.

Each task reads a slice of its own of that tensor. The backward pass gets the gradients of all
slices, compares them by their inner products `(t, t)`, and adds them up by weights. Only a training
step that asks for it has this (`Combination`); everywhere else the functions here are what they
say and nothing more.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import numpy as np
from keras import ops

from tfmoe.compute.backward import with_backward
from tfmoe.compute.math import mix
from tfmoe.compute.replicas import sum_over_replicas
from tfmoe.compute.types import Tensor

_COMBINATION: contextvars.ContextVar = contextvars.ContextVar("tfmoe_combination", default=None)


class Combination:
    """How a training step combines the tasks' gradients, and what it found.

    Args:
        num_tasks: int.
        weigh: maps the gradients' inner products `(t, t)`, float32, and the numbers that the loss
            has sent, `(n,)`, to the weights `(t,)`.
        num_sent: int, `n`.
        by_parameter: bool; whether they are compared at the parameters that tasks share, each of
            a backward pass of its own (`by_parameter.py`), and not at a tensor on the way.

    Attributes:
        link: float32 `(1 + n,)` of zeros that the loss must depend on, see `linked`; None until
            the shared tensor was met.
        gram: the inner products, over all replicas and free of the loss's scale; None until the
            backward pass.
        weights: the weights.
        losses: with `by_parameter` the weighed losses `(t,)`, and one more if others are added to
            them; None until they are known. What is sent is in `sent`, for no link brings it.
    """

    def __init__(
        self,
        num_tasks: int,
        weigh: Callable[[Tensor, Tensor], Tensor],
        num_sent: int = 0,
        by_parameter: bool = False,
    ) -> None:
        self.num_tasks, self.weigh, self.num_sent = num_tasks, weigh, num_sent
        self.by_parameter = by_parameter
        self.losses: Tensor | None = None
        self.sent: Tensor | None = None
        self.link: Tensor | None = None
        self.gram: Tensor | None = None
        self.weights: Tensor | None = None

    def linked(self, sent: Tensor | None) -> Tensor:
        """A 0 to be added to the loss: its gradients bring numbers to the backward pass.

        They are 1 times the loss's scale, by which all gradients are multiplied under mixed
        precision, and what is sent. On JAX the backward pass could see no variable otherwise.

        Args:
            sent: `(n,)`, or None where nothing is.
        """
        one = ops.ones((1,), "float32")
        numbers = one if sent is None else ops.concatenate([one, sent])
        return ops.sum(self.link * ops.stop_gradient(numbers))

    def decide(self, gram: Tensor, received: Tensor) -> Tensor:
        """The weights `(t,)`, of inner products of one replica as they come."""
        scale = received[0]
        # An underflow, after which nothing is left to be weighed.
        scale = ops.where(scale == 0, ops.ones_like(scale), scale)
        self.gram = sum_over_replicas(gram / scale / scale)
        # A gradient that is not finite stays so, and no solver is asked about it.
        fine = ops.all(ops.isfinite(self.gram))
        gram = ops.where(fine, self.gram, ops.zeros_like(self.gram))
        weights = ops.cast(self.weigh(gram, received[1:] / scale), "float32")
        self.weights = ops.where(fine, weights, ops.full_like(weights, float("nan")))
        return self.weights


@contextlib.contextmanager
def combining(combination: Combination | None) -> Iterator[None]:
    """While it lasts, gradients at the shared tensor are combined; as ever with None."""
    token = _COMBINATION.set(combination)
    try:
        yield
    finally:
        _COMBINATION.reset(token)


def current() -> Combination | None:
    """The combination of the step that is running, if it has one."""
    return _COMBINATION.get()


def at_tensor() -> Combination | None:
    """The same, if it is one at the shared tensor."""
    combination = current()
    return None if combination is None or combination.by_parameter else combination


def mix_shared(outputs: Tensor, weights: Tensor, task: Tensor | None = None) -> Tensor:
    """`mix(outputs, weights)` where `outputs` are the last tensor that all tasks share.

    The gradients that reach `outputs` from the tasks are combined, those of `weights` are as ever.
    A task's gradient at `outputs` is an outer product of what comes back and of its weights, so
    that no tensor `(b, t, e, u)` is made.

    Args:
        outputs: `(b, e, u)`.
        weights: `(b, t, e)` or `(1, t, e)`; of one row's task `(b, 1, e)`.
        task: int `(b,)`, the task of each row, or None where a row has them all.
    """
    combination = at_tensor()
    if combination is None:
        return mix(outputs, weights)

    def forward(outputs: Tensor, weights: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        return mix(outputs, weights), others[0]

    def backward(
        inputs: tuple[Tensor, ...], upstream: Tensor, received: Tensor
    ) -> tuple[Tensor, ...]:
        outputs, weights, _, *rows = inputs
        exact, by = ops.cast(upstream, "float32"), ops.cast(weights, "float32")
        if rows:
            squares = ops.sum(exact * exact, axis=(1, 2)) * ops.sum(by * by, axis=(1, 2))
            gram = ops.diag(ops.matmul(squares, rows[0]))
        else:
            alike = ops.matmul(by, ops.transpose(by, (0, 2, 1)))
            gram = ops.sum(ops.matmul(exact, ops.transpose(exact, (0, 2, 1))) * alike, axis=0)
        own = _own(combination.decide(gram, received), rows)
        own = ops.cast(own, weights.dtype) * weights
        if weights.shape[0] == 1 and not rows:
            to_outputs = ops.einsum("te,btu->beu", own[0], upstream)
            to_weights = ops.einsum("btu,beu->te", upstream, outputs)[None]
        else:
            to_outputs = ops.matmul(ops.transpose(own, (0, 2, 1)), upstream)
            to_weights = ops.matmul(upstream, ops.transpose(outputs, (0, 2, 1)))
            if weights.shape[0] == 1:
                to_weights = ops.sum(to_weights, axis=0, keepdims=True)
        return to_outputs, to_weights, *map(ops.zeros_like, inputs[2:])

    weights = ops.cast(weights, outputs.dtype)
    return _run(combination, forward, backward, (outputs, weights), task)


def shared_outputs(outputs: Tensor, task: Tensor | None = None) -> Tensor:
    """The same, where the slices of all tasks are alike: gradients of the slices are weighed.

    Args:
        outputs: `(b, t, ...)`, or `(b, 1, ...)` with `task`.
        task: int `(b,)`, the task of each row, or None where a row has them all.
    """
    combination = at_tensor()
    if combination is None:
        return outputs

    def forward(outputs: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        return ops.multiply(outputs, 1), others[0]

    def backward(
        inputs: tuple[Tensor, ...], upstream: Tensor, received: Tensor
    ) -> tuple[Tensor, ...]:
        rows = inputs[2:]
        exact = ops.cast(upstream, "float32")
        slices = ops.reshape(exact, (-1, exact.shape[1], int(np.prod(exact.shape[2:]))))
        if rows:
            gram = ops.diag(ops.matmul(ops.sum(slices * slices, axis=(1, 2)), rows[0]))
        else:
            gram = ops.einsum("btu,bsu->ts", slices, slices)
        own = _own(combination.decide(gram, received), rows)
        own = ops.reshape(own, (*own.shape[:2], *[1] * (len(upstream.shape) - 2)))
        own = ops.cast(own, upstream.dtype)
        return upstream * own, *map(ops.zeros_like, inputs[1:])

    return _run(combination, forward, backward, (outputs,), task)


def fan_out(shared: Tensor, num_tasks: int, task: Tensor | None = None) -> Tensor:
    """A slice for each task of the last tensor that all tasks share.

    Args:
        shared: `(b, ...)`.
        num_tasks: int.
        task: int `(b,)`, the task of each row, or None where a row has them all.

    Returns:
        `(b, t, ...)`, or `(b, 1, ...)` with `task`.
    """
    slices = shared[:, None]
    if task is None:
        slices = ops.repeat(slices, num_tasks, axis=1)
    return shared_outputs(slices, task)


def _own(weights: Tensor, rows: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    """Weights `(1, t, 1)` of all tasks, or `(b, 1, 1)` of each row's own."""
    return ops.matmul(rows[0], weights)[:, None, None] if rows else weights[None, :, None]


def _run(
    combination: Combination,
    forward: Callable[..., tuple[Tensor, Tensor]],
    backward: Callable[..., tuple[Tensor, ...]],
    inputs: tuple[Tensor, ...],
    task: Tensor | None,
) -> Tensor:
    if combination.link is not None:
        raise ValueError(
            "Gradients of the tasks are combined at one place of a structure, the last tensor "
            "that all tasks share. Received a second call in one step. Let all tasks read the "
            "slices of one call."
        )
    link = ops.zeros((1 + combination.num_sent,), "float32")
    # As numbers, for a backward pass has no integers on JAX.
    rows = () if task is None else (ops.one_hot(task, combination.num_tasks, dtype="float32"),)
    found, combination.link = with_backward(forward, backward, *inputs, link, *rows)
    return found
