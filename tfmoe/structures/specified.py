"""Structures that say the form of what they return without a run on symbols."""

from __future__ import annotations

import keras

from tfmoe.compute.types import Tensor
from tfmoe.gates.output import GateOutput
from tfmoe.structures.base import Structure


class Specified(Structure):
    """A structure whose outputs are told by its sizes; a subclass has `compute_output_shape`."""

    def gate_specs(
        self, inputs: Tensor, task: Tensor | None, ids: Tensor | None
    ) -> list[GateOutput]:
        """The gates' outputs for symbols, in the order of `gates`."""
        return []

    def compute_output_spec(
        self,
        inputs: Tensor,
        task: Tensor | None = None,
        context: dict[str, Tensor] | None = None,
        training: bool = False,
        return_aux: bool = False,
    ) -> Tensor | tuple[Tensor, list[GateOutput]]:
        batch, num, units = self.compute_output_shape(inputs.shape)
        shape = (batch, num if task is None else 1, units)
        outputs = keras.KerasTensor(shape, dtype=self.compute_dtype)
        if not return_aux:
            return outputs
        return outputs, self.gate_specs(inputs, task, (context or {}).get("ids"))
