"""What fields of a schema and paths must be, with errors that say so."""

import dataclasses
import keyword
import math
import numbers
import re

import numpy as np

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")


def check_choice(owner, field, value, choices):
    if value not in choices:
        raise ValueError(
            f"{owner} takes `{field}` from {list(choices)}. Received {field}={value!r}."
        )


def plain(value):
    """Python's numbers and text in place of NumPy's, also in sequences, for JSON knows none."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return type(value)(map(plain, value)) if isinstance(value, list | tuple) else value


def make_plain(part):
    """Makes the fields of a frozen dataclass `plain`."""
    for field in dataclasses.fields(part):
        object.__setattr__(part, field.name, plain(getattr(part, field.name)))


def check_at_least(owner, field, value, least, optional=True):
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f"{owner} needs `{field}` to be an integer of at least {least}"
            f"{' or None' if optional else ''}. Received {field}={value!r}."
        )


def number(owner, field, value):
    """A finite number as a float, or None."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if value is not None and not (real and math.isfinite(value)):
        raise ValueError(
            f"{owner} needs `{field}` to be a finite number or None. Received {field}={value!r}."
        )
    return None if value is None else float(value)


def check_local(path):
    """Raises where a path is that of a remote store, which would become a local folder."""
    # A slash may be gone: `Path("gs://bucket")` is "gs:/bucket".
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise ValueError(
            f"Folders are written where this process runs. Received path={str(path)!r}. Write to "
            "a local folder, and copy it."
        )


def may_be_served(name):
    """Whether a name may be an argument of a served function."""
    return bool(NAME.match(name)) and not keyword.iskeyword(name) and name != "self"


def check_input(owner, name):
    """`check_name`, for what becomes an argument of the served model."""
    check_name(owner, name)
    if not may_be_served(name):
        raise ValueError(
            f"{owner} becomes an argument of the served model, which must not be a word of Python. "
            f"Received name={name!r}. Choose another name, and give the table's as `source`: "
            f"{owner}('c_{name}', source={name!r})."
        )


def check_name(owner, name):
    if not isinstance(name, str) or not NAME.match(name):
        raise ValueError(
            f"{owner} needs a name of letters, digits and underscores that starts with "
            "a letter, because it becomes an argument of the served model. "
            f"Received name={name!r}. If the table's own name is different, choose a "
            f"plain one and give the table's as `source`: {owner}('capital_gain', "
            "source='capital-gain')."
        )


def check_counts(owner, optional=False, **counts):
    """Raises ValueError unless every count is an integer >= its least.

    Args:
        owner: str, the class that was given the counts.
        optional: bool; whether None will do, because the holder fills it in.
        **counts: `name=(value, least)`.
    """
    for name, (value, least) in counts.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole and value >= least) and not (optional and value is None):
            raise ValueError(
                f"{owner} needs `{name}` to be an integer of at least {least}. "
                f"Received {name}={value!r}."
            )


def sizes(owner, name, values):
    """The argument `name` of `owner`, a sequence of integers >= 1, as a tuple.

    Raises:
        ValueError: if it is anything else.
    """
    if not isinstance(values, list | tuple):
        raise ValueError(
            f"{owner} needs `{name}` to be a sequence of integers. "
            f"Received {name}={values!r}. For a single one write ({values!r},)."
        )
    for value in values:
        check_counts(owner, **{name: (value, 1)})
    return tuple(values)


def check_known(layer, *names):
    """Raises ValueError if a count is still None when the layer is built."""
    for name in names:
        if getattr(layer, name) is None:
            raise ValueError(
                f"{type(layer).__name__} must know `{name}` before it is built. "
                f"Received {name}=None. Pass it, or use the layer inside a mixture or "
                "MultiTaskModel, which fills it in."
            )
