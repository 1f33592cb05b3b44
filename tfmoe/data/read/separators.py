"""Text that is a list: whether cells look like values with a separator between them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

# Share of cells that hold a separator.
_LEAST_SHARE = 0.3
# Of a list with another separator than "|", which hardly occurs in prose: the share of its values
# that other cells have too, and of those behind the first that elsewhere come first. An address or
# a name ("Doe, Jane") has parts that never change their places.
_RECURRING, _MOVING = 0.7, 0.5
# A value is a word or some, a part of a sentence is longer.
_SHORT, _LONGEST = 0.95, 40
_MOST_WORDS = 4
# 3,5 and 1,234,567 and $12,50 and 3,5 kg are numbers; more of them than this are no lists.
_NUMBER = re.compile(r"[^\d,;]{0,4}\d+(?:,\d+|(?:,\d{3})+(?:\.\d+)?)[^\d,;]{0,6}")
_MOST_NUMBERS = 0.8


@dataclass(frozen=True)
class Separated:
    """Lists that are written as text.

    Args:
        separator: `"|"`, `";"` or `","`.
        blanks: whether spaces stand around some values.
        num_values: different values.
        example: a cell.
    """

    separator: str
    blanks: bool
    num_values: int
    example: str


def separated(counts: Mapping[str, int]) -> Separated | None:
    """How lists are separated, if the texts look like lists.

    `|` is a separator wherever three in ten cells hold one. `;` and `,` occur in sentences,
    addresses, names and numbers too: there the values must be short, recur in other cells, and
    change their places.

    Args:
        counts: how often each text occurs, without spaces around; missing ones left out.
    """
    total = sum(counts.values())
    for mark in "|;,":
        marked = [cell for cell in counts if mark in cell]
        if not total or sum(counts[cell] for cell in marked) <= _LEAST_SHARE * total:
            continue
        parts = [cell.split(mark) for cell in counts]
        if mark == "|" or (not _are_numbers(marked) and _are_values(parts)):
            blanks = any(part != part.strip() for cell in parts for part in cell)
            values = {part.strip() if blanks else part for cell in parts for part in cell} - {""}
            return Separated(mark, blanks, len(values), marked[0])
    return None


def _are_numbers(cells: list[str]) -> bool:
    return sum(_NUMBER.fullmatch(cell) is not None for cell in cells) > _MOST_NUMBERS * len(cells)


def _are_values(cells: list[list[str]]) -> bool:
    """Whether the parts of different cells are short, recur, and change their places."""
    stripped = [[part.strip() for part in cell if part.strip()] for cell in cells]
    parts = [part for cell in stripped for part in cell]
    short = sum(len(part) <= _LONGEST and len(part.split()) <= _MOST_WORDS for part in parts)
    if short < _SHORT * len(parts):
        return False
    cells_with = Counter(part for cell in stripped for part in set(cell))
    recurring = sum(cells_with[part] > 1 for part in parts)
    first = {cell[0] for cell in stripped if cell}
    later = [part for cell in stripped for part in cell[1:]]
    moving = sum(part in first for part in later)
    return recurring >= _RECURRING * len(parts) and 0 < _MOVING * len(later) <= moving
