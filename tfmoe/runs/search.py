"""Where a search for the best settings looks: what each key of a run may be."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tfmoe
from tfmoe.runs import by_name
from tfmoe.runs.fields import NONE_IF_EMPTY, WHOLE, as_text
from tfmoe.runs.run import Run
from tfmoe.validation import did_you_mean, is_integer, plain

#: What is searched of a run where a file does not say otherwise, but for keys that it sets.
DEFAULT: dict[str, Any] = {
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "batch_size": [256, 512, 1024, 2048, 4096],
    "embedding_dim": [4, 8, 16, 32],
    "hidden_units": ["64", "128,64", "256,128"],
    "num_experts": {"low": 2, "high": 12},
    "gate": ["softmax", "top-k", "dselect-k"],
    "dropout": {"low": 0.0, "high": 0.5},
    "layer_norm": [False, True],
    "embeddings_regularizer": {"low": 1e-8, "high": 1e-3, "log": True},
    "kernel_regularizer": {"low": 1e-8, "high": 1e-3, "log": True},
    "interactions": [None, "cross", "fm"],
}
_BEFORE = ("interactions", "pepnet")
_OF_GATES = ("num_nonzeros", "entropy_reg")
_OF_INTERACTIONS = ("interactions_stacked", "interactions_alone")
# On which it depends what others mean.
_FIRST = ("mixture", "gate", "interactions")
# Keys that say what is measured, and on what, and so are the same in all trials.
_FIXED = (
    *("data", "schema", "valid", "seed", "task_weight", "position"),
    *("from_model", "grow", "new_rows", "moments", "evict_after"),
    *("checkpoints", "checkpoint_steps", "resume"),
)


@dataclass(frozen=True)
class Choice:
    """One of some values, each text, a number, true, false or nothing."""

    values: tuple[Any, ...]

    def suggest(self, trial: Any, name: str) -> Any:
        return trial.suggest_categorical(name, self.values)


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, both included, whole if both are; `log` by its logarithm."""

    low: float
    high: float
    log: bool = False

    def suggest(self, trial: Any, name: str) -> Any:
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


def space_of(settings: Mapping[str, Any], search: Mapping[str, Any]) -> dict[str, Choice | Range]:
    """What each key may be that a search tries.

    Args:
        settings: what a file says of a run.
        search: what it says under `search`: by key a list of values, a mapping with `low`, `high`
            and `log`, or None not to try the key. Of what is not said `DEFAULT` counts, but for
            keys that `settings` has.

    Raises:
        ValueError: if a key is unknown or cannot be searched, or is said in another way.
    """
    known = [one.name for one in dataclasses.fields(Run) if one.name not in _FIXED]
    for name in search:
        if name not in known:
            raise ValueError(
                f"A search tries keys of a run, of {known}. Received {name!r}."
                f"{did_you_mean(name, known)}"
            )
    defaults = {name: one for name, one in DEFAULT.items() if name not in settings}
    said = {name: one for name, one in {**defaults, **search}.items() if one is not None}
    space = {name: _parsed(name, one) for name, one in said.items()}
    if not space:
        raise ValueError(
            f"A search tries at least one key. Received search={dict(search)!r}. Leave a key out "
            "of the run, or list its values under `search`."
        )
    return space


def alone(settings: Mapping[str, Any], space: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run without what depends on interactions that are but searched."""
    searched = "interactions" in space and settings.get("interactions") in (None, [], ())
    return {k: v for k, v in settings.items() if not searched or k not in _OF_INTERACTIONS}


def check_values(settings: Mapping[str, Any], space: Mapping[str, Choice | Range]) -> None:
    """Makes sure that a run takes each value that a search lists, and both ends of each range.

    Raises:
        ValueError: as `Run`.
    """
    settings = alone(settings, space)
    for name, one in space.items():
        for value in one.values if isinstance(one, Choice) else (one.low, one.high):
            given = {**settings, name: value}
            if name in _OF_INTERACTIONS and given.get("interactions") is None:
                given["interactions"] = "fm"  # those of a trial
            if name == "interactions" and value is None:
                given = {k: v for k, v in given.items() if k not in _OF_INTERACTIONS}
            Run.from_dict(given)


def suggested(trial: Any, settings: Mapping[str, Any], space: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one trial.

    Options that the mixture, the gate or the interactions of the trial do not take are not tried
    there, and those of the file are left out.

    Args:
        trial: Optuna's.
        settings: what a file says of a run.
        space: see `space_of`.
    """
    found = dict(settings)
    first = [name for name in _FIRST if name in space]
    for name in [*first, *(name for name in space if name not in first)]:
        if name not in _STRUCTURAL or name in _taken(found):
            found[name] = space[name].suggest(trial, name)
    return taken_by(found, space)


def taken_by(settings: Mapping[str, Any], space: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without options that what was tried does not take."""
    if not {*_FIRST} & {*space}:
        return dict(settings)
    takes = _taken(settings)
    return {
        name: value for name, value in settings.items() if name not in _STRUCTURAL or name in takes
    }


# Options that only some mixtures, gates and interactions take.
_STRUCTURAL = (
    "gate",
    "num_experts",
    *_OF_GATES,
    "dropout",
    "layer_norm",
    *_BEFORE,
    *_OF_INTERACTIONS,
)


def _taken(settings: Mapping[str, Any]) -> set[str]:
    """Which of the structural options a mixture takes, with the gate that it has."""
    kind = getattr(tfmoe, by_name.STRUCTURES[settings.get("mixture", "mmoe")])
    takes = {*inspect.signature(kind.from_options).parameters}
    takes |= {*inspect.signature(kind.__init__).parameters}
    if settings.get("gate") is not None and "gate" in takes:
        gate = getattr(tfmoe, by_name.GATES[settings["gate"]])
        takes -= {*_OF_GATES}
        takes |= {*_OF_GATES} & {*inspect.signature(gate.__init__).parameters}
    # What stands between the encoder and a structure makes one vector a row.
    if kind.input_kind == "flat":
        takes |= {*_BEFORE, *(_OF_INTERACTIONS if settings.get("interactions") else ())}
    return takes & {*_STRUCTURAL}


def _parsed(name: str, given: Any) -> Choice | Range:
    given = plain(given)
    if isinstance(given, list | tuple) and given:
        # Lists and mappings are text, as in a run: Optuna keeps plain values.
        return Choice(tuple(dict.fromkeys(_plain(name, one) for one in given)))
    if isinstance(given, Mapping) and {"low", "high"} <= {*given} <= {"low", "high", "log"}:
        low, high = (_number(given[end], name in WHOLE) for end in ("low", "high"))
        log = given.get("log", False)
        ordered = low is not None and high is not None and low < high
        if ordered and isinstance(log, bool) and (low > 0 or not log):
            return Range(low, high, log)
    raise ValueError(
        f"A search says of `{name}` a list of values, or the `low` and `high` of a number, with "
        f"`log: true` (and then above 0) for its logarithm. Received {name}={given!r}."
    )


def _plain(name: str, given: Any) -> Any:
    if name in NONE_IF_EMPTY and given in ([], ()):
        return None
    return as_text(given) if isinstance(given, list | tuple | Mapping) else given


def _number(given: Any, whole: bool) -> Any:
    """An integer or float, or None; of YAML's text too, which takes 1e-4 for such."""
    if is_integer(given):
        return int(given)
    try:
        found = float(given)
    except (TypeError, ValueError):
        return None
    return int(found) if whole and found.is_integer() else found
