"""A row's way: read, fitted, encoded, batched. The data sets are those of `tfmoe.datasets`."""

from tfmoe.datasets import (
    Split,
    add_unrelated,
    census_income,
    correlated_tasks,
    grouped_tasks,
    movielens,
    selection_scores,
    synthetic_ratings,
    task_rows,
)

__all__ = [
    "Split",
    "add_unrelated",
    "census_income",
    "correlated_tasks",
    "grouped_tasks",
    "movielens",
    "selection_scores",
    "synthetic_ratings",
    "task_rows",
]
