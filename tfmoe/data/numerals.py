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
# What Arrow reads as Python does, and integers that surely have 64 bits; RE2.
_PLAIN_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\z"
_PLAIN_INTEGER = r"^[+-]?[0-9]{1,18}\z"
_FLAGS = {"true": 1.0, "false": 0.0}

# What `tf.strings.strip` takes off too.
SPACES = " \t\n\v\f\r"

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
        return _quickly(text) or _thoroughly(text, markers)
    found, places = numbers(text.dictionary, markers), _places(text)
    bad = np.zeros(len(text.dictionary) + 1, bool)
    bad[found.bad] = True
    counts: Counter[str] = Counter()
    if found.markers:
        seen = np.bincount(places, minlength=len(bad)).tolist()
        for cell, count in zip(text.dictionary.to_pylist(), seen, strict=False):
            if count and cell and cell.strip() in found.markers:
                counts[cell.strip()] += count
    return Numbers(np.append(found.values, np.nan)[places], np.flatnonzero(bad[places]), counts)


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


def _thoroughly(text, markers):
    """Without what stands for a missing number, by Arrow; and only what is odd then one by one.

    So that one marker, space or word does not make a whole chunk slow.
    """
    text, counts = _without(text, markers)
    found = _quickly(text)
    if found is None:
        plain, digits = _plain(text, _PLAIN_NUMBER)
        values = np.array(digits.cast(pa.float64()))
        found = Numbers(values, *_one_by_one(text, plain, values, markers, number_of, np.nan))
    found.markers = counts + found.markers
    return found


def _without(text, markers):
    """Text without spaces around, null where it is a marker or empty, and the markers' counts."""
    text = pc.ascii_trim(text, SPACES)
    gaps = pc.is_in(text, value_set=pa.array(["", *markers], text.type))
    seen = text.filter(gaps).value_counts().to_pylist()
    counts = Counter({one["values"]: one["counts"] for one in seen if one["values"]})
    return pc.if_else(gaps, pa.scalar(None, text.type), text), counts


def _plain(text, pattern):
    """Which cells have the pattern, and these without a plus, which Arrow reads not always."""
    plain = pc.fill_null(pc.match_substring_regex(text, pattern), False)
    return plain, pc.ascii_ltrim(pc.if_else(plain, text, pa.scalar(None, text.type)), "+")


def _one_by_one(text, plain, values, markers, read, missing):
    """Puts into `values` what the texts that are not `plain` mean, each text read once.

    Returns:
        The places of those that mean nothing, and how often which marker was found.
    """
    places = np.flatnonzero(pc.and_not(pc.is_valid(text), plain).to_numpy(zero_copy_only=False))
    odd = text.take(pa.array(places)).dictionary_encode()
    cells = [cell.strip() for cell in odd.dictionary.to_pylist()]
    read_cells = [missing if not cell or cell in markers else read(cell) for cell in cells]
    bad = np.array([number is None for number in read_cells], bool)
    own = odd.indices.to_numpy()
    known = [missing if number is None else number for number in read_cells]
    values[places] = np.array(known, values.dtype)[own]
    counts: Counter[str] = Counter()
    for cell, count in zip(cells, np.bincount(own).tolist(), strict=True):
        if cell and cell in markers:
            counts[cell] += count
    return places[bad[own]], counts


def _places(text):
    """Each cell's place in the dictionary, int64 `(n,)`; of null the one behind its end."""
    places = text.indices.cast(pa.int64()).fill_null(len(text.dictionary))
    return places.to_numpy(zero_copy_only=False)


def integers(text: pa.Array, markers: Collection[str] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Cells of text as integers, for a column that was declared to hold them.

    Leading zeros, a plus and `.0` make no difference.

    Args:
        text: Arrow strings, perhaps with nulls or a dictionary.
        markers: the texts that stand for a missing one, beside the empty one.

    Returns:
        int64 `(n,)` with `MISSING_INT` for missing cells, and the places of bad ones.
    """
    if pa.types.is_dictionary(text.type):
        values, wrong = integers(text.dictionary, markers)
        bad, places = np.zeros(len(values) + 1, bool), _places(text)
        bad[wrong] = True
        return np.append(values, MISSING_INT)[places], np.flatnonzero(bad[places])
    found = canonical_integers(text, markers)
    if found is not None:
        return found, np.zeros(0, np.int64)
    text = whole_spelling(_without(text, markers)[0])
    plain, digits = _plain(text, _PLAIN_INTEGER)
    values = np.array(digits.cast(pa.int64()).fill_null(MISSING_INT))
    return values, _one_by_one(text, plain, values, markers, _integer_of, MISSING_INT)[0]


def _integer_of(text):
    """The integer of 64 bits that is written, or None."""
    whole = _WHOLE.fullmatch(text)
    number = int(whole[1]) if whole else None
    return number if number is not None and -(2**63) <= number < 2**63 else None


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
        return np.append(values, MISSING_INT)[_places(text)]
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
