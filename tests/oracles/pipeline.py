"""What the Preprocessor must do, one row at a time in plain Python.

Rows are dicts of Python values. Shares no code with the package; slow on purpose.
"""

import math
import re
import struct

KEY = (0x74666D6F65000001, 0x0F1E2D3C4B5A6978)


def is_missing(value):
    return value is None or (isinstance(value, float) and math.isnan(value))


def text(value):
    """What is compared: an integer's digits, also of one that is written with `.0` or spaces."""
    whole = re.fullmatch(r" *(-?[1-9][0-9]*|0)(\.0)? *", str(value))
    return whole[1] if whole else str(value)


def siphash(data):
    """SipHash-2-4 of bytes, from the paper's description."""
    word = 2**64 - 1

    def rotate(x, b):
        return ((x << b) | (x >> (64 - b))) & word

    def rounds(v, n):
        a, b, c, d = v
        for _ in range(n):
            a = (a + b) & word
            b = rotate(b, 13) ^ a
            a = rotate(a, 32)
            c = (c + d) & word
            d = rotate(d, 16) ^ c
            a = (a + d) & word
            d = rotate(d, 21) ^ a
            c = (c + b) & word
            b = rotate(b, 17) ^ c
            c = rotate(c, 32)
        return [a, b, c, d]

    v = [
        KEY[0] ^ 0x736F6D6570736575,
        KEY[1] ^ 0x646F72616E646F6D,
        KEY[0] ^ 0x6C7967656E657261,
        KEY[1] ^ 0x7465646279746573,
    ]
    whole = len(data) // 8 * 8
    tail = data[whole:] + bytes(7 - len(data) % 8) + bytes([len(data) % 256])
    for start in range(0, whole + 8, 8):
        piece = (data[:whole] + tail)[start : start + 8]
        (m,) = struct.unpack("<Q", piece)
        v[3] ^= m
        v = rounds(v, 2)
        v[0] ^= m
    v[2] ^= 0xFF
    v = rounds(v, 4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


class Table:
    """Ids of one table: fitted (`values`) or hashed (`buckets`)."""

    def __init__(self, dtype, counts=None, min_count=1, max_size=None, buckets=None):
        self.dtype = dtype
        self.buckets = buckets
        self.ids = {}
        if buckets is None:
            kept = [(value, count) for value, count in counts.items() if count >= min_count]
            order = (lambda v: v) if dtype == "int" else (lambda v: v.encode())
            kept.sort(key=lambda pair: (-pair[1], order(pair[0])))
            self.values = [value for value, _ in kept[:max_size]]
            self.ids = {text(value): 3 + place for place, value in enumerate(self.values)}

    def missing(self, value, piece=False):
        if is_missing(value):
            return True
        if self.dtype == "int" and not piece:
            return value == -(2**63)
        return text(value) == ""

    def id(self, value, piece=False):
        if self.missing(value, piece):
            return 1
        if isinstance(value, float):
            value = int(value)
        if self.buckets:
            return 3 + siphash(text(value).encode()) % self.buckets
        return self.ids.get(text(value), 2)


def cells(value, separator, strip=False):
    """A list cell's elements, and whether they are pieces of a string."""
    if is_missing(value):
        return [], False
    if isinstance(value, str):
        pieces = value.split(separator)
        return [piece.strip(" \t\n\v\f\r") if strip else piece for piece in pieces], True
    return list(value), False


def list_ids(table, value, length, separator=None, keeps_last=False, strip=False):
    elements, pieces = cells(value, separator, strip)
    elements = list(elements)
    while elements and table.missing(elements[-1], piece=pieces):
        elements.pop()
    elements = elements[-length:] if keeps_last else elements[:length]
    ids = []
    for element in elements:
        found = table.id(element, piece=pieces)
        ids.append(0 if found == 1 else found)
    ids += [0] * (length - len(ids))
    if not any(ids):
        ids[0] = 1
    return ids


def count(values, counts, dtype, pieces=False):
    for value in values:
        if is_missing(value) or value == "":
            continue
        if dtype == "int" and pieces:
            value = text(value)
            try:
                number = int(value)
            except ValueError:
                continue
            if str(number) != value or not -(2**63) < number < 2**63:
                continue
            value = number
        if dtype == "int":
            value = int(value)
            if value == -(2**63):
                continue
        else:
            value = text(value)
        counts[value] = counts.get(value, 0) + 1


def moments(values):
    """Mean and 1 / population standard deviation of the finite values."""
    seen = [v for v in values if not is_missing(v) and math.isfinite(v)]
    if not seen:
        return 0.0, 1.0
    mean = math.fsum(seen) / len(seen)
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in seen) / len(seen))
    return mean, 1.0 / std if std > 1e-12 * abs(mean) else 1.0


def log(value):
    return math.copysign(math.log1p(abs(value)), value)


def number(value, mean, scale, transform, fill):
    if is_missing(value) or not math.isfinite(value):
        if fill is None:
            return 0.0
        value = fill
    if transform == "none":
        return min(max(value, -3e38), 3e38)
    if transform == "log":
        value = log(value)
    return min(max((value - mean) * scale, -100.0), 100.0)


def bucket(value, boundaries, fill):
    if is_missing(value) or not math.isfinite(value):
        if fill is None:
            return 1
        value = fill
    return 3 + sum(value >= boundary for boundary in boundaries)
