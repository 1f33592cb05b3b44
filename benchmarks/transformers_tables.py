"""Questions about people of Census-Income as tokens, a row for each question that is asked."""

from typing import NamedTuple

import numpy as np

from benchmarks.worlds import WORLDS

BINS = 16


class Part(NamedTuple):
    """Rows of one task each: tokens `(n, c)`, numbers of tasks `(n,)`, answers `(n,)`."""

    x: np.ndarray
    task: np.ndarray
    y: np.ndarray

    def of(self, task):
        """The rows of a task, as if there were no other."""
        own = self.task == task
        return Part(self.x[own], np.zeros(int(own.sum()), "int32"), self.y[own])


class Table(NamedTuple):
    """Three parts, and how many different tokens there are."""

    train: Part
    valid: Part
    test: Part
    tokens: int


def table(tasks, rows, valid_rows, test_rows, seed):
    """The first so many questions, with so many people each.

    A column is a token. Those of categories are numbered by the rows to train on; numbers are cut
    at their quantiles. A value that is missing, or was not seen, is the column's first token.

    Args:
        tasks, rows, valid_rows, test_rows: ints; no more rows to validate than to test.
        seed: int, which draws the people.
    """
    world = WORLDS["census"]
    names = world.tasks[:tasks]
    split = world.make(seed, dict.fromkeys(names, rows), num_test_rows=test_rows)
    valid = split.valid.groupby("task", sort=False).head(valid_rows)
    coded, offset = [], 0
    for column in split.schema.columns:
        parts = [rows[column.name] for rows in (split.train, valid, split.test)]
        codes, number = (_categories if column.embeds else _quantiles)(parts)
        coded.append([own + offset for own in codes])
        offset += number
    numbers = {name: number for number, name in enumerate(names)}
    parts = [
        Part(
            np.stack([codes[index] for codes in coded], axis=1).astype("int32"),
            rows["task"].map(numbers).to_numpy("int32"),
            rows["label"].to_numpy("float32")[:, None],
        )
        for index, rows in enumerate((split.train, valid, split.test))
    ]
    return Table(*parts, offset)


def _categories(parts):
    known = {value: code for code, value in enumerate(sorted(parts[0].dropna().unique()), 1)}
    return [rows.map(known).fillna(0).to_numpy("int32") for rows in parts], len(known) + 1


def _quantiles(parts):
    inner = np.linspace(0, 1, BINS + 1)[1:-1]
    edges = np.unique(np.quantile(parts[0].dropna().to_numpy("float64"), inner))
    found = []
    for rows in parts:
        values = rows.to_numpy("float64")
        codes = np.digitize(values, edges) + 1
        found.append(np.where(np.isnan(values), 0, codes).astype("int32"))
    return found, len(edges) + 2


def made_up(tasks, rows, valid_rows, test_rows, columns=3):
    """A small table in the place of the census, of answers that mean nothing."""
    rng = np.random.default_rng(0)

    def part(number):
        x = rng.integers(4, size=(tasks * number, columns)) + 4 * np.arange(columns)
        task = np.repeat(np.arange(tasks), number)
        y = np.arange(len(x)) % 2
        return Part(x.astype("int32"), task.astype("int32"), y[:, None].astype("float32"))

    return Table(part(rows), part(valid_rows), part(test_rows), 4 * columns)
