import math

import numpy as np
import pytest

from tfmoe.data import correlated_tasks


def test_shapes_and_directions():
    tasks = correlated_tasks(0.6, num_features=7, scale=2.0, num_rows=(50, 20, 10))
    shapes = [(x.shape, y.shape, x.dtype, y.dtype) for x, y in tasks[:3]]
    assert shapes == [((n, 7), (n, 2), np.float32, np.float32) for n in (50, 20, 10)]
    products = tasks.weights @ tasks.weights.T
    np.testing.assert_allclose(products, 4 * np.array([[1, 0.6], [0.6, 1]]), atol=1e-12)


@pytest.mark.parametrize(
    ("num_tasks", "correlation"),
    [(2, -1.0), (3, -0.5), (5, -0.2), (8, 0.0), (8, 0.5), (8, 0.9), (8, 1.0)],
)
def test_each_pair_of_tasks_has_the_cosine(num_tasks, correlation):
    tasks = correlated_tasks(
        correlation, num_features=9, num_rows=(6, 2, 1), num_tasks=num_tasks, seed=3
    )
    assert [y.shape for _, y in tasks[:3]] == [(n, num_tasks) for n in (6, 2, 1)]
    expected = (1 - correlation) * np.eye(num_tasks) + correlation
    products = tasks.weights @ tasks.weights.T / 0.3**2
    np.testing.assert_allclose(products, expected, atol=1e-7)


@pytest.mark.parametrize("correlation", [-0.1, 0.3, 0.99])
def test_directions_are_mixed_by_choleskys_triangle(correlation):
    """Of the same random directions, which the closed form mixes."""
    tasks = correlated_tasks(correlation, 12, num_rows=(1, 1, 1), num_tasks=6, scale=1.0, seed=4)
    directions, _ = np.linalg.qr(np.random.default_rng(4).normal(size=(12, 6)))
    matrix = np.full((6, 6), correlation) + (1 - correlation) * np.eye(6)
    expected = np.linalg.cholesky(matrix) @ directions.T
    np.testing.assert_allclose(tasks.weights, expected, atol=1e-12)


@pytest.mark.parametrize("correlation", [-1.0, -0.3, 0.9, 1.0])
def test_two_tasks_are_the_papers(correlation):
    tasks = correlated_tasks(correlation, 7, scale=2.0, num_rows=(1, 1, 1), seed=5)
    first, second = np.linalg.qr(np.random.default_rng(5).normal(size=(7, 2)))[0].T
    other = correlation * first + math.sqrt(1 - correlation**2) * second
    np.testing.assert_allclose(tasks.weights, 2 * np.stack([first, other]), atol=1e-12)


@pytest.mark.parametrize("correlation", [-1.0, 0.0, 0.5, 1.0])
def test_labels_without_sines_correlate_as_said(correlation):
    tasks = correlated_tasks(correlation, num_sines=0, num_rows=(20_000, 1, 1), noise=0.0)
    (x, y), scale = tasks.train, 0.3
    np.testing.assert_allclose(y, x @ tasks.weights.T, atol=1e-5)
    assert np.corrcoef(y.T)[0, 1] == pytest.approx(correlation, abs=0.02)
    assert y.std() == pytest.approx(scale, rel=0.02)


def test_labels_are_the_papers():
    """The same random numbers, drawn in the same order, through a loop."""
    arguments = {"num_features": 4, "num_sines": 3, "num_rows": (5, 1, 1)}
    tasks = correlated_tasks(0.5, noise=0.0, seed=2, **arguments)
    alpha, beta = np.random.default_rng(0).normal(size=(2, 3))
    x, y = tasks.train
    for row in range(5):
        for task in range(2):
            z = sum(float(tasks.weights[task, f]) * float(x[row, f]) for f in range(4))
            expected = z + sum(math.sin(a * z + b) for a, b in zip(alpha, beta, strict=True))
            assert y[row, task] == pytest.approx(expected, abs=1e-5)


def test_noise_is_as_large_as_said_and_all_that_differs_at_1():
    clean, noisy = (correlated_tasks(1.0, noise=noise).train[1] for noise in (0.0, 0.1))
    assert np.std(noisy - clean) == pytest.approx(0.1, rel=0.02)
    np.testing.assert_allclose(clean[:, 0], clean[:, 1], atol=1e-5)


def test_seed_decides():
    first, again, other = (correlated_tasks(num_rows=(9, 1, 1), seed=s).train[1] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    other = correlated_tasks(num_rows=(9, 1, 1), sines_seed=1, seed=1).train[1]
    assert not np.allclose(first, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"correlation": 1.5}, "correlation=1.5"),
        ({"scale": 0.0}, "scale=0.0"),
        ({"num_rows": (1, 2)}, "Received num_rows=\\(1, 2\\). Give three"),
        ({"num_rows": (1, 0, 2)}, "at least 1. Received num_rows=0"),
        ({"num_features": 1}, "at least 2. Received num_features=1"),
        ({"num_features": 3, "num_tasks": 4}, "at least 4. Received num_features=3"),
        ({"num_tasks": 1}, "at least 2. Received num_tasks=1"),
        ({"correlation": -0.5, "num_tasks": 4}, "Received correlation=-0.5, num_tasks=4"),
        ({"noise": -1.0}, "number of at least 0. Received noise=-1.0"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        correlated_tasks(**arguments)
