"""A Python of another backend, which has no TensorFlow."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest


def run_on(backend, *arguments):
    """Runs Python on a backend, with the package and its tests on the path.

    Args:
        backend: `"jax"` or `"torch"`; where it is not installed the test is skipped.
        arguments: of Python: a file, or `"-c"` and code, and what these are given.
    """
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed.")
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": path}
    environment["JAX_PLATFORMS"] = "cpu"
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
