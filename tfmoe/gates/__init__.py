"""Gates: for each task, a weight for each expert."""

import keras  # noqa: F401  before any module here, see tfmoe/loading.py
