"""Experts: from one input to one representation an expert."""

import keras  # noqa: F401  before any module here, see tfmoe/loading.py
