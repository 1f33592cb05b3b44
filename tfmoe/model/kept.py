"""What a training is made of besides its data, as plain data: to be kept, and set again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmoe.model.plan import steps_done
from tfmoe.model.replicas import set_value, value_of
from tfmoe.optimizers.by_part import nested

# What Keras's callbacks know of the epochs before.
_FIELDS: tuple[tuple[type, tuple[str, ...]], ...] = (
    (
        keras.callbacks.EarlyStopping,
        ("wait", "stopped_epoch", "best", "best_weights", "best_epoch"),
    ),
    (keras.callbacks.ReduceLROnPlateau, ("best", "wait", "cooldown_counter")),
    (keras.callbacks.ModelCheckpoint, ("best",)),
)


def variables_of(model: Any) -> dict[str, list[Any]]:
    """All variables of a compiled model, by what they are of; random states are among them."""
    groups = {
        "model": model.variables,
        "optimizer": model.optimizer.variables,
        "metrics": model.metrics_variables,
    }
    seen: set[int] = set()
    found: dict[str, list[Any]] = {}
    for name, variables in groups.items():
        found[name] = [one for one in variables if id(one) not in seen]
        seen |= {id(one) for one in variables}
    return found


def values_of(model: Any) -> dict[str, list[np.ndarray]]:
    """The values of all variables, of all replicas together."""
    return {
        name: [value_of(one) for one in variables]
        for name, variables in variables_of(model).items()
    }


def set_values(model: Any, values: dict[str, list[np.ndarray]]) -> None:
    """Sets all variables to what `values_of` returned."""
    for name, variables in variables_of(model).items():
        for variable, value in zip(variables, values[name], strict=True):
            set_value(variable, value)


def draws() -> list[np.ndarray]:
    """What torch's own generators are at, of the CPU and of each CUDA device; empty elsewhere.

    Keras's dropout without a seed draws from them on torch, and from a variable elsewhere.
    """
    if keras.backend.backend() != "torch":
        return []
    import torch

    return [one.numpy() for one in (torch.get_rng_state(), *torch.cuda.get_rng_state_all())]


def set_draws(states: Sequence[np.ndarray]) -> None:
    """Sets torch's generators to what `draws` returned; of devices those that there are."""
    if not states or keras.backend.backend() != "torch":
        return
    import torch

    torch.set_rng_state(torch.from_numpy(states[0].copy()))
    for number, state in enumerate(states[1 : 1 + torch.cuda.device_count()]):
        torch.cuda.set_rng_state(torch.from_numpy(state.copy()), number)


def states_of(callbacks: Sequence[Any]) -> dict[str, Any]:
    """What callbacks know of the epochs before, of those that do, by their names."""
    return {name: _state(one) for name, one in with_state(callbacks).items()}


def set_states(callbacks: Sequence[Any], states: dict[str, Any]) -> None:
    """Lets callbacks know what `states_of` returned."""
    for name, one in with_state(callbacks).items():
        state = states[name]
        for field in _fields(one):
            setattr(one, field, state["fields"][field])
        if hasattr(one, "set_state"):
            one.set_state(state["own"])


def with_state(callbacks: Sequence[Any]) -> dict[str, Any]:
    """The callbacks that know something of the epochs before, by names.

    A callback is one of them by its methods `get_state` and `set_state`, or as one of Keras's.
    """
    found: dict[str, Any] = {}
    for one in callbacks:
        if _fields(one) or hasattr(one, "get_state"):
            kind = type(one).__name__
            number = sum(name.split(" ")[0] == kind for name in found)
            found[f"{kind} {number}"] = one
    return found


def _fields(callback: Any) -> tuple[str, ...]:
    return next((fields for kind, fields in _FIELDS if isinstance(callback, kind)), ())


def _state(callback: Any) -> dict[str, Any]:
    fields = {name: getattr(callback, name) for name in _fields(callback)}
    own = callback.get_state() if hasattr(callback, "get_state") else None
    return {"fields": fields, "own": own}


def described(model: Any) -> dict[str, Any]:
    """What a compiled model is, as plain data that is alike for models made alike."""
    config = model.get_config()
    return {
        "schema": config["schema"],
        "vocabularies": model.training_preprocessor.digest(),
        "model": _without_names({k: v for k, v in config.items() if k != "schema"}),
        "compiled": _without_names(model.get_compile_config()),
        "learning_rate": _rates(model.optimizer),
        "variables": {
            name: [[str(tuple(one.shape)), str(one.dtype)] for one in variables]
            for name, variables in variables_of(model).items()
        },
    }


def _rates(optimizer: Any) -> list[float] | None:
    """The rates that an optimizer and its parts begin with; None once it has taken steps."""
    if optimizer.built and steps_done(optimizer):
        return None
    return [float(ops.convert_to_numpy(one.learning_rate)) for one in nested(optimizer)]


def _without_names(config: Any) -> Any:
    """A config without what differs from model to model: names that Keras counts up, and rates
    that callbacks set."""
    if isinstance(config, dict):
        left = [(str(k), v) for k, v in config.items() if k != "name"]
        return {k: _without_names(v) for k, v in left if not _is_rate(k, v)}
    if isinstance(config, list | tuple):
        return [_without_names(one) for one in config]
    return config if config is None or isinstance(config, bool | int | float) else str(config)


def _is_rate(name: str, value: Any) -> bool:
    return name == "learning_rate" and isinstance(value, int | float)


def difference(ours: Any, theirs: Any, path: str = "") -> str | None:
    """Words for the first place at which plain data differ, or None."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        pairs = [(str(n), ours.get(n), theirs.get(n)) for n in sorted({*ours, *theirs})]
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = [(str(n), a, b) for n, (a, b) in enumerate(zip(ours, theirs, strict=True))]
    else:
        return None if ours == theirs else f"{path}={_short(ours)} in place of {_short(theirs)}"
    found = (difference(a, b, f"{path}.{name}" if path else name) for name, a, b in pairs)
    return next((words for words in found if words), None)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."
