"""Shared experts, weighed by a gate a task or by one gate for all."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute import nested
from tfmoe.compute.math import mix
from tfmoe.compute.registered import registered
from tfmoe.compute.shared import at_tensor, mix_shared
from tfmoe.compute.types import Activation, Dispatch, Initializer, Shape, Tensor
from tfmoe.compute.weights import copy_weights
from tfmoe.experts.mlp import Experts
from tfmoe.experts.ready_layers import GivenExperts
from tfmoe.gates.base import Gate
from tfmoe.gates.extended import copy_extended, extended
from tfmoe.gates.output import GateOutput
from tfmoe.structures.base import Structure
from tfmoe.structures.recipes import PERCEPTRONS, check_dispatch, check_flat, gate_recipe
from tfmoe.structures.selected import mix_selected, selecting_pays


@registered
class MMoE(Structure):
    r"""Multi-gate mixture of experts: each task weighs the shared experts in its own way.

        output[b, t] = sum_e gate(inputs)[b, t, e] * expert_e(inputs)[b]

    With `SoftmaxGate` this is MMoE, with `DSelectKGate` the multi-task model of the
    DSelect-k paper.

    Args:
        num_tasks: int >= 1, or None to take it from the model that holds it.
        num_experts: int >= 2.
        hidden_units: sequence of int >= 1, units of the experts' layers; the last is
            `u`.
        gate: a gate without `num_tasks` and `num_experts`; None means
            `SoftmaxGate()`. It is a recipe: the mixture's own copy is `mixture.gate`, made
            when the mixture is built.
        activation, dropout, layer_norm, kernel_initializer: of the experts, see
            `Experts`.
        dispatch: `"dense"` computes all experts for every row, `"sparse"` only those
            that some task of a row selects, none of them dropped. `"auto"` is sparse
            where a gate selects so few that it was measured to be faster. With a gate
            that may select more than its `num_nonzeros`, as DSelect-k before it has
            converged, batches with a row that does so are computed densely (and all of
            them where XLA compiles for a batch of any size). So is training where an
            expert without weight still gives the gate a gradient. The outputs are the
            same up to rounding.
        experts: an `Experts` layer, a recipe of the experts; or a sequence of Keras layers
            `(b, ...) -> (b, u)`, trainable or not, used as they are and computed densely.
            With either, `num_experts`, `hidden_units` and the arguments of `Experts` above
            have no effect. With ready layers inputs may have any shape, and the gate sees
            them flattened.

    Call arguments:
        inputs: float tensor `(b, f)`.
        task: int tensor `(b,)`, the task of each row, or None where a row has them all.
        context: dict of tensors; `{"ids": int tensor (b,)}` for a `HashGate`, else None.
        training: bool.
        return_aux: bool; if True, also return the gate output.
        ids: the same as `context={"ids": ids}`, for calls by hand.

    Returns:
        Float tensor `(b, t, u)`, or `(b, 1, u)` with `task`; with `return_aux` also a list
        with the gate's `GateOutput`.

    Raises:
        ValueError: if a count is too small, `gate` is no gate, `dispatch` is unknown or is
            `"sparse"` with a gate that gives all experts weight or with ready experts, or
            inputs have another rank.

    Example:

    >>> mixture = MMoE(num_tasks=2, num_experts=4, hidden_units=(16, 8))
    >>> mixture(np.ones((3, 5))).shape
    TensorShape([3, 2, 8])

    Source: Ma et al., 2018, eq. 6 to 8, https://doi.org/10.1145/3219819.3220007.
    """

    #: Whether the gate has weights of each task's own.
    _tells_tasks_apart = True
    #: Its own copy of the recipe; None until the mixture is built.
    gate: Gate
    experts: Experts | GivenExperts

    def __init__(
        self,
        num_tasks: int | None = None,
        num_experts: int = 8,
        hidden_units: Sequence[int] = (256, 128),
        gate: Gate | None = None,
        activation: Activation = "relu",
        dropout: float = 0.0,
        layer_norm: bool = False,
        kernel_initializer: Initializer = "glorot_uniform",
        dispatch: Dispatch = "auto",
        experts: Experts | Sequence[keras.layers.Layer] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_tasks, **kwargs)
        name = type(self).__name__
        experts = nested.given(experts)
        recipe = experts if isinstance(experts, Experts) else None
        if experts is not None:
            num_experts = recipe.num_experts if recipe else len(experts)
        gate = gate_recipe(name, gate)
        num_experts = validation.integer(name, "num_experts", num_experts, gate.least_experts)
        check_dispatch(name, dispatch)
        ready = experts is not None and recipe is None
        if dispatch == "sparse" and (ready or not gate.selects):
            raise ValueError(
                f"{name} computes only selected experts if the gate selects and the experts "
                f"are its own perceptrons. Received dispatch='sparse' with gate={gate!r} and "
                f"experts={experts!r}. Use dispatch='auto', or a gate such as TopKGate()."
            )
        self.num_experts = num_experts
        self.dispatch = dispatch
        perceptrons = recipe or Experts(
            num_experts,
            hidden_units,
            activation,
            dropout,
            layer_norm,
            kernel_initializer,
            dtype=self.dtype_policy,
            name="experts",
        )
        config = nested.config_of(perceptrons)
        self._perceptrons_config = config["config"]
        self._experts_config = config if recipe else None
        self.experts = nested.filled(config, name, name="experts") if recipe else perceptrons
        if ready:
            self.experts = GivenExperts(experts, dtype=self.dtype_policy, name="experts")
        self._gate_config = nested.config_of(gate)
        self._id_column = gate.id_column
        self.gate = None  # type: ignore[assignment]

    @property
    def num_gates(self) -> int:
        """How many tasks the gate tells apart."""
        return self.num_tasks

    @property
    def gates(self) -> list[Gate]:
        return [self.gate]

    @property
    def context_columns(self) -> dict[str, str]:
        return {} if self._id_column is None else {"ids": self._id_column}

    def freeze(self) -> None:
        self.experts.trainable = False
        self.gate.freeze()

    def build(self, input_shape: Shape) -> None:
        validation.check_known(self, "num_tasks")
        if not isinstance(self.experts, GivenExperts):
            # Experts would take a third axis for one input an expert.
            advice = " For other shapes give the experts yourself: experts=[...]."
            check_flat(type(self).__name__, input_shape, advice)
        self.gate = nested.filled(
            self._gate_config,
            type(self).__name__,
            name="gate",
            num_tasks=self.num_gates,
            num_experts=self.num_experts,
        )
        self.experts.build(input_shape)
        self.gate.build((input_shape[0], math.prod(input_shape[1:])))

    def adopt(self, original: Any) -> None:
        # Ready experts' weights, frozen or not.
        if isinstance(original.experts, GivenExperts):
            self.experts.adopt(original.experts)

    def shared_point(self) -> str:
        # The experts' outputs, which tasks read by weights of their own.
        return "inside" if self._tells_tasks_apart else "outputs"

    def expert_outputs(self, inputs: Tensor) -> Tensor:
        return self.experts(inputs)

    def select(
        self, experts: Sequence[Sequence[int]], tasks: Sequence[int] | None = None
    ) -> dict[str, Any]:
        (members,) = experts
        config = nested.config_of(self)
        inner, gate = config["config"], config["config"]["gate"]["config"]
        # Whoever holds it fills in the counts, also where the recipe had stated them.
        inner.update(num_tasks=None, num_experts=len(members))
        gate.update(num_tasks=None, num_experts=None)
        if isinstance(inner["experts"], dict):
            inner["experts"]["config"]["num_experts"] = len(members)
        elif inner["experts"] is not None:
            inner["experts"] = [inner["experts"][e] for e in members]
        if tasks is not None and self._tells_tasks_apart:
            gate.update(self.gate.told(self.gate_rows(tasks, self.gate)))
        numbers = self.gate.numbers(members)
        if len(numbers) < self.gate.num_choices:
            gate.update(expert_ids=numbers, num_choices=self.gate.num_choices)
        return config

    def copy_from(
        self,
        other: Any,
        tasks: Sequence[int],
        experts: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.experts.copy_from(other.experts, None if experts is None else experts[0])
        self.gate.copy_from(other.gate, tasks)

    def extended(self, like: Sequence[int], routing: str) -> dict[str, Any]:
        config = nested.config_of(self)
        config["config"]["num_tasks"] = None
        if self._tells_tasks_apart:
            config["config"]["gate"] = extended(self.gate, len(like), routing)
        return config

    def copy_extended(self, other: Any, like: Sequence[int]) -> None:
        self.experts.copy_from(other.experts)
        if self._tells_tasks_apart:
            copy_extended(other.gate, self.gate, like)
        else:
            copy_weights(other.gate, self.gate)

    def expert_variables(self) -> list[Any]:
        if isinstance(self.experts, GivenExperts):
            raise ValueError(
                "Experts are dropped in a running fit where the structure made them itself. "
                f"Received an {type(self).__name__} with experts={self.experts.layers!r}. Use "
                "tfmoe.extract after the training."
            )
        return self.experts.weights

    def keep_experts(self, experts: Sequence[int]) -> None:
        config = self.select([experts])["config"]
        self.gate.keep(experts)
        self.num_experts = self.experts.num_experts = len(experts)
        self._gate_config, self._experts_config = config["gate"], config["experts"]

    def computes_sparsely(self, one_task: bool = False) -> bool:
        return self._most_chosen(1 if one_task else self.num_gates, training=True) is not None

    def call(
        self,
        inputs: Tensor,
        task: Tensor | None = None,
        context: dict[str, Tensor] | None = None,
        training: bool = False,
        return_aux: bool = False,
        ids: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, list[GateOutput]]:
        seen, ids = inputs, (context or {}).get("ids", ids)
        if len(inputs.shape) > 2:
            seen = ops.reshape(inputs, (-1, math.prod(inputs.shape[1:])))
        weights, record = self.gate(
            seen, task=self._told(task), ids=ids, training=training, return_aux=True
        )
        # Tasks added later are mixed apart, lest rounding move those there were before.
        parts = self.gate.task_groups if task is None else [slice(None)]
        outputs = [
            self._mixed(inputs, weights[:, part], record.weights[:, part], training, task)
            for part in parts
        ]
        outputs = outputs[0] if len(outputs) == 1 else ops.concatenate(outputs, axis=1)
        if task is None and not self._tells_tasks_apart:
            outputs = ops.repeat(outputs, self.num_tasks, axis=1)
        return (outputs, [record]) if return_aux else outputs

    def _told(self, task: Tensor | None) -> Tensor | None:
        """The row's task, for a gate that tells tasks apart."""
        return task if self._tells_tasks_apart else None

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, _, units = self.experts.compute_output_shape(input_shape)
        return (batch, self.num_tasks, units)

    def compute_output_spec(
        self,
        inputs: Tensor,
        task: Tensor | None = None,
        context: dict[str, Tensor] | None = None,
        training: bool = False,
        return_aux: bool = False,
        ids: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, list[GateOutput]]:
        ids = (context or {}).get("ids", ids)
        batch, _, units = self.experts.compute_output_shape(inputs.shape)
        shape = (batch, self.num_tasks if task is None else 1, units)
        outputs = keras.KerasTensor(shape, dtype=self.compute_dtype)
        seen = keras.KerasTensor((batch, math.prod(inputs.shape[1:])), dtype=inputs.dtype)
        _, record = self.gate.compute_output_spec(
            seen, task=self._told(task), ids=ids, return_aux=True
        )
        return (outputs, [record]) if return_aux else outputs

    def _mixed(
        self,
        inputs: Tensor,
        weights: Tensor,
        exact: Tensor,
        training: bool,
        task: Tensor | None,
    ) -> Tensor:
        """`(b, t, u)`; `weights` and `exact` as in `mix_selected`."""
        most = self._most_chosen(weights.shape[1], training)
        draws = bool(self._perceptrons_config["dropout"])
        certain = self.gate.always_sparse
        mixing = mix
        if self.shared_point() == "inside" and at_tensor() is not None:
            mixing = functools.partial(mix_shared, task=task)
            # A branch that is taken by the data would hide its gradients.
            most = most if certain else None
        return mix_selected(
            self.experts, inputs, weights, exact, most, certain, training, draws, mixing
        )

    def _most_chosen(self, num_tasks: int, training: bool) -> int | None:
        """How many experts of a row sparse compute takes; None where all are computed.

        Args:
            num_tasks: int, tasks of a row that a gate tells apart.
            training: bool.
        """
        gate, num = self.gate, self.num_experts
        if self.dispatch == "dense" or not gate.selects or isinstance(self.experts, GivenExperts):
            return None
        if training and gate.trains_unselected:
            return None
        most = gate.num_nonzeros * num_tasks if gate.num_nonzeros else num // 4
        most = max(1, min(most, num))
        if self.dispatch == "sparse":
            return most
        return most if selecting_pays(self.experts, most, gate.always_sparse) else None

    def get_config(self) -> dict[str, Any]:
        ready = isinstance(self.experts, GivenExperts)
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            "num_experts": self.num_experts,
            "gate": self._gate_config,
            **{name: self._perceptrons_config[name] for name in PERCEPTRONS},
            "dispatch": self.dispatch,
            "experts": self.experts.get_config()["layers"] if ready else self._experts_config,
        }


@registered
class OMoE(MMoE):
    r"""One-gate mixture of experts: all tasks weigh the experts alike.

        output[b, t] = sum_e gate(inputs)[b, e] * expert_e(inputs)[b]    for every t

    Args:
        num_tasks, num_experts, hidden_units, gate, activation, dropout, layer_norm,
            kernel_initializer, dispatch, experts: see `MMoE`.

    Call arguments, returns, errors: see `MMoE`; the gate output's tensors have one task.

    Source: Ma et al., 2018, section 4.1, https://doi.org/10.1145/3219819.3220007.
    """

    _tells_tasks_apart = False

    @property
    def num_gates(self) -> int:
        return 1
