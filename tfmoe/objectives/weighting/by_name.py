"""Weightings by their names."""

from __future__ import annotations

from typing import Any

from tfmoe.objectives.weighting.base import Weighting
from tfmoe.objectives.weighting.by_progress import DWA, STCH
from tfmoe.objectives.weighting.combined import (
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    DualBalancing,
    NashMTL,
    PCGrad,
    UPGrad,
)
from tfmoe.objectives.weighting.famo import FAMO
from tfmoe.objectives.weighting.geometric import GLS
from tfmoe.objectives.weighting.gradnorm import GradNorm
from tfmoe.objectives.weighting.random import RLW
from tfmoe.objectives.weighting.uncertainty import Uncertainty
from tfmoe.validation import did_you_mean

_LOSSES = (Uncertainty, DWA, RLW, GLS, STCH, FAMO, GradNorm)
_GRADIENTS = (PCGrad, MGDA, CAGrad, AlignedMTL, IMTLG, NashMTL, UPGrad, DualBalancing)
#: All but `"fixed"`, which is none.
WEIGHTINGS: dict[str, type[Weighting]] = {
    kind.__name__.lower(): kind for kind in (*_LOSSES, *_GRADIENTS)
}


def weighting_of(weighting: Any) -> Weighting | None:
    """The `Weighting` behind an argument: one, its name in lower case, or None for fixed weights.

    Raises:
        ValueError: if it is none of these.
    """
    if weighting is None or weighting == "fixed":
        return None
    if isinstance(weighting, Weighting):
        return weighting
    names = ["fixed", *WEIGHTINGS]
    if isinstance(weighting, str) and weighting in WEIGHTINGS:
        return WEIGHTINGS[weighting]()
    hint = did_you_mean(weighting, names) if isinstance(weighting, str) else ""
    raise ValueError(
        f"compile takes as `weighting` one of {names}, or an object such as tfmoe.PCGrad(). "
        f"Received weighting={weighting!r}.{hint}"
    )
