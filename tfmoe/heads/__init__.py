"""From a representation a task to logits and predictions."""

import keras  # noqa: F401  before any module here, see tfmoe/loading.py
