"""Settings of all tests: those in tests/ and the examples in tfmoe's docstrings."""

import os

import numpy as np
import pytest
from hypothesis import settings

# Read when TensorFlow is imported, so nothing above imports it.
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(variable, "2")

# Building a layer takes long the first time, and a slow machine is no fault.
settings.register_profile("tests", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers, whichever tests ran before."""
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def names_of_examples(doctest_namespace):
    """What the examples in docstrings may use without importing it."""
    import tfmoe

    doctest_namespace["np"] = np
    doctest_namespace["tfmoe"] = tfmoe
