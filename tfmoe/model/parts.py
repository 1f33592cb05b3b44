"""The parts of a model that may be trained, or weighed, each in its own way."""

from __future__ import annotations

from typing import Any


def parts_of(model: Any) -> dict[str, list[Any]]:
    """Variables of a model by the names that `tfmoe.optimizers.ByPart` gives to its parts.

    Args:
        model: `MultiTaskModel`.

    Returns:
        Dict by part of lists of variables. A table is in two of them, `"embeddings"` and
        `"embeddings/<column>"`; the rest of the model is in none.
    """
    tables = {f"embeddings/{owner}": [t.embeddings] for owner, t in model.encoder.tables.items()}
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
