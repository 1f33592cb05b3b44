import numpy as np
import pytest

from tfmoe.datasets.regions import region_tasks
from tfmoe.datasets.selection import selection_scores


def labels_by_loops(num_tasks, num_experts, k, num_planes, num_features, num_rows, seed):
    """The same random numbers, drawn in the same order, a row and an expert at a time."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_rows, num_features)).astype("float32").astype("float64")
    kernels = rng.normal(size=(num_experts, num_features, 8)) / num_features**0.5
    biases = rng.normal(size=(num_experts, 1, 8))
    heads = rng.normal(size=(num_experts, 8, 1))
    experts = np.zeros((num_rows, num_experts))
    for e in range(num_experts):
        for n in range(num_rows):
            for unit in range(8):
                inner = sum(x[n, f] * kernels[e, f, unit] for f in range(num_features))
                experts[n, e] += max(inner + biases[e, 0, unit], 0) * heads[e, unit, 0]
        experts[:, e] = (experts[:, e] - experts[:, e].mean()) / experts[:, e].std()
    planes = np.linalg.qr(rng.normal(size=(num_features, num_planes)))[0]
    region = [
        sum(2**p for p in range(num_planes) if sum(row * planes[:, p]) > 0)  # bit p
        for row in x
    ]
    groups, num_bits = [], int(np.log2(num_experts // k))
    for _ in range(num_tasks):
        turned = rng.permutation(num_bits).tolist()
        start = int(rng.integers(num_experts // k))
        own = []
        for r in range(2**num_planes):
            bits = [start // 2**i % 2 for i in range(num_bits)]
            for p in range(num_planes):
                if r // 2**p % 2:
                    bits[turned[p]] = 1 - bits[turned[p]]
            own.append(sum(bit * 2**i for i, bit in enumerate(bits)))
        groups.append(own)
    labels = np.zeros((num_rows, num_tasks))
    for t in range(num_tasks):
        shares = [rng.dirichlet(np.ones(k)) for _ in range(2**num_planes)]
        for n in range(num_rows):
            for i in range(k):
                e = groups[t][region[n]] * k + i
                labels[n, t] += shares[region[n]][i] * experts[n, e]
        labels[:, t] /= labels[:, t].std()
    return x, labels, region, groups


@pytest.mark.parametrize(
    ("num_experts", "k", "num_planes"), [(4, 1, 2), (6, 3, 1), (8, 1, 3), (16, 2, 2)]
)
def test_labels_are_those_of_the_loops(num_experts, k, num_planes):
    sizes = (3, num_experts, k, num_planes, 5, 40)
    world = region_tasks(*sizes, noise=0.0, seed=7)
    x, labels, regions, groups = labels_by_loops(*sizes, seed=7)
    parts = (world.train, world.valid, world.test)
    assert [len(part[0]) for part in parts] == [32, 4, 4]
    assert all(values.dtype == np.float32 for part in parts for values in part)
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), x)
    np.testing.assert_allclose(np.concatenate([part[1] for part in parts]), labels, atol=1e-5)
    assert world.regions(x).tolist() == regions
    assert world.groups.tolist() == groups


def test_truth_and_noise():
    world = region_tasks(num_tasks=5, num_rows=4000, seed=3)
    np.testing.assert_allclose(world.weights.sum(axis=2), 1)
    for (t, region), group in np.ndenumerate(world.groups):
        assert set(np.flatnonzero(world.weights[t, region])) == {2 * group, 2 * group + 1}
    assert all(len(set(row)) == 4 for row in world.groups.tolist())
    shares = np.bincount(world.regions(world.train[0])) / 3200
    np.testing.assert_allclose(shares, 0.25, atol=0.05)
    clean = region_tasks(num_tasks=5, num_rows=4000, noise=0.0, seed=3)
    assert np.std(world.train[1] - clean.train[1]) == pytest.approx(0.1, rel=0.05)
    np.testing.assert_allclose(world.planes @ world.planes.T, np.eye(2), atol=1e-12)


def test_seed_decides():
    first, again, other = (region_tasks(num_rows=50, seed=seed).test[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_a_selection_is_scored_by_region():
    world = region_tasks(num_tasks=6, num_experts=8, num_rows=10)
    true = world.weights > 0
    turned = true[:, :, ::-1]  # the order of experts does not count
    assert selection_scores(turned, world) == (1, 1, 1, 1)
    # All that a task uses anywhere, in each region: the four groups are all experts.
    everywhere = np.broadcast_to(true.any(axis=1, keepdims=True), true.shape)
    assert selection_scores(everywhere, world) == pytest.approx((1, 0.25, 1, 0.4))
    # A model that swaps two experts in one region only is wrong there: experts are matched once.
    swapped = true.copy()
    swapped[:, 0] = np.roll(swapped[:, 0], 2, axis=-1)
    assert selection_scores(swapped, world).f1 == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_tasks": 0}, "integer of at least 1. Received num_tasks=0"),
        ({"num_planes": 0}, "integer of at least 1. Received num_planes=0"),
        ({"noise": -1.0}, "number of at least 0. Received noise=-1.0"),
        ({"num_experts": 9}, "num_experts=9, experts_per_region=2, num_planes=2, which makes 4"),
        ({"num_experts": 12}, "a power of 2 and at least that of regions. Received num_experts=12"),
        ({"num_experts": 4}, "Take 8 experts, or twice as many"),
        ({"num_planes": 3, "num_features": 2}, "num_planes=3, num_features=2. Take no more"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        region_tasks(**arguments)
