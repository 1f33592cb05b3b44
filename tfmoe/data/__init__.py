"""A row's way: read, fitted, encoded, batched. The data sets are those of `tfmoe.datasets`."""

from tfmoe.datasets import *  # noqa: F403
from tfmoe.datasets import __all__ as __all__
