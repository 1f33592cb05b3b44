"""The parts of a model that may be trained, or weighed, each in its own way."""

from __future__ import annotations

import numbers
from typing import Any

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


def regularize(model: Any, regularizer: Any) -> None:
    """Gives the kernels of a model's experts and towers a loss, but for those that have one.

    Args:
        model: `MultiTaskModel`.
        regularizer: Keras regularizer, or None.
    """
    parts = parts_of(model)
    for weight in (*parts["experts"], *parts["towers"]):
        if "kernel" in weight.name and weight.regularizer is None:
            weight.regularizer = regularizer


def regularizer_of(given: Any) -> keras.regularizers.Regularizer | None:
    """The argument `kernel_regularizer` of a model; a number is the factor of an L2 loss.

    Raises:
        ValueError: if the number is below 0 or not finite.
    """
    if isinstance(given, numbers.Real):
        return keras.regularizers.L2(number("MultiTaskModel", "kernel_regularizer", given, 0))
    return keras.regularizers.get(given)
