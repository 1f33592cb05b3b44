"""Structures: from one vector a row, or its tokens, to one representation a task."""

import keras  # noqa: F401  before any module here, see tfmoe/loading.py
