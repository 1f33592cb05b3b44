"""Standalone models of some tasks and some experts."""

import keras  # noqa: F401  before any module here, see tfmoe/loading.py
