"""The tables of `many_tasks`, and what on them needs no network."""

import functools
from typing import NamedTuple

import numpy as np

from tfmoe.data import delicious, school


class Table(NamedTuple):
    """Rows as arrays.

    Attributes:
        train, valid, test: pairs of inputs, `{"x": (n, f)}` and, where a row has one task,
            `"task": (n,)`; and labels `(n, t)` of zeros and ones, or `(n, 1)` numbers of mean 0
            and deviation 1 on the training rows.
        tasks: int.
        unit: float, the deviation of labels before; None of zeros and ones.
    """

    train: tuple
    valid: tuple
    test: tuple
    tasks: int
    unit: float | None = None

    @property
    def size(self):
        return self.train[0]["x"].shape[1]

    @property
    def task_per_row(self):
        return "task" in self.train[0]


@functools.cache
def table(quick, name):
    """Delicious or School, and a few rows of neither in the quick form."""
    if quick:
        return _made_up(name)
    if name == "school":
        return _school()
    split = delicious()
    names = list(split.schema.task_names)
    parts = [
        ({"x": np.stack(rows["words"].to_list())}, rows[names].to_numpy("float32"))
        for rows in (split.train, split.valid, split.test)
    ]
    return Table(*parts, tasks=len(names))


def _school():
    split = school()
    names = [column.name for column in split.schema.columns]
    rows = split.train
    means, deviations = rows[names].mean(), rows[names].std()
    mean, unit = rows["score"].mean(), float(rows["score"].std())
    parts = [
        (
            {
                "x": ((part[names] - means) / deviations).to_numpy("float32"),
                "task": part["school"].to_numpy("int32") - 1,
            },
            ((part[["score"]] - mean) / unit).to_numpy("float32"),
        )
        for part in (split.train, split.valid, split.test)
    ]
    return Table(*parts, tasks=len(split.schema.tasks), unit=unit)


def _made_up(name):
    rng, tasks = np.random.default_rng(0), 4
    parts = []
    for _ in range(3):
        x = rng.normal(size=(80, 6)).astype("float32")
        task = (np.arange(80) % tasks).astype("int32")
        if name == "school":
            parts.append(({"x": x, "task": task}, x[:, :1] + 0.1 * task[:, None]))
        else:
            parts.append(({"x": x}, (x[:, :tasks] > 0).astype("float32")))
    return Table(*parts, tasks=tasks, unit=1.0 if name == "school" else None)


def floors(quick, name):
    """Scores without a network: pairs of name and score."""
    from sklearn.linear_model import LinearRegression
    from sklearn.metrics import roc_auc_score

    rows = table(quick, name)
    (inputs, labels), (test, expected) = rows.train, rows.test
    if not rows.task_per_row:
        # Words that are there, of a tag's pages against all others', each counted once more.
        there = (inputs["x"] > 0).astype("float64")
        of, others = labels.T @ there, (1 - labels).T @ there
        share = (of + 1) / (labels.sum(axis=0)[:, None] + 2)
        other = (others + 1) / ((1 - labels).sum(axis=0)[:, None] + 2)
        seen = (test["x"] > 0).astype("float64")
        logits = seen @ np.log(share / other).T + (1 - seen) @ np.log((1 - share) / (1 - other)).T
        return [("naive Bayes", float(roc_auc_score(expected, logits)))]
    counts = np.bincount(inputs["task"], minlength=rows.tasks)
    means = np.bincount(inputs["task"], labels[:, 0], rows.tasks) / np.maximum(counts, 1)
    linear = LinearRegression().fit(inputs["x"], labels)
    said = {"school means": means[test["task"]][:, None], "linear": linear.predict(test["x"])}
    return [
        (floor, 1 - float(np.mean((guess - expected) ** 2) / np.var(expected)))
        for floor, guess in said.items()
    ]
