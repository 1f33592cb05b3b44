"""How long the cells of a list column are, and at how many positions to cut them."""

from __future__ import annotations

from collections import Counter

import numpy as np

# Cells up to this length are never cut: a row of so many ids costs 256 bytes.
_FREE = 64
# Of cells that exceed a length so many may be cut,
_SHARE = 0.001
# and rows padded to a length take at most so many times the room of their values.
_PADDING = 16


class Lengths:
    """How many cells of each length there are. Exact, and the same in any order and merge.

    Args:
        counts: dict of length to number of cells.
    """

    def __init__(self, counts: dict[int, int] | None = None) -> None:
        self.counts = Counter(counts or {})

    def add(self, lengths: np.ndarray, repeats: np.ndarray | None = None) -> None:
        """Counts cells by their lengths, int64 `(n,)`, each as often as `repeats` says."""
        if len(lengths):
            distinct, places = np.unique(lengths, return_inverse=True)
            seen = np.bincount(places, repeats).astype(int)
            self.counts.update(dict(zip(distinct.tolist(), seen.tolist(), strict=True)))
            self.counts = +self.counts

    def merge(self, other: Lengths) -> Lengths:
        """Those of both parts."""
        return Lengths(self.counts + other.counts)

    @property
    def longest(self) -> int:
        """The most positions in a cell."""
        return max(self.counts, default=0)

    def bound(self) -> int:
        """The positions that a column has whose schema does not say.

        The longest cell's, unless one is longer than 64, and far longer than most: then as many
        as 999 of 1,000 cells have, but at most 16 times the mean, and at least 64. A bound that
        would save less than half is not worth a cut cell.
        """
        longest = self.longest
        if longest <= _FREE:
            return longest
        lengths = np.array(sorted(self.counts))
        counts = np.array([self.counts[length] for length in lengths.tolist()])
        total = counts.sum()
        longer = total - np.cumsum(counts)
        enough = int(lengths[np.argmax(longer <= _SHARE * total)])
        mean = float((lengths * counts).sum() / total)
        bound = max(_FREE, min(enough, int(np.ceil(_PADDING * mean))))
        return longest if 2 * bound >= longest else bound

    def cut_by(self, length: int) -> int:
        """How many cells are longer than a length."""
        return sum(count for size, count in self.counts.items() if size > length)
