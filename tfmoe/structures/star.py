"""One network of which every scenario has a form of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from tfmoe import validation
from tfmoe.compute.initializers import member_initializer
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Activation, Initializer, Shape, Tensor
from tfmoe.experts.mlp import Experts
from tfmoe.experts.star import StarExperts
from tfmoe.gates.output import GateOutput
from tfmoe.schema.columns import SCENARIO
from tfmoe.structures.recipes import PERCEPTRONS, check_flat
from tfmoe.structures.specified import Specified


@registered
class STAR(Specified):
    r"""A star of networks: one that all scenarios share, multiplied by factors of each.

        output[b, t] = [network_s(inputs)[b]; auxiliary(inputs)[b]]    for every t

    where `s` is the scenario of row `b`, every kernel of `network_s` is the shared one times
    `1 + factor_s` by element, every bias the shared one plus `shift_s`, see `StarExperts`. The
    auxiliary network is one for all scenarios and adds one unit: a tower without hidden layers
    adds it to its logit, as the paper does. Its inputs have the scenario among them, for that
    is one of the columns.

    A scenario that no row of the training was of, as an unknown one, has the shared network
    alone: its factors stay 0.

    Args:
        num_tasks: int >= 1, or None to take it from the model that holds it.
        num_scenarios: int >= 1, how many ids the scenario's column has, or None to take it from
            the model; `Schema(scenario=...)` names the column.
        hidden_units: sequence of int >= 1, units of the layers; the last is `u`.
        auxiliary_units: sequence of int >= 1, hidden units of the auxiliary network.
        activation, dropout, kernel_initializer: see `Experts`. The auxiliary network has neither
            dropout nor layer norm.
        layer_norm: bool; by default True, in the place of the paper's batch norm by scenario,
            under which a row's training depends on its batch-mates.

    Call arguments:
        inputs: float tensor `(b, f)`.
        task: int tensor `(b,)`, the task of each row, or None where a row has them all.
        context: dict, `{"scenario": int tensor (b,)}`, ids from 0 on.
        training: bool, for the dropout.
        return_aux: bool; if True, also return an empty list: there is no gate.

    Returns:
        Float tensor `(b, t, u + 1)`, or `(b, 1, u + 1)` with `task`; with `return_aux` a pair.

    Raises:
        ValueError: if a count is too small, inputs have another rank, or there is no scenario.

    Example:

    >>> star = STAR(num_tasks=2, num_scenarios=3, hidden_units=(16, 8))
    >>> star(np.ones((4, 5)), context={"scenario": np.array([0, 1, 2, 0])}).shape
    TensorShape([4, 2, 9])

    Source: Sheng et al., 2021, https://arxiv.org/abs/2101.11427.
    """

    only_copies = True

    def __init__(
        self,
        num_tasks: int | None = None,
        num_scenarios: int | None = None,
        hidden_units: Sequence[int] = (256, 128),
        auxiliary_units: Sequence[int] = (16,),
        activation: Activation = "relu",
        dropout: float = 0.0,
        layer_norm: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_tasks, **kwargs)
        self.num_scenarios: Any = validation.integer(
            "STAR", "num_scenarios", num_scenarios, 1, optional=True
        )
        self._perceptrons = {
            "activation": activation,
            "dropout": dropout,
            "layer_norm": layer_norm,
            "kernel_initializer": kernel_initializer,
        }
        given: dict[str, Any] = {"dtype": self.dtype_policy}
        self.network = StarExperts(
            1, self.num_scenarios or 1, hidden_units, **self._perceptrons, **given, name="network"
        )
        self.auxiliary_units = validation.sizes("STAR", "auxiliary_units", auxiliary_units)
        self.auxiliary = Experts(
            1,
            (*self.auxiliary_units, 1),
            activation,
            kernel_initializer=member_initializer(kernel_initializer, salt=-1),
            last_activation="linear",
            **given,
            name="auxiliary",
        )

    @property
    def context_columns(self) -> dict[str, str]:
        return {"scenario": SCENARIO}

    def build(self, input_shape: Shape) -> None:
        validation.check_known(self, "num_tasks", "num_scenarios")
        check_flat("STAR", input_shape)
        self.network.build(input_shape)
        self.auxiliary.build(input_shape)

    def call(
        self,
        inputs: Tensor,
        task: Tensor | None = None,
        context: dict[str, Tensor] | None = None,
        training: bool = False,
        return_aux: bool = False,
    ) -> Tensor | tuple[Tensor, list[GateOutput]]:
        scenario = (context or {}).get("scenario")
        if scenario is None:
            raise ValueError(
                "STAR reads the scenario of each row. Received no context. In a model name its "
                'column by Schema(scenario=...); alone call it with context={"scenario": ids}.'
            )
        chosen = ops.cast(scenario, "int32")[:, None]
        own = self.network(inputs, chosen=chosen, training=training)
        common = self.auxiliary(inputs, training=training)
        outputs = ops.concatenate([own, common], axis=-1)
        if task is None:
            outputs = ops.repeat(outputs, self.num_tasks, axis=1)
        return (outputs, []) if return_aux else outputs

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.num_tasks, self.network.hidden_units[-1] + 1)

    def shared_point(self) -> str:
        return "outputs"

    def extended(self, like: Sequence[int], routing: str) -> dict[str, Any]:
        return self.select([])

    def get_config(self) -> dict[str, Any]:
        network = self.network.get_config()
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            "num_scenarios": self.num_scenarios,
            "auxiliary_units": list(self.auxiliary_units),
            **{name: network[name] for name in PERCEPTRONS},
        }
