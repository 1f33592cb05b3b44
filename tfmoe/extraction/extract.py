"""A standalone model for some of the tasks, with only the experts that these use."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from keras import ops

from tfmoe.compute.types import Tensor
from tfmoe.compute.weights import copy_weights
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.gates.base import Gate
from tfmoe.heads.values import imputed_tasks
from tfmoe.model.conditions import copy_conditions
from tfmoe.model.frozen import freeze_alike
from tfmoe.model.model import MultiTaskModel
from tfmoe.reports.gate_use import GateUse, batches, gate_name, gate_use
from tfmoe.schema.tasks import Binary
from tfmoe.structures.base import Structure
from tfmoe.validation import checks_arguments


class Extraction(NamedTuple):
    """What `extract` did, as `extracted.extraction`.

    Attributes:
        experts: tuple of int, the experts that were kept, by their numbers in the model that
            was trained; `()` for a structure without a gate. Where several gates have experts
            of their own, as in `ModSquad`, a dict of such tuples by the gates' names, which
            are those that `gate_use` gives.
        num_parameters: int, of the extracted model.
        num_parameters_before: int, of the whole model.
        largest_change: float, the largest change of a prediction on the rows given, relative
            as `tolerance` of `extract`; None without rows, because it is unknown then.
    """

    experts: tuple[int, ...] | dict[str, tuple[int, ...]]
    num_parameters: int
    num_parameters_before: int
    largest_change: float | None


@checks_arguments
def extract(
    model: MultiTaskModel,
    tasks: str | Iterable[str],
    threshold: float = 0.0,
    data: Any = None,
    tolerance: float = 1e-6,
    by: Literal["weight", "usage"] = "weight",
) -> MultiTaskModel:
    """Makes a standalone model of some of a model's tasks.

    It has their towers, their part of the gates, and the experts that at least one of them
    uses. Each expert has the weight that the whole gate gives it: weights are not normalised
    anew over the experts that are kept. Label columns that only the other tasks needed are no
    longer read; a `task_column` is, also for a single task. Tasks that one of them is `given` come
    along, but are not among the predictions. The experts and the gates read all
    input columns, so all columns and embedding tables are kept, and so is the whole network of
    a `SharedBottom`. Of the tables of each task's own that a `STEM` has, those are kept that the
    experts and gates left still read.

    `by="weight"` keeps the experts whose mean weight for a task is above `threshold`. How
    exact that is depends on how they are found:

    - A static gate's weights are known. What is dropped at threshold 0 has weight 0 for
      every row, so predictions are the same up to rounding.
    - A gate whose weights depend on the example needs rows, `data`; without them all experts
      are kept. What is dropped at threshold 0 has weight 0 on these rows, and predictions on
      them are the same up to rounding; so they are on other rows, unless a dropped expert
      would have been selected there.
    - A threshold above 0 drops weights above 0. The change is measured on `data`; if it is
      above `tolerance`, that is an error.

    `by="usage"` keeps, for each gate, the experts that more than `threshold` of a task's
    rows selected in late training, and at least the task's `num_nonzeros` most used. It
    reads the gate's `usage`, which gates made with `usage_decay` keep, and needs no rows; but
    other rows may select what training did not. With `data` the change is measured; if it is
    above `tolerance` and an expert was dropped, that is an error. Without `data` it is unknown:
    `largest_change` is None, and predictions are known to be the same up to rounding only on
    rows where every gate selects experts that were kept.

    The result is a `MultiTaskModel` like any other, not compiled; it can be fitted, saved,
    exported and extracted from again. What is frozen stays frozen. A `position` is kept for what
    is trained further, where one of the tasks is binary. The model given stays as it is.

    Args:
        model: `MultiTaskModel` on `MMoE`, `OMoE`, `SharedBottom`, `ModSquad` or another
            `Structure` that says how its experts are selected.
        tasks: sequence of task names, or one name. They keep the schema's order.
        threshold: float >= 0. An expert up to it is dropped: 0.02 means 2 % of a task's weight,
            or of its rows.
        data: rows to find the experts and to measure the change on: a DataFrame of raw
            rows, features as `Preprocessor.arrays` makes them, or a dataset. Of rows of one
            task each, only those of `tasks` count, or all where one gate serves all tasks.
        tolerance: float >= 0, the largest change of a prediction that is allowed where
            weights above 0 were dropped, divided by the largest prediction of the task, if
            that is above 1.
        by: `"weight"` or `"usage"`, what an expert is kept for; see above.

    Returns:
        `MultiTaskModel`; its `extraction` says what was done (see `Extraction`), until it
        is saved.

    Raises:
        ValueError: if a task is unknown, `model` is on no `Structure`, tasks were added with
            `add_task`, an argument is out of range, no expert is above `threshold`, weights
            above 0 would be dropped without `data`, predictions change by more than
            `tolerance`, it is unknown what a task uses (`data` has no rows of it, or the gate
            keeps no usage), or a gate of fewer tasks does not give the same weights.

    Example:

    >>> schema = tfmoe.Schema([tfmoe.Numeric("age", transform="none")],
    ...                       [tfmoe.Binary("click"), tfmoe.Binary("buy")])
    >>> model = tfmoe.MultiTaskModel(schema, tfmoe.MMoE(num_experts=4, hidden_units=(8,)))
    >>> extract(model, ["buy"]).schema.task_names
    ('buy',)

    Source for `by="usage"`: Chen et al., 2023, https://arxiv.org/abs/2212.08066. Differs
    from it in that the gates still choose among all experts, so that the experts that are
    kept never get the weight of dropped ones.
    """
    _check(model, threshold, tolerance, by)
    preprocessor, position = _selected(model, tasks)
    names = preprocessor.schema.task_names
    _warn_of_sampled(model, names)
    rows = [model.schema.task_names.index(name) for name in names]
    gates = model.structure.gates
    places = [model.structure.gate_rows(rows, gate) for gate in gates]
    if by == "usage":
        experts = [
            _used(gate, names, own, threshold) for gate, own in zip(gates, places, strict=True)
        ]
        exact = all(len(e) == gate.num_experts for e, gate in zip(experts, gates, strict=True))
    else:
        experts, exact = _weighty(model, gates, names, places, threshold, data)
    experts = model.structure.kept(experts, rows)
    extracted = MultiTaskModel(
        preprocessor,
        model.structure.select(experts, rows),
        **model.around,
        position=position,
    )
    if model.structure.input_kind == "copies":
        numbers = model.structure.encodings
        stay = [numbers.index(number) for number in extracted.structure.encodings]
        extracted.encoder.copy_from(model.encoder, stay)
    else:
        copy_weights(model.encoder, extracted.encoder)
    copy_conditions(model, extracted, rows)
    extracted.towers.copy_from(model.towers, rows)
    _copy_imputation(model, extracted)
    if model.position_tower is not None and extracted.position_tower is not None:
        extracted.position_tower.copy_from(model.position_tower, rows)
    if model.interactions is not None:
        copy_weights(model.interactions, extracted.interactions)
    if model.wide is not None and extracted.wide is not None:
        extracted.wide.copy_from(model.wide, rows)
    extracted.structure.copy_from(model.structure, rows, experts)
    freeze_alike(model, extracted, {name: name for name in extracted.encoder.tables})
    if gates:
        _check_gate(model, extracted, rows, experts[0])
    change = None if data is None else _largest_change(model, extracted, rows, data)
    if not exact and change is not None and not change <= tolerance:
        raise ValueError(
            "Dropping experts of weight above 0 must not change a prediction by more than "
            f"`tolerance`. Received threshold={threshold}, which changes one by {change:.3g}, "
            f"with tolerance={tolerance}. Lower the threshold, or raise the tolerance and "
            "fine-tune the extracted model."
        )
    extracted.extraction = Extraction(
        _kept(model.structure, experts), extracted.count_params(), model.count_params(), change
    )
    return extracted


def _selected(model: MultiTaskModel, tasks: str | Iterable[str]) -> tuple[Preprocessor, str | None]:
    """What the extracted model is made with, and the column of its position, if it has one."""
    selected = model.training_preprocessor.select(tasks)
    position = model.position
    if position is None or any(isinstance(task, Binary) for task in selected.schema.tasks):
        return selected, position
    return selected.without(position), None


def _warn_of_sampled(model: MultiTaskModel, names: Sequence[str]) -> None:
    """Says which rows stand for more in the whole model, whose sampled task does not come along."""
    tasks = [task for task in model.schema.tasks if isinstance(task, Binary)]
    lost = [task.name for task in tasks if task.negatives_kept < 1 and task.name not in names]
    if lost:
        warnings.warn(
            f"Negative rows of {lost} were sampled, and count for the other tasks as often as "
            "there were. The extracted model lacks these tasks, and so these weights: before it is "
            "measured or trained on such rows, give them as weights of their own.",
            stacklevel=3,
        )


def _copy_imputation(model: MultiTaskModel, extracted: MultiTaskModel) -> None:
    """Fills the imputation towers of tasks that have one."""
    if extracted.imputation is not None and model.imputation is not None:
        old, new = (
            [one.schema.tasks[index].name for index in imputed_tasks(one.schema.tasks)]
            for one in (model, extracted)
        )
        extracted.imputation.copy_from(model.imputation, [old.index(name) for name in new])


def _warn_of_undecided(uses: Sequence[GateUse]) -> None:
    """Says why experts are kept that the gate was to leave out."""
    for use in uses:
        for warning in use.warnings:
            if warning.startswith("Undecided"):
                warnings.warn(f"extract keeps more experts than it might. {warning}", stacklevel=4)


def _check(model: Any, threshold: float, tolerance: float, by: str) -> None:
    if not isinstance(model, MultiTaskModel):
        raise ValueError(
            "extract takes a MultiTaskModel on MMoE, OMoE, SharedBottom, ModSquad or another "
            f"Structure. Received model={model!r}. Train such a model."
        )
    if model.added_tasks:
        raise ValueError(
            "extract takes models whose tasks were trained together. Received one to which "
            f"add_task has added {list(model.added_tasks)}. Extract from the model it was added "
            "to, or serve the whole."
        )
    for name, value in (("threshold", threshold), ("tolerance", tolerance)):
        if not value >= 0:
            raise ValueError(
                f"extract takes `{name}` as a number of at least 0. Received {name}={value!r}."
            )
    if by not in ("weight", "usage"):
        raise ValueError(f'extract takes `by` "weight" or "usage". Received by={by!r}.')


def _used(gate: Gate, names: Sequence[str], rows: Sequence[int], threshold: float) -> list[int]:
    """Indices of the experts that some task of `rows` used in training."""
    if gate.usage is None:
        raise ValueError(
            'by="usage" asks a gate what training selected, which it notes if told to. Received '
            f"a {type(gate).__name__} with usage_decay=None. Build it with usage_decay=0.95 and "
            'train it, or use by="weight".'
        )
    usage = gate.usage if len(gate.usage) == 1 else gate.usage[rows]
    unseen = np.isnan(usage).any(axis=1)
    if unseen.any():
        raise ValueError(
            'by="usage" asks what training selected for each task. Received tasks without rows '
            f"in it: {[n for n, no in zip(names, unseen, strict=False) if no]}. Train them, or "
            'use by="weight" with `data`.'
        )
    most = np.argsort(-usage, axis=1, kind="stable")[:, : gate.num_nonzeros or 1]
    stays: Any = (usage > threshold).any(axis=0)
    stays[most.ravel()] = True
    return np.flatnonzero(stays).tolist()


def _weighty(
    model: MultiTaskModel,
    gates: Sequence[Gate],
    names: Sequence[str],
    places: Sequence[Sequence[int]],
    threshold: float,
    data: Any,
) -> tuple[list[list[int]], bool]:
    """For each gate the indices of the experts to keep; whether the others have no weight.

    `places` has, for each gate, the tasks' rows.
    """
    static = all(gate.router == "static" for gate in gates)
    if not static and data is None:
        if threshold > 0:
            raise ValueError(
                "Which experts a gate uses that sees the example, only rows can tell. Received "
                f"threshold={threshold} and data=None. Pass `data`, or threshold=0 to keep all "
                "experts."
            )
        return [list(range(gate.num_experts)) for gate in gates], True
    experts: list[list[int]] = []
    lost = 0.0
    uses = gate_use(model, blank_rows(model) if static else data, similarity=False)
    _warn_of_undecided(uses)
    for use, rows in zip(uses, places, strict=True):
        mean_weight = use.mean_weight if len(use.mean_weight) == 1 else use.mean_weight[rows]
        unseen = np.isnan(mean_weight).any(axis=1)
        if unseen.any():
            raise ValueError(
                "Which experts a task uses, only its own rows can tell. Received `data` without "
                f"rows of {[n for n, no in zip(names, unseen, strict=False) if no]}. Add some."
            )
        largest = mean_weight.max(axis=0)
        experts.append(np.flatnonzero(largest > threshold).tolist())
        lost = max(lost, largest[largest <= threshold].max(initial=0))
        if not experts[-1]:
            raise ValueError(
                "At least one expert's weight must be above `threshold`. Received "
                f"threshold={threshold}; the largest mean weight is {largest.max():.3g}. "
                "Lower it."
            )
    if lost > 0 and data is None:
        raise ValueError(
            "Dropping experts of weight above 0 changes predictions, and only rows can tell by "
            f"how much. Received threshold={threshold}, which drops weights up to {lost:.3g}, "
            "and data=None. Pass `data`, or threshold=0 to drop only what has no weight."
        )
    return experts, lost == 0


def blank_rows(model: MultiTaskModel) -> dict[str, np.ndarray]:
    """Features for gates that do not depend on them: one row, or one for each row's task."""
    column = model.schema.task_column
    num = 1 if column is None else len(model.schema.tasks)
    # Not 0, which is padding.
    features = {
        name: np.ones((num, *symbol.shape[1:]), symbol.dtype)
        for name, symbol in model.input.items()
    }
    return features if column is None else {**features, column: np.arange(num, dtype="int32")}


def _kept(
    structure: Structure, experts: Sequence[Sequence[int]]
) -> tuple[int, ...] | dict[str, tuple[int, ...]]:
    """What `Extraction.experts` says."""
    gates = structure.gates
    kept = [tuple(gate.numbers(own)) for gate, own in zip(gates, experts, strict=True)]
    if len(gates) > 1:
        return dict(zip((gate_name(structure, gate) for gate in gates), kept, strict=True))
    return kept[0] if kept else ()


def _check_gate(
    model: MultiTaskModel,
    extracted: MultiTaskModel,
    rows: Sequence[int],
    experts: Sequence[int],
) -> None:
    """Raises ValueError unless the first new gate emits what the old one does.

    A gate may depend on the index of a task or an expert in ways that its weights do not show.
    A structure's gates are of one kind, and the inputs of the others depend on the first.
    """
    features = _random_rows(model, rows, 64)
    both = ((model, features), (extracted, _for_extracted(model, rows, features)))
    before, after = (ops.convert_to_numpy(one.forward_pass(x).aux[0].weights) for one, x in both)
    if model.schema.task_column is None and before.shape[1] > after.shape[1]:
        before = before[:, rows]
    differ = ~np.isclose(before[:, :, experts], after, rtol=1e-3, atol=1e-4).all(axis=(1, 2))
    # Ties up to rounding may be broken otherwise in a row or two.
    if differ.mean() > 0.05:
        raise ValueError(
            "The gate of an extracted model must emit what the whole gate does. Received "
            f"{type(model.structure.gates[0]).__name__}, which on {differ.sum()} of "
            f"{len(differ)} random rows does not for the tasks "
            f"{list(extracted.schema.task_names)}. Its choice depends on a task's place among "
            "the others: extract all tasks, or the first ones."
        )


def _random_rows(
    model: MultiTaskModel, rows: Sequence[int], num_rows: int
) -> dict[str, np.ndarray]:
    """Random features, with valid ids and, where each row has one, tasks of `rows`."""
    generator = np.random.default_rng(0)
    sizes = {
        column.name: model.encoder.table_sizes[owner]
        for owner, columns in model.encoder.groups.items()
        for column in columns
    }
    features = {}
    for name, symbol in model.input.items():
        shape = (num_rows, *symbol.shape[1:])
        if name == model.schema.task_column:
            values = generator.choice(rows, size=shape)
        elif name in sizes:
            values = generator.integers(sizes[name], size=shape)
        else:
            values = generator.normal(size=shape)
        features[name] = values.astype(symbol.dtype)
    return features


def _for_extracted(
    model: MultiTaskModel, rows: Sequence[int], features: dict[str, Any]
) -> dict[str, Any]:
    """Features of the whole model for the extracted one; rows of other tasks get its first."""
    column = model.schema.task_column
    if column is None:
        return features
    places = np.zeros(len(model.schema.tasks), "int32")
    places[rows] = range(len(rows))
    return {**features, column: places[np.asarray(features[column])]}


def _largest_change(
    model: MultiTaskModel, extracted: MultiTaskModel, rows: Sequence[int], data: Any
) -> float:
    """The largest change of a prediction, relative to a task's largest if above 1."""
    names = extracted.schema.task_names
    changes, largest = np.zeros(len(names)), np.ones(len(names))
    for features in batches(model, data, 1024):
        before = _predictions(model, features)
        after = _predictions(extracted, _for_extracted(model, rows, features))
        for i, name in enumerate(names):
            key: str = name
            ours: Any = slice(None)
            if model.schema.task_column is not None:
                key, ours = "score", np.asarray(features[model.schema.task_column]) == rows[i]
            new = after[key][ours]
            # Classes that only dropped tasks have are padding.
            old = before[key][ours][..., : new.shape[-1]] if new.ndim > 1 else before[key][ours]
            # Not `max`, which may pass over a NaN.
            changes[i] = np.maximum(changes[i], np.abs(new - old).max(initial=0))
            largest[i] = np.maximum(largest[i], np.abs(old).max(initial=0))
    return float(np.max(changes / largest))


def _predictions(model: MultiTaskModel, features: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {
        name: ops.convert_to_numpy(x)
        for name, x in model.forward_pass(features).predictions.items()
    }
