"""Whole numbers that are points in time, told by their column's name and by their size."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfmoe.schema.naming import words_of
from tfmoe.schema.timestamp import UNITS

# Words at the end of a name that say when, what may stand behind them, and what `on` stands behind.
_WHEN = {"time", "timestamp", "date", "datetime", "at", "ts", "created", "updated", "modified"}
_BEHIND = {*UNITS, "utc", "unix", "epoch"}
_DONE = {"created", "updated", "modified"}
#: Seconds since 1970 at the beginnings of 1990 and 2100.
EARLIEST, LATEST = 631_152_000, 4_102_444_800


def unit_of(seconds_by_unit: float) -> str | None:
    """The unit in which a number since 1970 lies between 1990 and 2100, or None.

    Example:

    >>> unit_of(1_700_000_000), unit_of(1_700_000_000_000), unit_of(20240331)
    ('s', 'ms', None)
    """
    for unit, each in UNITS.items():
        if EARLIEST <= seconds_by_unit / each < LATEST:
            return unit
    return None


def time_unit(traits: Any) -> str | None:
    """The unit of a column of whole numbers that are times by name and size, or None.

    Args:
        traits: `tfmoe.data.read.look.Traits`.
    """
    present = _of_times(traits)
    if not len(present):
        return None
    first, last = unit_of(present.min()), unit_of(present.max())
    return first if first == last else None


def read_like_dates(numbers: np.ndarray) -> bool:
    """Whether all numbers, of which there are some, are like 20240331."""
    years, rest = np.divmod(numbers, 10_000)
    months, days = np.divmod(rest, 100)
    fits = (years >= 1900) & (years < 2100) & (months >= 1) & (months <= 12)
    return bool(len(numbers) and (fits & (days >= 1) & (days <= 31)).all())


def are_dates(traits: Any) -> bool:
    """Whether a column of whole numbers is of dates by name and by how they read."""
    return read_like_dates(_of_times(traits))


def _of_times(traits: Any) -> np.ndarray:
    """The numbers of a column that is named as times are, or none."""
    words = words_of(traits.name)
    while words and words[-1] in _BEHIND:
        words.pop()
    done = words[-1:] == ["on"] and not _DONE.isdisjoint(words[-2:])
    named = done or not _WHEN.isdisjoint(words[-1:])
    if not named or traits.holds != "integers" or traits.values is None:
        return np.zeros(0)
    return traits.values[np.isfinite(traits.values)]
