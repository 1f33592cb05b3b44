"""How layers compute: arithmetic, batched matmuls, sparse dispatch, nested layers."""

import keras  # noqa: F401  before any module here, see tfmoe/loading.py
