"""What saved rows say of a claim: kinds of evidence, each of which finds its rows and judges them.

A verdict is one of three for every case: 1, the claim holds; -1, the contrary does; 0, neither is
certain. What is certain depends on the evidence, see each `find`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from scipy.stats import fisher_exact

Row = Mapping[str, Any]
Where = Mapping[str, Any]
WORDS = {1: "holds", -1: "does not hold", 0: "not settled"}
# Ratios without quartiles are certain if they are this far from 1.
MARGIN = 0.05


@dataclass(frozen=True)
class Finding:
    """What one case came to, as text, and its verdict: 1, -1 or 0.

    How certain it is say `effect` and p, or `spread`: the quartiles of a ratio, or that there was
    one run.
    """

    case: str
    ours: str
    verdict: int
    effect: str = ""
    error: str = ""
    p: str = ""
    spread: str = ""
    published: str = ""

    @property
    def certainty(self) -> str:
        effect = f"{self.effect} ± {self.error}" if self.error else self.effect
        return ", ".join(filter(None, (effect, self.p, self.spread)))


class Evidence(Protocol):
    """A case of a claim, that knows where in a study's rows it stands."""

    def find(self, rows: Sequence[Row]) -> Finding: ...


class NotRun(LookupError):
    """There is no row of what a claim needs."""


def pick(rows: Sequence[Row], where: Where) -> Row:
    """The one row that agrees with `where`."""
    found = [row for row in rows if row.items() >= where.items()]
    if not found:
        raise NotRun(f"A claim needs a row with {dict(where)}; there is none.")
    if len(found) != 1:
        raise LookupError(f"A claim needs one row with {dict(where)}; there are {len(found)}.")
    return found[0]


def summary(findings: Sequence[Finding]) -> str:
    """The verdict over all cases: holds, does not hold, not settled, or in how many it holds."""
    verdicts = [finding.verdict for finding in findings]
    number, hold, worse = len(verdicts), verdicts.count(1), verdicts.count(-1)
    if not hold and not worse:
        return "**not settled**"
    text = "**holds**" if hold == number else "**in part**" if hold else "**does not hold**"
    if number > 1 and hold:
        text += f", {hold} of {number}"
    if number > 1 and worse:
        text += f", worse in {worse}" if hold else f", worse in {worse} of {number}"
    return text


@dataclass(frozen=True)
class Paired:
    """A paired test over seeds that a study made, in a row with `effect`, `p` and `holds`.

    The contrary is certain where the effect has the wrong sign and p is below 0.05, or, of a claim
    with a margin, where the row has an `upper` bound of the effect that is beyond the margin.

    Args:
        case: str, what tells this case from the claim's others.
        test: where the row of the test is.
        ours, rival: where the rows are that it compares; no `rival` if there is one figure only.
        key: what of them is shown.
        published: the key of these rows that holds a published figure of the same.
    """

    case: str
    test: Where
    ours: Where
    rival: Where | None = None
    key: str = "score"
    published: str | None = None

    def find(self, rows: Sequence[Row]) -> Finding:
        row = pick(rows, self.test)
        pair = [pick(rows, where) for where in (self.ours, self.rival) if where is not None]
        contrary = row["effect"] < 0 and row["p"] < 0.05
        if "upper" in row:
            contrary = row["upper"] < -row["margin"]
        return Finding(
            self.case,
            against(other[self.key] for other in pair),
            1 if row["holds"] == "yes" else -1 if contrary else 0,
            f"{row['effect']:.2g}",
            f"{row['effect_error']:.2g}",
            p_text(row["p"]),
            published=against(other[self.published] for other in pair) if self.published else "",
        )


@dataclass(frozen=True)
class Difference:
    """A row `A - B` with the difference of a measure and its p, certain below a bound.

    Args:
        case: str.
        ours, rival: the names of A and B.
        where: what all three rows agree on.
        key: the measure.
        less: whether less of it is better.
        below: the bound; 0.01, unless the claims of a study are few.
    """

    case: str
    ours: str
    rival: str
    where: Where
    key: str = "score"
    less: bool = True
    below: float = 0.01

    def find(self, rows: Sequence[Row]) -> Finding:
        turned = f"{self.rival} - {self.ours}"
        # A study has one of a pair's two rows.
        is_turned = any(row.items() >= {"name": turned, **self.where}.items() for row in rows)
        names = (self.ours, self.rival, turned if is_turned else f"{self.ours} - {self.rival}")
        ours, rival, both = (pick(rows, {"name": name, **self.where}) for name in names)
        sign = -1 if self.less != is_turned else 1
        effect, p = sign * both[self.key], both[f"{self.key}_p"]
        return Finding(
            self.case,
            against((ours[self.key], rival[self.key])),
            (1 if effect > 0 else -1) if p < self.below else 0,
            f"{effect:.2g}",
            f"{both[f'{self.key}_error']:.2g}",
            p_text(p),
        )


@dataclass(frozen=True)
class Shares:
    """Two shares of as many trials each, by Fisher's exact test, certain below 0.05."""

    case: str
    ours: Where
    rival: Where
    key: str
    trials: int

    def find(self, rows: Sequence[Row]) -> Finding:
        ours, rival = (pick(rows, where)[self.key] for where in (self.ours, self.rival))
        counts = [round(share * self.trials) for share in (ours, rival)]
        p = float(fisher_exact([[count, self.trials - count] for count in counts]).pvalue)
        certain = (1 if ours > rival else -1) if p < 0.05 else 0
        return Finding(
            self.case, against((ours, rival)), certain, f"{ours - rival:.2g}", p=p_text(p)
        )


@dataclass(frozen=True)
class Single:
    """Figures of one run each, of which nothing was tested: never certain."""

    case: str
    ours: Where
    rivals: Sequence[Where]
    key: str

    def find(self, rows: Sequence[Row]) -> Finding:
        found = [pick(rows, where)[self.key] for where in (self.ours, *self.rivals)]
        return Finding(self.case, against(found), 0, spread="one run each")


@dataclass(frozen=True)
class Less:
    """Two figures of which ours is less, certain if they are 5 % apart."""

    case: str
    ours: Where
    rival: Where
    key: str

    def find(self, rows: Sequence[Row]) -> Finding:
        ours, rival = (pick(rows, where)[self.key] for where in (self.ours, self.rival))
        certain = 0 if abs(ours / rival - 1) < MARGIN else 1 if ours < rival else -1
        return Finding(self.case, against((ours, rival)), certain)


@dataclass(frozen=True)
class Ratio:
    """A ratio of times or sizes that a study took within its rounds, beside 1.

    Certain if both quartiles are on one side of 1 or, where there are none, if it is 5 % from it.

    Args:
        case: str.
        where: the row.
        key: the ratio.
        quartiles: the keys of its quartiles, if it has them.
        less: whether the claim is that it is below 1.
    """

    case: str
    where: Where
    key: str = "ratio"
    quartiles: tuple[str, str] | None = None
    less: bool = False

    def find(self, rows: Sequence[Row]) -> Finding:
        row = pick(rows, self.where)
        ratio, text = row[self.key], ""
        low, high = ratio * (1 - MARGIN), ratio * (1 + MARGIN)
        if self.quartiles:
            low, high = (row[key] for key in self.quartiles)
            text = f"quartiles {low:.3g} to {high:.3g}"
        above = 1 if low > 1 else -1 if high < 1 else 0
        return Finding(self.case, f"{ratio:.3g}", -above if self.less else above, spread=text)


@dataclass(frozen=True)
class Apart:
    """Two measures with quartiles, of which ours is less; certain if the quartiles are apart."""

    case: str
    ours: Where
    rival: Where
    key: str = "ratio"
    quartiles: tuple[str, str] = ("q1", "q3")

    def find(self, rows: Sequence[Row]) -> Finding:
        pair = [pick(rows, where) for where in (self.ours, self.rival)]
        (low, high), (rival_low, rival_high) = (
            [row[key] for key in self.quartiles] for row in pair
        )
        text = f"quartiles {low:.3g} to {high:.3g} against {rival_low:.3g} to {rival_high:.3g}"
        certain = 1 if high < rival_low else -1 if low > rival_high else 0
        return Finding(self.case, against(row[self.key] for row in pair), certain, spread=text)


@dataclass(frozen=True)
class Largest:
    """The largest of a measure over some rows, which the claim says is below a bound."""

    case: str
    where: Where
    key: str
    bound: float

    def find(self, rows: Sequence[Row]) -> Finding:
        found = [row[self.key] for row in rows if row.items() >= self.where.items()]
        if not found:
            raise LookupError(f"A claim needs rows with {dict(self.where)}; there are none.")
        largest = max(found)
        return Finding(self.case, f"{largest:.2g}", 1 if largest < self.bound else -1)


@dataclass(frozen=True)
class Count:
    """How many rows are as the claim says; rows without the measure do not count."""

    case: str
    where: Where
    key: str
    good: Callable[[Any], bool]

    def find(self, rows: Sequence[Row]) -> Finding:
        found = [row[self.key] for row in rows if row.items() >= self.where.items()]
        found = [value for value in found if value is not None]
        if not found:
            raise LookupError(f"A claim needs rows with {self.key!r}; there are none.")
        number = sum(map(self.good, found))
        verdict = 1 if number == len(found) else -1
        return Finding(self.case, f"{number} of {len(found)}", verdict)


def against(values: Iterable[float]) -> str:
    """Values side by side: with four digits where all are of the size of an AUC, else three."""
    values = list(values)
    if all(0.7 <= value <= 1 for value in values):
        return " against ".join(f"{value:.4f}" for value in values)
    return " against ".join(
        f"{value:,.0f}" if value >= 1000 else f"{value:#.3g}".rstrip(".") for value in values
    )


def p_text(p: float) -> str:
    # 0.0497 is below 0.05, and should not read as if it were not.
    return f"p {p:.3g}" if p >= 0.01 else f"p {p:.2g}"
