"""What a weighting draws by chance: the same numbers on all backends and replicas."""

from __future__ import annotations

import functools

import numpy as np
from keras import ops

from tfmoe.compute.types import Tensor

# After so many steps, a prime, the same ones come again.
_DRAWS = 2039


@functools.lru_cache(maxsize=8)
def normals(num_tasks: int, seed: int) -> np.ndarray:
    """Normal numbers `(n, t)`."""
    shape = (_DRAWS, num_tasks)
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def start() -> dict[str, np.ndarray]:
    """The number of the draw that comes next."""
    return {"draw": np.zeros((), "float32")}


def draw(num_tasks: int, seed: int, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Normal numbers `(t,)` for this step, and the state for the next one."""
    place = state["draw"]
    found = ops.take(ops.array(normals(num_tasks, seed)), ops.cast(place, "int32"), axis=0)
    # A count without an end would stand still once float32 has no next number.
    return found, {"draw": ops.where(place + 1 >= _DRAWS, ops.zeros_like(place), place + 1)}
