"""SavedModels that take raw rows."""

import keras  # noqa: F401  before any module here, see tfmoe/loading.py
