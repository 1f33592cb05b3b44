"""A standalone model for some of the tasks, with only the experts that these use."""

from typing import NamedTuple

import numpy as np
from keras import ops

from tfmoe import recipe
from tfmoe.experts import GivenExperts
from tfmoe.gate_use import gate_use
from tfmoe.mixtures import MMoE, SharedBottom
from tfmoe.model import MultiTaskModel


class Extraction(NamedTuple):
    """What `extract` did, as `extracted.extraction`.

    Attributes:
        experts: tuple of int, the experts that stayed, by their numbers in the model that
            was trained; `()` for a mixture without a gate.
        num_parameters: int, of the extracted model.
        num_parameters_before: int.
        largest_change: float, the largest change of a prediction on the rows given, see
            `extract`; None without rows.
    """

    experts: tuple
    num_parameters: int
    num_parameters_before: int
    largest_change: float | None


def extract(model, tasks, threshold=0.0, data=None, tolerance=1e-6):
    """Makes a standalone model of some of a model's tasks.

    It has their towers, their rows of the gate, and the experts whose mean weight for one
    of them is above `threshold`. The gate emits for these experts what the whole gate
    does: nothing is renormalised over the rest. Label columns that only the other tasks
    needed are no longer read. The experts and the gate read all input columns, so all
    columns and embedding tables stay, and so does the whole of a shared bottom.

    How exact it is depends on how the experts are found:

    - A static gate's weights are known. What is dropped at threshold 0 has weight 0 for
      every row, so predictions are the same up to rounding.
    - A gate that sees the example needs rows, `data`; without them all experts stay. What
      is dropped at threshold 0 has weight 0 on these rows, and predictions on them are the
      same up to rounding; on other rows they are as long as no dropped expert would have
      been selected there.
    - A threshold above 0 drops weights above 0. The change is measured on `data`, and past
      `tolerance` nothing is returned.

    The result is a `MultiTaskModel` like any other, not compiled; it can be fitted, saved,
    exported and extracted from again. The model given stays as it is.

    Args:
        model: `MultiTaskModel` on `MMoE`, `OMoE` or `SharedBottom`.
        tasks: sequence of task names. They keep the schema's order.
        threshold: float >= 0, mean weight up to which an expert is dropped: 0.02 means 2 %
            of a task's output.
        data: rows to find the experts and to measure the change on: a DataFrame of raw
            rows, features as `Preprocessor.arrays` makes them, or a dataset.
        tolerance: float >= 0, the largest change of a prediction that is allowed where
            weights above 0 were dropped, divided by the largest prediction of the task, if
            that is above 1.

    Returns:
        `MultiTaskModel`; its `extraction` says what was done (see `Extraction`), until it
        is saved.

    Raises:
        ValueError: if a task is unknown, the mixture is of another kind, an argument is out
            of range, no expert is above `threshold`, weights above 0 would be dropped
            without `data`, or predictions change by more than `tolerance`.

    Example:

    >>> schema = tfmoe.Schema([tfmoe.Numeric("age", transform="none")],
    ...                       [tfmoe.Binary("click"), tfmoe.Binary("buy")])
    >>> model = tfmoe.MultiTaskModel(schema, tfmoe.MMoE(num_experts=4, hidden_units=(8,)))
    >>> extract(model, ["buy"]).schema.task_names
    ('buy',)
    """
    _check(model, threshold, tolerance)
    preprocessor = model.preprocessor.select(tasks)
    names = preprocessor.schema.task_names
    rows = [model.schema.task_names.index(name) for name in names]
    experts, exact = None, True
    if isinstance(model.mixture, MMoE):
        experts, exact = _used_experts(model, rows, threshold, data)
    extracted = MultiTaskModel(
        preprocessor,
        cut_mixture(model.mixture, experts),
        tower_units=model.tower_units,
        tower_dropout=model.tower_dropout,
        dtype=model.encoder.dtype_policy,
    )
    _copy_model(model, extracted, rows, experts)
    if experts is not None:
        _check_gate(model, extracted, rows, experts)
    change = None if data is None else _largest_change(model, extracted, data)
    if not exact and not change <= tolerance:
        raise ValueError(
            "Dropping experts of weight above 0 must not change a prediction by more than "
            f"`tolerance`. Received threshold={threshold}, which changes one by {change:.3g}, "
            f"with tolerance={tolerance}. Lower the threshold, or raise the tolerance and "
            "fine-tune the extracted model."
        )
    numbers = () if experts is None else tuple(_numbers(model.mixture.gate)[e] for e in experts)
    extracted.extraction = Extraction(
        numbers, extracted.count_params(), model.count_params(), change
    )
    return extracted


def _check(model, threshold, tolerance):
    if not isinstance(model, MultiTaskModel) or not isinstance(model.mixture, MMoE | SharedBottom):
        mixture = getattr(model, "mixture", None)
        raise ValueError(
            "extract takes a MultiTaskModel on MMoE, OMoE or SharedBottom. Received "
            f"model={model!r} on {type(mixture).__name__}. Train such a model."
        )
    for name, value in (("threshold", threshold), ("tolerance", tolerance)):
        if not value >= 0:
            raise ValueError(
                f"extract takes `{name}` as a number of at least 0. Received {name}={value!r}."
            )


def _used_experts(model, rows, threshold, data):
    """Indices of the experts that stay, and whether what is dropped has no weight at all."""
    gate = model.mixture.gate
    if gate.router != "static" and data is None:
        if threshold > 0:
            raise ValueError(
                "Which experts a gate uses that sees the example, only rows can tell. Received "
                f"threshold={threshold} and data=None. Pass `data`, or threshold=0 to keep all "
                "experts."
            )
        return list(range(gate.num_experts)), True
    rows_seen = blank_row(model) if gate.router == "static" else data
    use = gate_use(model, rows_seen, similarity=False)[0]
    mean_weight = use.mean_weight if len(use.mean_weight) == 1 else use.mean_weight[rows]
    largest = mean_weight.max(axis=0)
    experts = np.flatnonzero(largest > threshold).tolist()
    lost = largest[largest <= threshold].max(initial=0)
    if not experts:
        raise ValueError(
            "At least one expert's weight must be above `threshold`. Received "
            f"threshold={threshold}; the largest mean weight is {largest.max():.3g}. Lower it."
        )
    if lost > 0 and data is None:
        raise ValueError(
            "Dropping experts of weight above 0 changes predictions, and only rows can tell by "
            f"how much. Received threshold={threshold}, which drops weights up to {lost:.3g}, "
            "and data=None. Pass `data`, or threshold=0 to drop only what has no weight."
        )
    return experts, lost == 0


def blank_row(model):
    """Features of one row, for a gate that does not look at them."""
    return {
        name: np.zeros((1, *symbol.shape[1:]), symbol.dtype) for name, symbol in model.input.items()
    }


def _numbers(gate):
    """A gate's experts by their numbers among those it chooses from."""
    return list(range(gate.num_experts)) if gate.kept is None else list(gate.kept)


def cut_mixture(mixture, experts):
    """A mixture's recipe, for any number of tasks, with some of its experts.

    Args:
        mixture: `MMoE`, `OMoE` or `SharedBottom`.
        experts: list of int, indices of the experts that stay; None if it has no gate.
    """
    config = recipe.config_of(mixture)
    inner = config["config"]
    inner["num_tasks"] = None
    if experts is None:
        return config
    inner["num_experts"] = len(experts)
    if inner["experts"] is not None:
        inner["experts"] = [inner["experts"][e] for e in experts]
    gate, gate_config = mixture.gate, inner["gate"]["config"]
    # The mixture fills in the counts, also where the recipe had stated them.
    gate_config.update(num_tasks=None, num_experts=None)
    if len(experts) < gate.num_experts:
        numbers = _numbers(gate)
        kept = [numbers[e] for e in experts]
        gate_config.update(kept=kept, num_choices=gate.num_choices)
    return config


def _copy_model(model, extracted, rows, experts):
    old, new = model.mixture, extracted.mixture
    _copy_weights(model.encoder, extracted.encoder)
    _copy_weights(model.towers, extracted.towers, rows)
    if isinstance(old, SharedBottom):
        _copy_weights(old, new)
        return
    if isinstance(old.experts, GivenExperts):
        for e, layer in zip(experts, new.experts.layers, strict=True):
            _copy_weights(old.experts.layers[e], layer)
    else:
        _copy_weights(old.experts, new.experts, experts)
    if old.num_gates == 1:
        _copy_weights(old.gate, new.gate)
    else:
        _copy_gate(old.gate, new.gate, rows)


def _copy_weights(old, new, members=None):
    """Copies a layer's weights; of stacked ones those of some members of the stack.

    Args:
        members: list of int, indices of the first axis; None to copy whole weights.
    """
    for target, values in _paired(old, new):
        if members is not None:
            values = values[members]
        # A tower's kernel is as wide as the widest task needs.
        target.assign(values[tuple(slice(n) for n in target.shape)])


def _paired(old, new):
    """Weights of a layer that is to be filled, each with the values of its model."""
    for source, target in zip(old.weights, new.weights, strict=True):
        if source.name != target.name:
            raise ValueError(
                f"extract copies the weights of a layer in their order. Received {old.name!r} "
                f"with {source.name!r} where its copy has {target.name!r}. Please report this."
            )
        yield target, ops.convert_to_numpy(source)


def _copy_gate(old, new, rows):
    """Copies a gate's weights, of those that belong to tasks the `rows`.

    All but the scores either have nothing to do with tasks, and keep their shape, or have
    one axis for them.
    """
    num_old, num_new = old.num_tasks, new.num_tasks
    # A gate that computes its weights without scores has no head.
    scores = {id(weight) for weight in new.head.weights} if hasattr(new, "head") else ()
    for target, values in _paired(old, new):
        if id(target) in scores:
            # A task's scores lie side by side, `(f, t * s)`.
            apart = values.reshape(*values.shape[:-1], num_old, -1)[..., rows, :]
            target.assign(apart.reshape(target.shape))
            continue
        changed = [
            axis
            for axis, sizes in enumerate(zip(values.shape, target.shape, strict=True))
            if sizes[0] != sizes[1]
        ]
        if changed:
            axis = changed[0]
            if len(changed) > 1 or (values.shape[axis], target.shape[axis]) != (num_old, num_new):
                raise ValueError(
                    "extract copies a gate's weights that have one axis for tasks, or none. "
                    f"Received {type(old).__name__}'s {target.name!r} of shape {values.shape}, "
                    f"which for {num_new} of {num_old} tasks has shape {tuple(target.shape)}. "
                    "Please report this."
                )
            values = values.take(rows, axis=axis)
        target.assign(values)


def _check_gate(model, extracted, rows, experts):
    """Raises ValueError unless the new gate emits what the old one does.

    A gate may depend on a task's or an expert's place otherwise than by its weights.
    """
    features = _random_rows(model, 64)
    before, after = (
        ops.convert_to_numpy(one.run(features).aux[0]["weights"]) for one in (model, extracted)
    )
    before = before[:, rows if before.shape[1] > 1 else [0]][:, :, experts]
    differ = ~np.isclose(before, after, rtol=1e-3, atol=1e-4).all(axis=(1, 2))
    # Scores that tie up to rounding may be chosen otherwise in a row or two.
    if differ.mean() > 0.05:
        raise ValueError(
            "The gate of an extracted model must emit what the whole gate does. Received "
            f"{type(model.mixture.gate).__name__}, which on {differ.sum()} of 64 random rows "
            f"does not for the tasks {list(extracted.schema.task_names)}. Its choice depends on "
            "a task's place among the others: extract all tasks, or the first ones."
        )


def _random_rows(model, num_rows):
    """Features that mean nothing, with valid ids."""
    generator = np.random.default_rng(0)
    sizes = {
        column.name: model.encoder.table_sizes[owner]
        for owner, columns in model.encoder.groups.items()
        for column in columns
    }
    features = {}
    for name, symbol in model.input.items():
        shape = (num_rows, *symbol.shape[1:])
        drawn = name in sizes and generator.integers(sizes[name], size=shape)
        values = drawn if name in sizes else generator.normal(size=shape)
        features[name] = values.astype(symbol.dtype)
    return features


def _largest_change(model, extracted, data):
    """The largest change of a prediction, relative to a task's largest if above 1."""
    before, after = (one.predict(data, batch_size=4096, verbose=0) for one in (model, extracted))
    changes = [
        np.abs(values - before[name]).max() / max(1.0, np.abs(before[name]).max())
        for name, values in after.items()
    ]
    # Not `max`, which may pass over a NaN.
    return float(np.max(changes))
