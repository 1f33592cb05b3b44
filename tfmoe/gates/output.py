"""What a gate's call returns for losses and reports."""

from typing import Any, NamedTuple

from tfmoe.gates.rows import Rows


class GateOutput(NamedTuple):
    """The record of one call of a gate.

    What a call has no value for is the empty tuple, not None, which Keras does not take as
    an output of a symbolic call; `has_task` and `has_mask` tell. Build it with keywords:
    the fields stand in the order in which saved Functional models number a gate's outputs.

    Attributes:
        mask: float32 `(b,)`, 0 for rows that do not count, such as padding, else 1; empty if
            all count.
        probabilities: float32 `(b, t, e)`, before anything was cut.
        scores: float32 `(b, t, s)`, what the router made.
        task: int32 `(b,)`, each row's task; empty where each row has all tasks. The second
            axis of the others is then 1.
        weights: float32 `(b, t, e)`, after the selection. With a static router the first
            axis of the last three is 1.
    """

    mask: Any = ()
    probabilities: Any = ()
    scores: Any = ()
    task: Any = ()
    weights: Any = ()

    @property
    def has_task(self) -> bool:
        """Whether each row has one task, `task`, rather than all."""
        return not isinstance(self.task, tuple)

    @property
    def has_mask(self) -> bool:
        """Whether some rows may not count, see `mask`."""
        return not isinstance(self.mask, tuple)

    def rows(self, num_tasks: int) -> Rows:
        """The rows of the call, for sums over each of a gate's tasks."""
        task = self.task if self.has_task else None
        return Rows(num_tasks, task, self.mask if self.has_mask else None)
