"""Tasks whose experts depend on the row, made up, with the truth known."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tfmoe.datasets.grouped import random_experts
from tfmoe.validation import check_counts, number


class RegionTasks(NamedTuple):
    """Rows in three parts, and the truth behind them.

    Attributes:
        train, valid, test: `(x, y)`, float32 arrays `(n, f)` and `(n, t)`; every row has
            all labels.
        planes: `(p, f)`, normals of the planes that part the inputs into `r = 2**p` regions.
        groups: int `(t, r)`, the group of experts that a task has in a region.
        weights: `(t, r, e)`, a task's weights of the true experts in a region; a row sums to 1.
    """

    train: tuple[np.ndarray, np.ndarray]
    valid: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    planes: np.ndarray
    groups: np.ndarray
    weights: np.ndarray

    def regions(self, x: ArrayLike) -> np.ndarray:
        """The region of each row of `x` `(n, f)`, int `(n,)`: bit j says on which side of
        plane j it lies."""
        return _regions(x, self.planes)


def region_tasks(
    num_tasks: int = 16,
    num_experts: int = 16,
    experts_per_region: int = 2,
    num_planes: int = 2,
    num_features: int = 10,
    num_rows: int = 20_000,
    noise: float = 0.1,
    seed: int = 0,
) -> RegionTasks:
    r"""Regression tasks that are made of other functions in each region of the inputs.

        y_t = sum_e w_{t, r(x), e} f_e(x) + noise

    The true experts `f_e` are those of `grouped_tasks`: random ReLU networks of one hidden
    layer, with mean 0 and variance 1 over the rows; `x` is standard normal. Orthogonal planes
    through the origin, at random, part the inputs into `2**num_planes` regions with equally many
    rows on average. The experts are divided into groups, whose numbers have `log2` of their
    number of bits. A task draws a group, and for each plane a bit of its own, which is turned on
    the far side of that plane: so it has another group in each region, and in each weights drawn
    uniformly from the simplex over the group's experts. Which experts are right depends on the row
    and on the task, and one linear router a task can say it exactly, whether its gate takes the
    largest scores or spells an expert's bits. A task's signal is scaled to variance 1, so the best
    mean squared error is `noise**2`, and that of a constant is `1 + noise**2`.

    Args:
        num_tasks: int >= 1.
        num_experts: int >= 1, the true experts: `experts_per_region` times a power of 2.
        experts_per_region: int >= 1, how many make up a task in a region.
        num_planes: int >= 1, at most `num_features`.
        num_features: int >= 1.
        num_rows: int >= 10: the first 80 % to train, 10 % to validate, 10 % to test.
        noise: float >= 0, standard deviation.
        seed: int. The same arguments give the same tasks.

    Returns:
        `RegionTasks`.

    Raises:
        ValueError: if a number is too small, the groups do not come out even or are no power of
            2, there are fewer groups than regions, or more planes than features.

    Example:

    >>> world = region_tasks(num_tasks=3, num_experts=8, num_rows=100)
    >>> world.weights.shape, (world.weights > 0).sum(axis=2).tolist()[0]
    ((3, 4, 8), [2, 2, 2, 2])
    >>> world.regions(world.planes + 0.1 * world.planes[::-1]).tolist()
    [3, 3]
    """
    check_counts(
        "region_tasks",
        num_tasks=(num_tasks, 1),
        num_experts=(num_experts, 1),
        experts_per_region=(experts_per_region, 1),
        num_planes=(num_planes, 1),
        num_features=(num_features, 1),
        num_rows=(num_rows, 10),
    )
    number("region_tasks", "noise", noise, least=0)
    num_regions, num_groups = 2**num_planes, num_experts // experts_per_region
    is_power = num_groups.bit_count() == 1 and num_experts % experts_per_region == 0
    if not is_power or num_groups < num_regions:
        raise ValueError(
            "region_tasks divides the experts into groups of one size, whose number is a power of "
            f"2 and at least that of regions. Received num_experts={num_experts}, "
            f"experts_per_region={experts_per_region}, num_planes={num_planes}, which makes "
            f"{num_regions} regions. Take {num_regions * experts_per_region} experts, or twice as "
            "many, and so on."
        )
    if num_planes > num_features:
        raise ValueError(
            "region_tasks takes planes that are orthogonal. Received "
            f"num_planes={num_planes}, num_features={num_features}. Take no more planes than "
            "features."
        )
    rng = np.random.default_rng(seed)
    # As the rows are given: their regions can be told from them.
    x = rng.normal(size=(num_rows, num_features)).astype("float32")
    outputs = random_experts(x.astype("float64"), num_experts, rng).T
    planes = np.linalg.qr(rng.normal(size=(num_features, num_planes)))[0].T
    groups = np.zeros((num_tasks, num_regions), int)
    for own in groups:
        turned = rng.permutation(num_groups.bit_length() - 1)[:num_planes]
        own[:] = rng.integers(num_groups)
        for plane, bit in enumerate(turned):
            own ^= (np.arange(num_regions) >> plane & 1) << bit
    weights = np.zeros((num_tasks, num_regions, num_experts))
    for (t, region), group in np.ndenumerate(groups):
        first = group * experts_per_region
        own = rng.dirichlet(np.ones(experts_per_region))
        weights[t, region, first : first + experts_per_region] = own

    regions = _regions(x, planes)
    signal = np.stack([np.sum(own[regions] * outputs, axis=1) for own in weights], axis=1)
    y = signal / signal.std(axis=0) + noise * rng.normal(size=signal.shape)
    ends = [int(0.8 * num_rows), int(0.9 * num_rows)]
    train, valid, test = zip(np.split(x, ends), np.split(y.astype("float32"), ends), strict=True)
    return RegionTasks(train, valid, test, planes, groups, weights)


def _regions(x, planes):
    sides = np.asarray(x, "float64") @ planes.T > 0
    return sides @ 2 ** np.arange(len(planes))
