"""What the studies learn: made-up tasks in groups, and columns of a census as tasks.

Both are tables in which each row belongs to one task, with some thousand rows a task, so that
a run takes seconds. `grouped` is `grouped_tasks`: 64 tasks, of which each eight are made of four
functions of their own, so that it is known which tasks are related, and that eight related
ones are enough to learn what the ninth is made of.
`census` is Census-Income (KDD): twelve yes-or-no questions about a person, whose own columns
are then no inputs. It has what the other lacks: tasks that are neither alike nor strangers,
and main tasks (income) with few positives.
"""

import functools
from typing import NamedTuple

import numpy as np
import pandas as pd

from tfmoe.data import Split, add_unrelated, census_income, grouped_tasks, task_rows
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary


class World(NamedTuple):
    """A set of tasks.

    Attributes:
        make: function `(seed, rows, unrelated=0, num_test_rows=...)` to a `Split`: `rows` are
            a dict from all tasks to their rows to train; so many unrelated tasks follow,
            each with the median of their rows.
        tasks: tuple of str.
        target: str, the task that `transfer` and `unseen` look at.
        related: tuple of str, the other tasks that are known to be like the target, or
            all others where nothing is known.
        rows: int, each task's rows to train.
        target_rows: int, the target's rows if nothing is cut.
        num_test_rows: int, each task's rows to validate, and to test.
        metric: "mse" or "auc".
        epochs, batch_size: int, how long models are trained, and on how many rows a step.
        least_steps: int, of an epoch, for tasks with few rows.
    """

    make: object
    tasks: tuple
    target: str
    related: tuple
    rows: int
    target_rows: int
    num_test_rows: int
    metric: str
    epochs: int
    batch_size: int = 512
    least_steps: int = 20


def only(split, tasks):
    """The part of a table that belongs to some of its tasks."""
    parts = (split.train, split.valid, split.test)
    parts = (part[part["task"].isin(tasks)].reset_index(drop=True) for part in parts)
    return Split(*parts, split.schema.select(tasks))


def _grouped(seed, rows, unrelated=0, num_test_rows=1000, num_world_rows=20_000):
    world = grouped_tasks(len(rows), len(rows) // 2, 4, num_rows=num_world_rows, seed=seed)
    world = add_unrelated(world, unrelated, seed=seed)
    counts = [*rows.values(), *[_usual(rows)] * unrelated]
    return task_rows(world, counts, num_test_rows, seed)


# The columns that say the answer, which are therefore no inputs, and the rule.
_QUESTIONS = {
    "income": ((), lambda rows: rows["income"] == 1),
    "never_married": (("marital_stat",), lambda rows: rows["never_married"] == 1),
    "college": (("education",), lambda rows: rows["college"] == 1),
    "dividends": (("dividends_from_stocks",), lambda rows: rows["dividends_from_stocks"] > 0),
    "capital_gains": (("capital_gains",), lambda rows: rows["capital_gains"] > 0),
    "male": (("sex",), lambda rows: rows["sex"] == "Male"),
    "white": (("race",), lambda rows: rows["race"] == "White"),
    "hispanic": (("hispanic_origin",), lambda rows: rows["hispanic_origin"] != "All other"),
    "foreign_born": (
        ("country_of_birth_self", "citizenship"),
        lambda rows: rows["country_of_birth_self"] != "United-States",
    ),
    "householder": (
        ("detailed_household_and_family_stat", "detailed_household_summary_in_household"),
        lambda rows: rows["detailed_household_summary_in_household"] == "Householder",
    ),
    "self_employed": (
        ("class_of_worker",),
        lambda rows: rows["class_of_worker"].str.startswith("Self-employed"),
    ),
    "whole_year": (("weeks_worked_in_year",), lambda rows: rows["weeks_worked_in_year"] == 52),
}


def _census(seed, rows, unrelated=0, num_test_rows=1000):
    split = _people()
    names = [*rows, *(f"unrelated_{i}" for i in range(unrelated))]
    sizes = dict.fromkeys(names, _usual(rows)) | rows
    tables = []
    for index, people in enumerate((split.train, split.valid, split.test)):
        parts = []
        for name in names:
            # By name: a task's rows do not depend on which others there are.
            rng = np.random.default_rng([seed, index, *name.encode()])
            size = sizes[name] if index == 0 else num_test_rows
            chosen = people.iloc[rng.permutation(len(people))[:size]]
            parts.append(chosen.assign(task=name, label=_answers(name, chosen, seed)))
        tables.append(pd.concat(parts, ignore_index=True))
    tasks = [Binary(name, source="label") for name in names]
    return Split(*tables, Schema(split.schema.columns, tasks, task_column="task"))


@functools.cache
def _people():
    """The census with the columns that answer no question as inputs."""
    split = census_income()
    hidden = {column for columns, _ in _QUESTIONS.values() for column in columns}
    columns = [column for column in split.schema.columns if column.name not in hidden]
    return Split(split.train, split.valid, split.test, Schema(columns, split.schema.tasks))


def _answers(name, people, seed):
    """Labels of 0 and 1; `income` and so on, or of an unrelated task.

    An unrelated task draws two columns and halves the values of each at random; the answer
    is whether a person's two values are in the same half, and says nothing of other tasks.
    """
    if name in _QUESTIONS:
        return _QUESTIONS[name][1](people).astype("float64")
    rng = np.random.default_rng([seed, *name.encode()])
    columns = ("detailed_occupation_recode", "major_industry_code", "tax_filer_stat")
    columns += ("family_members_under_18",)
    halves = []
    for column in rng.choice(columns, 2, replace=False):
        values = sorted(_people().train[column].dropna().unique())
        in_first = dict(zip(values, rng.permutation(len(values)) % 2, strict=True))
        halves.append(people[column].map(in_first).fillna(0).to_numpy())
    return (halves[0] == halves[1]).astype("float64")


def _usual(rows):
    """The rows of an unrelated task."""
    return int(np.median(list(rows.values())))


GROUPED_TASKS = tuple(f"task_{t}" for t in range(64))
CENSUS_TASKS = tuple(_QUESTIONS)

WORLDS = {
    "grouped": World(
        _grouped,
        GROUPED_TASKS,
        "task_0",
        GROUPED_TASKS[1:8],
        rows=4000,
        target_rows=10_000,
        num_test_rows=1000,
        metric="mse",
        epochs=16,
        batch_size=4096,
    ),
    "census": World(
        _census,
        CENSUS_TASKS,
        "income",
        CENSUS_TASKS[1:],
        rows=4000,
        target_rows=40_000,
        num_test_rows=4000,
        metric="auc",
        epochs=8,
    ),
}
Y_LABELS = {"grouped": "mean squared error", "census": "AUC"}
# A small one in place of both, to see that a study runs.
QUICK = {
    "grouped": WORLDS["grouped"]._replace(
        make=functools.partial(_grouped, num_world_rows=1000),
        tasks=GROUPED_TASKS[:16],
        rows=30,
        target_rows=500,
        num_test_rows=40,
        epochs=1,
        least_steps=1,
    )
}
