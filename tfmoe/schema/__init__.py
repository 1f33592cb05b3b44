"""What a table's columns and tasks are: plain data, no Keras."""

from tfmoe.schema.columns import Categorical, MultiCategorical, Numeric, Sequence
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Multiclass, Regression

__all__ = [
    "Binary",
    "Categorical",
    "MultiCategorical",
    "Multiclass",
    "Numeric",
    "Regression",
    "Schema",
    "Sequence",
]
