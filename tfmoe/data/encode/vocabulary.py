"""The tables that turn values into ids: fitted vocabularies, and hashing."""

import re
from collections.abc import Collection
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tfmoe.data.arrow import decimals
from tfmoe.data.encode.hashing import fingerprints, hash_buckets
from tfmoe.data.numerals import SPELLED_WHOLE, SPELLINGS, are_flags, whole_spelling
from tfmoe.schema.columns import FIRST_ID, MISSING_ID, MISSING_INT, MISSING_STRING, UNKNOWN_ID

# The decimal form of an integer.
_DIGITS = re.compile(r"0|-?[1-9][0-9]*", re.ASCII)

# More values than this are looked up by bisection: a hash table of Python's, or one of a served
# graph, would take hundreds of bytes a value.
LARGE = 50_000

# Text offsets of 64 bits: the distinct values of a column may exceed 2 GiB.
ARROW_TYPES = {"int": pa.int64(), "string": pa.large_string()}


def other_spellings(values: Collection[str]) -> dict[str, str]:
    """Of a vocabulary that has but truth values: other spellings, and the value each means.

    `true` in a CSV file, `True` in a DataFrame and a truth value of Arrow's are the same, also
    for a vocabulary that has `true`, as older versions fitted it.
    """
    if not are_flags(values):
        return {}
    own = {SPELLINGS[value]: value for value in reversed(list(values))}
    return {
        spelled: own[meant]
        for spelled, meant in SPELLINGS.items()
        if spelled not in values and meant in own
    }


def label_spellings(values: Collection[str]) -> dict[str, str]:
    """Of classes or keys, which a schema lists: other spellings, and the value each means.

    Truth values, as `other_spellings`; and `2.0` for `2` and the reverse, for a column of
    integers with gaps is one of floats to pandas, and so is the text file that it writes.
    """
    found = other_spellings(values)
    for value in values:
        stem = value.removesuffix(".0")
        if _DIGITS.fullmatch(stem):
            other = stem if value != stem else f"{stem}.0"
            if other not in values:
                found[other] = value
    return found


def one_spelling(text: pa.Array) -> pa.Array:
    """Strings with `True` for `true` and `TRUE`, and `False` likewise."""
    found = pc.index_in(text, value_set=pa.array(list(SPELLINGS), text.type))
    if found.null_count == len(found):
        return text
    meant = pa.array(list(SPELLINGS.values()), text.type).take(found)
    return pc.coalesce(meant, text)


def packed_text(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Strings without nulls as one run of UTF-8 bytes, and where each value begins and ends.

    Returns:
        uint8 `(m,)`, and int64 `(n + 1,)` from 0 on.
    """
    _, offsets, data = values.cast(pa.large_string()).buffers()
    offsets = np.frombuffer(offsets, np.int64) if offsets else np.zeros(1, np.int64)
    offsets = offsets[values.offset : values.offset + len(values) + 1]
    data = np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)
    return data[offsets[0] : offsets[-1]], offsets - offsets[0]


class Marks:
    """What stands for a missing value of a table.

    Args:
        markers: a column's `missing`.
    """

    def __init__(self, markers: tuple[str | int, ...]) -> None:
        texts = [str(marker) for marker in markers]
        # A cell has lost its `.0` before it is looked up.
        whole = whole_spelling(pa.array(texts, pa.string())).to_pylist()
        self.texts = tuple(dict.fromkeys([MISSING_STRING, *texts, *whole]))
        # Of a column of integers a marker may have been given as text.
        digits = [int(text) for text in self.texts if _DIGITS.fullmatch(text)]
        self.integers = (MISSING_INT, *(n for n in digits if -(2**63) < n < 2**63))

    def in_text(self, text: pa.Array) -> np.ndarray:
        """Which strings stand for it: bool `(n,)`."""
        if len(self.texts) == 1:
            return pc.equal(text, MISSING_STRING).to_numpy(zero_copy_only=False)
        found = pc.is_in(text, value_set=pa.array(self.texts, text.type))
        return found.to_numpy(zero_copy_only=False)

    def in_integers(self, values: np.ndarray) -> np.ndarray:
        """Which int64 stand for it: bool `(n,)`."""
        if len(self.integers) == 1:
            return values == MISSING_INT
        return np.isin(values, np.array(self.integers, np.int64))


class Vocabulary:
    """Ids of the values of a fitted vocabulary: `FIRST_ID` plus the place in it.

    Args:
        values: Arrow array in the order of the ids, int64 or large_string; null where an id is
            free.
        missing: the texts and integers that stand for a missing value, beside the empty one.
        had_flags: whether it had but truth values before it grew, whose spellings mean the same
            as then.
    """

    def __init__(
        self, values: pa.Array, missing: tuple[str | int, ...] = (), had_flags: bool = False
    ) -> None:
        self.values, self.had_flags = values, had_flags
        self.missing = Marks(missing)
        self.is_int = pa.types.is_integer(values.type)
        self._places: dict[str, int] | None = None
        if self.is_int:
            self._index = pd.Index(self.known.to_numpy())
            # The first look-up builds the hash table, which threads must not do at once.
            self._index.get_indexer(self.known[:1].to_numpy())

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Pickles of older versions know of no values that stand for a missing one, and hold
        # look-ups without other spellings.
        kept = {name: value for name, value in state.items() if name not in ("_text", "_ids")}
        self.__dict__ |= {"missing": Marks(()), "had_flags": False, **kept, "_places": None}

    @property
    def dtype(self) -> str:
        """`"int"` or `"string"`, of its values."""
        return "int" if self.is_int else "string"

    @cached_property
    def known(self) -> pa.Array:
        """The values that have an id, in the order of these."""
        return self.values.drop_null()

    @cached_property
    def ids(self) -> np.ndarray:
        """The ids of `known`, int32, ascending."""
        present = self.values.is_valid().to_numpy(zero_copy_only=False)
        return (FIRST_ID + np.flatnonzero(present)).astype(np.int32)

    @cached_property
    def aliases(self) -> dict[str, int]:
        """Other spellings of values, and their ids; see `other_spellings`."""
        known, numbers = self.known, self.ids
        if not self.is_int and self.had_flags:
            flags = pc.is_in(known, value_set=pa.array(list(SPELLINGS), known.type))
            known, numbers = known.filter(flags), numbers[flags.to_numpy(zero_copy_only=False)]
        if self.is_int or len(known) > len(SPELLINGS):
            return {}
        ids = dict(zip(known.to_pylist(), numbers.tolist(), strict=True))
        return {text: ids[value] for text, value in other_spellings(list(ids)).items()}

    @cached_property
    def spells_whole(self) -> bool:
        """Whether `12.0` is looked up as `12`.

        Not where it could not be found, nor where older versions, or a `Pretrained`, have a value
        that is written so.
        """
        if self.is_int:
            return True
        whole = self.known.filter(pc.match_substring_regex(self.known, SPELLED_WHOLE))
        marks = any(_DIGITS.fullmatch(text) for text in self.missing.texts)
        return whole_spelling(whole) is whole and (len(whole) > 0 or marks)

    def spelled(self, text: pa.Array) -> pa.Array:
        """Strings as they are looked up."""
        return whole_spelling(text) if self.spells_whole else text

    @cached_property
    def _text(self):
        text = (decimals(self.known) if self.is_int else self.known).cast(pa.large_string())
        return pa.concat_arrays([text, pa.array(list(self.aliases), pa.large_string())])

    @cached_property
    def _ids(self):
        """The id of each place in `_text`; the last is for what is not there."""
        others = [*self.aliases.values(), UNKNOWN_ID]
        return np.concatenate([self.ids, np.array(others, np.int32)])

    @property
    def is_large(self) -> bool:
        """Whether values are looked up by bisection, in tables and in a served graph."""
        return len(self.known) > LARGE

    def keyed(self, text: bool) -> tuple[pa.Array, np.ndarray]:
        """All that has an id, other spellings too, as strings or as integers; and the ids."""
        return (self._text, self._ids[:-1]) if text else (self.known, self.ids)

    def bisected(self, text: bool) -> tuple[np.ndarray, np.ndarray] | None:
        """`keyed` as sorted int64, of text its fingerprints, and the place of each.

        None if two texts have the same fingerprint.
        """
        if text:
            return self._sorted_text
        keys = self.known.to_numpy()
        order = np.argsort(keys)
        return keys[order], order

    @cached_property
    def _sorted_text(self) -> tuple[np.ndarray, np.ndarray] | None:
        keys = fingerprints(self._text)
        order = np.argsort(keys)
        keys = keys[order]
        return None if np.any(keys[1:] == keys[:-1]) else (keys, order)

    @property
    def size(self) -> int:
        """Rows of the embedding table."""
        return FIRST_ID + len(self.values)

    def int_ids(self, values: np.ndarray) -> np.ndarray:
        """Ids of int64 `(n,)`: int32 `(n,)`."""
        # What is not there has the place -1, the last.
        ids = self._ids[self._index.get_indexer(values)]
        ids[self.missing.in_integers(values)] = MISSING_ID
        return ids

    def takes_repeats(self, num_values: int) -> bool:
        """Whether this many strings are best looked up as they are, with their repeats.

        If not, the different ones should be looked up, once each. Arrow's look-up builds
        a hash table of the vocabulary at each call, so it pays while that is small.
        """
        return len(self._text) <= 2 * num_values

    def text_ids(self, text: pa.Array) -> np.ndarray:
        """Ids of n strings, or of the decimal forms of integers: int32 `(n,)`."""
        text = self.spelled(text)
        if self.takes_repeats(len(text)):
            found = pc.index_in(text.cast(pa.large_string()), value_set=self._text)
            places = found.fill_null(len(self._text)).to_numpy(zero_copy_only=False)
            ids = self._ids[places]
        elif self.is_large and (found := self.bisected(text=True)) is not None:
            keys, order = found
            places = order[np.searchsorted(keys, fingerprints(text)).clip(max=len(keys) - 1)]
            same = pc.equal(self._text.take(pa.array(places)), text.cast(pa.large_string()))
            ids = np.where(same.to_numpy(zero_copy_only=False), self._ids[places], UNKNOWN_ID)
        else:
            if self._places is None:
                self._places = dict(zip(self._text.to_pylist(), self._ids.tolist(), strict=False))
            find = self._places.get
            ids = np.array([find(value, UNKNOWN_ID) for value in text.to_pylist()], np.int32)
        ids[self.missing.in_text(text)] = MISSING_ID
        return ids


class HashTable:
    """Ids of values that are hashed: `FIRST_ID` plus the bucket of the value's text.

    The bucket is that of `tf.strings.to_hash_bucket_strong(text, num_buckets, HASH_KEY)`.

    Args:
        num_buckets: int >= 1.
        missing: see `Vocabulary`.
        one_spelling: whether `true` and `TRUE` are hashed as `True`, and false likewise.
    """

    #: See `Vocabulary`.
    spells_whole = True

    def __init__(
        self, num_buckets: int, missing: tuple[str | int, ...] = (), one_spelling: bool = True
    ) -> None:
        self.num_buckets = num_buckets
        self.missing = Marks(missing)
        self.one_spelling = one_spelling

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Pickles of older versions hash each spelling as it is.
        self.__dict__ |= {"missing": Marks(()), "one_spelling": False, **state}

    @property
    def size(self) -> int:
        """Rows of the embedding table."""
        return FIRST_ID + self.num_buckets

    def takes_repeats(self, num_values: int) -> bool:
        """See `Vocabulary`: hashing is slow, so each distinct string is hashed once."""
        return False

    def int_ids(self, values: np.ndarray) -> np.ndarray:
        """Ids of int64 `(n,)`: int32 `(n,)`."""
        distinct, places = np.unique(values, return_inverse=True)
        ids = self.text_ids(decimals(distinct))
        ids[self.missing.in_integers(distinct)] = MISSING_ID
        return ids[places]

    def text_ids(self, text: pa.Array) -> np.ndarray:
        """Ids of n strings: int32 `(n,)`."""
        text = whole_spelling(text)
        missing = self.missing.in_text(text)
        if self.one_spelling:
            text = one_spelling(text)
        ids = (hash_buckets(text, self.num_buckets) + FIRST_ID).astype(np.int32)
        ids[missing] = MISSING_ID
        return ids
