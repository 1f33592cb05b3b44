"""Optimizers whose step costs less, and several of them in one, for the parts of a model."""

import keras  # noqa: F401  before any module here, see tfmoe/loading.py

from tfmoe.optimizers.by_part import ByPart as ByPart
from tfmoe.optimizers.fused import Adagrad as Adagrad
from tfmoe.optimizers.fused import Adam as Adam
from tfmoe.optimizers.fused import LazyAdam as LazyAdam
