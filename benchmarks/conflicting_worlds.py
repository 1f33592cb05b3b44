"""Where tasks conflict: groups that ask the same of inputs which each group sees otherwise.

Forty tasks in four groups of ten, of which a row has one. Two stages:

- `permuted`: pictures of MNIST, of 14 x 14 pixels (means of four). A group sees them by a
  permutation of its own of the pixels; its ten tasks ask whether a picture is a 0, a 1, and so on.
  Half of a task's rows are.
- `rotated`: `grouped_tasks` of one group, that is, all tasks mix the same four functions of ten
  numbers; but a group sees the numbers turned by a rotation of its own.

So a layer that helps one group is of no use to another. Of which group a row is, the inputs tell in
`permuted`, where each group has other pixels that are always dark, and not in `rotated`. One task
of each group is a target, which others come before or beside. Unrelated tasks are each a group of
its own: they ask for a random half of the digits, or for a function that no other task has, and
have a permutation or a rotation of their own.
"""

import functools
from typing import NamedTuple

import numpy as np

from benchmarks import multimnist_pictures
from tfmoe.data import add_unrelated, grouped_tasks

PERMUTED, ROTATED = "permuted", "rotated"
GROUPS, DIGITS, SIDE, FUNCTIONS, NUMBERS = 4, 10, 14, 4, 10


class Part(NamedTuple):
    """Rows of each task, as many of each: `x` `(t, n, f)`, `y` `(t, n)`."""

    x: np.ndarray
    y: np.ndarray

    def rows(self, tasks, number=None, repeats=1):
        """Rows of some tasks in one table.

        Args:
            tasks: ints.
            number: int, the first so many rows of each; None for all.
            repeats: int, how often each stands in it.

        Returns:
            Pair of inputs, `{"x": (m, f), "task": (m,)}`, and labels `(m, 1)`.
        """
        tasks = np.repeat(np.asarray(tasks, "int32"), repeats)
        x, y = self.x[tasks, :number], self.y[tasks, :number]
        inputs = {"x": x.reshape(-1, x.shape[-1]), "task": np.repeat(tasks, x.shape[1])}
        return inputs, y.reshape(-1, 1)

    def side_by_side(self, tasks, number=None):
        """The same for a network of each task: inputs `{"x": (n, t, f)}`, labels `(n, t)`."""
        x, y = self.x[tasks, :number], self.y[tasks, :number]
        return {"x": np.swapaxes(x, 0, 1)}, y.T


class World(NamedTuple):
    """A stage's rows.

    Attributes:
        train, valid, test: `Part`s.
        old, targets, unrelated: tuples of ints, which tasks are which.
    """

    train: Part
    valid: Part
    test: Part
    old: tuple
    targets: tuple
    unrelated: tuple

    @property
    def features(self):
        return self.train.x.shape[-1]

    @property
    def tasks(self):
        """How many there are."""
        return len(self.train.x)


def world(stage, seed, sizes, unrelated=0, digits=DIGITS, quick=False):
    """A stage.

    Args:
        stage: `PERMUTED` or `ROTATED`.
        seed: int, of permutations, rotations, functions, targets and rows. Those of a task do not
            depend on how many unrelated ones there are.
        sizes: three ints, each task's rows to train, to choose by, to test on.
        unrelated: int, how many tasks are added.
        digits: int, tasks of a group.
        quick: bool; if True pictures are made up.
    """
    make = {PERMUTED: _permuted, ROTATED: _rotated}[stage]
    parts = make(seed, sizes, unrelated, digits, quick)
    # Of the tasks of each group, which stand side by side.
    chosen = np.random.default_rng([seed, 7]).permutation(digits)
    targets = tuple(int(group * digits + chosen[group % digits]) for group in range(GROUPS))
    number = GROUPS * digits
    old = tuple(task for task in range(number) if task not in targets)
    return World(*parts, old, targets, tuple(range(number, number + unrelated)))


def _permuted(seed, sizes, unrelated, digits, quick):
    parts = []
    for index, (images, shown) in enumerate(_pictures(quick)):
        xs, ys = [], []
        for task in range(GROUPS * digits + unrelated):
            # By number: a task's rows do not depend on which others there are.
            rng = np.random.default_rng([seed, task])
            group = task // digits if task < GROUPS * digits else task
            asked = [task % digits]
            if task >= GROUPS * digits:
                asked = rng.permutation(DIGITS)[: DIGITS // 2]
            order = np.random.default_rng([seed, 1, group]).permutation(images.shape[1])
            rng = np.random.default_rng([seed, 2, task, index])
            right = np.isin(shown, asked)
            x, y = _halves(images, right, sizes[index], rng)
            xs.append(x[:, order])
            ys.append(y)
        parts.append(Part(np.stack(xs), np.stack(ys)))
    return parts


def _halves(images, right, size, rng):
    """Rows of which each second one is of the right pictures."""
    chosen = np.empty(size, int)
    for start, those in enumerate((right, ~right)):
        found = rng.permutation(np.flatnonzero(those))
        chosen[start::2] = np.resize(found, len(chosen[start::2]))
    return images[chosen], right[chosen].astype("float32")


@functools.cache
def _pictures(quick):
    """Pictures `(n, f)` of mean 0 and deviation 1, and their digits, in three parts."""
    if quick:
        rng = np.random.default_rng(0)
        return [(rng.normal(size=(60, 9)).astype("float32"), np.arange(60) % 10)] * 3
    parts = []
    for name in ("train", "t10k"):
        images, digits = multimnist_pictures.read(name)
        small = images.reshape(-1, SIDE, 2, SIDE, 2).mean(axis=(2, 4)).reshape(len(images), -1)
        parts.append((small.astype("float32"), digits))
    (images, digits), (test, test_digits) = parts
    mean, deviation = images.mean(), images.std()
    images, test = (images - mean) / deviation, (test - mean) / deviation
    # MNIST's files do not come in random order.
    order = np.random.default_rng(0).permutation(len(images))
    kept, valid = np.split(order, [len(images) * 5 // 6])
    return [(images[rows], digits[rows]) for rows in (kept, valid)] + [(test, test_digits)]


def _rotated(seed, sizes, unrelated, digits, quick):
    number = GROUPS * digits
    rows = 10 * max(sizes[0], *sizes[1:])
    made = grouped_tasks(number, FUNCTIONS, FUNCTIONS, NUMBERS, max(rows, 100), seed=seed)
    made = add_unrelated(made, unrelated, seed=seed)
    parts = []
    for index, (x, y) in enumerate(made[:3]):
        xs, ys = [], []
        for task in range(number + unrelated):
            group = task // digits if task < number else task
            rng = np.random.default_rng([seed, 1, group])
            turn = np.linalg.qr(rng.normal(size=(NUMBERS, NUMBERS)))[0].astype("float32")
            rng = np.random.default_rng([seed, 2, task, index])
            chosen = rng.permutation(len(x))[: sizes[index]]
            xs.append(x[chosen] @ turn)
            ys.append(y[chosen, task])
        parts.append(Part(np.stack(xs), np.stack(ys)))
    return parts
