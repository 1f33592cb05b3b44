"""One way to check an argument. Errors name the owner, what came, and what to do.

What returns the checked value in Python's own type is named by what it returns (`integer`,
`number`, `sizes`), and is what constructors keep, for configs are JSON, which knows no NumPy;
what only raises is named `check_...`.
"""

import contextlib
import dataclasses
import difflib
import functools
import inspect
import keyword
import math
import numbers
import re
from collections.abc import Collection, Iterable
from typing import Any, Literal, TypeVar, overload

import numpy as np

Target = TypeVar("Target")

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")


def is_integer(value: object) -> bool:
    """Whether a value is an integer, Python's or NumPy's; a boolean is none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


@overload
def integer(
    owner: str, name: str, value: object, least: int, optional: Literal[False] = ...
) -> int: ...
@overload
def integer(owner: str, name: str, value: object, least: int, optional: bool) -> int | None: ...
def integer(owner: str, name: str, value: object, least: int, optional: bool = False) -> int | None:
    """The argument `name` of `owner`, an integer >= `least`, as Python's.

    Args:
        owner: the class or function that was given the argument.
        name: the argument's name.
        value: Python's or NumPy's integer.
        least: int.
        optional: whether None will do, and is returned as it is.

    Raises:
        ValueError: if it is anything else; booleans and floats, whole or not, are.
    """
    if value is None and optional:
        return None
    if not is_integer(value) or value < least:  # type: ignore[operator]
        raise ValueError(
            f"{owner} needs `{name}` to be {'None or ' if optional else ''}an integer of at "
            f"least {least}. Received {name}={plain(value)!r}."
        )
    return int(value)  # type: ignore[call-overload]


def check_counts(owner: str, optional: bool = False, **counts: tuple[object, int]) -> None:
    """Raises ValueError unless every count is an integer >= its least, as `integer` says.

    Args:
        owner: str, the class that was given the counts.
        optional: bool; whether None will do, because the holder fills it in.
        **counts: `name=(value, least)`.
    """
    for name, (value, least) in counts.items():
        integer(owner, name, value, least, optional)


def sizes(owner: str, name: str, values: object) -> tuple[int, ...]:
    """The argument `name` of `owner`, a sequence of integers >= 1, as a tuple of Python's.

    Raises:
        ValueError: if it is anything else.
    """
    if not isinstance(values, list | tuple):
        raise ValueError(
            f"{owner} needs `{name}` to be a sequence of integers. "
            f"Received {name}={plain(values)!r}. For a single one write ({plain(values)!r},)."
        )
    return tuple(integer(owner, name, value, 1) for value in values)


@overload
def number(
    owner: str,
    name: str,
    value: object,
    least: float | None = ...,
    above: float | None = ...,
    most: float | None = ...,
    optional: Literal[False] = ...,
) -> float: ...
@overload
def number(
    owner: str,
    name: str,
    value: object,
    least: float | None = ...,
    above: float | None = ...,
    most: float | None = ...,
    *,
    optional: bool,
) -> float | None: ...
def number(
    owner: str,
    name: str,
    value: object,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    optional: bool = False,
) -> float | None:
    """The argument `name` of `owner`, a finite number, as Python's float.

    Args:
        owner, name, value, optional: see `integer`.
        least, above, most: bounds, of which `above` is not itself allowed; None is no bound.

    Raises:
        ValueError: if it is anything else.
    """
    if value is None and optional:
        return None
    found = math.nan
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            found = float(value)
    inside = (
        math.isfinite(found)
        and (least is None or found >= least)
        and (above is None or found > above)
        and (most is None or found <= most)
    )
    if not inside:
        bounds = [
            f"{words} {bound}"
            for words, bound in (("of at least", least), ("above", above), ("of at most", most))
            if bound is not None
        ]
        rule = " ".join(["a finite number", " and ".join(bounds)]).strip()
        raise ValueError(
            f"{owner} needs `{name}` to be {rule}{' or None' if optional else ''}. "
            f"Received {name}={plain(value)!r}."
        )
    return found


def check_choice(owner: str, name: str, value: object, choices: Collection[object]) -> None:
    """Raises ValueError unless the argument is one of the choices."""
    if value not in choices:
        raise ValueError(
            f"{owner} takes `{name}` from {list(choices)}. Received {name}={value!r}."
            f"{did_you_mean(value, choices)}"
        )


def check_bool(owner: str, name: str, value: object) -> None:
    """Raises ValueError unless an argument is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{owner} takes `{name}` as True or False. Received {name}={value!r}.")


def check_known(layer: object, *names: str) -> None:
    """Raises ValueError if a count is still None when the layer is built."""
    for name in names:
        if getattr(layer, name) is None:
            raise ValueError(
                f"{type(layer).__name__} must know `{name}` before it is built. "
                f"Received {name}=None. Pass it, or use the layer inside a mixture or "
                "MultiTaskModel, which fills it in."
            )


def did_you_mean(given: object, known: Iterable[object]) -> str:
    """ " Did you mean 'dim'?", of the known word nearest to what was given; else nothing."""
    if not isinstance(given, str):
        return ""
    words = {str(word).lower(): str(word) for word in known if isinstance(word, str)}
    near = difflib.get_close_matches(given.lower(), words, n=1)
    return f" Did you mean {words[near[0]]!r}?" if near else ""


def checks_arguments(target: Target) -> Target:
    """Decorator of a public class or function: an unknown argument is told with the nearest one.

    Keras's base classes take any argument by name, and some let it pass. Of a class it is done
    before anything is made, for Keras reads the signature of `__init__`; subclasses inherit it.
    """
    if not isinstance(target, type):
        return _checked_function(target)
    make = target.__new__

    def __new__(cls: type, *args: Any, **kwargs: Any) -> Any:
        _check_known_arguments(cls.__name__, kwargs, _arguments_of_class(cls))
        return object.__new__(cls) if make is object.__new__ else make(cls, *args, **kwargs)

    target.__new__ = __new__  # type: ignore[method-assign,assignment]
    return target


def _checked_function(function: Any) -> Any:
    known = _arguments_of(function)

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        _check_known_arguments(function.__name__, kwargs, known)
        return function(*args, **kwargs)

    return checked


def _check_known_arguments(owner: str, given: Collection[str], known: Collection[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise TypeError(
            f"{owner} takes no argument {unknown[0]!r}.{did_you_mean(unknown[0], known)} It takes "
            f"{', '.join(sorted(known))}."
        )


@functools.cache
def _arguments_of_class(cls: type) -> frozenset[str]:
    """Those of its constructor and, where that passes others on, of its bases' constructors.

    What a class lists as `former_arguments` is in files of older versions.
    """
    known: set[str] = set()
    for base in cls.__mro__:
        known.update(_arguments_of(vars(base).get("__init__")))
        known.update(vars(base).get("former_arguments", ()))
    return frozenset(known)


def _arguments_of(function: Any) -> list[str]:
    if not inspect.isfunction(function):
        return []
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind not in kinds and p.name != "self"]


def plain(value: Any) -> Any:
    """Python's numbers and text in place of NumPy's, also in sequences, for JSON knows none."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return type(value)(map(plain, value)) if isinstance(value, list | tuple) else value


def make_plain(part: Any) -> None:
    """Makes the fields of a frozen dataclass `plain`."""
    for field in dataclasses.fields(part):
        object.__setattr__(part, field.name, plain(getattr(part, field.name)))


def may_be_served(name: str) -> bool:
    """Whether a name may be an argument of a served function."""
    return bool(NAME.match(name)) and not keyword.iskeyword(name) and name != "self"


def check_input(owner: str, name: object) -> None:
    """`check_name`, for what becomes an argument of the served model."""
    check_name(owner, name)
    if not may_be_served(str(name)):
        raise ValueError(
            f"{owner} becomes an argument of the served model, which must not be a word of Python. "
            f"Received name={name!r}. Choose another name, and give the table's as `source`: "
            f"{owner}('c_{name}', source={name!r})."
        )


def check_name(owner: str, name: object) -> None:
    """Raises ValueError unless a column's or task's name is letters, digits and underscores."""
    if not isinstance(name, str) or not NAME.match(name):
        raise ValueError(
            f"{owner} needs a name of letters, digits and underscores that starts with "
            "a letter, because it becomes an argument of the served model. "
            f"Received name={name!r}. If the table's own name is different, choose a "
            f"plain one and give the table's as `source`: {owner}('capital_gain', "
            "source='capital-gain')."
        )
