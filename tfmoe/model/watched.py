"""What callbacks watch: told before the first step, and which way is better."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from tfmoe import keras_private
from tfmoe.model.watched_tasks import WatchesTasks
from tfmoe.objectives.metrics import ByTask
from tfmoe.validation import did_you_mean

# Near ties, as a share of the pairs compared, above which AUC may be off by 0.001. Fewer pairs
# than a handful say nothing.
_MOST_NEAR_TIES = 0.002
_FEWEST_NEAR_TIES = 8


def reported(model: Any) -> dict[str, str | None]:
    """What a compiled model reports, without `val_`: for each name `"max"`, `"min"` or None.

    None is what only its maker knows, such as a function given as a metric.
    """
    modes: dict[str, str | None] = {}
    for metric in model.metrics:
        better = {"up": "max", "down": "min"}.get(keras_private.better(metric) or "")
        modes |= dict.fromkeys(_names(metric), better)
    return modes | {"loss": "min"}


def _names(metric: Any) -> list[str]:
    return metric.names if isinstance(metric, ByTask) else [metric.name]


def check_reported(model: Any) -> None:
    """Raises ValueError where two of a model's metrics have one name."""
    names = [name for metric in model.metrics for name in _names(metric)]
    twice = sorted({name for name in names if names.count(name) > 1})
    twice += [name for name in names if name.startswith("val_") and name[4:] in names]
    if twice:
        raise ValueError(
            "Metrics are called `<task>_<metric>`, with `val_` before it in validation, and no two "
            f"of them alike. Received {twice} twice. Give a metric another `name`."
        )


def check_watched(model: Any, callbacks: Any, validates: bool) -> None:
    """Lets callbacks with `mode="auto"` know which way is better.

    Args:
        model: compiled `MultiTaskModel`.
        callbacks: what `fit` was given.
        validates: whether there is validation data.

    Raises:
        ValueError: if a callback watches what this fit does not report, or what nobody knows the
            better way of. Keras says so after the first epoch, or only warns.
    """
    found = keras.tree.flatten(getattr(callbacks, "callbacks", callbacks))
    found = [callback for callback in found if callback is not None]
    modes = reported(model)
    names = [*modes, *(f"val_{name}" for name in modes if validates)]
    may_be_more = any(map(_may_report, found))
    for callback in found:
        if isinstance(callback, WatchesTasks):
            callback.watch(model.schema, modes, validates)
            continue
        name = getattr(callback, "monitor", None)
        if not isinstance(name, str):
            continue
        mode = modes[name] if name in modes else modes.get(name.removeprefix("val_"))
        automatic = getattr(callback, "mode", None) == "auto"
        if automatic and mode:
            callback.mode = mode
        unknown = automatic and not mode
        if name not in (*names, "learning_rate"):
            # A checkpoint of every epoch reads nothing, but must know the better way.
            if (unknown or getattr(callback, "save_best_only", True)) and not may_be_more:
                raise _missing(callback, name, names, validates)
        elif unknown:
            raise ValueError(
                f"{type(callback).__name__} must know whether more or less of what it watches is "
                f"better. Received monitor={name!r}, a metric that does not say so, with "
                'mode="auto". Pass mode="max" or mode="min".'
            )


def _may_report(callback: Any) -> bool:
    """Whether a callback may add to what is reported: Keras's and ours do not, but for the rate."""
    method = getattr(callback, "on_epoch_end", None)
    return not str(getattr(method, "__module__", "")).startswith(("keras.", "tfmoe."))


def _missing(callback: Any, name: str, names: list[str], validates: bool) -> ValueError:
    hint = did_you_mean(name, names)
    if name.startswith("val_") and not validates:
        hint = " Pass `validation_data` or `validation_split` for what begins with `val_`."
    return ValueError(
        f"{type(callback).__name__} watches something that this fit reports, one of {names}. "
        f"Received monitor={name!r}.{hint}"
    )


def warn_of_near_ties(model: Any, told: set[str], prefix: str = "") -> None:
    """Warns where the bins of an AUC were too coarse for the scores that came.

    Args:
        model: compiled `MultiTaskModel`, its metrics as they are at the end of an epoch.
        told: names that were warned of already, to which new ones are added.
        prefix: `"val_"` of validation.
    """
    for metric in model.metrics:
        if not hasattr(metric, "near_ties"):
            continue
        for name, (near, compared) in metric.near_ties().items():
            coarse = near >= _FEWEST_NEAR_TIES and near > _MOST_NEAR_TIES * compared
            if coarse and prefix + name not in told:
                told.add(prefix + name)
                warnings.warn(
                    "`fit` counts scores in bins, which the first batch of an epoch sets, and "
                    "later scores should lie where its scores lay. Received "
                    f"{prefix}{name} where {near / compared:.1%} of the pairs compared share a bin "
                    f"though their scores differ: it may be off by {near / compared / 2:.3f}. "
                    "`evaluate` is exact; rows in random order set better bins.",
                    stacklevel=4,
                )
