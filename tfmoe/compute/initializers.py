"""Initial values of stacked weights: each member of the stack is drawn alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

# Of the vectors of ids, unless told otherwise.
SMALL = 1e-4


def of_vectors(initializer: Any) -> Any:
    """The Keras initializer of vectors of ids; for None normal numbers of a deviation of 1e-4.

    What is seldom seen, or never, has then a vector near nothing, where larger numbers would be
    noise to learn by heart.
    """
    if initializer is None:
        return keras.initializers.RandomNormal(stddev=SMALL)
    return keras.initializers.get(initializer)


def member_initializer(initializer: Any, index: int = 0, salt: int = 0) -> Any:
    """An initializer like the given one that draws different numbers.

    A seed of the user's is mixed with `index` and `salt`; without one the draw is
    random anyway. Initializers that draw nothing come back as they are.
    """
    if not hasattr(initializer, "get_config"):
        return initializer  # a function
    config = initializer.get_config()
    if "seed" not in config:
        return initializer
    if isinstance(config["seed"], int):
        config["seed"] = (config["seed"] * 1_000_003 + salt * 8_191 + index) % 2**31
    else:
        config["seed"] = None
    return type(initializer).from_config(config)


def reseeded(config: Any, index: int) -> Any:
    """A layer's config whose seeds, its own and its initializers', are others for each index.

    At index 0 they are as they were, and those that are None stay so.
    """
    if isinstance(config, list):
        return [reseeded(value, index) for value in config]
    if not isinstance(config, dict):
        return config
    changed = {name: reseeded(value, index) for name, value in config.items()}
    if index and isinstance(config.get("seed"), int):
        changed["seed"] = (config["seed"] * 1_000_003 + index) % 2**31
    return changed


class PerCopy(keras.initializers.Initializer):
    """Initialises `(rows, n * dim)` as `n` separate draws of shape `(rows, dim)`, side by side.

    Args:
        initializer: anything `keras.initializers.get` takes.
        copies: int, `n`.
    """

    def __init__(self, initializer: Any, copies: int) -> None:
        self.initializer = keras.initializers.get(initializer)
        self.copies = copies

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        own = (shape[0], shape[1] // self.copies)
        return keras.ops.concatenate(
            [
                member_initializer(self.initializer, i, salt=3)(own, dtype=dtype)
                for i in range(self.copies)
            ],
            axis=1,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            "initializer": keras.initializers.serialize(self.initializer),
            "copies": self.copies,
        }


class PerMember(keras.initializers.Initializer):
    """Initialises `(n, ...)` as `n` separate draws of shape `(...)`.

    A Keras initializer would count the first axis as inputs and start each expert too
    small (64 -> 64 with 8 experts: by the square root of 8), and one with a fixed seed
    would start all experts alike if called once an expert.

    Args:
        initializer: anything `keras.initializers.get` takes.
        salt: int; stacks of one layer that have the same initializer differ by it.
        scale: float, by which all draws are multiplied.
    """

    def __init__(self, initializer: Any, salt: int = 0, scale: float = 1.0) -> None:
        self.initializer = keras.initializers.get(initializer)
        self.salt, self.scale = salt, scale

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        drawn = keras.ops.stack(
            [
                member_initializer(self.initializer, i, self.salt)(shape[1:], dtype=dtype)
                for i in range(shape[0])
            ]
        )
        return drawn if self.scale == 1.0 else drawn * self.scale

    def get_config(self) -> dict[str, Any]:
        return {
            "initializer": keras.initializers.serialize(self.initializer),
            "salt": self.salt,
            "scale": self.scale,
        }
