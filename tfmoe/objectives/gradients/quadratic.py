"""Small convex programs, solved by an interior point in as many steps as ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfmoe.compute.types import Tensor

# The distance to the solution shrinks tenfold in a step once steps are whole, to what the numbers'
# precision allows; the first few are cut short where weights go to 0.
_STEPS = {"float32": 16, "float64": 20}
_RIDGES = {"float32": 1e-6, "float64": 1e-14}
_CENTRING = 0.1
_MOST = 0.99


def present(gram: Tensor) -> Tensor:
    """Which tasks have a gradient: `(t,)` of 1 and 0."""
    return ops.cast(ops.diagonal(gram) > 0, gram.dtype)


def scaled(gram: Tensor) -> tuple[Tensor, Tensor]:
    """A Gram matrix whose largest square is 1, and what it was divided by; never by 0."""
    largest = ops.max(ops.diagonal(gram))
    largest = ops.where(largest > 0, largest, ops.ones_like(largest))
    return gram / largest, largest


def precise(gram: Tensor) -> Tensor:
    """A Gram matrix in double precision: on TensorFlow, and on JAX if it is told to have one."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return ops.cast(gram, "float64") if jax.config.read("jax_enable_x64") else gram
    # On torch the interior point ended in NaN in double precision, and does not in single.
    return ops.cast(gram, "float64") if backend == "tensorflow" else gram


def masked(gram: Tensor, mask: Tensor) -> Tensor:
    """A Gram matrix in which tasks that are absent are apart, with a square of 1."""
    # A gradient of 0 has products of 0 already.
    return gram + ops.diag(1 - mask)


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """`matrix x = right` for matrices that are positive but for rounding.

    Args:
        matrix: `(..., t, t)`.
        right: `(..., t, k)`.
    """
    # By its diagonal, which may range over many powers of ten; and with a little more on it, for a
    # matrix without an inverse would end the training.
    units = 1 / ops.sqrt(ops.diagonal(matrix, axis1=-2, axis2=-1))[..., None]
    scaled = matrix * units * ops.swapaxes(units, -1, -2)
    scaled = scaled + _RIDGES[_dtype(matrix)] * ops.eye(matrix.shape[-1], dtype=matrix.dtype)
    return units * ops.solve(scaled, units * right)


def minimize(
    derivatives: Callable[[Tensor], tuple[Tensor, Tensor]], mask: Tensor, on_simplex: bool
) -> Tensor:
    """The `x >= 0` that minimises a convex function, perhaps among those of sum 1.

    A primal-dual interior point: Newton's steps on `gradient - z - y = 0`, `x z = mu`, and
    `sum(x) = 1`, with a `mu` that goes to 0. See Boyd and Vandenberghe, Convex Optimization,
    section 11.7.

    Args:
        derivatives: maps `(n, t)` to the gradient `(n, t)` and the Hessian `(n, t, t)` or `(t, t)`.
        mask: `(n, t)` of 1 and 0; where it is 0, x goes to 0 and nothing depends on it.
        on_simplex: bool.

    Returns:
        `(n, t)`.
    """
    num = ops.sum(mask, axis=1, keepdims=True)
    num = ops.maximum(num, ops.ones_like(num))
    equal = mask if on_simplex else ops.zeros_like(mask)
    start = mask / num + (1 - mask) if on_simplex else ops.ones_like(mask)

    def step(_: Any, state: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x, z, y = state
        gradient, hessian = derivatives(x)
        aim = _CENTRING * ops.mean(x * z, axis=1, keepdims=True)
        matrix = hessian + (z / x)[:, :, None] * ops.eye(mask.shape[1], dtype=x.dtype)
        right = y * equal - gradient + aim / x
        both = solve(matrix, ops.stack([right, equal], axis=2))
        free, along = both[:, :, 0], both[:, :, 1]
        if on_simplex:
            short = 1 - ops.sum(equal * (x + free), axis=1, keepdims=True)
            # 0 where there is no task at all.
            change_y = short / ops.maximum(ops.sum(equal * along, axis=1, keepdims=True), 1e-30)
        else:
            change_y = ops.zeros_like(y)
        change_x = free + along * change_y
        change_z = (aim - z * change_x) / x - z
        length = ops.minimum(_length(x, change_x), _length(z, change_z))
        return x + length * change_x, z + length * change_z, y + length * change_y

    state = start, ops.ones_like(start), ops.zeros_like(num)
    return ops.fori_loop(0, _STEPS[_dtype(mask)], step, state)[0] * mask


def _dtype(values: Tensor) -> str:
    return keras.backend.standardize_dtype(values.dtype)


def _length(values: Tensor, change: Tensor) -> Tensor:
    """How far a step may go, at most 1, until a value would be nearly 0."""
    ratio = ops.max(-change / values, axis=1, keepdims=True)
    return ops.minimum(_MOST / ops.maximum(ratio, _MOST), ops.ones_like(ratio))
