"""What of a model is conditioned on the scenario or on whom a row is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tfmoe.compute import nested
from tfmoe.compute.weights import copy_weights
from tfmoe.features.epnet import EPNet
from tfmoe.heads.ppnet import PPNet
from tfmoe.model.inputs import scenario_of
from tfmoe.schema.schema import Schema
from tfmoe.structures.base import Structure


class Conditions(NamedTuple):
    """The layers around the structure, and the recipes that they were made by.

    Attributes:
        input_gate: `EPNet`, or None.
        tower_gate: `PPNet`, or None.
        input_recipe, tower_recipe: their configs, or None.
    """

    input_gate: EPNet | None
    tower_gate: PPNet | None
    input_recipe: dict[str, Any] | None
    tower_recipe: dict[str, Any] | None


def num_scenarios(schema: Schema, table_sizes: Mapping[str, int], owner: str) -> int:
    """How many ids the scenario's column has.

    Raises:
        ValueError: if there is none; `owner` is what asks for it.
    """
    column: Any = schema.column(scenario_of(schema, owner))
    return table_sizes[column.table]


def conditions_of(
    schema: Schema,
    structure: Structure,
    input_gate: Any,
    tower_gate: Any,
    tower_units: Sequence[int],
    num_added: int,
    policy: Any,
) -> Conditions:
    """A model's own copies of the gates around its structure.

    Args:
        schema: `Schema`.
        structure: the model's own.
        input_gate: `EPNet`, its config, or None.
        tower_gate: `PPNet`, its config, or None.
        tower_units: of the model's towers.
        num_added: how many of its tasks were added.
        policy: dtype policy of the model.

    Raises:
        ValueError: if one is of another kind, wants columns that are not there or a scenario that
            is not named, or does not go with the structure or with added tasks.
    """
    given = {"input_gate": (input_gate, EPNet), "tower_gate": (tower_gate, PPNet)}
    recipes: dict[str, Any] = {}
    for name, (value, kind) in given.items():
        layer = nested.given(value)
        if layer is not None and not isinstance(layer, kind):
            raise ValueError(
                f"MultiTaskModel takes as `{name}` a {kind.__name__}, or None. Received "
                f"{name}={value!r}."
            )
        recipes[name] = None if layer is None else nested.config_of(layer)
    if not any(recipes.values()):
        return Conditions(None, None, None, None)
    if structure.input_kind != "flat":
        raise ValueError(
            "`input_gate` and `tower_gate` read one vector a row. Received a "
            f"{type(structure).__name__}, which reads {structure.input_kind}. Leave them out."
        )
    if num_added and recipes["tower_gate"]:
        raise ValueError(
            "add_task takes models whose towers are the tasks' alone. Received one with a "
            "tower_gate. Train it anew with the task among the others."
        )
    made: dict[str, Any] = {"input_gate": None, "tower_gate": None}
    if recipes["input_gate"]:
        scenario_of(schema, "EPNet")
        made["input_gate"] = nested.filled(
            _of_policy(recipes["input_gate"], policy), "MultiTaskModel", name="tfmoe_input_gate"
        )
    if recipes["tower_gate"]:
        gate = nested.filled(
            _of_policy(recipes["tower_gate"], policy),
            "MultiTaskModel",
            name="tfmoe_tower_gate",
            num_tasks=len(schema.tasks),
            tower_units=list(tower_units),
        )
        known = [column.name for column in schema.columns]
        unknown = [name for name in gate.columns if name not in known]
        if unknown:
            raise ValueError(
                f"PPNet reads columns of the schema, of {known}. Received columns="
                f"{list(gate.columns)}, of which {unknown} are none."
            )
        made["tower_gate"] = gate
    return Conditions(
        **made, input_recipe=recipes["input_gate"], tower_recipe=recipes["tower_gate"]
    )


def copy_conditions(old: Any, new: Any, tasks: Sequence[int]) -> None:
    """Takes over the weights of another model's gates around the structure.

    Args:
        old, new: `MultiTaskModel`.
        tasks: for each task of the new one its index in the old one.
    """
    if old.input_gate is not None:
        copy_weights(old.input_gate, new.input_gate)
    if old.tower_gate is not None:
        new.tower_gate.copy_from(old.tower_gate, tasks)


def _of_policy(recipe: dict[str, Any], policy: Any) -> dict[str, Any]:
    """The recipe, to compute in the model's precision."""
    return {**recipe, "config": {**recipe["config"], "dtype": policy.name}}
