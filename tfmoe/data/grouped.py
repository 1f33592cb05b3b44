"""Tasks in groups that share experts, made up, with the truth known; scores of a selection."""

from typing import NamedTuple

import numpy as np

_HIDDEN = 8  # units of a true expert's hidden layer


class GroupedTasks(NamedTuple):
    """Rows in three parts, and the truth behind them.

    Attributes:
        train, valid, test: `(x, y)`, float32 arrays `(n, f)` and `(n, t)`; every row has
            all labels.
        groups: int `(t,)`, each task's group.
        weights: `(t, e)`, each task's weights of the true experts; a row sums to 1.
    """

    train: tuple
    valid: tuple
    test: tuple
    groups: np.ndarray
    weights: np.ndarray


class SelectionScores(NamedTuple):
    """How well a selection of experts agrees with the truth, each from 0 to 1.

    Attributes:
        jaccard: mean over pairs of tasks of one group of the share of their experts that
            both select, `|A & B| / |A | B|`; NaN if no group has two tasks.
        precision, recall, f1: of the (task, expert) pairs selected, after the model's
            experts were matched one to one with the true ones as well as can be.
    """

    jaccard: float
    precision: float
    recall: float
    f1: float


def grouped_tasks(
    num_tasks=16,
    num_experts=16,
    experts_per_group=4,
    num_features=10,
    num_rows=20_000,
    noise=0.1,
    seed=0,
):
    r"""Regression tasks of which those in one group are made of the same few functions.

        y_t = sum_e w_te f_e(x) + noise

    The true experts `f_e` are random ReLU networks of one hidden layer, with mean 0 and
    variance 1 over the rows; `x` is standard normal. The experts are parted into groups;
    each task belongs to one group, groups as equal as can be, and has weights `w` drawn
    uniformly from the simplex over its group's experts. A task's signal is scaled to
    variance 1, so the best mean squared error is `noise**2`, and that of a constant is
    `1 + noise**2`.

    Args:
        num_tasks: int >= 1.
        num_experts: int >= 1, the true experts, a multiple of `experts_per_group`.
        experts_per_group: int >= 1.
        num_features: int >= 1.
        num_rows: int >= 10: the first 80 % to train, 10 % to validate, 10 % to test.
        noise: float >= 0, standard deviation.
        seed: int. The same arguments give the same tasks.

    Returns:
        `GroupedTasks`.

    Raises:
        ValueError: if a number is too small, or the groups do not come out even.

    Example:

    >>> world = grouped_tasks(num_tasks=4, num_experts=4, experts_per_group=2, num_rows=100)
    >>> world.train[1].shape, world.groups.tolist(), (world.weights > 0).sum(axis=1).tolist()
    ((80, 4), [0, 0, 1, 1], [2, 2, 2, 2])

    Inspired by the synthetic study of DSelect-k (Hazimeh et al., 2021,
    https://arxiv.org/abs/2106.03760), whose details are not public: sizes, networks and
    noise are our own.
    """
    least = {
        "num_tasks": (num_tasks, 1),
        "num_experts": (num_experts, 1),
        "experts_per_group": (experts_per_group, 1),
        "num_features": (num_features, 1),
        "num_rows": (num_rows, 10),
        "noise": (noise, 0),
    }
    for name, (value, bound) in least.items():
        if value < bound:
            raise ValueError(
                f"grouped_tasks needs `{name}` of at least {bound}. Received {name}={value}."
            )
    if num_experts % experts_per_group:
        raise ValueError(
            "grouped_tasks parts the experts into groups of one size. Received "
            f"num_experts={num_experts}, experts_per_group={experts_per_group}. Make the first "
            "a multiple of the second."
        )
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_rows, num_features))
    kernels = rng.normal(size=(num_experts, num_features, _HIDDEN)) / np.sqrt(num_features)
    biases = rng.normal(size=(num_experts, 1, _HIDDEN))
    heads = rng.normal(size=(num_experts, _HIDDEN, 1))
    outputs = (np.maximum(x @ kernels + biases, 0) @ heads)[..., 0]  # (e, n)
    outputs -= outputs.mean(axis=1, keepdims=True)
    outputs /= outputs.std(axis=1, keepdims=True)

    num_groups = num_experts // experts_per_group
    groups = np.arange(num_tasks) * num_groups // num_tasks
    weights = np.zeros((num_tasks, num_experts))
    for t, group in enumerate(groups):
        first = group * experts_per_group
        weights[t, first : first + experts_per_group] = rng.dirichlet(np.ones(experts_per_group))
    signal = (weights @ outputs).T
    y = signal / signal.std(axis=0) + noise * rng.normal(size=signal.shape)
    ends = [int(0.8 * num_rows), int(0.9 * num_rows)]
    parts = zip(
        np.split(x.astype("float32"), ends), np.split(y.astype("float32"), ends), strict=True
    )
    return GroupedTasks(*parts, groups, weights)


def selection_scores(selected, world):
    """Compares the experts that a model selects with those its tasks are made of.

    Args:
        selected: bool `(t, e)`, the experts each task uses; any number of experts.
        world: `GroupedTasks`.

    Returns:
        `SelectionScores`.

    Example:

    >>> world = grouped_tasks(num_tasks=4, num_experts=4, experts_per_group=2, num_rows=100)
    >>> selected = world.weights[:, ::-1] > 0  # the order of experts does not count
    >>> selection_scores(selected, world)
    SelectionScores(jaccard=1.0, precision=1.0, recall=1.0, f1=1.0)
    """
    from scipy.optimize import linear_sum_assignment

    selected, true = np.asarray(selected, bool), world.weights > 0
    alike = [
        (selected[i] & selected[j]).sum() / max((selected[i] | selected[j]).sum(), 1)
        for i in range(len(selected))
        for j in range(i)
        if world.groups[i] == world.groups[j]
    ]
    agreements = selected.T.astype(int) @ true
    right = agreements[linear_sum_assignment(agreements, maximize=True)].sum()
    precision, recall = right / max(selected.sum(), 1), right / true.sum()
    f1 = 2 * right / (selected.sum() + true.sum())
    jaccard = np.mean(alike) if alike else np.nan
    return SelectionScores(*map(float, (jaccard, precision, recall, f1)))
