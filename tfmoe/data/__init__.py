"""Reading, fitting and encoding tables, and data to learn on."""

from tfmoe.data.census import census_income
from tfmoe.data.correlated import correlated_tasks
from tfmoe.data.grouped import add_unrelated, grouped_tasks, selection_scores, task_rows
from tfmoe.data.movielens import movielens
from tfmoe.data.synthetic import Split, synthetic_ratings

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
