"""Moments and quantiles of columns that are too long to hold: one pass, mergeable."""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass, field

import numpy as np

# Larger numbers count as this one: their squares would overflow.
_LARGEST = 1e100

# Numbers in each of a sketch's buffers, at most; it has one for each doubling of the rows.
_BUFFER = 8192

#: Error of a quantile's rank, as a share of the rows, with 99 % confidence. Halving a full buffer
#: at height h moves a rank by at most 2**h, up or down with equal chances, and happens at most
#: n / (2**h _BUFFER) times; so the variance over all heights is at most 2 (n / _BUFFER)**2.
RANK_ERROR = 2.576 * 2**0.5 / _BUFFER

# How the bytes of a sketch begin.
_MARK = b"tfmoe quantiles 1 "


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of the numbers seen.

    Merged by Chan's rule, which does not cancel: Chan, Golub and LeVeque, 1983,
    https://doi.org/10.1080/00031305.1983.10483115.
    """

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Moments of float64 `(n,)`; NaN and infinite values are left out."""
        values = np.clip(values[np.isfinite(values)], -_LARGEST, _LARGEST)
        if not len(values):
            return cls()
        mean = float(values.mean())
        return cls(len(values), mean, float(np.square(values - mean).sum()))

    def merge(self, other: Moments) -> Moments:
        """The moments of both parts' numbers."""
        count = self.count + other.count
        if not count:
            return self
        apart = other.mean - self.mean
        return Moments(
            count,
            self.mean + apart * other.count / count,
            self.m2 + other.m2 + apart**2 * self.count * other.count / count,
        )

    @property
    def scale(self) -> float:
        """1 / population standard deviation; 1 if that is 0 up to rounding."""
        std = (self.m2 / self.count) ** 0.5 if self.count else 0.0
        return 1.0 / std if std > 1e-12 * abs(self.mean) else 1.0


@dataclass(frozen=True)
class VectorMoments:
    """`Moments` of each element of vectors, as arrays `(k,)`; k is 0 while no vector was seen."""

    count: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    m2: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def none(cls, size: int) -> VectorMoments:
        """Those of no vectors of a size."""
        return cls(np.zeros(size, np.int64), np.zeros(size), np.zeros(size))

    @classmethod
    def of(cls, vectors: np.ndarray) -> VectorMoments:
        """Moments of float64 `(n, k)`; NaN and infinite values are left out."""
        present = np.isfinite(vectors)
        values = np.where(present, np.clip(vectors, -_LARGEST, _LARGEST), 0.0)
        count = present.sum(axis=0)
        mean = values.sum(axis=0) / np.maximum(count, 1)
        return cls(count, mean, np.square(np.where(present, values - mean, 0.0)).sum(axis=0))

    def merge(self, other: VectorMoments) -> VectorMoments:
        """The moments of both parts' vectors.

        Raises:
            ValueError: if those of one are longer than those of the other.
        """
        if not len(self.count) or not len(other.count):
            return self if len(self.count) else other
        if len(self.count) != len(other.count):
            raise ValueError(
                f"Vectors are all equally long. Received parts with {len(self.count)} and "
                f"{len(other.count)} numbers each."
            )
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        apart = other.mean - self.mean
        m2 = self.m2 + other.m2 + apart**2 * self.count * share
        return VectorMoments(count, self.mean + apart * share, m2)

    @property
    def scale(self) -> np.ndarray:
        """1 / population standard deviation; 1 where that is 0 up to rounding."""
        std = np.sqrt(self.m2 / np.maximum(self.count, 1))
        known = std > 1e-12 * np.abs(self.mean)
        return np.where(known, 1 / np.where(known, std, 1), 1.0)


class Quantiles:
    """A sketch of numbers: quantiles whose rank is right up to `RANK_ERROR` of the rows.

    A buffer takes the numbers as they are. When it is full every second one of its sorted
    numbers moves to the buffer above, where each counts double, and so on. Whether the odd ones
    or the even ones move is drawn from the numbers themselves, so that the same rows in the same
    order have the same quantiles, in any process, and merging the same parts too. Up to `_BUFFER`
    numbers, in one part, quantiles are exact.

    Source: Karnin, Lang and Liberty, 2016, https://arxiv.org/abs/1603.05346, with buffers that
    are all of one size, and draws that repeat.
    """

    def __init__(self) -> None:
        self._count = 0
        #: Buffers; a number in the one at place h stands for 2**h numbers.
        self._levels: list[np.ndarray] = [np.zeros(0)]

    def add(self, values: np.ndarray) -> None:
        """Counts float64 `(n,)`; NaN and infinite values are left out."""
        values = values[np.isfinite(values)].astype("float64")
        while len(values):
            if len(self._levels[0]) == _BUFFER:
                self._make_room()
            room = _BUFFER - len(self._levels[0])
            self._levels[0] = np.concatenate([self._levels[0], values[:room]])
            self._count += len(values[:room])
            values = values[room:]

    def merge(self, other: Quantiles) -> Quantiles:
        """The sketch of both parts' numbers."""
        merged = Quantiles()
        merged._count = self._count + other._count
        pairs = itertools.zip_longest(self._levels, other._levels, fillvalue=np.zeros(0))
        merged._levels = [np.concatenate(pair) for pair in pairs]
        merged._make_room()
        return merged

    def _make_room(self) -> None:
        """Moves half of each buffer that is full to the one above."""
        for level in itertools.count():
            if level == len(self._levels):
                return
            numbers = self._levels[level]
            if len(numbers) < _BUFFER:
                continue
            numbers = np.sort(numbers)
            # An odd one stays.
            numbers, self._levels[level] = np.split(numbers, [len(numbers) // 2 * 2])
            drawn = zlib.crc32(numbers.tobytes(), zlib.crc32(b"%d %d" % (level, self._count)))
            if level + 1 == len(self._levels):
                self._levels.append(np.zeros(0))
            above = numbers[drawn >> 16 & 1 :: 2]
            self._levels[level + 1] = np.concatenate([self._levels[level + 1], above])

    def boundaries(self, num_buckets: int) -> np.ndarray:
        """The distinct inner `num_buckets`-quantiles, ascending, float64."""
        if not self._count:
            return np.zeros(0)
        numbers = np.concatenate(self._levels)
        counts = np.repeat(2 ** np.arange(len(self._levels)), list(map(len, self._levels)))
        order = np.argsort(numbers, kind="stable")
        up_to = np.cumsum(counts[order])
        ranks = np.arange(1, num_buckets) / num_buckets * up_to[-1]
        places = np.searchsorted(up_to, np.floor(ranks), side="right")
        return np.unique(numbers[order][np.minimum(places, len(numbers) - 1)])

    def to_bytes(self) -> bytes:
        """The sketch as bytes, of which `from_bytes` makes it again."""
        head = np.array([self._count, *map(len, self._levels)], "<i8")
        return b"".join([_MARK, bytes([len(self._levels)]), head.tobytes()]) + b"".join(
            level.astype("<f8").tobytes() for level in self._levels
        )

    @classmethod
    def from_bytes(cls, given: bytes) -> Quantiles:
        """The sketch that `to_bytes` gave, or that of an earlier version, by datasketches.

        Raises:
            ValueError: if it is neither.
        """
        if not given.startswith(_MARK):
            return _from_datasketches(given)
        start, num = len(_MARK) + 1, (given[len(_MARK) :] or b"\0")[0]
        numbers = start + 8 * (num + 1)
        head = np.frombuffer(given[start:numbers], "<i8") if len(given) >= numbers else np.zeros(0)
        # The file may come from a stranger.
        if not num or len(head) != num + 1 or len(given) != numbers + 8 * sum(map(int, head[1:])):
            raise _no_sketch(given)
        sketch = cls()
        sketch._count = int(head[0])
        values = np.frombuffer(given[numbers:], "<f8").astype("float64")
        sketch._levels = np.split(values, np.cumsum(head[1:-1]))
        return sketch


def _from_datasketches(given: bytes) -> Quantiles:
    """The sketch of a file that was written with the library datasketches."""
    import datasketches

    try:
        theirs = datasketches.kll_doubles_sketch.deserialize(given)
    except (LookupError, RuntimeError, ValueError) as error:
        raise _no_sketch(given) from error
    sketch = Quantiles()
    sketch._count = theirs.n
    by_weight: dict[int, list[float]] = {}
    for number, weight in theirs:
        by_weight.setdefault(int(weight).bit_length() - 1, []).append(number)
    sketch._levels = [
        np.array(by_weight.get(h, []), "float64") for h in range(max(by_weight, default=0) + 1)
    ]
    sketch._make_room()
    return sketch


def _no_sketch(given: bytes) -> ValueError:
    return ValueError(
        "A saved Preprocessor holds sketches of quantiles that `save` wrote. Received "
        f"{len(given)} bytes that are none. Fit and save again."
    )
