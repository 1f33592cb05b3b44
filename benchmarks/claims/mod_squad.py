"""Claims of the paper on Mod-Squad."""

from itertools import product

from benchmarks.claims.claim import Claim
from benchmarks.claims.robust import SETS, WIDE, robust
from benchmarks.verdicts import Paired


def _squad(test, key, forms=("perceptrons", "transformer"), alone=False):
    return [
        Paired(
            f"{where}, {form}",
            {"name": test, "set": where, "form": form},
            {"name": "with the loss", "set": where, "form": form},
            None if alone else {"name": "without", "set": where, "form": form},
            key,
        )
        for form, where in product(forms, SETS)
    ]


MOD_SQUAD = (
    Claim(
        "mod-squad",
        "squad",
        "The mutual-information loss matches experts to tasks: it raises their mutual information "
        "(as a share of the most there can be).",
        _squad("higher information", "information"),
    ),
    Claim(
        "mod-squad",
        "squad",
        "With the loss a task needs fewer of the experts to keep its quality (share of them).",
        _squad("fewer experts needed", "needed"),
    ),
    Claim(
        "mod-squad",
        "squad",
        "With the loss a mixture of perceptrons scores better (error, AUC).",
        _squad("better score", "score", ("perceptrons",)),
    ),
    Claim(
        "mod-squad",
        "squad",
        "With the loss the transformer scores better (error, AUC).",
        _squad("better score", "score", ("transformer",)),
    ),
    Claim(
        "mod-squad",
        "squad",
        "A standalone model of one task keeps its quality. (Shown is what it loses; the effect is "
        "what is left of the 2 % of error or 0.002 of AUC that were allowed.)",
        _squad("standalone keeps quality", "standalone_loss", alone=True),
    ),
    Claim(
        "mod-squad",
        "robust",
        "Sixteen unrelated tasks cost the others less in Mod-Squad than in a shared bottom of two "
        "layers.",
        robust("Mod-Squad", ("shared bottom",)),
    ),
    Claim(
        "mod-squad",
        "robust",
        "Sixteen unrelated tasks cost the others less in Mod-Squad than in a shared bottom of one "
        "wide layer, or in a dense MMoE.",
        robust("Mod-Squad", (WIDE, "dense MMoE")),
    ),
)
