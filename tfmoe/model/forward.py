"""The forward pass of a model: once on symbols, to make its graph, and on tensors in each step."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
from keras import ops

from tfmoe.compute.shared import at_tensor, shared_outputs
from tfmoe.compute.types import Tensor
from tfmoe.gates.output import GateOutput
from tfmoe.heads.extended import ExtendedTowers
from tfmoe.heads.scenario_towers import ScenarioTowers
from tfmoe.heads.towers import Towers
from tfmoe.heads.values import imputed_name, imputed_tasks
from tfmoe.model.inputs import columns_of, context_of, scenario_of, task_of
from tfmoe.schema.schema import GROUP_CODES, Schema
from tfmoe.structures.base import Structure

# Set while a training or test step runs: the model then returns all of `ForwardOutput`, for
# losses need more than the public output. A context variable, because replicas of one model
# run their steps in threads of their own.
_IN_STEP: contextvars.ContextVar = contextvars.ContextVar("tfmoe_in_step", default=None)


class ForwardOutput(NamedTuple):
    """What a forward pass makes.

    Attributes:
        predictions: dict by output: probabilities or numbers `(b,)`, or class
            probabilities `(b, c)`.
        logits: the same before the last activation.
        aux: list with a `GateOutput` for each of the structure's gates; empty where it was not
            asked for.
        groups: int `(b,)`, codes of the rows' groups in a step, or None.
    """

    predictions: dict[str, Tensor]
    logits: dict[str, Tensor]
    aux: list[GateOutput]
    groups: Tensor | None = None

    def of(self, features: Any) -> ForwardOutput:
        """The same, with the groups that are among a step's features."""
        codes = features.get(GROUP_CODES) if isinstance(features, dict) else None
        return self._replace(groups=codes)


class Stages(NamedTuple):
    """The layers of a model, in the order of its forward pass, and what conditions them.

    `input_gate` is an `EPNet` or None, `tower_gate` a `PPNet` or None, `imputation` the `Towers` of
    the tasks that have a second one in training, or None; `interactions` an `Interactions` or None,
    `wide` a `Wide` or None, `column_dropout` a `ColumnDropout` or None. `position` is a
    `PositionTower` or None, of the ids under the name `position_column`, which only training has.
    """

    schema: Schema
    encoder: Any
    structure: Structure
    towers: keras.layers.Layer
    head: keras.layers.Layer
    input_gate: Any = None
    tower_gate: Any = None
    imputation: Any = None
    interactions: Any = None
    wide: Any = None
    column_dropout: Any = None
    position: Any = None
    position_column: str | None = None

    def inputs_of(self, features: dict[str, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        """What the structure reads of features."""
        return self.inputs(self.encode(features, {})[0], {})

    def encode(
        self, features: dict[str, Tensor], mode: dict[str, Any]
    ) -> tuple[Any, dict[str, Tensor]]:
        """What the columns give, a vector a row, or tokens and their mask; and what was read."""
        read = columns_of(self.schema, features)
        if self.wide is not None and self.encoder.unknown:
            # Ids that count as unknown in training do so in both.
            encoded, read = self.encoder(read, return_features=True, **mode)
        else:
            encoded = self.encoder(read, **mode)
        if self.input_gate is None:
            return encoded, read
        column = scenario_of(self.schema, "EPNet")
        return self.input_gate(encoded, self.encoder.part(encoded, [column])), read

    def inputs(
        self, encoded: Tensor | tuple[Tensor, Tensor], mode: dict[str, Any]
    ) -> Tensor | tuple[Tensor, Tensor]:
        """What the structure reads of it."""
        if self.column_dropout is not None and isinstance(encoded, tuple):
            tokens, present = encoded
            encoded = self.column_dropout(tokens, **mode), present
        elif self.column_dropout is not None:
            encoded = self.column_dropout(encoded, **mode)
        return encoded if self.interactions is None else self.interactions(encoded, **mode)

    def _conditions(self, encoded: Tensor, features: dict[str, Tensor]) -> dict[str, Any]:
        """Call arguments of the towers beside a row's task."""
        found: dict[str, Any] = {}
        if self.tower_gate is not None:
            prior = self.encoder.part(encoded, self.tower_gate.columns)
            found["gates"] = self.tower_gate(encoded, prior)
        if isinstance(self.towers, ScenarioTowers):
            found["scenario"] = features[scenario_of(self.schema, "ScenarioTowers")]
        return found

    def _imputed(self, hidden: Tensor, mode: dict[str, Any]) -> dict[str, Tensor]:
        """Logits of what imputation towers expect a loss to be."""
        tasks = imputed_tasks(self.schema.tasks)
        own = ops.stack([hidden[:, index] for index in tasks], axis=1)
        logits = self.imputation(own, **mode)
        names = [imputed_name(self.schema.tasks[index]) for index in tasks]
        return {name: values[:, 0] for name, values in zip(names, logits, strict=True)}

    def _once(self, inputs: Tensor) -> dict[str, Any]:
        """What makes a structure leave out copies of its output that the towers do not need."""
        reads_once = isinstance(self.towers, Towers | ExtendedTowers) and self.tower_gate is None
        needs_slices = self.imputation is not None or at_tensor() is not None
        if not self.structure.only_copies or not reads_once or needs_slices:
            return {}
        return {"task": ops.zeros_like(inputs[:, 0], dtype="int32")}

    def forward(
        self, features: dict[str, Tensor], training: bool | None = None, return_aux: bool = True
    ) -> ForwardOutput:
        """A forward pass.

        Args:
            features: dict of tensors or symbols by column.
            training: None leaves it to Keras, as where the graph is made.
            return_aux: whether to return the gate outputs too.
        """
        mode = {} if training is None else {"training": training}
        task = task_of(self.schema, features)
        aux = {"return_aux": True} if return_aux else {}
        context = context_of(self.schema, self.structure, features)
        encoded, read = self.encode(features, mode)
        inputs: Any = self.inputs(encoded, mode)
        own = task or self._once(inputs)
        hidden = self.structure(inputs, **own, **context, **mode, **aux)
        hidden, records = hidden if return_aux else (hidden, [])
        if at_tensor() is not None and self.structure.shared_point() == "outputs":
            hidden = shared_outputs(hidden, **task)
        conditions = self._conditions(encoded, features)
        made = self.towers(hidden, **task, **mode, **conditions)
        if self.wide is not None:
            made = self.wide.added(made, read, task.get("task"))
        if training and self.position is not None and self.position_column in features:
            made = self.position.added(made, features[self.position_column], task.get("task"))
        predictions, logits = self.head(made, **task)
        if self.imputation is not None:
            logits = {**logits, **self._imputed(hidden, mode)}
        return ForwardOutput(predictions, logits, records)


@contextlib.contextmanager
def in_step(model: Any) -> Iterator[None]:
    """While it lasts, calls of the model are of a training or test step."""
    token = _IN_STEP.set(model)
    try:
        yield
    finally:
        _IN_STEP.reset(token)


def is_in_step(model: Any) -> bool:
    """Whether a call of the model is of a training or test step."""
    return _IN_STEP.get() is model
