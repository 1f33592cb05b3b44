"""What a model is trained for and measured by."""

import keras  # noqa: F401  before any module here, see tfmoe/loading.py
