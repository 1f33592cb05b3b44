"""Columns that may give a label away: a warning, for only a person knows what is known when."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tfmoe.data.read.look import Traits

# With fewer rows much is a function of much.
_LEAST_ROWS = 50
_MOST_ROWS = 5000
# Share of rows that a rule must explain, and that it must explain beyond guessing.
_NEARLY = 0.999
_GUESSED = 0.95
_MOST_PAIRED = 40


def leaks(columns: Sequence[Traits], labels: Sequence[Traits], all_rows: bool) -> Iterable[str]:
    """What a person should look at before training.

    Args:
        columns: `Traits` of the inputs, of the same rows as the labels'.
        labels: `Traits` of the labels.
        all_rows: whether these are all rows of the table.

    Yields:
        Sentences: columns that are a function of a label or nearly so, or a label of them; that
        are a sum or difference of labels; two whose sum is a label; and row numbers.
    """
    numbered = [one.name for one in columns if _is_row_number(one, all_rows)]
    if numbered:
        yield (
            f"Columns {numbered} count the rows, or nearly: as inputs they say when or where a row "
            "was written. Take them out unless they mean more."
        )
    found: dict[str, str] = {}
    for one in columns:
        if one.name in numbered:
            continue
        for label in labels:
            if one.name not in found and _tells(one, label):
                found[one.name] = f"{one.name!r} tells {label.name!r}"
    sums = _sums(columns, labels)
    found |= {name: text for name, text in sums.items() if name not in found}
    if found:
        yield (
            f"Likely leaks: {'; '.join(found.values())} (in {labels[0].num_rows:,} rows). Take "
            "such a column out unless it is known before the label is."
        )


def _is_row_number(one: Traits, all_rows: bool) -> bool:
    if one.values is None or one.holds != "integers" or one.num_rows < 20 or one.gaps:
        return False
    steps = np.diff(one.values)
    if (steps == 1).mean() > 0.99 or (not all_rows and (steps > 0).all() and _even(steps)):
        return True
    lowest, highest = one.values.min(), one.values.max()
    return one.num_distinct == one.num_rows == highest - lowest + 1 and lowest in (0, 1)


def _even(steps: np.ndarray) -> bool:
    """Whether most steps are alike: of rows picked at regular places."""
    return bool((steps == np.median(steps)).mean() > 0.9)


def _tells(one: Traits, label: Traits) -> bool:
    """Whether a column is nearly a function of a label, or the label of the column."""
    if one.codes is None or label.codes is None:
        return False
    rows = np.flatnonzero((one.codes >= 0) & (label.codes >= 0))
    rows = rows[:: -(-len(rows) // _MOST_ROWS) or 1]
    if len(rows) < _LEAST_ROWS:
        return False
    here, there = one.codes[rows], label.codes[rows]
    if len(np.unique(here)) < 2 or len(np.unique(there)) < 2:
        return False
    if _decides(here, there) or _decides(there, here):
        return True
    if one.values is None or label.values is None or one.holds == "flags":
        return False
    return _orders(one.values[rows], label.values[rows])


def _decides(by: np.ndarray, what: np.ndarray) -> bool:
    """Whether equal values of the one nearly always go with equal ones of the other.

    Values that come once say nothing, and neither does what chance would show as well.
    """
    _, groups, sizes = np.unique(by, return_inverse=True, return_counts=True)
    several = sizes[groups] > 1
    if several.sum() < len(by) / 2:
        return False
    kept_groups, kept = groups[several], what[several]
    share = _pure(kept_groups, kept)
    if share < _NEARLY:
        return False
    shuffled = np.random.default_rng(0).permutation(kept)
    return _pure(kept_groups, shuffled) < _GUESSED


def _pure(groups: np.ndarray, what: np.ndarray) -> float:
    """Share of rows whose value is the most frequent one of their group."""
    pairs, counts = np.unique(np.stack([groups, what]), axis=1, return_counts=True)
    most = np.zeros(groups.max() + 1, np.int64)
    np.maximum.at(most, pairs[0], counts)
    return float(most.sum() / len(groups))


def _orders(values: np.ndarray, label: np.ndarray) -> bool:
    """Whether a number orders the rows nearly as the label does."""
    kinds = np.unique(label)
    if len(kinds) == 2:
        upper, lower = values[label == kinds[1]], values[label == kinds[0]]
        if min(len(upper), len(lower)) < 10:
            return False
        below = np.searchsorted(np.sort(lower), upper, side="left").sum()
        ties = np.searchsorted(np.sort(lower), upper, side="right").sum() - below
        area = (below + ties / 2) / (len(upper) * len(lower))
        return bool(max(area, 1 - area) >= _NEARLY)
    ranks, of_label = _ranks(values), _ranks(label)
    spread = ranks.std() * of_label.std()
    if spread == 0:
        return False
    like = ((ranks - ranks.mean()) * (of_label - of_label.mean())).mean() / spread
    return bool(abs(like) >= _NEARLY)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, those of equal values their mean."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[places]


def _sums(columns: Sequence[Traits], labels: Sequence[Traits]) -> dict[str, str]:
    """Columns that are made of several labels, and pairs of columns whose sum is a label."""
    numbers = [one for one in labels if one.values is not None]
    inputs = [one for one in columns if one.values is not None and one.holds != "flags"]
    found: dict[str, str] = {}
    for count in range(2, len(numbers) + 1) if len(numbers) <= 6 else [len(numbers)]:
        for some in itertools.combinations(numbers, count):
            parts = [label.values for label in some if label.values is not None]
            named = " and ".join(repr(label.name) for label in some)
            for one in inputs:
                if one.values is None or one.name in found:
                    continue
                if _equal(one.values, sum(parts)):
                    found[one.name] = f"{one.name!r} is the sum of {named}"
                elif count == 2 and (
                    _equal(one.values, parts[0] - parts[1])
                    or _equal(one.values, parts[1] - parts[0])
                ):
                    found[one.name] = f"{one.name!r} is the difference of {named}"
    for label in numbers:
        for one, other in itertools.combinations(inputs[:_MOST_PAIRED], 2):
            if one.values is None or other.values is None or label.values is None:
                continue
            if _equal(label.values, one.values + other.values):
                found[one.name] = (
                    f"{one.name!r} and {other.name!r} have {label.name!r} as their sum"
                )
    return found


def _equal(values: np.ndarray, other: np.ndarray | int) -> bool:
    """Whether numbers are equal, but for few and for rounding, and not all the same."""
    present = np.isfinite(values) & np.isfinite(other)
    values, other = values[present], np.broadcast_to(other, present.shape)[present]
    if len(values) < _LEAST_ROWS or np.ptp(values) == 0:
        return False
    alike = np.isclose(values, other, rtol=1e-6, atol=1e-9)
    return bool(alike.mean() >= _NEARLY)
