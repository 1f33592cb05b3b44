"""Which layers of a model are frozen, which a config that makes the layers anew must keep."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tfmoe.keras_private import flatten_layers


def _layers(model: Any, all_parts: bool = True) -> list[Any]:
    """The layers that a config makes anew, holders before what they hold."""
    parts = [model.encoder, model.mixture, model.towers, model.head]
    # Last, for places in older files are of the four alone, or of these too.
    parts += [model.input_gate, model.tower_gate, model.position_tower]
    parts += [model.wide, model.interactions, model.imputation] if all_parts else []
    return [layer for part in parts if part is not None for layer in flatten_layers(part)]


_BESIDE = ("position_tower", "imputation", "interactions", "wide")

# Among places: those of all parts are told, which older files do not.
_ALL = -1


def frozen_places(model: Any) -> list[int]:
    """Places of the frozen layers among all layers, and -1, which says that all are told."""
    return [_ALL, *(place for place, layer in enumerate(_layers(model)) if not layer.trainable)]


def freeze_places(model: Any, places: Collection[int] | None) -> None:
    """Freezes just these layers of a model, see `frozen_places`; None leaves it as it is."""
    if places is None:
        return
    for place, layer in enumerate(_layers(model, _ALL in places)):
        # Setting it on a layer sets it on all layers inside, which come later.
        if layer.trainable == (place in places):
            layer.trainable = place not in places


def freeze_alike(old: Any, new: Any, names: Mapping[str, str]) -> None:
    """Freezes what is frozen in the old model, where the new one may have more layers, or fewer.

    Args:
        old, new: `MultiTaskModel`.
        names: dict by name of a table in the old one of its name in the new one.
    """
    pairs = [(old.mixture, new.mixture), (old.towers, new.towers), (old.head, new.head)]
    for name, table in old.encoder.tables.items():
        if names.get(name) in new.encoder.tables:
            pairs.append((table, new.encoder.tables[names[name]]))
    pairs += [
        (getattr(old, name), getattr(new, name))
        for name in (*_BESIDE, "input_gate", "tower_gate")
        if getattr(old, name) is not None and getattr(new, name) is not None
    ]
    for one, other in pairs:
        theirs, ours = flatten_layers(one), flatten_layers(other)
        if len(theirs) != len(ours):
            # What has a part for each column is frozen as a whole, or not.
            theirs, ours = theirs[:1], ours[:1]
        for layer, its in zip(theirs, ours, strict=True):
            its.trainable = layer.trainable
