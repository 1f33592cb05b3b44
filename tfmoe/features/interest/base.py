"""What layers share that read a history with regard to a candidate."""

from __future__ import annotations

from typing import Any

import keras

from tfmoe.compute.types import Shape, Tensor


class Interest(keras.layers.Layer):
    """A layer of a history, a candidate and what of the history is there; see its two kinds.

    Call arguments:
        history: float tensor `(b, l, d)`.
        candidate: float tensor `(b, c)`, of the space of the history's first `c <= d` units; the
            others, such as dwell times, have nothing to be compared with.
        present: bool tensor `(b, l)`, False at padding.
        training: bool.

    Returns:
        Float tensor `(b, d)`.
    """

    def build(self, history_shape: Shape, candidate_shape: Shape, present_shape: Shape) -> None:
        size, compared = history_shape[-1], candidate_shape[-1]
        if len(history_shape) != 3 or size is None or compared is None or compared > size:
            raise ValueError(
                f"{type(self).__name__} takes a history (batch, length, d) and a candidate (batch, "
                f"c) with c <= d. Received shapes {tuple(history_shape)} and "
                f"{tuple(candidate_shape)}."
            )
        self.make(history_shape[1], int(size), int(compared))

    def make(self, length: int | None, size: int, compared: int) -> None:
        """Makes the weights."""
        raise NotImplementedError

    def compute_output_shape(
        self, history_shape: Shape, candidate_shape: Shape, present_shape: Shape
    ) -> Shape:
        return (history_shape[0], history_shape[-1])

    def compute_output_spec(
        self, history: Tensor, candidate: Tensor, present: Tensor, **others: Any
    ) -> Any:
        shape = (history.shape[0], history.shape[-1])
        return keras.KerasTensor(shape, dtype=self.compute_dtype)
