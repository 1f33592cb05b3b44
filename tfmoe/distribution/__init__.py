"""Past one device: batches for several replicas, several machines, and parts of a model."""

import keras  # noqa: F401  before any module here, see tfmoe/loading.py

from tfmoe.distribution.batches import dataset as dataset
from tfmoe.distribution.sharded import ModelParallel as ModelParallel
from tfmoe.distribution.workers import MultiWorkerModel as MultiWorkerModel
