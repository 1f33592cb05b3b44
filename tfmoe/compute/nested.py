"""Arguments that are layers are recipes: their holder keeps a copy of its own."""

from __future__ import annotations

import warnings
from typing import Any

import keras


def config_of(layer: Any) -> dict[str, Any]:
    """What `get_config` of the holder stores for a layer given as an argument."""
    config = _plain(keras.saving.serialize_keras_object(layer))
    # A layer that was called before notes its input's shape here; the holder's copy is
    # built by the holder.
    config.pop("build_config", None)
    return config


def given(recipe: Any) -> Any:
    """The layer behind an argument: itself, or rebuilt from a saved config."""
    if isinstance(recipe, dict):
        return keras.saving.deserialize_keras_object(recipe)
    return recipe


def renamed(owner: str, kwargs: dict[str, Any], old: str, new: str, value: Any) -> Any:
    """An argument's value, also where it came under the name that it had in older files.

    Args:
        owner: str, the class, for the error.
        kwargs: dict of further arguments, from which the old name is taken.
        old, new: str, the argument's names.
        value: what came under the new name, or None.

    Raises:
        ValueError: if both came.
    """
    earlier = kwargs.pop(old, None)
    if earlier is not None and value is not None:
        raise ValueError(
            f"{owner} takes `{new}`, which was called `{old}`, once. Received {new}={value!r} "
            f"and {old}={earlier!r}. Leave out `{old}`."
        )
    return value if earlier is None else earlier


def filled(config: Any, owner: str, name: str | None = None, **values: Any) -> Any:
    """A new layer from a recipe's config, with what the holder knows filled in.

    Args:
        config: from `config_of`.
        owner: str, who fills in, for the error.
        name: str or None, the new layer's name.
        **values: constructor arguments; those the recipe leaves at None are set.

    Raises:
        ValueError: if the recipe already says something else.
    """
    config = _plain(config)
    for argument, value in values.items():
        stated = config["config"].get(argument)
        if stated is not None and stated != value:
            raise ValueError(
                f"{owner} sets `{argument}` of its {config['class_name']} to {value!r}. "
                f"Received {argument}={stated!r} there. Leave it out."
            )
        config["config"][argument] = value
    if name is not None:
        config["config"]["name"] = name
    try:
        return keras.saving.deserialize_keras_object(config)
    except TypeError as error:
        # Keras wraps the constructor's own error in many lines of config, once or twice.
        own = error.__context__
        while isinstance(own, TypeError):
            own = own.__context__
        if isinstance(own, ValueError):
            raise own from error
        raise


def _plain(config: Any) -> Any:
    """A copy of plain dicts and lists. Keras wraps those that a layer holds in ones that
    know the layer, which `copy.deepcopy` would copy as well.

    Its marks of sharing are left out: while a file is loaded Keras tells objects by their
    address, and recipes that are gone by then leave theirs to the next one, which would
    be taken for the same object.
    """
    if isinstance(config, dict):
        return {key: _plain(value) for key, value in config.items() if key != "shared_object_id"}
    if isinstance(config, list | tuple):
        return [_plain(value) for value in config]
    return config


def warn_of_policies(mixture: Any, policy: Any) -> None:
    """Warns if a model's mixture computes in another precision than the rest, which is slow."""
    if mixture.dtype_policy.name != policy.name:
        warnings.warn(
            f"The mixture was made under the policy {mixture.dtype_policy.name}, the model under "
            f"{policy.name}, and each computes in its own. Call keras.config.set_dtype_policy "
            "before both are made, or pass the same `dtype` to both.",
            stacklevel=3,
        )
