"""Other backends give the numbers that TensorFlow gives, without TensorFlow."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.package import backend_numbers


@pytest.fixture(scope="module")
def on_tensorflow():
    return backend_numbers.all_numbers()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_backend_gives_the_same_numbers(backend, on_tensorflow, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed.")
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": path}
    environment["JAX_PLATFORMS"] = "cpu"
    file = tmp_path / "numbers.npz"
    command = [sys.executable, backend_numbers.__file__, file]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(file) as found:
        assert set(found) == set(on_tensorflow)
        for name, expected in on_tensorflow.items():
            np.testing.assert_allclose(found[name], expected, atol=1e-5, rtol=1e-5, err_msg=name)
