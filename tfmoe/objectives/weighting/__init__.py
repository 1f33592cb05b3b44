"""How the losses of several tasks are weighed against each other, and their gradients combined."""

import keras  # noqa: F401  before any module here, see tfmoe/loading.py
