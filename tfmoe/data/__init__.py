"""Reading, fitting and encoding tables, and data to learn on."""

from tfmoe.data.grouped import grouped_tasks, selection_scores
from tfmoe.data.movielens import movielens
from tfmoe.data.synthetic import Split, synthetic_ratings

__all__ = ["Split", "grouped_tasks", "movielens", "selection_scores", "synthetic_ratings"]
