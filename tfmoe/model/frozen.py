"""Which layers of a model are frozen, which a config that makes the layers anew must keep."""

from __future__ import annotations

from collections import Counter
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
    pairs += _of_encoders(old.encoder, new.encoder, names)
    pairs += [
        (getattr(old, name), getattr(new, name))
        for name in (*_BESIDE, "input_gate", "tower_gate")
        if getattr(old, name) is not None and getattr(new, name) is not None
    ]
    for one, other in pairs:
        theirs, ours = flatten_layers(one), flatten_layers(other)
        if len(theirs) == len(ours):
            both = list(zip(theirs, ours, strict=True))
        else:
            # What has a part for each column, or for some of the tasks: by their names.
            by_name = _by_name(theirs[1:])
            found = [(by_name.get(name), its) for name, its in _by_name(ours[1:]).items()]
            both = [(one, other), *(pair for pair in found if pair[0] is not None)]
        for layer, its in both:
            its.trainable = layer.trainable


def _of_encoders(old: Any, new: Any, names: Mapping[str, str]) -> list[tuple[Any, Any]]:
    """What encoders have for a column each, with its counterpart; before it they themselves."""
    pairs = [
        (old.tables[name], new.tables[other])
        for name, other in names.items()
        if name in old.tables and other in new.tables
    ]
    for part in ("unknown", "interests"):
        theirs, ours = getattr(old, part), getattr(new, part)
        pairs += [(theirs[name], ours[name]) for name in ours if name in theirs]
    num_parts = len(new.tables) + len(new.unknown) + len(new.interests)
    if len(pairs) == num_parts:
        pairs.insert(0, (old, new))
    # Else it has columns that are new: they are there to learn.
    return pairs


def _by_name(layers: list[Any]) -> dict[str, Any]:
    """Layers by their names, those that share one left out."""
    times = Counter(layer.name for layer in layers)
    return {layer.name: layer for layer in layers if times[layer.name] == 1}
