"""Moments and quantiles of columns that are too long to hold: one pass, mergeable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import datasketches
import numpy as np

# Larger numbers count as this one: their squares would overflow.
_LARGEST = 1e100

# Error of a quantile's rank, as a share of the rows, with 99 % confidence: see
# `RANK_ERROR`. A sketch takes about 0.1 MB; up to 4096 rows it is exact.
_SKETCH_SIZE = 4096
RANK_ERROR = datasketches.kll_doubles_sketch.get_normalized_rank_error(_SKETCH_SIZE, False)


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


class Quantiles:
    """A KLL sketch: quantiles whose rank is right up to `RANK_ERROR` of the rows.

    The library draws random bits, so that two fits of the same data may differ by as
    much. Source: Karnin, Lang and Liberty, 2016, https://arxiv.org/abs/1603.05346.
    """

    def __init__(self, sketch: Any = None) -> None:
        self._sketch = sketch or datasketches.kll_doubles_sketch(_SKETCH_SIZE)

    def add(self, values: np.ndarray) -> None:
        """Counts float64 `(n,)`; NaN and infinite values are left out."""
        self._sketch.update(np.ascontiguousarray(values[np.isfinite(values)]))

    def merge(self, other: Quantiles) -> Quantiles:
        """The sketch of both parts' numbers."""
        merged = Quantiles.from_bytes(self.to_bytes())
        merged._sketch.merge(other._sketch)
        return merged

    def boundaries(self, num_buckets: int) -> np.ndarray:
        """The distinct inner `num_buckets`-quantiles, ascending, float64."""
        if self._sketch.is_empty():
            return np.zeros(0)
        ranks = np.arange(1, num_buckets) / num_buckets
        return np.unique(self._sketch.get_quantiles(ranks))

    def to_bytes(self) -> bytes:
        """The sketch in the library's own form."""
        return self._sketch.serialize()

    @classmethod
    def from_bytes(cls, given: bytes) -> Quantiles:
        """The sketch that `to_bytes` gave."""
        return cls(datasketches.kll_doubles_sketch.deserialize(given))
