"""Reading, fitting and encoding tables, and data to learn on."""

from tfmoe.data.movielens import movielens
from tfmoe.data.synthetic import Split, synthetic_ratings

__all__ = ["Split", "movielens", "synthetic_ratings"]
