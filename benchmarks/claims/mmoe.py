"""Claims of the paper on MMoE, but for those that studies named beforehand."""

from benchmarks.claims.census import census
from benchmarks.claims.claim import Claim
from benchmarks.verdicts import Paired


def _conflict(ours, rival):
    return [
        Paired(
            words,
            {"name": f"{ours} has less error than {rival}", "set": world},
            {"name": ours, "set": world},
            {"name": rival, "set": world},
        )
        for words, world in (
            ("half in conflict", "conflict 0.5"),
            ("no conflict", "conflict 0"),
        )
    ]


MMOE = (
    Claim(
        "mmoe",
        "census",
        "Census-Income: MMoE has a higher AUC than a shared bottom, mean over the seeds.",
        census("MMoE", "paper_mean"),
    ),
    Claim(
        "mmoe",
        "conflict",
        "Tasks that conflict for half of the users: MMoE has less error than a shared bottom of "
        "equal width.",
        _conflict("MMoE, 4 of 4", "shared bottom of 16")[:1],
    ),
    Claim(
        "mmoe",
        "conflict",
        "A shared bottom has less error than single-task models of the same total width.",
        _conflict("shared bottom of 16", "single tasks, 8 each"),
    ),
)
