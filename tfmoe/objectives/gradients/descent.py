"""Directions along which no task gets worse: MGDA, CAGrad, UPGrad, Nash-MTL."""

from __future__ import annotations

import keras
from keras import ops

from tfmoe.compute.types import Tensor
from tfmoe.objectives.gradients.quadratic import masked, minimize, precise, present, scaled, solve

_NEWTON_STEPS = {"float32": 25, "float64": 40}


def _tiny(values: Tensor) -> float:
    return 1e-12 if keras.backend.standardize_dtype(values.dtype) == "float64" else 1e-7


def mgda(gram: Tensor) -> Tensor:
    """The convex combination of the least norm: `min w^T G w` over `w >= 0`, `sum(w) = 1`.

    Source: Sener and Koltun, 2018, https://arxiv.org/abs/1810.04650.
    """
    mask = present(gram)
    gram = masked(scaled(gram)[0], mask)
    return minimize(lambda w: (ops.matmul(w, gram), gram), mask[None], on_simplex=True)[0]


def cagrad(gram: Tensor, c: float) -> Tensor:
    """The mean gradient `g0`, and `c |g0|` along the combination that helps the worst task.

        min g_w^T g0 + c |g0| |g_w| over w >= 0, sum(w) = 1;  g0 + c |g0| g_w / |g_w|

    On TensorFlow it is solved in double precision: `|g_w|` has no derivative at 0, and in single
    precision, which JAX and torch have, what is added under its root shifts the solution, by some
    5e-6 of its length at most in our trials.

    Source: Liu et al., 2021, https://arxiv.org/abs/2110.14048.
    """
    mask, dtype = present(gram), gram.dtype
    gram, mask = precise(gram), precise(mask)
    gram = masked(scaled(gram)[0], mask)
    mean = mask / ops.maximum(ops.sum(mask), 1)
    to_mean = ops.matmul(gram, mean)
    reach = c * ops.sqrt(ops.sum(mean * to_mean))
    small = _tiny(gram)

    def derivatives(w: Tensor) -> tuple[Tensor, Tensor]:
        own = ops.matmul(w, gram)
        # Inner products of single precision may give a square below 0.
        norm = ops.sqrt(ops.maximum(ops.sum(w * own, axis=1, keepdims=True), 0) + small)
        unit = own / norm
        hessian = gram - unit[:, :, None] * unit[:, None, :]
        return to_mean + reach * unit, reach * hessian / norm[:, :, None]

    w = minimize(derivatives, mask[None], on_simplex=True)[0]
    norm = ops.sqrt(ops.maximum(ops.sum(w * ops.matmul(gram, w)), 0) + small * small)
    return ops.cast(mean + reach / norm * w, dtype)


def upgrad(gram: Tensor) -> Tensor:
    """The mean of the tasks' gradients, each projected so that it harms no task.

        mean_i of the w that minimises w^T G w over w >= e_i

    Source: Quinton and Rey, 2024, https://arxiv.org/abs/2406.16232.
    """
    mask = present(gram)
    gram = masked(scaled(gram)[0], mask)
    rows = ops.broadcast_to(mask[None], gram.shape)
    eye = ops.eye(gram.shape[0], dtype=gram.dtype)
    more = minimize(lambda x: (ops.matmul(x + eye, gram), gram), rows, on_simplex=False)
    # An absent task has nothing to be projected.
    total = ops.sum((more + eye) * mask[:, None], axis=0)
    return mask * total / ops.maximum(ops.sum(mask), 1)


def nash_mtl(gram: Tensor) -> Tensor:
    """The bargaining solution `w > 0` with `G w = 1 / w`.

    It minimises `w^T G w / 2 - sum(log w)`, which damped Newton steps do from anywhere. Unlike the
    others it does not grow with the gradients: `w` times their unit does not change.

    Source: Navon et al., 2022, https://arxiv.org/abs/2202.01017. Its authors approximate `w` by
    a sequence of convex programs, from the last step's.
    """
    mask = present(gram)
    gram, unit = scaled(gram)
    # Gradients that point against each other have no solution: w would grow for ever.
    eye = ops.eye(gram.shape[0], dtype=gram.dtype)
    gram = masked(gram, mask) + _tiny(gram) * eye
    start = 1 / ops.sqrt(ops.diagonal(gram) * ops.maximum(ops.sum(mask), 1))

    def step(_: Tensor, w: Tensor) -> Tensor:
        # In units of w, so that small gradients are solved for as well as large ones.
        matrix = w[:, None] * gram * w[None] + eye
        gradient = w * ops.matmul(gram, w) - 1
        change = solve(matrix, gradient[:, None])[:, 0]
        decrement = ops.sqrt(ops.maximum(ops.sum(gradient * change), 0))
        length = ops.where(decrement < 0.25, ops.ones_like(decrement), 1 / (1 + decrement))
        return w * (1 - length * change)

    steps = _NEWTON_STEPS[keras.backend.standardize_dtype(gram.dtype)]
    w = ops.fori_loop(0, steps, step, start)
    return mask * w / ops.sqrt(unit)
