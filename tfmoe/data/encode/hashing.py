"""SipHash-2-4 of many strings at once, equal to TensorFlow's strong string hash.

`hash_buckets(text, n)` is `tf.strings.to_hash_bucket_strong(text, n, key=HASH_KEY)`,
without TensorFlow. Source: Aumasson and Bernstein, 2012, https://doi.org/10.1007/978-3-642-34931-7_28.
"""

import numpy as np
import pyarrow as pa

# The key enters saved models: a value's bucket depends on it, so it is fixed for good.
HASH_KEY = (0x7466_6D6F_6500_0001, 0x0F1E_2D3C_4B5A_6978)


# What the strings of a large vocabulary are told apart by: the largest number of buckets that
# TensorFlow's operation takes.
NUM_FINGERPRINTS = 2**63 - 1


def fingerprints(text: pa.Array) -> np.ndarray:
    """63 bits of each string's hash: int64 `(n,)`, of which equal ones are hardly ever two."""
    return hash_buckets(text, NUM_FINGERPRINTS)


def hash_buckets(text: pa.Array, num_buckets: int) -> np.ndarray:
    """Bucket of each string.

    Args:
        text: `pa.StringArray` of n strings, without nulls.
        num_buckets: int >= 1.

    Returns:
        int64 `(n,)` in `[0, num_buckets)`.
    """
    text = text.cast(pa.large_binary())
    _, offsets, data = text.buffers()
    offsets = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
    data = np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)
    starts, sizes = offsets[:-1], np.diff(offsets)
    # The last word carries the length in its top byte, so there is always one more.
    num_words = sizes // 8 + 1
    hashed = np.empty(len(text), np.uint64)
    for count in np.unique(num_words):
        rows = np.flatnonzero(num_words == count)
        hashed[rows] = _siphash(_words(data, starts[rows], sizes[rows], count))
    return (hashed % np.uint64(num_buckets)).astype(np.int64)


def _words(data, starts, sizes, count):
    """The strings as little-endian words: uint64 `(count, n)`."""
    places = np.arange(8 * count)
    inside = places < sizes[:, None]
    padded = np.zeros(inside.shape, np.uint8)
    padded[inside] = data[(starts[:, None] + places)[inside]]
    padded[:, -1] = sizes % 256
    return np.ascontiguousarray(padded.view("<u8").T)


def _siphash(words):
    key0, key1 = (np.uint64(part) for part in HASH_KEY)
    zero = np.zeros(words.shape[1], np.uint64)
    state = [
        zero + (key0 ^ np.uint64(0x736F6D6570736575)),
        zero + (key1 ^ np.uint64(0x646F72616E646F6D)),
        zero + (key0 ^ np.uint64(0x6C7967656E657261)),
        zero + (key1 ^ np.uint64(0x7465646279746573)),
    ]
    for word in words:
        state[3] ^= word
        _rounds(state, 2)
        state[0] ^= word
    state[2] ^= np.uint64(0xFF)
    _rounds(state, 4)
    return state[0] ^ state[1] ^ state[2] ^ state[3]


def _rounds(state, count):
    a, b, c, d = state
    for _ in range(count):
        a += b
        c += d
        b = _rotate(b, 13) ^ a
        d = _rotate(d, 16) ^ c
        a = _rotate(a, 32)
        c += b
        a += d
        b = _rotate(b, 17) ^ c
        d = _rotate(d, 21) ^ a
        c = _rotate(c, 32)
    state[:] = a, b, c, d


def _rotate(word, bits):
    return (word << np.uint64(bits)) | (word >> np.uint64(64 - bits))
