"""What a model's gates select, in numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
from keras import ops, tree
from scipy.special import entr

from tfmoe.compute.types import Tensor
from tfmoe.gates.base import Gate
from tfmoe.gates.output import GateOutput
from tfmoe.keras_private import calls_of
from tfmoe.model.model import MultiTaskModel
from tfmoe.structures.base import Structure, gates_inside, structure_of
from tfmoe.validation import checks_arguments

# An expert of a weight up to this is not used.
USED = 1e-6
# Above this share of every task's weight, a gate has collapsed on one expert.
COLLAPSED = 0.95
# From this share of selectors on, a gate that becomes sparse by training has done so.
DECIDED = 0.95
# Above this correlation two experts are duplicates.
ALIKE = 0.99
_SAMPLED_AT_ONCE = 65_536


class GateUse(NamedTuple):
    """What one gate selects on some rows.

    Attributes:
        gate: str, its name.
        tasks: tuple of str; one, "all tasks", where a gate serves all of them, and streams, by
            number, where it serves others than the model's tasks, such as groups of them.
        experts: tuple of int. Those of an extracted model keep the numbers that they had.
        mean_weight: `(t, e)`, mean weight of each expert for each task. This and what follows
            by task is NaN for a task that has none of the rows.
        share_used: `(t, e)`, share of the rows that use the expert: its weight is above 1e-6.
        num_used: `(t,)`, mean number of experts that a row uses.
        entropy: `(t,)`, mean entropy of a row's weights, scaled to sum to 1, in nats: from 0,
            one expert, to `log(e)`, all alike.
        effective_experts: `(t,)`, `exp` of the entropy of the mean weights: over how
            many experts a task spreads, all rows together.
        converged: `(t,)`, mean share of a row's selectors that have decided; None for a
            gate that has none.
        usage: `(t, e)`, share of a task's rows in late training that selected the expert:
            the gate's `usage`; None for a gate that does not keep it.
        similarity: `(e, e)`, correlation of experts' outputs; None where it was not
            measured.
        warnings: tuple of str: collapse, dead experts, duplicate experts.
    """

    gate: str
    tasks: tuple[str, ...]
    experts: tuple[int, ...]
    mean_weight: np.ndarray
    share_used: np.ndarray
    num_used: np.ndarray
    entropy: np.ndarray
    effective_experts: np.ndarray
    converged: np.ndarray | None
    usage: np.ndarray | None
    similarity: np.ndarray | None
    warnings: tuple[str, ...]

    def frame(self) -> pd.DataFrame:
        """A DataFrame with a row for each task and expert.

        A task's own numbers are repeated in all of its rows; `nearest` is the expert's
        highest correlation with another expert, if there is one. What was not measured is NaN.
        """
        shape = self.mean_weight.shape
        nearest: Any = np.nan
        converged: Any = np.nan
        usage: Any = np.nan
        if self.similarity is not None:
            own = np.eye(shape[1], dtype=bool)
            others = np.where(own, -np.inf, self.similarity).max(axis=1)
            nearest = np.broadcast_to(np.where(np.isfinite(others), others, np.nan), shape).ravel()
        if self.converged is not None:
            converged = np.repeat(self.converged, shape[1])
        if self.usage is not None:
            usage = self.usage.ravel()
        return pd.DataFrame(
            {
                "gate": self.gate,
                "task": np.repeat(self.tasks, shape[1]),
                "expert": np.tile(self.experts, shape[0]),
                "mean_weight": self.mean_weight.ravel(),
                "share_used": self.share_used.ravel(),
                "num_used": np.repeat(self.num_used, shape[1]),
                "entropy": np.repeat(self.entropy, shape[1]),
                "effective_experts": np.repeat(self.effective_experts, shape[1]),
                "converged": converged,
                "usage": usage,
                "nearest": nearest,
            }
        )


@checks_arguments
def gate_use(
    model: keras.Model, source: Any, similarity: bool = True, batch_size: int = 1024
) -> list[GateUse]:
    """Measures what a model's gates select on some rows.

    Nothing is compiled, no random number is drawn, and the model stays as it is. Where each
    row belongs to one task, it counts for that task. In a structure of tokens, such as
    `ModSquad`, each token counts as a row, and padding does not count.

    Args:
        model: `MultiTaskModel`, or a Functional Keras model with structures such as `MMoE`
            among its `layers`, each called once.
        source: for a `MultiTaskModel` a DataFrame or files of raw rows; for any model
            what it is fitted on, with labels or without: arrays, or a `tf.data.Dataset` of
            batches.
        similarity: bool; whether to compare the experts' outputs too, where a structure's
            experts see whole rows: by Pearson's correlation over all rows and units, each
            unit about its own mean.
        batch_size: int >= 1, rows of a batch, for arrays and raw rows.

    Returns:
        List of `GateUse`, one for each gate; empty if the model has none.

    Raises:
        ValueError: if the model is neither, or calls a structure more than once.

    Experts are compared by correlation rather than by CKA (Kornblith et al., 2019,
    https://arxiv.org/abs/1905.00414), for which experts that are rotations of each
    other are the same: the weights of a gate cannot swap those. An expert with constant
    outputs resembles no other.
    """
    mixtures, run = _runner(model)
    if not mixtures:
        return []
    gates = [mixture.gates for mixture in mixtures]
    sums = [[_Sums(gate) for gate in ours] for ours in gates]
    outputs = [_Correlations() for _ in mixtures]
    for features in batches(model, source, batch_size):
        for i, (inputs, records) in enumerate(run(features)):
            for one, record in zip(sums[i], records, strict=True):
                one.add(record)
            found = mixtures[i].expert_outputs(inputs) if similarity else None
            if found is not None:
                outputs[i].add(_numpy(found))

    def name(mixture: Structure, gate: Gate) -> str:
        own = gate_name(mixture, gate)
        return own if len(mixtures) == 1 else f"{mixture.name}/{own}"

    return [
        one.result(name(mixture, one.gate), _task_names(model, mixture, one.gate), matrix)
        for mixture, ours, matrix in zip(mixtures, sums, (o.result() for o in outputs), strict=True)
        for one in ours
    ]


def gate_name(structure: Structure, gate: Gate) -> str:
    """A gate's name, with its path inside the structure where that has several."""
    if len(structure.gates) == 1:
        return gate.name
    return gate.path.removeprefix(f"{structure.path}/")


def sample(model: keras.Model, source: Any, num_rows: int) -> Any:
    """At most `num_rows` rows of `source` as features, always the same.

    Drawn from all rows; of a dataset, which may be long, the first.
    """
    if hasattr(source, "as_numpy_iterator"):
        parts = []
        for features in batches(model, source, num_rows):
            parts.append(features)
            if sum(map(_length, parts)) >= num_rows:
                break
        features = tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
        return tree.map_structure(lambda array: array[:num_rows], features)
    generator = np.random.default_rng(0)
    kept: Any = None
    keys = np.zeros(0)
    for features in batches(model, source, _SAMPLED_AT_ONCE):
        keys = np.concatenate([keys, generator.random(_length(features))])
        parts = [features] if kept is None else [kept, features]
        kept = tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
        # The rows with the smallest random keys are a uniform sample of all rows.
        rows = np.argsort(keys, kind="stable")[:num_rows]
        kept, keys = tree.map_structure(lambda array, rows=rows: array[rows], kept), keys[rows]
    return kept


def batches(model: keras.Model, source: Any, batch_size: int) -> Iterator[Any]:
    """Features, some rows at a time."""
    if hasattr(source, "as_numpy_iterator"):
        for batch in source.as_numpy_iterator():
            yield batch[0] if isinstance(batch, tuple) else batch
        return
    if isinstance(source, tuple):
        source = source[0]
    elif isinstance(model, MultiTaskModel) and not isinstance(source, dict):
        yield from model.preprocessor.batches(source, batch_size, labels=False)
        return
    for start in range(0, _length(source), batch_size):
        rows = slice(start, start + batch_size)
        yield tree.map_structure(lambda array, rows=rows: array[rows], source)


def _length(features: Any) -> int:
    return len(tree.flatten(features)[0])


def _runner(
    model: keras.Model,
) -> tuple[list[Structure], Callable[[Any], list[tuple[Tensor, list[GateOutput]]]]]:
    """A model's structures, and what maps features to each one's inputs and gate outputs."""
    if isinstance(model, MultiTaskModel):
        mixtures = [model.structure] if model.structure.gates else []

        def run_whole(features: Any) -> list[tuple[Tensor, list[GateOutput]]]:
            return [(model.encode(features), model.forward_pass(features).aux)]

        return mixtures, run_whole
    layers = [
        layer
        for layer in model.layers
        if not isinstance(layer, Gate | keras.Model) and gates_inside(layer)
    ]
    if not layers:
        return [], lambda features: []
    mixtures = [structure_of(layer) for layer in layers]
    try:
        calls = [_call(layer) for layer in layers]
        # Named, so that the layers a user makes later get the names they would have had.
        symbols = {id(x): x for x in tree.flatten(calls) if isinstance(x, keras.KerasTensor)}
        before = keras.Model(model.input, list(symbols.values()), name="before_mixtures")
    except ValueError as error:
        raise ValueError(
            "Gates are read from a MultiTaskModel, or a Functional Keras model that calls each "
            f"mixture once. Received model={model.name!r} of type {type(model).__name__}. Make "
            "it with keras.Model(inputs, outputs)."
        ) from error

    def run(features: Any) -> list[tuple[Tensor, list[GateOutput]]]:
        outputs = before(tree.map_structure(ops.convert_to_tensor, features))
        # Keras returns a list of one output without its list.
        values = dict(zip(symbols, tree.flatten(outputs), strict=True))
        found = []
        for mixture, call in zip(mixtures, calls, strict=True):
            args, kwargs = tree.map_structure(lambda x: values.get(id(x), x), call)
            kwargs = {**kwargs, "training": False, "return_aux": True}
            inputs = args[0] if args else kwargs["inputs"]
            found.append((inputs, mixture(*args, **kwargs)[1]))
        return found

    return mixtures, run


def _call(mixture: keras.layers.Layer) -> Any:
    """The positional and the named arguments that a layer was called with.

    Raises:
        ValueError: if it was not called once.
    """
    (call,) = calls_of(mixture)
    return call


def _task_names(model: keras.Model, mixture: Structure, gate: Gate) -> tuple[str, ...]:
    if isinstance(model, MultiTaskModel):
        names = tuple(model.schema.task_names)
    else:
        names = tuple(f"task {t}" for t in range(mixture.num_tasks))
    if gate.num_tasks == 1 < len(names):
        return ("all tasks",)
    tasks = list(range(len(names)))
    if gate.num_tasks == len(names) and mixture.gate_rows(tasks, gate) == tasks:
        return names
    # Streams of groups of tasks, or of tasks that an extracted structure has no more.
    return tuple(f"stream {t}" for t in range(gate.num_tasks))


def _numpy(tensor: Tensor) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def _shares(weights: np.ndarray) -> np.ndarray:
    """Weights scaled to sum to 1 over the last axis, but for those that are all 0."""
    total = weights.sum(axis=-1, keepdims=True)
    return weights / np.where(total > 0, total, 1)


def _entropy(weights: np.ndarray) -> np.ndarray:
    """Over the last axis, in nats; 0 where all weights are 0."""
    return entr(_shares(weights)).sum(axis=-1)


class _Sums:
    """Sums over batches, of one gate."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.rows = np.zeros(gate.num_tasks)
        self.weights: Any = 0.0
        self.used: Any = 0.0
        self.entropy: Any = 0.0
        self.converged: Any = 0.0

    def add(self, record: GateOutput) -> None:
        # One row stands for all with a static router.
        weights = _numpy(record.weights)
        counts = _counts(record, len(weights), self.gate.num_tasks)
        self.rows += counts.sum(axis=0)
        self.weights = self.weights + _by_task(counts, weights)
        self.used = self.used + _by_task(counts, weights > USED)
        self.entropy = self.entropy + _by_task(counts, _entropy(weights))
        converged = self.gate.converged(record.scores)
        self.converged = (
            None if converged is None else self.converged + _by_task(counts, _numpy(converged))
        )

    def mean(self, sums: np.ndarray) -> np.ndarray:
        rows = np.where(self.rows > 0, self.rows, np.nan)
        return sums / rows.reshape(-1, *[1] * (sums.ndim - 1))

    def result(self, name: str, tasks: tuple[str, ...], similarity: np.ndarray | None) -> GateUse:
        gate, mean_weight, share_used = self.gate, self.mean(self.weights), self.mean(self.used)
        experts = tuple(gate.numbers(range(gate.num_experts)))
        seen = self.rows > 0
        # A static gate that may select one expert has nothing to spread.
        may_collapse = gate.router == "static" and gate.num_nonzeros == 1
        warnings = [] if may_collapse else _collapse(experts, mean_weight[seen])
        warnings += _dead(experts, share_used[seen]) if seen.any() else []
        warnings += [] if similarity is None else _duplicates(experts, similarity)
        converged = None if self.converged is None else self.mean(self.converged)
        warnings += [] if converged is None else _undecided(converged[seen])
        return GateUse(
            gate=name,
            tasks=tasks,
            experts=experts,
            mean_weight=mean_weight,
            share_used=share_used,
            num_used=share_used.sum(axis=1),
            entropy=self.mean(self.entropy),
            effective_experts=np.exp(_entropy(mean_weight)),
            converged=converged,
            usage=gate.usage,
            similarity=similarity,
            warnings=tuple(warnings),
        )


def _counts(record: GateOutput, num_rows: int, num_tasks: int) -> np.ndarray:
    """Array `(b, t)`: 1 where a row counts for a task, else 0."""
    counts = np.ones((num_rows, num_tasks))
    if record.has_task:
        counts = np.eye(num_tasks)[ops.convert_to_numpy(record.task)]
    return counts * _numpy(record.mask)[:, None] if record.has_mask else counts


def _by_task(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums over the rows of each task, `(t, ...)`, of `values` `(b, t, ...)` or `(b, 1, ...)`."""
    if values.shape[1] == 1:
        return np.tensordot(counts, values[:, 0], (0, 0))
    return np.einsum("bt,bt...->t...", counts, values)


class _Correlations:
    """Pearson's correlation of experts' outputs, added up over batches."""

    def __init__(self) -> None:
        self.rows = 0
        self.sums: Any = 0.0
        self.products: Any = 0.0

    def add(self, outputs: np.ndarray) -> None:
        outputs = outputs.astype("float64").swapaxes(0, 1)
        self.rows += outputs.shape[1]
        self.sums = self.sums + outputs.sum(axis=1)
        flat = outputs.reshape(len(outputs), -1)
        self.products = self.products + flat @ flat.T

    def result(self) -> np.ndarray | None:
        if not self.rows:
            return None
        covariance = self.products - self.sums @ self.sums.T / self.rows
        variance = np.diag(covariance)
        # What rounding leaves of a constant is no variance.
        constant = variance <= 1e-10 * np.diag(self.products)
        spread = np.sqrt(np.where(constant, np.inf, variance))
        return covariance / np.outer(spread, spread)


def _collapse(experts: Sequence[int], mean_weight: np.ndarray) -> list[str]:
    for expert, shares in zip(experts, _shares(mean_weight).T, strict=True):
        if len(experts) > 1 and len(shares) and (shares > COLLAPSED).all():
            return [
                f"Collapse: every task puts more than {COLLAPSED:.0%} of its weight on expert "
                f"{expert}. A balance loss or another seed may spread it."
            ]
    return []


def _dead(experts: Sequence[int], share_used: np.ndarray) -> list[str]:
    dead = [str(experts[int(e)]) for e in np.flatnonzero((share_used == 0).all(axis=0))]
    text = f"Dead experts: on these rows no task uses {_listed(dead)}, so they learn nothing."
    return [text] if dead else []


def _undecided(converged: np.ndarray) -> list[str]:
    """Of a gate that becomes sparse by training, while it has not."""
    if not len(converged) or converged.min() >= DECIDED:
        return []
    return [
        f"Undecided: of a task's selectors only {converged.min():.0%} name one expert yet, so most "
        "experts still have some weight and none can be left out. Train longer, or give the gate "
        "more `entropy_reg`."
    ]


def _duplicates(experts: Sequence[int], similarity: np.ndarray) -> list[str]:
    alike = zip(*np.nonzero(np.triu(similarity > ALIKE, 1)), strict=True)
    pairs = [f"{experts[i]} and {experts[j]}" for i, j in alike]
    if not pairs:
        return []
    return [
        f"Duplicate experts: the outputs of {_listed(pairs)} correlate above {ALIKE}. One of "
        "them would do."
    ]


def _listed(words: Sequence[str], most: int = 8) -> str:
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
