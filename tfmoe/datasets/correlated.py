"""Synthetic regression tasks with a chosen correlation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfmoe.validation import integer, number, sizes


class CorrelatedTasks(NamedTuple):
    """Rows in three parts.

    Attributes:
        train, valid, test: `(x, y)`, float32 arrays `(n, f)` and `(n, t)`; every row has all
            labels.
        weights: `(t, f)`, the directions of the tasks.
    """

    train: tuple[np.ndarray, np.ndarray]
    valid: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    weights: np.ndarray


def correlated_tasks(
    correlation: float = 0.5,
    num_features: int = 100,
    num_sines: int = 5,
    scale: float = 0.3,
    num_rows: Sequence[int] = (10_000, 1000, 1000),
    noise: float = 0.1,
    sines_seed: int = 0,
    seed: int = 0,
    num_tasks: int = 2,
) -> CorrelatedTasks:
    r"""Tasks with the same function of a direction each, whose cosines are `correlation`.

        w_1 = scale u_1,    w_2 = scale (p u_1 + sqrt(1 - p^2) u_2)
        y_j = w_j . x + sum_i sin(alpha_i w_j . x + beta_i) + noise

    `p` is the correlation, `u_1` and `u_2` are random, of length 1 and orthogonal, `x` is
    standard normal, `alpha` and `beta` are shared by the tasks. With 1 the tasks differ in
    their noise alone. The best mean squared error is `noise**2`. Of more tasks each pair of
    directions has the cosine `p`:

        w_j = scale sum_i L_ji u_i,    L_jj = sqrt((1 - p) (1 + (j - 1) p) / (1 + (j - 2) p))
        L_ji = p sqrt((1 - p) / ((1 + (i - 2) p) (1 + (i - 1) p)))    for i < j, and L_j1 = p

    Args:
        correlation: float in [-1, 1]; of more than two tasks no less than `-1 / (t - 1)`, for
            more cannot point away from each other further.
        num_features: int >= 2, and no less than `num_tasks`.
        num_sines: int >= 0; with 0 the labels are linear.
        scale: float > 0.
        num_rows: three ints >= 1, to train, to validate, to test.
        noise: float >= 0, standard deviation.
        sines_seed: int, of `alpha` and `beta`. How hard the tasks are depends on them, so
            tasks that differ by `seed` alone can be compared.
        seed: int, of directions, rows and noise. The same arguments give the same tasks.
        num_tasks: int >= 2.

    Returns:
        `CorrelatedTasks`.

    Raises:
        ValueError: if a number is out of its range.

    Example:

    >>> tasks = correlated_tasks(correlation=0.9, num_rows=(80, 10, 10))
    >>> tasks.train[1].shape, round(float(tasks.weights[0] @ tasks.weights[1]) / 0.3**2, 6)
    ((80, 2), 0.9)

    The synthetic study of MMoE (Ma et al., KDD 2018, section 3.2). The paper leaves open
    `scale`, `num_sines`, `alpha` and `beta`; here the latter two are standard normal. It has two
    tasks; more are ours.
    """
    owner = "correlated_tasks"
    num_tasks = integer(owner, "num_tasks", num_tasks, 2)
    number(owner, "correlation", correlation, least=-1, most=1)
    if correlation < -1 / (num_tasks - 1):
        raise ValueError(
            "correlated_tasks gives each pair of tasks the same correlation, which is at least "
            f"-1 / (num_tasks - 1). Received correlation={correlation}, num_tasks={num_tasks}. "
            "Take a larger correlation, or fewer tasks."
        )
    integer(owner, "num_features", num_features, num_tasks)
    integer(owner, "num_sines", num_sines, 0)
    number(owner, "scale", scale, above=0)
    number(owner, "noise", noise, least=0)
    num_rows = sizes(owner, "num_rows", num_rows)
    if len(num_rows) != 3:
        raise ValueError(
            "correlated_tasks makes rows to train, to validate and to test. Received "
            f"num_rows={num_rows}. Give three numbers."
        )
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(num_features, num_tasks)))[0].T
    shares = _shares(correlation, num_tasks)
    weights = scale * (shares[:, :, None] * directions).sum(axis=1)
    alpha, beta = np.random.default_rng(sines_seed).normal(size=(2, num_sines))
    x = rng.normal(size=(sum(num_rows), num_features))
    directed = x @ weights.T
    y = directed + np.sin(directed[..., None] * alpha + beta).sum(axis=-1)
    y += noise * rng.normal(size=y.shape)
    ends = np.cumsum(num_rows)[:-1]
    train, valid, test = zip(
        np.split(x.astype("float32"), ends), np.split(y.astype("float32"), ends), strict=True
    )
    return CorrelatedTasks(train, valid, test, weights)


def _shares(correlation: float, num_tasks: int) -> np.ndarray:
    """What of each of as many orthogonal directions a task's has, `(t, t)`.

    The lower triangle `L` with `L L' = (1 - p) I + p`; written so that nothing is divided by
    `1 - p`, which may be 0.
    """
    shares = np.zeros((num_tasks, num_tasks))
    shares[:, 0] = correlation
    shares[0, 0] = 1
    for i in range(1, num_tasks):
        before, own = 1 + (i - 1) * correlation, 1 + i * correlation
        shares[i, i] = np.sqrt((1 - correlation) * max(own, 0) / before)
        if i + 1 < num_tasks:
            shares[i + 1 :, i] = correlation * np.sqrt((1 - correlation) / (before * own))
    return shares
