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
