"""Tasks in groups that share experts, made up, with the truth known."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from tfmoe.datasets.synthetic import Split
from tfmoe.schema.columns import Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Regression
from tfmoe.validation import check_counts, integer, number

_HIDDEN = 8  # units of a true expert's hidden layer


class GroupedTasks(NamedTuple):
    """Rows in three parts, and the truth behind them.

    Attributes:
        train, valid, test: `(x, y)`, float32 arrays `(n, f)` and `(n, t)`; every row has
            all labels.
        groups: int `(t,)`, each task's group.
        weights: `(t, e)`, each task's weights of the true experts; a row sums to 1.
    """

    train: tuple[np.ndarray, np.ndarray]
    valid: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    groups: np.ndarray
    weights: np.ndarray


def grouped_tasks(
    num_tasks: int = 16,
    num_experts: int = 16,
    experts_per_group: int = 4,
    num_features: int = 10,
    num_rows: int = 20_000,
    noise: float = 0.1,
    seed: int = 0,
) -> GroupedTasks:
    r"""Regression tasks of which those in one group are made of the same few functions.

        y_t = sum_e w_te f_e(x) + noise

    The true experts `f_e` are random ReLU networks of one hidden layer, with mean 0 and
    variance 1 over the rows; `x` is standard normal. The experts are divided into groups;
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
    check_counts(
        "grouped_tasks",
        num_tasks=(num_tasks, 1),
        num_experts=(num_experts, 1),
        experts_per_group=(experts_per_group, 1),
        num_features=(num_features, 1),
        num_rows=(num_rows, 10),
    )
    number("grouped_tasks", "noise", noise, least=0)
    if num_experts % experts_per_group:
        raise ValueError(
            "grouped_tasks divides the experts into groups of one size. Received "
            f"num_experts={num_experts}, experts_per_group={experts_per_group}. Make the first "
            "a multiple of the second."
        )
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_rows, num_features))
    outputs = random_experts(x, num_experts, rng)

    num_groups = num_experts // experts_per_group
    groups = np.arange(num_tasks) * num_groups // num_tasks
    weights = np.zeros((num_tasks, num_experts))
    for t, group in enumerate(groups):
        first = group * experts_per_group
        weights[t, first : first + experts_per_group] = rng.dirichlet(np.ones(experts_per_group))
    signal = (weights @ outputs).T
    y = signal / signal.std(axis=0) + noise * rng.normal(size=signal.shape)
    ends = [int(0.8 * num_rows), int(0.9 * num_rows)]
    train, valid, test = zip(
        np.split(x.astype("float32"), ends), np.split(y.astype("float32"), ends), strict=True
    )
    return GroupedTasks(train, valid, test, groups, weights)


def random_experts(x: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """Outputs `(e, n)` of new true experts, with mean 0 and variance 1 over the rows."""
    num_features = x.shape[1]
    kernels = rng.normal(size=(num, num_features, _HIDDEN)) / np.sqrt(num_features)
    biases = rng.normal(size=(num, 1, _HIDDEN))
    heads = rng.normal(size=(num, _HIDDEN, 1))
    outputs = (np.maximum(x @ kernels + biases, 0) @ heads)[..., 0]
    outputs -= outputs.mean(axis=1, keepdims=True)
    return outputs / outputs.std(axis=1, keepdims=True)


def add_unrelated(
    world: GroupedTasks, num_tasks: int, noise: float = 0.1, seed: int = 0
) -> GroupedTasks:
    """The same world with further tasks that have nothing to do with the others.

    Each is one new true expert, which no other task has, and a group of its own. What
    was there stays as it is.

    Args:
        world: `GroupedTasks`.
        num_tasks: int >= 0, how many are added.
        noise: float >= 0, standard deviation.
        seed: int. The first of many new tasks are those of few.

    Returns:
        `GroupedTasks`, the new tasks and experts last.

    Raises:
        ValueError: if `num_tasks` or `noise` is below 0.

    Example:

    >>> world = grouped_tasks(num_tasks=2, num_experts=4, experts_per_group=2, num_rows=100)
    >>> add_unrelated(world, 2).groups.tolist()
    [0, 1, 2, 3]
    """
    num_tasks = integer("add_unrelated", "num_tasks", num_tasks, 0)
    number("add_unrelated", "noise", noise, least=0)
    parts = (world.train, world.valid, world.test)
    x = np.concatenate([part[0] for part in parts]).astype("float64")
    y = np.zeros((len(x), num_tasks), "float32")
    for t in range(num_tasks):
        rng = np.random.default_rng([seed, t])
        y[:, t] = random_experts(x, 1, rng)[0] + noise * rng.normal(size=len(x))
    ends = np.cumsum([len(part[0]) for part in parts])[:-1]
    added = np.split(y, ends)
    train, valid, test = (
        (old[0], np.hstack([old[1], new])) for old, new in zip(parts, added, strict=True)
    )
    old_tasks, old_experts = world.weights.shape
    weights = np.eye(old_tasks + num_tasks, old_experts + num_tasks, old_experts - old_tasks)
    weights[:old_tasks] = 0
    weights[:old_tasks, :old_experts] = world.weights
    groups = np.concatenate([world.groups, world.groups.max() + 1 + np.arange(num_tasks)])
    return GroupedTasks(train, valid, test, groups, weights)


def task_rows(
    world: GroupedTasks,
    num_rows: int | Sequence[int] = 1000,
    num_test_rows: int = 500,
    seed: int = 0,
) -> Split:
    """A world's tasks as a table in which each row belongs to one task.

    Each task has rows of its own, drawn at random: another task's may have the same
    inputs.

    Args:
        world: `GroupedTasks`.
        num_rows: int >= 1, or a sequence `(t,)` of them: each task's rows to train. With
            the same seed the rows of a smaller number are the first of a larger.
        num_test_rows: int >= 1, each task's rows to validate, and to test.
        seed: int.

    Returns:
        A `Split`. Columns: `x_0`, `x_1`, ...; `task`, the name of the row's task, which
        is `task_0`, `task_1`, ...; `label`. The schema has `task_column="task"`.

    Raises:
        ValueError: if a part of the world has fewer rows than a task is to get, or there
            is not one number for each task.

    Example:

    >>> world = grouped_tasks(num_tasks=2, num_experts=2, experts_per_group=1, num_rows=100)
    >>> task_rows(world, (80, 4), 10).train["task"].value_counts().tolist()
    [80, 4]
    """
    num_tasks = len(world.groups)
    counts = np.broadcast_to(num_rows, num_tasks) if np.ndim(num_rows) == 0 else np.array(num_rows)
    if len(counts) != num_tasks:
        raise ValueError(
            f"task_rows takes one number of rows, or one for each of {num_tasks} tasks. "
            f"Received num_rows={num_rows!r}."
        )
    names = [f"task_{t}" for t in range(num_tasks)]
    tables = []
    of_test = np.full(num_tasks, num_test_rows)
    for index, ((x, y), sizes) in enumerate(
        zip(world[:3], (counts, of_test, of_test), strict=True)
    ):
        if not 1 <= min(sizes) <= max(sizes) <= len(x):
            raise ValueError(
                f"task_rows gives a task between 1 and all {len(x)} rows of the world's part. "
                f"Received num_rows={num_rows!r}, num_test_rows={num_test_rows}. Make a world "
                "of more rows."
            )
        chosen = [
            np.random.default_rng([seed, index, t]).permutation(len(x))[:size]
            for t, size in enumerate(sizes)
        ]
        table = pd.DataFrame({f"x_{i}": x[np.concatenate(chosen), i] for i in range(x.shape[1])})
        table["task"] = np.repeat(np.array(names, object), sizes)
        table["label"] = np.concatenate([y[rows, t] for t, rows in enumerate(chosen)])
        tables.append(table)
    columns = [Numeric(f"x_{i}", transform="none") for i in range(x.shape[1])]
    tasks = [Regression(name, source="label", standardize=False) for name in names]
    train, valid, test = tables
    return Split(train, valid, test, Schema(columns, tasks, task_column="task"))
