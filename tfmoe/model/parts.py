"""The parts of a model that may be trained, or weighed, each in its own way."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any, TypeAlias

import keras

from tfmoe.validation import number


def parts_of(model: Any) -> dict[str, list[Any]]:
    """Variables of a model by the names that `tfmoe.optimizers.ByPart` gives to its parts.

    Args:
        model: `MultiTaskModel`.

    Returns:
        Dict by part of lists of variables. A table is in two of them, `"embeddings"` and
        `"embeddings/<column>"`; the rest of the model is in none.
    """
    tables = {f"embeddings/{owner}": t.weights for owner, t in model.encoder.tables.items()}
    gates = [weight for gate in model.structure.gates for weight in gate.weights]
    routing = {id(weight) for weight in gates}
    return {
        "embeddings": [table for own in tables.values() for table in own],
        **tables,
        "gates": gates,
        "experts": [one for one in model.structure.weights if id(one) not in routing],
        "towers": list(model.towers.weights),
        "wide": [] if model.wide is None else list(model.wide.weights),
    }


# Parts whose kernels may have a loss, and those that have it where no part is named.
_REGULARIZED, _PLAIN = ("gates", "experts", "towers"), ("experts", "towers")

#: A regularizer of experts and towers, or one for each part that is named.
Regularizers: TypeAlias = (
    keras.regularizers.Regularizer | dict[str, keras.regularizers.Regularizer] | None
)


def regularize(model: Any, regularizers: Regularizers) -> None:
    """Gives the kernels of a model's parts a loss, but for those that have one.

    Args:
        model: `MultiTaskModel`.
        regularizers: see `regularizers_of`.
    """
    parts = parts_of(model)
    if not isinstance(regularizers, Mapping):
        regularizers = {} if regularizers is None else dict.fromkeys(_PLAIN, regularizers)
    for part, regularizer in regularizers.items():
        for weight in parts[part]:
            if "kernel" in weight.name and weight.regularizer is None:
                weight.regularizer = regularizer


def regularizers_of(given: Any) -> Regularizers:
    """The argument `kernel_regularizer` of a model; a number is the factor of an L2 loss.

    Raises:
        ValueError: if a number is below 0 or not finite, or a part is unknown.
    """
    if not isinstance(given, Mapping) or "class_name" in given:
        return _regularizer_of(given)
    if not given or not set(given) <= set(_REGULARIZED):
        raise ValueError(
            "MultiTaskModel takes as `kernel_regularizer` one for experts and towers, or a dict of "
            f"one for each of some parts, of {list(_REGULARIZED)}. Received "
            f"kernel_regularizer={dict(given)!r}."
        )
    found = {part: _regularizer_of(one) for part, one in given.items()}
    return {part: one for part, one in found.items() if one is not None} or None


def _regularizer_of(given: Any) -> keras.regularizers.Regularizer | None:
    if isinstance(given, numbers.Real):
        return keras.regularizers.L2(number("MultiTaskModel", "kernel_regularizer", given, 0))
    return keras.regularizers.get(given)


def regularizers_config(regularizers: Regularizers) -> Any:
    """Plain data of which `regularizers_of` makes them again."""
    if isinstance(regularizers, Mapping):
        return {part: keras.regularizers.serialize(one) for part, one in regularizers.items()}
    return keras.regularizers.serialize(regularizers) if regularizers else None
