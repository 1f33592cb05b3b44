"""Two parts of a source's rows, for training and for validation, drawn by a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Part:
    """One of the two parts: a row's part follows from the seed and the row's place alone.

    So files can be read anew in each epoch and by several workers, in any order.

    Args:
        share: float in (0, 1), of the rows that are held out.
        seed: int >= 0.
        held_out: bool; whether this is the part held out, or the rest.
    """

    share: float
    seed: int
    held_out: bool

    def mask(self, fragment: int, start: int, num_rows: int) -> np.ndarray:
        """Which rows are of this part: bool `(num_rows,)`.

        Args:
            fragment: int, the number of the fragment.
            start: int, the place of the first row within it.
            num_rows: int.
        """
        rows = np.arange(start, start + num_rows, dtype=np.uint64)
        stream = np.random.SeedSequence([self.seed, fragment]).generate_state(1, np.uint64)[0]
        drawn = _mixed(rows * np.uint64(0x9E3779B97F4A7C15) + stream) / 2.0**64
        return (drawn < self.share) == self.held_out


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: Steele, Lea and Flood, 2014, doi 10.1145/2714064.2660195."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
