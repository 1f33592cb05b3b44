"""Gradients brought into balance: PCGrad, IMTL-G, Aligned-MTL, dual balancing."""

from __future__ import annotations

import keras
from keras import ops

from tfmoe.compute.types import Tensor
from tfmoe.objectives.gradients.quadratic import present, scaled

_EPSILON = {"float32": 1.2e-7, "float64": 2.3e-16}


def pcgrad(gram: Tensor, order: Tensor) -> Tensor:
    """The sum of the tasks' gradients, each without what goes against another task's.

    Of each gradient the component against `g_j` is taken away where their product is below 0, for
    `j` in a given order.

    Source: Yu et al., 2020, https://arxiv.org/abs/2001.06782. It draws an order for each task, here
    all tasks have one.

    Args:
        gram: `(t, t)`.
        order: int `(t,)`, a permutation.
    """
    num = gram.shape[0]
    gram, _ = scaled(gram)
    squares = ops.diagonal(gram)
    squares = ops.where(squares > 0, squares, ops.ones_like(squares))
    eye = ops.eye(num, dtype=gram.dtype)
    weights = eye  # a row for each task's gradient
    for place in range(num):
        other = ops.take(eye, order[place], axis=0)
        products = ops.matmul(weights, ops.matmul(gram, other))
        conflicts = ops.minimum(products, ops.zeros_like(products)) * (1 - other)
        share = conflicts / ops.sum(squares * other)
        weights = weights - share[:, None] * other[None]
    return ops.sum(weights * present(gram)[:, None], axis=0) * present(gram)


def imtl_g(gram: Tensor) -> Tensor:
    """The combination with equal projections on all tasks' gradients: `G w = sqrt(diag G)`.

    Weights add up to 1 and may be negative. Where gradients depend on each other the shortest
    solution is taken; where it adds up to 0 there is none, and all tasks weigh alike.

    Source: Liu et al., 2021, https://openreview.net/forum?id=IMPnRXEWpvr.
    """
    mask = present(gram)
    gram, _ = scaled(gram)
    values, vectors, kept = _spectrum(gram)
    inverse = kept / ops.where(kept > 0, values, ops.ones_like(values))
    norms = ops.sqrt(ops.diagonal(gram))
    found = ops.matmul(vectors, inverse * ops.matmul(ops.transpose(vectors), norms)) * mask
    total, num = ops.sum(found), ops.maximum(ops.sum(mask), 1)
    # As large as the rounding of what was added.
    exists = ops.abs(total) > 1e-5 * ops.sum(ops.abs(found))
    return ops.where(exists, found / ops.where(exists, total, ops.ones_like(total)), mask / num)


def aligned_mtl(gram: Tensor) -> Tensor:
    """The mean of gradients made orthogonal and equally long, as near to the tasks' as possible.

        sqrt(smallest eigenvalue) G^(-1/2) (1 / t)

    Source: Senushkin et al., 2023, https://arxiv.org/abs/2305.19000.
    """
    mask = present(gram)
    gram, _ = scaled(gram)
    values, vectors, kept = _spectrum(gram)
    least = ops.min(ops.where(kept > 0, values, ops.ones_like(values) * 1e30))
    roots = kept * ops.sqrt(least / ops.where(kept > 0, values, ops.ones_like(values)))
    mean = mask / ops.maximum(ops.sum(mask), 1)
    return ops.matmul(vectors, roots * ops.matmul(ops.transpose(vectors), mean)) * mask


def dual_balancing(norms: Tensor) -> Tensor:
    """Weights that make all gradients as long as the longest: `max(norms) / norms`.

    Source: Lin et al., 2023, https://arxiv.org/abs/2308.12029.

    Args:
        norms: `(t,)` of the gradients; 0 for an absent task.
    """
    some = norms > 0
    return ops.where(some, ops.max(norms) / ops.where(some, norms, ops.ones_like(norms)), 0 * norms)


def _spectrum(gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues, eigenvectors, and 1 for each value that is more than rounding, else 0."""
    values, vectors = ops.eigh(gram)
    epsilon = _EPSILON[keras.backend.standardize_dtype(gram.dtype)]
    # A Gram matrix is summed from products, which round too.
    least = 4 * gram.shape[0] * epsilon * ops.max(values)
    return values, vectors, ops.cast(values > least, gram.dtype)
