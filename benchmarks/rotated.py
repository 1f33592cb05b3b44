"""A world with real conflict: groups of tasks that ask the same of the inputs turned otherwise.

Four groups of four tasks. Inputs are `x ~ N(0, I)` of 16 numbers. A task's label is a random mix
of 8 random features `relu(a . R_g x)`, where `a` are the same for all tasks and `R_g` is a random
rotation of the task's group, plus noise of a tenth of its deviation. So what helps one group is of
no use to another, though the tasks of a group share all: experts of a group, or of tasks, can learn
what one trunk has to do four times.
"""

from typing import NamedTuple

import numpy as np

GROUPS, TASKS, SIZE, FEATURES = 4, 16, 16, 8


class Rows(NamedTuple):
    """Inputs `(b, f)` and labels `(b, t)`, of mean 0 and deviation 1 over all rows."""

    x: np.ndarray
    y: np.ndarray


def rotated(seed, sizes):
    """Rows of one world to train on, to choose by, and to test on.

    Args:
        seed: int, draws the world and its rows.
        sizes: three numbers of rows.

    Returns:
        List of three `Rows`.
    """
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(SIZE, FEATURES)) / SIZE**0.5
    turns = [np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0] for _ in range(GROUPS)]
    x = rng.normal(size=(sum(sizes), SIZE))
    seen = [np.maximum(x @ turn @ directions, 0) for turn in turns]
    labels = []
    for task in range(TASKS):
        clean = seen[task % GROUPS] @ rng.normal(size=FEATURES)
        labels.append(clean + 0.1 * clean.std() * rng.normal(size=len(x)))
    y = np.stack(labels, axis=1)
    y = (y - y.mean(axis=0)) / y.std(axis=0)
    ends = np.cumsum(sizes)[:-1]
    parts = zip(np.split(x, ends), np.split(y, ends), strict=True)
    return [Rows(*(part.astype("float32") for part in both)) for both in parts]
