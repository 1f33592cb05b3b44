"""Claims of the paper on DSelect-k, but for those that studies named beforehand."""

from benchmarks.claims.census import census
from benchmarks.claims.claim import Claim
from benchmarks.verdicts import Difference, Shares

DSELECT_K = (
    Claim(
        "dselect-k",
        "census",
        "Census-Income: DSelect-k has a higher AUC than a shared bottom.",
        census("DSelect-k"),
    ),
    Claim(
        "dselect-k",
        "selectors",
        "Experts that are no power of two: folding the spare codes, as we do, finds the best pair "
        "of experts more often than the authors' penalty.",
        [
            Shares(
                f"{experts} experts",
                {"name": "fold", "experts": experts, "entropy_reg": 0.1},
                {"name": "penalty", "experts": experts, "entropy_reg": 0.1},
                "found",
                100,
            )
            for experts in (3, 5, 6, 7, 9, 12, 17, 24, 31)
        ],
    ),
    Claim(
        "dselect-k",
        "demo",
        "In a shop of 64 markets, one task a row, DSelect-k has a higher AUC than noisy Top-k.",
        [Difference("noisy Top-k", "DSelect-k", "noisy Top-k", {}, "auc", less=False, below=0.05)],
    ),
)
