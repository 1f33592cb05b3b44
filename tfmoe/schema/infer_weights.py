"""Which columns of numbers are the weights of lists: those with as many in every row."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np


def weights_of(columns: Mapping[str, Any]) -> dict[str, str]:
    """The names of columns of weights by those of the lists that they belong to.

    A row has as many fractions in the one as values in the other, and not all rows have as many.
    Where several lists are so, as items and their categories are, it is the one whose name begins
    most like the weights' own.

    Args:
        columns: dict by name of `tfmoe.data.read.look.Traits`.
    """
    lists = {name: one for name, one in columns.items() if _holds_values(one)}
    found: dict[str, str] = {}
    for name, traits in columns.items():
        fitting = [owner for owner, one in lists.items() if owner != name and _weigh(traits, one)]
        if fitting:
            found.setdefault(max(fitting, key=lambda owner: _alike(owner, name)), name)
    return found


def _holds_values(traits: Any) -> bool:
    """Whether cells are lists of values, and not of fractions, which weigh others."""
    if traits.separated:
        return _numbers(traits, traits.separated.separator) is None
    return traits.holds == "lists"


def _alike(one: str, other: str) -> int:
    """With how many characters alike two names begin."""
    alike = (a == b for a, b in zip(one, other, strict=False))
    return sum(itertools.takewhile(bool, alike))


def _weigh(weights: Any, lists: Any) -> bool:
    if lists.holds == "lists":
        own, of_lists = weights.lengths if weights.fractions else None, lists.lengths
    else:
        own = _numbers(weights, lists.separated.separator)
        of_lists = _parts(lists, lists.separated.separator)
    if own is None or len(np.unique(of_lists[of_lists > 0])) < 2:
        return False
    return bool((own == of_lists).all())


def _parts(traits: Any, mark: str) -> np.ndarray:
    """How many parts each cell of text has, 0 where it is missing or empty."""
    sizes = [len(word.split(mark)) if word else 0 for word in traits.words]
    return np.array([*sizes, 0])[traits.codes]


def _numbers(traits: Any, mark: str) -> np.ndarray | None:
    """How many numbers each cell of text has; None if one holds else, or all are whole."""
    if traits.holds != "text" or not any(mark in word for word in traits.words):
        return None
    parts = [part for word in traits.words if word for part in word.split(mark)]
    try:
        fractions = any(float(part) % 1 for part in parts)
    except ValueError:
        return None
    return _parts(traits, mark) if fractions else None
