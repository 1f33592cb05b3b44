"""The whole model, its inputs, and what becomes of it later."""

import keras  # noqa: F401  before any module here, see tfmoe/loading.py
