"""Other backends give the numbers that TensorFlow gives, without TensorFlow."""

import numpy as np
import pytest

from tests.oracles.other_backend import run_on
from tests.package import backend_numbers


@pytest.fixture(scope="module")
def on_tensorflow():
    return backend_numbers.all_numbers()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_backend_gives_the_same_numbers(backend, on_tensorflow, tmp_path):
    file = tmp_path / "numbers.npz"
    run_on(backend, backend_numbers.__file__, file)
    with np.load(file) as found:
        assert set(found) == set(on_tensorflow)
        for name, expected in on_tensorflow.items():
            np.testing.assert_allclose(found[name], expected, atol=1e-5, rtol=1e-5, err_msg=name)
