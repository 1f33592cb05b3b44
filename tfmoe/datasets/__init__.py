"""Generated and public data to learn on."""

from tfmoe.datasets.ali_ccp import ali_ccp
from tfmoe.datasets.aliexpress import aliexpress
from tfmoe.datasets.census import census_income
from tfmoe.datasets.correlated import correlated_tasks
from tfmoe.datasets.delicious import delicious
from tfmoe.datasets.funnel import Funnel, conversion_funnel
from tfmoe.datasets.grouped import add_unrelated, grouped_tasks, task_rows
from tfmoe.datasets.kuairand import kuairand
from tfmoe.datasets.movielens import movielens
from tfmoe.datasets.movielens_histories import movielens_histories
from tfmoe.datasets.regions import region_tasks
from tfmoe.datasets.school import school
from tfmoe.datasets.selection import selection_scores
from tfmoe.datasets.synthetic import Split, synthetic_ratings

__all__ = [
    "Funnel",
    "Split",
    "add_unrelated",
    "ali_ccp",
    "aliexpress",
    "census_income",
    "conversion_funnel",
    "correlated_tasks",
    "delicious",
    "grouped_tasks",
    "kuairand",
    "movielens",
    "movielens_histories",
    "region_tasks",
    "school",
    "selection_scores",
    "synthetic_ratings",
    "task_rows",
]
