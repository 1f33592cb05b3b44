"""What a table's columns and tasks are: plain data, no Keras."""

from tfmoe.schema.columns import Categorical, MultiCategorical, Numeric, Sequence
from tfmoe.schema.crossed import Crossed
from tfmoe.schema.pretrained import Pretrained
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Multiclass, Regression
from tfmoe.schema.text import Text
from tfmoe.schema.timestamp import Timestamp
from tfmoe.schema.vector import Vector

__all__ = [
    "Binary",
    "Categorical",
    "Crossed",
    "MultiCategorical",
    "Multiclass",
    "Numeric",
    "Pretrained",
    "Regression",
    "Schema",
    "Sequence",
    "Text",
    "Timestamp",
    "Vector",
]
