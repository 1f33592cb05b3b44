"""Experts of each task's own beside shared ones, in one level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfmoe.compute.registered import registered
from tfmoe.compute.types import Activation, Dispatch, Initializer
from tfmoe.gates.base import Gate
from tfmoe.structures.ple import PLE


@registered
class CGC(PLE):
    r"""Customized gate control: the tasks' own experts and shared ones, a `PLE` of one level.

        output[b, t] = sum_i g_t(x)[i] own_ti(x) + sum_j g_t(x)[m + j] shared_j(x)

    With one task a row, a row goes through its task's own experts and the shared ones only, so
    its cost does not grow with the number of tasks.

    Args:
        num_tasks, num_task_experts, num_shared_experts, hidden_units, gate, activation, dropout,
            layer_norm, kernel_initializer, dispatch, expert_ids, num_trained_tasks: see `PLE`.

    Call arguments, returns, errors: see `PLE`; there is one gate output, of the tasks' gate.

    Example:

    >>> CGC(num_tasks=2, hidden_units=(16, 8))(np.ones((3, 5))).shape
    TensorShape([3, 2, 8])

    Source: Tang et al., 2020, section 4.1, https://doi.org/10.1145/3383313.3412236.
    """

    def __init__(
        self,
        num_tasks: int | None = None,
        num_task_experts: int = 2,
        num_shared_experts: int = 2,
        hidden_units: Sequence[int] = (256, 128),
        gate: Gate | None = None,
        activation: Activation = "relu",
        dropout: float = 0.0,
        layer_norm: bool = False,
        kernel_initializer: Initializer = "glorot_uniform",
        dispatch: Dispatch = "auto",
        expert_ids: Sequence[Sequence[Sequence[int]]] | None = None,
        num_trained_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_tasks,
            1,
            num_task_experts,
            num_shared_experts,
            hidden_units,
            gate,
            activation,
            dropout,
            layer_norm,
            kernel_initializer,
            dispatch,
            expert_ids,
            num_trained_tasks,
            **kwargs,
        )

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["num_levels"]
        return config
