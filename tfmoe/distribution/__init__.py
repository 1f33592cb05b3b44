"""Past one device: batches for several replicas, a model for several machines, served rows."""

import keras  # noqa: F401  before any module here, see tfmoe/loading.py

from tfmoe.distribution.batches import dataset as dataset
from tfmoe.distribution.workers import MultiWorkerModel as MultiWorkerModel
