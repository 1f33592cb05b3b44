"""Multi-MNIST: two digits in one picture.

MNIST's 60,000 pictures are parted 5 to 1, each digit alike, to train and to validate; its own
10,000 are to test. Every picture of a part is twice the top left one, with two others of its part,
drawn at random, at the bottom right, added up on 36 x 36 pixels. The data are the four files of
MNIST in the folder `mnist` of `$TFMOE_DATA`.
"""

import functools
import gzip
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

SIZE, DIGIT = 36, 28


class Pictures(NamedTuple):
    """Pictures `(n, 36, 36, 1)` in [0, 2], and digits `(n, 2)`."""

    x: np.ndarray
    y: np.ndarray


@functools.lru_cache(maxsize=2)
def parts(quick, world, numbers):
    """Pictures to train, to validate, to test.

    Args:
        quick: bool; noise in the place of MNIST.
        world: int, a seed of which digits are drawn.
        numbers: three ints, pictures of each part, at most twice its digits.
    """
    return [
        combined(*source, [world, index], number // 2)
        for index, (source, number) in enumerate(zip(_digits(quick), numbers, strict=True))
    ]


@functools.cache
def _digits(quick):
    """Images and digits of the three parts."""
    from sklearn.model_selection import train_test_split

    if quick:
        rng = np.random.default_rng(0)
        images, digits = rng.integers(256, size=(60, DIGIT, DIGIT)), np.arange(60) % 10
        files = {"train": (images, digits), "t10k": (images, digits)}
    else:
        files = {name: read(name) for name in ("train", "t10k")}
    images, digits = files["train"]
    split = train_test_split(images, digits, test_size=1 / 6, stratify=digits, random_state=0)
    return (split[0], split[2]), (split[1], split[3]), files["t10k"]


def combined(images, digits, seed, num):
    """Each of `num` images, drawn at random, twice at the top left, on others."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(images))[:num]
    # Another one: a shift of 1 to n - 1 places.
    first = np.repeat(chosen, 2)
    second = (first + rng.integers(1, len(images), size=len(first))) % len(images)
    x = np.zeros((len(first), SIZE, SIZE, 1), "float32")
    x[:, :DIGIT, :DIGIT, 0] += images[first] / 255
    x[:, -DIGIT:, -DIGIT:, 0] += images[second] / 255
    return Pictures(x, np.stack([digits[first], digits[second]], axis=1).astype("int32"))


def read(name):
    """Images `(n, 28, 28)` and digits `(n,)` of the files of one part."""
    folder = Path(os.environ.get("TFMOE_DATA", ".")) / "mnist"
    found = []
    for kind, offset in (("images-idx3", 16), ("labels-idx1", 8)):
        path = folder / f"{name}-{kind}-ubyte.gz"
        if not path.exists():
            raise FileNotFoundError(
                f"There is no {path}. Put the four files of MNIST into the folder `mnist` of a "
                "folder, and name that folder by the environment variable TFMOE_DATA."
            )
        found.append(np.frombuffer(gzip.decompress(path.read_bytes()), "uint8", offset=offset))
    images, digits = found
    return images.reshape(-1, DIGIT, DIGIT), digits
