"""From the Preprocessor's ids and floats to what a structure reads."""

import keras  # noqa: F401  before any module here, see tfmoe/loading.py
