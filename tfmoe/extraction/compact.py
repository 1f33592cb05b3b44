"""Conditional training: once a gate has decided, experts that no task selects are dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmoe.extraction.extract import blank_rows
from tfmoe.keras_private import (
    flatten_layers,
    optimizer_key,
    recompile,
    rename_key,
    resize,
    track_again,
)
from tfmoe.model.model import MultiTaskModel
from tfmoe.optimizers.by_part import nested
from tfmoe.reports.gate_use import GateUse, gate_use
from tfmoe.validation import checks_arguments


@checks_arguments
class CompactExperts(keras.callbacks.Callback):
    """Drops the experts that no task selects, in a running `fit`, once the gate has decided.

    At the end of an epoch in which every selector has decided (`gate.converged`), the
    experts of weight 0 leave the model, and their state the optimizer; the next epoch
    trains the rest, with a step compiled anew. Predictions stay the same, and training goes
    on as without the callback, up to rounding, as long as every selector stays decided: its
    scores get no gradient any more, but weight decay moves them. In each epoch `logs` gets
    `num_experts`, the number of experts left.

    A compacted model is saved and loaded like any other. Copies of its weights from before
    no longer fit: `EarlyStopping(restore_best_weights=True)` fails if the best epoch was
    before; use `ModelCheckpoint(save_best_only=True)` in its place.

    Args:
        data: rows on which to see whether a gate that depends on the example has decided,
            and which experts it uses: a DataFrame of raw rows, features as
            `Preprocessor.arrays` makes them, or a dataset. An expert that only other rows
            use is lost. A static gate needs none.

    Raises:
        ValueError: when training begins, if the model is no `MultiTaskModel` on `MMoE` or
            `OMoE`, its experts are ready layers, its gate has nothing to decide, `data` is
            missing, or the model is trained on several devices; when experts would be
            dropped, if the optimizer keeps state of another shape than its variables'.

    Example:

    >>> gate = tfmoe.DSelectKGate(num_nonzeros=2, router="static", entropy_reg=0.1)
    >>> schema = tfmoe.Schema([tfmoe.Numeric("age", transform="none")], [tfmoe.Binary("click")])
    >>> mixture = tfmoe.MMoE(num_experts=4, hidden_units=(8,), gate=gate)
    >>> model = tfmoe.MultiTaskModel(schema, mixture)
    >>> model.compile("adam", jit_compile=False)
    >>> ages = {"age": np.linspace(0, 1, 8, dtype="float32")}
    >>> labels = {"click": np.arange(8.0) > 3}
    >>> history = model.fit(ages, labels, callbacks=[CompactExperts()], verbose=0)
    >>> history.history["num_experts"]
    [4]

    Source: section 4 of the DSelect-k paper, Hazimeh et al., 2021,
    https://arxiv.org/abs/2106.03760, on conditional training.
    """

    #: Of which a `tfmoe.Checkpoint` keeps no training.
    changes_shapes = True

    def __init__(self, data: Any = None) -> None:
        super().__init__()
        self.data = data

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if not isinstance(self.model, MultiTaskModel):
            raise ValueError(
                "CompactExperts drops experts of a MultiTaskModel on MMoE or OMoE. Received "
                f"model={self.model!r}. Leave the callback out."
            )
        structure = self.model.structure
        structure.expert_variables()  # or its error
        (gate,) = structure.gates
        if gate.router != "static" and self.data is None:
            raise ValueError(
                "Which experts a gate uses that sees the example, only rows can tell. Received "
                "data=None. Pass some, such as the validation rows."
            )
        if gate_use(self.model, blank_rows(self.model), similarity=False)[0].converged is None:
            raise ValueError(
                "CompactExperts waits until a gate's selectors have decided. Received a "
                f"{type(gate).__name__}, which has none. Use DSelectKGate, or tfmoe.extract "
                "after the training."
            )
        strategy = getattr(self.model, "distribute_strategy", None)
        if strategy is not None and strategy.num_replicas_in_sync > 1:
            raise ValueError(
                "CompactExperts remakes variables on one device. Received a model on "
                f"{strategy.num_replicas_in_sync} replicas. Use tfmoe.extract after the training."
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        use = self._use()
        experts = np.flatnonzero((use.mean_weight > 0).any(axis=0)).tolist()
        # A mean over many rows may round.
        decided = use.converged is not None and np.all(use.converged > 1 - 1e-6)
        gate = self.model.structure.gates[0]
        if decided and 0 < len(experts) < gate.num_experts:
            _compact(self.model, experts)
        if logs is not None:
            logs["num_experts"] = gate.num_experts

    def _use(self) -> GateUse:
        static = self.model.structure.gates[0].router == "static"
        data = blank_rows(self.model) if static else self.data
        return gate_use(self.model, data, similarity=False)[0]


def _compact(model: MultiTaskModel, experts: Sequence[int]) -> None:
    """Drops all but some experts of a model that is being trained.

    Args:
        experts: list of int, indices of those that stay.
    """
    structure, optimizer = model.structure, model.optimizer
    weights = structure.expert_variables()
    # All of them before the first variable is changed, because this may raise.
    slots = [_slots(optimizer, weight) for weight in weights]
    for weight, states in zip(weights, slots, strict=True):
        keys = _keys(optimizer, weight)
        for variable in (weight, *states):
            resize(variable, ops.convert_to_numpy(variable)[experts])
        _rename(optimizer, keys, _keys(optimizer, weight))
    for joint in (joint for tracker in model._trackers.value for joint in tracker.joints):
        resize(joint, ops.convert_to_numpy(joint)[:, experts])
    model.keep_recipe(structure.select([experts]))
    structure.keep_experts(experts)
    if keras.backend.backend() == "torch":
        # There a layer also lists its variables' values.
        for layer in flatten_layers(model):
            track_again(layer)
    # What was compiled has the old shapes.
    recompile(model)


def _keys(optimizer: Any, variable: Any) -> list[Any]:
    return [optimizer_key(one, variable) for one in nested(optimizer)]


def _rename(optimizer: Any, before: Sequence[Any], after: Sequence[Any]) -> None:
    """Tells an optimizer that a variable has another key, on TensorFlow that of its value."""
    for one, old, new in zip(nested(optimizer), before, after, strict=True):
        rename_key(one, old, new)


def _slots(optimizer: Any, variable: Any) -> list[Any]:
    """The variables of an optimizer that hold its state for one of the model's variables.

    Raises:
        ValueError: if such a state has another shape than the variable.
    """
    # By name, as Keras gives them: that of the variable's path and the state's. Only
    # Adafactor's factors have the variable's alone.
    prefix = variable.path.replace("/", "_") + "_"
    slots = [
        slot
        for slot in optimizer.variables
        if slot.name.startswith(prefix) or slot.name == variable.name
    ]
    for slot in slots:
        if tuple(slot.shape) != tuple(variable.shape):
            raise ValueError(
                "CompactExperts carries an optimizer's state along if it has the shape of the "
                f"variable. Received {type(optimizer).__name__}, whose {slot.name!r} has shape "
                f"{tuple(slot.shape)} for a variable of shape {tuple(variable.shape)}. Use Adam "
                "or SGD, or tfmoe.extract after the training."
            )
    return slots
