"""Mixtures: from one vector a row, or its tokens, to one representation a task `(b, t, u)`."""

from tfmoe.mixtures.mmoe import MMoE, OMoE
from tfmoe.mixtures.mod_squad import ModSquad
from tfmoe.mixtures.mod_squad_block import ModSquadBlock
from tfmoe.mixtures.shared_bottom import SharedBottom

__all__ = ["MMoE", "ModSquad", "ModSquadBlock", "OMoE", "SharedBottom"]
