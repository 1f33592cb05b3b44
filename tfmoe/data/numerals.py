"""Numbers and truth values that are written as text, read alike from every source.

A number may have spaces around it, a sign, an exponent; `true` and `false` in any letters are 1
and 0. This is what Arrow and pandas read, both together, so that a CSV file and the DataFrame
that pandas makes of it give the same. Digits after a zero, `007`, are a number where numbers are
wanted, and text where categories are.
"""

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmoe.schema.columns import MISSING_INT
from tfmoe.schema.missing import MARKERS

# Python's float() reads more: underscores, digits of other scripts.
_NUMBER = re.compile(
    r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf|infinity|nan)", re.ASCII | re.IGNORECASE
)
_WHOLE = re.compile(r"([+-]?\d+)(?:\.0*)?", re.ASCII)
_FLAGS = {"true": 1.0, "false": 0.0}

# How sources spell truth values: Python and pandas, SQL and JSON, spreadsheets and R.
SPELLINGS = {
    **dict.fromkeys(("True", "true", "TRUE"), "True"),
    **dict.fromkeys(("False", "false", "FALSE"), "False"),
}


# An integer as pandas writes it where there are gaps, or with spaces around; RE2, which Arrow and
# TensorFlow read alike.
SPELLED_WHOLE = r"^ *(-?[1-9][0-9]*|0)(?:\.0)? *$"


def whole_spelling(text: pa.Array) -> pa.Array:
    """Strings with `12` for `12.0` and ` 12 `, and so for all integers; others as they are.

    Args:
        text: Arrow strings, perhaps with nulls or a dictionary.
    """
    if pa.types.is_dictionary(text.type):
        values = whole_spelling(text.dictionary)
        if values is text.dictionary:
            return text
        return pa.DictionaryArray.from_arrays(text.indices, values)
    odd = (pc.ends_with(text, ".0"), pc.starts_with(text, " "), pc.ends_with(text, " "))
    if not any(pc.any(one).as_py() for one in odd):
        return text
    return pc.replace_substring_regex(text, SPELLED_WHOLE, r"\1")


def number_of(text: str) -> float | None:
    """The number or truth value that is written, or None."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    return _FLAGS.get(text.lower())


@dataclass
class Numbers:
    """What cells of text are as numbers.

    Args:
        values: float64 `(n,)`, NaN where a cell is missing or bad.
        bad: places of cells that are neither number nor missing, ascending.
        markers: how often which text stood for a missing number.
    """

    values: np.ndarray
    bad: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    markers: Counter[str] = field(default_factory=Counter)


def numbers(text: pa.Array, markers: Collection[str] = MARKERS) -> Numbers:
    """Cells of text as numbers.

    Args:
        text: Arrow strings, perhaps with nulls or a dictionary.
        markers: the texts that stand for a missing number, beside the empty one.
    """
    if not pa.types.is_dictionary(text.type):
        found = _quickly(text)
        if found is not None:
            return found
        text = text.dictionary_encode()
    cells = text.dictionary.to_pylist()
    places = text.indices.fill_null(len(cells)).to_numpy(zero_copy_only=False)
    values = np.full(len(cells) + 1, np.nan)
    marks = np.zeros(len(cells) + 1, bool)
    bad = np.zeros(len(cells) + 1, bool)
    for place, cell in enumerate(cells):
        if cell is None or not cell.strip():
            continue
        number = None if cell.strip() in markers else number_of(cell)
        marks[place] = cell.strip() in markers
        bad[place] = number is None and not marks[place]
        values[place] = np.nan if number is None else number
    counts: Counter[str] = Counter()
    if marks.any():
        seen = np.bincount(places, minlength=len(marks))
        for marked in np.flatnonzero(marks & (seen > 0)).tolist():
            counts[cells[marked].strip()] += int(seen[marked])
    return Numbers(values[places], np.flatnonzero(bad[places]), counts)


def _quickly(text):
    """By Arrow alone, if it reads every cell; None if not."""
    empty = pc.equal(text, "")
    if pc.any(empty).as_py():
        text = pc.if_else(empty, pa.scalar(None, text.type), text)
    try:
        numbers = text.cast(pa.float64())
    except pa.ArrowInvalid:
        return None
    values = numbers.to_numpy(zero_copy_only=False)
    if np.isnan(values).sum() > numbers.null_count:
        return None  # the slow way counts what is written there
    return Numbers(values)


def integers(text: pa.Array, markers: Collection[str] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Cells of text as integers, for a column that was declared to hold them.

    Leading zeros, a plus and `.0` make no difference.

    Args:
        text: Arrow strings, perhaps with nulls or a dictionary.
        markers: the texts that stand for a missing one, beside the empty one.

    Returns:
        int64 `(n,)` with `MISSING_INT` for missing cells, and the places of bad ones.
    """
    found = canonical_integers(text, markers)
    if found is not None:
        return found, np.zeros(0, np.int64)
    if not pa.types.is_dictionary(text.type):
        text = text.dictionary_encode()
    cells = text.dictionary.to_pylist()
    values = np.full(len(cells) + 1, MISSING_INT, np.int64)
    bad = np.zeros(len(cells) + 1, bool)
    for place, cell in enumerate(cells):
        cell = "" if cell is None else cell.strip()
        if cell == "" or cell in markers:
            continue
        whole = _WHOLE.fullmatch(cell)
        number = int(whole[1]) if whole else None
        if number is None or not -(2**63) <= number < 2**63:
            bad[place] = True
        else:
            values[place] = number
    places = text.indices.fill_null(len(cells)).to_numpy(zero_copy_only=False)
    return values[places], np.flatnonzero(bad[places])


def canonical_integers(text: pa.Array, markers: Collection[str] = ()) -> np.ndarray | None:
    """Cells of text as int64, if each one is the decimal form of an integer of 64 bits.

    Args:
        text, markers: see `integers`.

    Returns:
        int64 `(n,)` with `MISSING_INT` for missing cells; None if a cell, such as `007`, `+7`,
        `7.0` or `x`, is of another form.
    """
    if pa.types.is_dictionary(text.type):
        values = canonical_integers(text.dictionary, markers)
        if values is None:
            return None
        places = text.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
        return np.append(values, MISSING_INT)[places]
    gaps = pc.is_in(text, value_set=pa.array(["", *markers], text.type))
    if pc.any(gaps).as_py():
        text = pc.if_else(gaps, pa.scalar(None, text.type), text)
    try:
        values = text.cast(pa.int64())
    except pa.ArrowInvalid:
        return None
    # `007` is cast to 7, whose decimal form is another.
    if not values.cast(text.type).equals(text):
        return None
    return values.fill_null(MISSING_INT).to_numpy(zero_copy_only=False)


def are_flags(values: Collection[str]) -> bool:
    """Whether there are values, and all of them spell true or false."""
    return 0 < len(values) <= len(SPELLINGS) and all(value in SPELLINGS for value in values)
