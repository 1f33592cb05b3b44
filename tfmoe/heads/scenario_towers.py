"""Towers that every scenario has in a form of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute.device import check_tasks
from tfmoe.compute.dispatch import Slots
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Activation, Initializer, Tensor
from tfmoe.compute.weights import copy_weights
from tfmoe.experts.star import StarExperts
from tfmoe.heads.towers import of_own_task


@registered
class ScenarioTowers(keras.layers.Layer):
    r"""One small network a task, multiplied by factors of the row's scenario.

    The weights of task `t` in scenario `s` are the task's, times `1 + factor_ts` or plus
    `shift_ts`, see `StarExperts`; a scenario that no row was of has the task's own.

    Args:
        num_outputs: see `Towers`.
        num_scenarios: int >= 1, how many ids scenarios have.
        hidden_units, activation, dropout, layer_norm, kernel_initializer: see `Towers`.

    Call arguments:
        inputs, task, training, gates: see `Towers`.
        scenario: int tensor `(b,)`, ids from 0 on.

    Returns:
        As `Towers`.

    Raises:
        ValueError: if a count is too small.

    Example:

    >>> towers = ScenarioTowers((1, 3), num_scenarios=4, hidden_units=(4,))
    >>> [logits.shape for logits in towers(np.ones((2, 2, 8)), scenario=np.array([0, 3]))]
    [TensorShape([2, 1]), TensorShape([2, 3])]
    """

    def __init__(
        self,
        num_outputs: Sequence[int],
        num_scenarios: int,
        hidden_units: Sequence[int] = (64,),
        activation: Activation = "relu",
        dropout: float = 0.0,
        layer_norm: bool = False,
        kernel_initializer: Initializer = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_outputs = validation.sizes("ScenarioTowers", "num_outputs", num_outputs)
        if not self.num_outputs:
            raise ValueError("Towers need at least one task. Received num_outputs=().")
        num = len(self.num_outputs)
        self.hidden = StarExperts(
            num,
            num_scenarios,
            hidden_units,
            activation=activation,
            dropout=dropout,
            layer_norm=layer_norm,
            kernel_initializer=kernel_initializer,
            dtype=self.dtype_policy,
            name="hidden",
        )
        self.num_scenarios = self.hidden.num_scenarios
        self.last = StarExperts(
            num,
            num_scenarios,
            (max(self.num_outputs),),
            activation="linear",
            kernel_initializer=kernel_initializer,
            dtype=self.dtype_policy,
            name="last",
        )

    def build(self, input_shape: Any) -> None:
        size = input_shape[-1]
        self.hidden.build((None, size))
        units = self.hidden.hidden_units
        self.last.build((None, units[-1] if units else size))

    @property
    def bias(self) -> Any:
        """The last biases `(t, max(num_outputs))` that scenarios share."""
        return self.last.parts[0][1][0]

    def call(
        self,
        inputs: Tensor,
        task: Tensor | None = None,
        training: bool = False,
        gates: Sequence[Tensor] | None = None,
        scenario: Tensor | None = None,
    ) -> Any:
        if scenario is None:
            raise ValueError("ScenarioTowers read the scenario of each row. Received None.")
        num, scenarios = len(self.num_outputs), self.num_scenarios
        scenario = ops.cast(scenario, "int32")[:, None]
        if task is None:
            pairs = ops.arange(num, dtype="int32") * scenarios + scenario
        else:
            task = ops.cast(task, "int32")
            check_tasks("ScenarioTowers", task, num)
            pairs = task[:, None] * scenarios + scenario
            gates = gates and [of_own_task(gate, task) for gate in gates]
        # A row of a task is a row of its own.
        rows = ops.reshape(inputs, (-1, inputs.shape[-1]))
        apart = gates and [ops.reshape(gate, (-1, 1, gate.shape[-1])) for gate in gates]
        slots = Slots.of(rows, ops.reshape(pairs, (-1, 1)), num * scenarios)
        slots = self.hidden.through(slots, training, apart or None)
        exact = self._exact
        ((kernel, bias),) = self.last.weights_by_layer(exact)
        slots = slots.map(lambda hidden: ops.cast(hidden, exact))
        logits = slots.matmul(kernel).add(bias).gather()
        if task is not None:
            return logits[:, 0]
        logits = ops.reshape(logits, (-1, num, max(self.num_outputs)))
        return [logits[:, t, :n] for t, n in enumerate(self.num_outputs)]

    @property
    def _exact(self) -> str:
        return keras.backend.result_type(self.compute_dtype, "float32")

    def copy_from(self, other: ScenarioTowers, tasks: Sequence[int] | None = None) -> None:
        """Takes over the weights of all or some of other towers, see `Towers.copy_from`."""
        copy_weights(other, self, tasks)

    def compute_output_spec(
        self,
        inputs: Tensor,
        task: Tensor | None = None,
        training: bool = False,
        gates: Any = None,
        scenario: Any = None,
    ) -> Any:
        batch = inputs.shape[0]
        if task is not None:
            return keras.KerasTensor((batch, max(self.num_outputs)), dtype=self._exact)
        return [keras.KerasTensor((batch, n), dtype=self._exact) for n in self.num_outputs]

    def get_config(self) -> dict[str, Any]:
        config = self.hidden.get_config()
        shared = ("hidden_units", "activation", "dropout", "layer_norm", "kernel_initializer")
        return {
            **super().get_config(),
            "num_outputs": list(self.num_outputs),
            "num_scenarios": self.num_scenarios,
            **{name: config[name] for name in shared},
        }
