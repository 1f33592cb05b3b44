"""What gates select: numbers, pictures, a callback."""

import keras  # noqa: F401  before any module here, see tfmoe/loading.py
