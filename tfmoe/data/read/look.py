"""A look at some rows of a source: what its columns seem to hold, for a schema to be proposed."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmoe.data import arrow, kinds, numerals
from tfmoe.data.read import tables
from tfmoe.data.read.separators import Separated, separated
from tfmoe.data.read.source import open_source
from tfmoe.schema.missing import MARKERS

# Rows that are looked at, and the fragments that they are taken from.
_ROWS = 60_000
_FRAGMENTS = 16
# Of texts, so many different ones are kept.
_TEXTS = 2000
# More texts among numbers are not a way to say that a number is missing.
_ODD = 5

_ZERO_LED = re.compile(r"[+-]?0[0-9]", re.ASCII)
_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
_WHOLE = re.compile(r"[+-]?[0-9]+(?:\.0+)?", re.ASCII)
_DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[ T][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?(?:Z| UTC|[+-][0-9]{2}:?[0-9]{2})?)?",
    re.ASCII,
)
_LIST = re.compile(r"\[.*\]|\(.*,.*\)|\{.*\}", re.DOTALL)
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
# One number, and not two: 1,234.50 or 1.234,50 or 999,50.
_COMMA = re.compile(
    r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|(?:[0-9]{1,3}(?:\.[0-9]{3})*|[0-9]+),[0-9]+)",
    re.ASCII,
)
# Of texts of numbers that are vectors so many are different, of sizes and the like they are few.
_LEAST_DIFFERENT = 0.5
_TIME = re.compile(r"[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?", re.ASCII)


@dataclass
class Traits:
    """What a column seems to hold.

    Args:
        name: the raw column's.
        holds: "nothing", "flags", "integers", "wide integers", "numbers", "text", "lists",
            "vectors" (of as many numbers each), "times", "dates", or "other", which no column
            reads.
        num_rows: cells that were looked at.
        values: float64 `(n,)` with NaN for missing, of what is numbers; else None.
        codes: int64 `(n,)`, a number for each different value, -1 for missing; None of lists.
        words: the text that each of `codes` stands for, without spaces around; of text only.
        texts: the different texts, up to 2,000, without those that stand for a missing number.
        markers: how often which text stood for a missing number.
        separated: how lists that are written as text are separated, or None.
        gaps: whether a cell is missing.
        chosen: whether the source says that the values are categories.
        odd: the few texts in a column of numbers that do not usually stand for a missing one.
        lengths: int64 `(n,)`, values of a cell; of lists only.
        fractions: whether the lists are of numbers that are not whole.
        advice: what to do with a column that no column reads.
    """

    name: str
    holds: str
    num_rows: int
    values: np.ndarray | None = None
    codes: np.ndarray | None = None
    words: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    markers: Counter[str] = field(default_factory=Counter)
    separated: Separated | None = None
    gaps: bool = False
    chosen: bool = False
    odd: list[str] = field(default_factory=list)
    lengths: np.ndarray | None = None
    fractions: bool = False
    advice: str = ""

    @property
    def num_distinct(self) -> int:
        """Different values among those looked at."""
        return 0 if self.codes is None else int(self.codes.max(initial=-1)) + 1


@dataclass
class Look:
    """What some rows of a source show.

    Args:
        columns: `Traits` by name.
        uneven: columns that some file lacks, and that file.
        all_rows: whether these are all rows, in their order.
    """

    columns: dict[str, Traits]
    uneven: dict[str, str]
    all_rows: bool


def look_at(source: Any, text: str | None = None) -> Look:
    """Looks at some rows from all over a source.

    Args:
        source: what `open_source` takes.
        text: a column that holds text, whatever it looks like; or None.

    Raises:
        ValueError: if there are no rows, or the source can be read only once.
    """
    opened = open_source(source)
    if opened.single_pass:
        raise ValueError(
            "A schema is proposed for rows that are read again afterwards. Received a generator, "
            "which can be read only once. Pass a DataFrame, paths, or a callable that returns a "
            "new one."
        )
    if opened.listed:
        fragments = list(opened.fragments())
        places = np.unique(np.linspace(0, len(fragments) - 1, _FRAGMENTS).astype(int))
        picked = [fragments[place] for place in places.tolist()]
    else:
        picked = list(itertools.islice(opened.fragments(), _FRAGMENTS))
    chunks = [fragment.look(-(-_ROWS // len(picked))) for fragment in picked]
    names = list(dict.fromkeys(name for chunk in chunks for name in chunk))
    uneven = {
        name: str(chunk.path or chunk.part)
        for name in names
        for fragment, chunk in zip(picked, chunks, strict=True)
        if name not in chunk and name not in fragment.names
    }
    unread = {name: why for chunk in chunks for name, why in chunk.unread.items()}
    columns = {}
    for name in names:
        if name not in uneven and name not in unread:
            untyped = any(chunk.untyped for chunk in chunks)
            columns[name] = _traits(name, _parts(name, chunks), untyped, name == text)
    columns |= {
        name: Traits(name, "other", picked[0].num_rows or 0, advice=why)
        for name, why in unread.items()
    }
    if not any(one.num_rows for one in columns.values()):
        raise ValueError(
            f"A schema is proposed for a table with rows. Received source={_named(source)} with "
            "none. Check the path."
        )
    return Look(columns, uneven, opened.held)


def _parts(name, chunks):
    """A column's cells in each chunk, which are missing in one of a file that may lack them."""
    kind = next(chunk[name].type for chunk in chunks if name in chunk)
    rows = (len(next(iter(chunk.values()), ())) for chunk in chunks)
    return [
        chunk[name] if name in chunk else pa.nulls(size, kind)
        for chunk, size in zip(chunks, rows, strict=True)
    ]


def _named(source):
    return repr(source) if isinstance(source, str | list) else type(source).__name__


def _traits(name, parts, untyped, is_text):
    array = _joined(name, parts)
    if array is None:
        types = sorted({str(part.type) for part in parts})
        advice = f"its files differ: {types}. Write them alike."
        return Traits(name, "other", sum(map(len, parts)), advice=advice)
    gaps = array.null_count > 0
    traits = Traits(name, "other", len(array), gaps=gaps)
    kind = array.type
    if is_text or kinds.is_text(kind):
        try:
            text = arrow.decoded(arrow.to_text(array, name)).cast(pa.large_string())
        except TypeError as error:
            traits.advice = str(error)
            return traits
        return _of_text(traits, text, untyped, is_text)
    if pa.types.is_dictionary(kind):
        traits.chosen = pa.types.is_integer(kind.value_type)
        array = arrow.decoded(array)
        kind = array.type
    if pa.types.is_null(kind):
        traits.holds = "nothing"
    elif kinds.is_list(kind):
        return _of_lists(traits, array)
    elif pa.types.is_boolean(kind):
        traits.holds = "flags"
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        traits.holds = _of_numbers(array, name)
    else:
        traits.advice = kinds.remedy(kind, "numbers", name)
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            traits.holds = "dates" if pa.types.is_date(kind) else "times"
        return traits
    traits.values = arrow.to_floats(array, name)
    traits.gaps = bool(np.isnan(traits.values).any())
    if not traits.gaps or not np.isnan(traits.values).all():
        traits.codes = _codes(array)
    else:
        traits.holds = "nothing" if len(array) else traits.holds
    return traits


def _joined(name, parts):
    """Parts as one array, of a type that fits all; None if there is none."""
    parts = [part for part in parts if len(part)] or parts[:1]
    present = [part for part in parts if not pa.types.is_null(part.type)] or parts[:1]
    if any(kinds.is_text(part.type) for part in present):
        try:
            texts = [arrow.decoded(arrow.to_text(part, name)) for part in parts]
        except TypeError:
            return None if len(present) > 1 else present[0]
        return tables.one_array(
            pa.chunked_array([text.cast(pa.large_string()) for text in texts], pa.large_string())
        )
    if len({part.type for part in parts}) > 1:
        try:
            joined = pa.concat_tables(
                [pa.table({"": arrow.decoded(part)}) for part in parts],
                promote_options="permissive",
            )
        except (pa.ArrowException, ValueError):
            return None
        return tables.one_array(joined[""])
    return tables.one_array(pa.chunked_array(parts))


def _of_numbers(array, name):
    if pa.types.is_floating(array.type):
        values = arrow.to_floats(array, name)
        present = values[~np.isnan(values)]
        # pandas reads integers with gaps as floats.
        whole = 0 < len(present) < len(values) and bool((present % 1 == 0).all())
        return "integers" if whole and np.abs(present).max() <= 2.0**53 else "numbers"
    try:
        ints = arrow.as_integers(array, name, untyped=False)
    except TypeError:
        return "numbers"
    if ints is not None:
        return "integers"
    if pa.types.is_decimal(array.type):
        try:
            arrow.to_text(array, name)
        except TypeError:
            return "numbers"
    return "wide integers"


def _of_lists(traits, array):
    elements = array.flatten()
    kind = elements.type
    traits.holds = "lists"
    lengths = pc.list_value_length(array).fill_null(0)
    traits.lengths = lengths.to_numpy(zero_copy_only=False).astype("int64")
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = arrow.to_floats(elements, traits.name)
        present = values[~np.isnan(values)]
        if not (present % 1 == 0).all():
            traits.fractions = True
            widths = {*traits.lengths.tolist()} - {0}
            traits.holds = "vectors" if len(widths) == 1 else "other"
    elif not (
        kinds.is_text(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
        or (pa.types.is_dictionary(kind) and pa.types.is_integer(kind.value_type))
    ):
        traits.holds = "other"
    if traits.holds == "other":
        traits.advice = kinds.remedy(array.type, "single values", traits.name)
    return traits


def _of_text(traits, text, untyped, is_text):
    """What text is: numbers, truth values, dates or but text."""
    counts = _stripped(text)
    marked = Counter({cell: n for cell, n in counts.items() if cell in MARKERS})
    words = [cell for cell in counts if cell and cell not in MARKERS]
    traits.gaps, traits.markers = traits.gaps or "" in counts, marked
    cells = text.dictionary_encode()
    traits.codes = _places(cells)
    traits.words = [cell.strip() for cell in cells.dictionary.to_pylist()]
    if not words:
        traits.holds = "text" if marked else "nothing"
        traits.texts = sorted(marked)
        return traits
    traits.holds, traits.texts = "text", sorted(words[:_TEXTS])
    if is_text:
        return traits
    traits.separated = separated({word: counts[word] for word in words})
    if numerals.are_flags(words):
        traits.holds = "flags"
    elif all(map(_DATE.fullmatch, words)):
        traits.holds = "dates" if max(map(len, words)) == len("2020-01-01") else "times"
        return traits
    elif all(map(_TIME.fullmatch, words)):
        traits.holds = "other"
        column = f"df[{traits.name!r}]"
        traits.advice = f"Make an hour of it: in pandas {column}.str[:2].astype(int)."
        return traits
    elif all(map(_LIST.fullmatch, words)) or _are_vectors(words, counts):
        traits.holds = "other"
        traits.advice = (
            f"Lists that are written as text: make lists of them, in pandas df[{traits.name!r}]"
            r""".str.findall(r"[\w.+-]+")"""
            ", for MultiCategorical or, of numbers, for Vector."
        )
        return traits
    else:
        odd = [word for word in words if numerals.number_of(word) is None]
        if odd:
            # Codes of letters and digits have more.
            few = sum(counts[word] for word in odd) < 0.2 * (len(text) - counts[""])
            traits.odd = odd if few and len(odd) <= _ODD and len(words) > 2 * _ODD else []
            return traits
        traits.holds = _of_digits(words, untyped or bool(marked), traits.gaps or bool(marked))
    traits.values = numerals.numbers(text).values
    if traits.holds != "text":
        traits.codes = np.where(np.isnan(traits.values), -1, _codes(pa.array(traits.values)))
    return traits


def _are_vectors(words, counts):
    """Whether texts are numbers, as many in each and not all of them whole."""
    num_rows = sum(counts[word] for word in words)
    if len(words) < _LEAST_DIFFERENT * num_rows or not any("." in word for word in words):
        return False
    cells = [re.split("[ ,;|]+", word) for word in words]
    sizes = {len(cell) for cell in cells}
    if len(sizes) > 1 or 1 in sizes or all(map(_COMMA.fullmatch, words)):
        return False
    return all(_DECIMAL.fullmatch(part) for cell in cells for part in cell)


def _stripped(text):
    """How often each text is there, without spaces around; a missing one is empty."""
    found: Counter[str] = Counter()
    values, counts = pc.value_counts(text).flatten()
    for cell, count in zip(values.to_pylist(), counts.to_pylist(), strict=True):
        found["" if cell is None else cell.strip()] += count
    return found


def _of_digits(words, untyped, gaps):
    """Numbers as text: whether they are numbers, or text such as a zip code."""
    signed = any(word[0] == "-" for word in words)
    plus = any(word[0] == "+" and word[1:].isdecimal() for word in words) and not signed
    if plus or any(map(_ZERO_LED.match, words)):
        return "text"
    if all(map(_WHOLE.fullmatch, words)):
        written = all(map(_INTEGER.fullmatch, words))
        if not untyped and written:
            return "text"  # the source might have had integers
        if written or gaps:
            wide = any(not -(2**63) <= int(word.split(".")[0]) < 2**63 for word in words)
            return "wide integers" if wide else "integers"
    return "numbers"


def _codes(array):
    """A number for each different value, -1 for missing ones: int64 `(n,)`."""
    if pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
    return _places(array.dictionary_encode())


def _places(encoded):
    return encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
