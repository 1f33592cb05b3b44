"""What structures ask alike of their arguments and inputs."""

from __future__ import annotations

from typing import Any

from tfmoe.compute import nested
from tfmoe.compute.types import Shape
from tfmoe.experts.mlp import Experts
from tfmoe.gates.base import Gate
from tfmoe.gates.softmax import SoftmaxGate

#: The arguments of perceptrons that structures hand on to `Experts`, and name in their config.
PERCEPTRONS = ("hidden_units", "activation", "dropout", "layer_norm", "kernel_initializer")


def gate_recipe(owner: str, gate: Any) -> Gate:
    """The gate behind an argument, a `SoftmaxGate` where it is None, or a ValueError."""
    gate = SoftmaxGate() if gate is None else nested.given(gate)
    if not isinstance(gate, Gate):
        raise ValueError(
            f"{owner} takes as `gate` one of tfmoe's gates, such as SoftmaxGate() or "
            f"DSelectKGate(num_nonzeros=2). Received gate={gate!r}."
        )
    return gate


def take_recipes(structure: Any, gate: Any, kind: type[Experts] = Experts, **options: Any) -> None:
    """Keeps in a structure what its gates and its experts are made from, later and several times.

    Sets `hidden_units`, `_experts_config` (without a number of experts), `_gate_config` and
    `_id_column`.

    Args:
        structure: `Structure`.
        gate: the argument `gate`, see `gate_recipe`.
        kind: class of the experts.
        **options: of the experts, but for their number.

    Raises:
        ValueError: if `gate` is no gate, or an option is out of range.
    """
    gate = gate_recipe(type(structure).__name__, gate)
    experts = kind(1, **options, dtype=structure.dtype_policy)
    structure.hidden_units = experts.hidden_units
    structure._experts_config = nested.config_of(experts)
    structure._experts_config["config"]["num_experts"] = None
    structure._gate_config = nested.config_of(gate)
    structure._id_column = gate.id_column


def check_dispatch(owner: str, dispatch: Any) -> None:
    """Raises ValueError if it is no way to compute."""
    if dispatch not in ("auto", "dense", "sparse"):
        raise ValueError(
            f'{owner} takes `dispatch` "auto", "dense" or "sparse". Received dispatch={dispatch!r}.'
        )


def check_flat(owner: str, input_shape: Shape, advice: str = "") -> None:
    """Raises ValueError, ending in some advice, if inputs are not `(b, f)`."""
    if len(input_shape) != 2:
        raise ValueError(
            f"{owner} takes inputs of shape (batch, features). Received shape "
            f"{tuple(input_shape)}.{advice}"
        )
