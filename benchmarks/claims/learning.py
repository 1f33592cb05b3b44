"""Claims of how well models of the package learn, but for what studies named beforehand."""

from benchmarks.claims.claim import Claim, beats

# Of more, named before the first run was recorded.
WEIGHTINGS = ("uncertainty", "dwa", "famo", "pcgrad", "upgrad", "dualbalancing")
WEIGHED = {
    "grouped": "six regressions in two groups",
    "income": "Census, income",
    "college": "Census, college",
    "ml-1m": "20,000 rows of MovieLens-1M",
}
STRUCTURED = {
    "rotated": "groups that conflict",
    "census income": "Census, income",
    "census college": "Census, college",
    "ml-1m": "MovieLens-1M",
}


def _each(study, names, sentence, cases):
    """A claim of the package for each name, which the sentence begins with."""
    # "A, doubly robust, learns"
    subjects = {name: f"{name}," if "," in name else name for name in names}
    return tuple(
        Claim("package", study, f"{subject} {sentence}", cases(name))
        for name, subject in subjects.items()
    )


_OTHERS = (
    *_each(
        "structures",
        ("PLE", "AdaTT", "MMoE", "MMoE, static DSelect-k"),
        "has less error than a shared bottom of equal parameters.",
        lambda name: [
            beats(name, "shared bottom", where, words) for where, words in STRUCTURED.items()
        ],
    ),
    *_each(
        "scenarios",
        ("PEPNet", "STAR", "MMoE, EPNet"),
        "has a higher AUC within scenarios than MMoE with the scenario as a column.",
        lambda name: [beats(name, "MMoE", "age", "by age", "within_auc", f"{name} beats MMoE")],
    ),
    *_each(
        "funnel",
        ("ESCM2, inverse propensities", "ESCM2, doubly robust"),
        "learns P(buy | click) of all rows better than clicked rows alone do, where the model is "
        "too small (divergence).",
        lambda name: [
            beats(
                *(name, "naive", "too small", "too small a model", "divergence"),
                words=f"{name}, beats naive",
            )
        ],
    ),
    *_each(
        "weighting",
        WEIGHTINGS,
        "has less error than fixed weights of the tasks, tuned or all equal.",
        lambda name: [
            beats(
                *(name, rival, where, f"{words}, {case}"),
                words=f"{name} has less error than {words}",
            )
            for where, case in WEIGHED.items()
            for rival, words in (("fixed", "tuned fixed weights"), ("equal", "equal weights"))
        ],
    ),
)

_RANKING = tuple(
    Claim(
        "package",
        "ranking",
        f"A {structure} of two tasks behind a ranking model's body is at most 0.001 of AUC behind "
        "torch-rechub's model of one.",
        [
            beats(
                *(structure, "torch-rechub", body, body),
                words=f"{structure} is not behind torch-rechub",
            )
            for body in ("DeepFM", "DCN-v2", "DIN", "BST", "AutoInt", "FiBiNET")
        ],
    )
    for structure in ("shared bottom", "MMoE")
)

_TUNED = (
    Claim(
        "package",
        "tuned",
        "Settings that `tfmoe tune` found in 20 trials have less loss on test rows than the "
        "defaults.",
        [
            beats("tuned", "defaults", name, name, words="tuned is better than defaults")
            for name in ("census income", "ml-latest-small")
        ],
    ),
)

LEARNING = (*_OTHERS, *_RANKING, *_TUNED)
