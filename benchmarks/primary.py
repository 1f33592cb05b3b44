"""Tests that a study named before its first run, judged together."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.verdicts import Difference, Finding, Row, against, p_text, pick


@dataclass(frozen=True)
class Primary:
    """One of the tests that a study named before its first run, by Holm's correction of them all.

    What compares them is a row `A - B`, with bounds of the difference. The claim is certain below
    0.05, over all tests together, where the mean difference and the median agree, for one run that
    failed moves the mean but not the ranks that p is of. A test that was not run counts as one with
    p = 1, which makes the others no more certain than they would be with it.

    Args:
        number: int, which of the tests.
        family: all of them, `Difference`s.
    """

    number: int
    family: Sequence[Difference]

    def find(self, rows: Sequence[Row]) -> Finding:
        test, row = self.family[self.number], _row(self.family[self.number], rows)
        if row is None:
            return Finding(test.case, "not run yet", 0)
        own, with_others = (values[self.number] for values in self._p_values(rows))
        sign = -1 if test.less else 1
        low, high = sorted(sign * row[f"{test.key}_{end}"] for end in ("low", "high"))
        names = (test.ours, test.rival)
        pair = [pick(rows, {"name": name, **test.where})[test.key] for name in names]
        effect, median = (sign * row[key] for key in (test.key, f"{test.key}_median"))
        certain = with_others < 0.05 and effect * median > 0
        return Finding(
            test.case,
            against(pair),
            (1 if effect > 0 else -1) if certain else 0,
            f"{effect:.2g}",
            p=f"{p_text(own)}, corrected {p_text(with_others)}",
            spread=f"95 % from {low:.2g} to {high:.2g}",
        )

    def _p_values(self, rows: Sequence[Row]) -> tuple[list[float], list[float]]:
        """Those of all tests, as they are and corrected."""
        found = [(test, _row(test, rows)) for test in self.family]
        own = [1.0 if row is None else row[f"{test.key}_p"] for test, row in found]
        return own, corrected(own)


def _row(test: Difference, rows: Sequence[Row]) -> Row | None:
    """The row of a test, or None where it was not run."""
    where = {"name": f"{test.ours} - {test.rival}", **test.where}
    return next((row for row in rows if row.items() >= where.items()), None)


def corrected(values: Sequence[float]) -> list[float]:
    """Holm's corrected p of tests that were made together, in their order.

    The least is multiplied by their number, the next by one less, and so on; none is less
    than one before it.

    Source: Holm, 1979, https://www.jstor.org/stable/4615733.
    """
    found, largest, number = [0.0] * len(values), 0.0, len(values)
    for rank, place in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        largest = max(largest, min(1.0, (number - rank) * values[place]))
        found[place] = largest
    return found
