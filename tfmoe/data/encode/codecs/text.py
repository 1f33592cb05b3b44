r"""Free text.

With `lower` each character below U+2000 becomes the one that is its small letter, if that is one.
Then runs of separators, see `Text`, are a space, the first `max_length` words are kept, and their
runs of 1 to `ngrams` words, joined by a space, are hashed: those of one word first. Ids are padded
with `PADDING_ID`; a text without words has `MISSING_ID` first.
"""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa

from tfmoe.data.arrow import to_text
from tfmoe.data.encode.codecs.base import Codec, single_values
from tfmoe.data.encode.hashing import HASH_KEY, hash_buckets
from tfmoe.schema.columns import FIRST_ID, MISSING_ID, PADDING_ID

# The same in Python's and in RE2's syntax but for how code points are written. No class of
# Unicode's, for which version both know is not the same.
_RANGES = (
    *((0x00, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0xA9), (0xAB, 0xB4), (0xB6, 0xB9)),
    *((0xBB, 0xBF), (0xD7, 0xD7), (0xF7, 0xF7), (0x2000, 0x206F), (0x2E00, 0x2E7F)),
    *((0x3000, 0x303F), (0xFF00, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF65)),
)
_RE2 = "[{}]+".format("".join(rf"\x{{{a:x}}}-\x{{{b:x}}}" for a, b in _RANGES))
_PYTHON = re.compile("[{}]+".format("".join(rf"\u{a:04x}-\u{b:04x}" for a, b in _RANGES)))

# A capital letter whose small form is several characters stays.
_SMALL = [ord(low) if len(low := chr(point).lower()) == 1 else point for point in range(0x2000)]
_TO_SMALL = dict(enumerate(_SMALL))


class TextCodec(Codec):
    """See `Codec`."""

    def kinds(self, dtypes):
        return {self.column.raw_name: "text"}

    def encode(self, chunk, fitted):
        column = self.column
        text = to_text(chunk[column.raw_name], column.raw_name)
        if not pa.types.is_dictionary(text.type):
            text = text.dictionary_encode()
        cells = text.dictionary.to_pylist()
        # The last place is for null.
        grams = [self._grams(cell or "") for cell in [*cells, None]]
        lengths = np.array([len(one) for one in grams])
        flat = pa.array([gram for one in grams for gram in one], pa.large_string())
        distinct = flat.dictionary_encode()
        buckets = hash_buckets(distinct.dictionary, column.hash_buckets)
        ids = np.full((len(grams), column.width), PADDING_ID, np.int32)
        ids[np.arange(column.width) < lengths[:, None]] = (
            FIRST_ID + buckets[distinct.indices.to_numpy()]
        )
        ids[lengths == 0, 0] = MISSING_ID
        places = text.indices.fill_null(len(cells)).to_numpy(zero_copy_only=False)
        return {column.name: ids[places]}

    def _grams(self, text):
        if self.column.lower:
            text = text.translate(_TO_SMALL)
        words = [word for word in _PYTHON.split(text) if word][: self.column.max_length]
        return [
            " ".join(words[start : start + count])
            for count in range(1, self.column.ngrams + 1)
            for start in range(len(words) - count + 1)
        ]

    def signature(self, fitted):
        return {self.column.name: ("string", 1)}

    def request(self, df, fitted):
        raw = self.column.raw_name
        return {self.column.name: single_values(df[raw], raw, text=True)}

    def graph(self, raw, encoder):
        import tensorflow as tf

        column, text = self.column, raw[self.column.name]
        if column.lower:
            points = tf.strings.unicode_decode(text, "UTF-8")
            flat = points.flat_values
            known = tf.minimum(flat, len(_SMALL) - 1)
            small = tf.gather(tf.constant(_SMALL, tf.int32), known)
            flat = tf.where(flat == known, small, flat)
            text = tf.strings.unicode_encode(points.with_flat_values(flat), "UTF-8")
        words = tf.strings.split(tf.strings.regex_replace(text, _RE2, " "))
        words = words[:, : column.max_length]
        counts = range(1, column.ngrams + 1)
        grams = tf.concat([tf.strings.ngrams(words, n) for n in counts], axis=1)
        buckets = tf.strings.to_hash_bucket_strong(
            grams.flat_values, column.hash_buckets, key=HASH_KEY
        )
        ids = grams.with_flat_values(tf.cast(FIRST_ID + buckets, tf.int32))
        ids = ids.to_tensor(PADDING_ID, shape=(None, column.width))
        empty = tf.reduce_all(ids == PADDING_ID, axis=1, keepdims=True)
        first = tf.one_hot(0, column.width, MISSING_ID, PADDING_ID, dtype=tf.int32)[None]
        return {column.name: tf.where(empty, first, ids)}

    def sample(self, fitted, num_rows, generator):
        words = [
            "The",
            "the",
            "\u00c4rger",
            "\u00e4rger",
            "\u4f60\u597d",
            "\U0001f600",
            "42",
            "\u0130x",
            "a",
        ]
        marks = [" ", "  ", ", ", "-", "\u2014", "\u3000", "\n", "_", "'", "\u00b7"]
        cells: list[str | None] = []
        for row in range(num_rows):
            count = generator.integers(1, self.column.max_length + 3)
            parts = zip(generator.choice(words, count), generator.choice(marks, count), strict=True)
            cells.append("".join(word + mark for word, mark in parts))
            if row >= num_rows // 2 and generator.random() < 0.3:
                cells[-1] = [None, "", " -- "][generator.integers(3)]
        return cells

    def typical(self, fitted, row):
        return ("some words", "a few more words", "the last ones")[row % 3]
