"""What a claim is, and whose it can be."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.verdicts import Evidence, Paired


@dataclass(frozen=True)
class Claim:
    """A sentence that rows can bear out or not.

    Attributes:
        paper: whose claim it is, one of `PAPERS`; "superseded" if its study is.
        study: the benchmark whose rows decide.
        text: the claim, as if it were true.
        cases: what decides.
    """

    paper: str
    study: str
    text: str
    cases: Sequence[Evidence]


# In the order of the index: each has a table there.
PAPERS = ("dselect-k", "mmoe", "task-aware", "mod-squad", "package", "superseded")


def beats(name, rival, where, case, key="score", words=None):
    """That one is better than its rival in a set; `words` is what the row of the test is called."""
    test = words or f"{name} has less error than {rival}"
    parts = [{"name": part, "set": where} for part in (test, name, rival)]
    return Paired(case, *parts, key)
