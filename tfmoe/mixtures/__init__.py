"""Mixtures: structures from one input `(b, f)` to one representation a task `(b, t, u)`."""

from tfmoe.mixtures.mmoe import MMoE, OMoE
from tfmoe.mixtures.shared_bottom import SharedBottom

__all__ = ["MMoE", "OMoE", "SharedBottom"]
