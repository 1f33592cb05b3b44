"""Parts of `MultiTaskModel.grow`: a model with more rows of its tables, or with more columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from keras import ops

from tfmoe.data.encode.vocabulary import Vocabulary
from tfmoe.data.fit.growth import renamed_columns
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.experts.star import StarExperts
from tfmoe.features.pretrained import PretrainedEmbedding
from tfmoe.keras_private import flatten_layers
from tfmoe.model.frozen import freeze_alike
from tfmoe.schema.columns import FIRST_ID, UNKNOWN_ID

# What tells a model's variable, whatever its columns are called: words, names and places.
_Key = tuple[Any, ...]

# How much a prediction may change by columns of which nothing is used yet.
_TOLERANCE = 1e-4


class Plan(NamedTuple):
    """How a model is to grow.

    Attributes:
        names: dict by column before of its name now.
        fresh: dict by column before that owns a table of values of the ids that other values have
            now, or that are new.
        copies_unknown: whether new rows start as that of the unknown value.
    """

    names: dict[str, str]
    fresh: dict[str, np.ndarray]
    copies_unknown: bool


def plan(
    before: Preprocessor, preprocessor: Any, new_rows: str, renamed: Mapping[str, str] | None
) -> Plan:
    """How the model of one Preprocessor becomes that of another.

    Raises:
        ValueError: if the one has not grown out of the other, or an argument is none.
    """
    if new_rows not in ("initializer", "unknown"):
        raise ValueError(
            f'grow takes `new_rows` "initializer" or "unknown". Received new_rows={new_rows!r}.'
        )
    if not isinstance(preprocessor, Preprocessor) or not preprocessor.grown_from(before):
        raise ValueError(
            "A model grows with what its own Preprocessor has become, for ids must stay what they "
            f"are. Received preprocessor={preprocessor!r}, which has not. Make it by "
            "`model.training_preprocessor.grow(rows)`."
        )
    names = renamed_columns(before.schema, preprocessor.schema, renamed)
    sizes, now = before.table_sizes, preprocessor.table_sizes
    fresh = {}
    for owner, table in before.tables.items():
        new = preprocessor.tables[names[owner]]
        changed = np.zeros(0, np.int64)
        if isinstance(table, Vocabulary) and isinstance(new, Vocabulary):
            changed = FIRST_ID + _changed(table.values, new.values[: len(table.values)])
        fresh[owner] = np.append(changed, np.arange(sizes[owner], now[names[owner]]))
    return Plan(names, fresh, new_rows == "unknown")


def _changed(old: pa.Array, new: pa.Array) -> np.ndarray:
    """The places at which another value stands now."""
    one, other = (np.array(values.cast(new.type).to_pylist(), object) for values in (old, new))
    return np.flatnonzero([b is not None and a != b for a, b in zip(one, other, strict=True)])


def config_of(model: Any, preprocessor: Preprocessor, names: Mapping[str, str]) -> dict[str, Any]:
    """The config of a model with another's layers, for what a Preprocessor has become.

    Raises:
        ValueError: if further columns come that it cannot have.
    """
    if len(preprocessor.schema.columns) > len(names):
        _check_takes_columns(model)
    config = dict(model.get_config())
    mixture = _renamed(config["mixture"], names)
    if "num_scenarios" in mixture["config"]:
        mixture["config"]["num_scenarios"] = None  # as many as there are now
    gate = config["tower_gate"]
    if gate is not None:
        columns = [names[name] for name in gate["config"]["columns"]]
        gate = {**gate, "config": {**gate["config"], "columns": columns}}
    return {
        **config,
        "schema": preprocessor.schema.to_dict(),
        "table_sizes": preprocessor.table_sizes,
        "lengths": preprocessor.lengths,
        "mixture": mixture,
        "tower_gate": gate,
        "position": names.get(config["position"]),
        # Places of layers are others where there are more.
        "frozen": None if len(preprocessor.schema.columns) > len(names) else config["frozen"],
    }


def _renamed(config: Any, names: Mapping[str, str]) -> Any:
    """A copy of a recipe whose gates read columns under their new names."""
    if isinstance(config, dict):
        return {
            key: names.get(value, value)
            if key == "column" and isinstance(value, str)
            else _renamed(value, names)
            for key, value in config.items()
        }
    return [_renamed(one, names) for one in config] if isinstance(config, list) else config


def _check_takes_columns(model: Any) -> None:
    """Raises ValueError where a model has a part that further columns would change."""
    parts = {
        "interactions": model.interactions,
        "input_gate": model.input_gate,
        "tower_gate": model.tower_gate,
        "tasks that were added": model.added_tasks,
        "a structure that reads tokens": model.structure.input_kind == "tokens",
    }
    found = [name for name, part in parts.items() if part]
    if found:
        raise ValueError(
            "Further columns come to models in which the structure reads what the encoder gives, "
            "one vector a row: the first layers get rows of zeros for them. Received a model with "
            f"{' and '.join(found)}. Train it anew with the columns, or grow without `schema`."
        )


class Transfer:
    """From the variables of a model to those of one that has grown.

    Args:
        old: `MultiTaskModel`.
        new: the one that was made by `config_of`, which knows its Preprocessor.
        how: `Plan`.
    """

    def __init__(self, old: Any, new: Any, how: Plan) -> None:
        self.old, self.new, self.how = old, new, how
        self.tables = _id_tables(old)
        targets = dict(_variables(new))
        self.pairs = {
            key: (variable, targets[_now(key, how.names)]) for key, variable in _variables(old)
        }
        numbers = [[(n, _width(one, n)) for n in _numbers(one)] for one in (old, new)]
        self.encoded = _places(_sizes(old), _sizes(new), how.names)
        self.wide = _places(numbers[0], numbers[1], how.names)

    def copy_weights(self) -> None:
        """Fills the model's own variables, and freezes what was frozen.

        Raises:
            ValueError: if a layer cannot take further columns.
        """
        self.new.encoder.start_at(self.new.training_preprocessor.fits)
        for key, (variable, target) in self.pairs.items():
            table = self.tables.get(id(variable))
            values = self._grown(key, variable, variable, target)
            if table is not None and self.how.copies_unknown and not table.start:
                # What the unknown value has learned, at all that it stood for.
                rows = np.moveaxis(values, table.axis, 0)
                rows[table.fresh(self.how)] = rows[UNKNOWN_ID]
            target.assign(values)
        if len(self.how.names) < len(self.new.training_preprocessor.schema.columns):
            freeze_alike(self.old, self.new, self.how.names)
            _check_predictions(self.old, self.new, self.how.names)

    def copy_training(self) -> None:
        """Fills what the optimizer, the weighting and the auxiliary losses have kept.

        Both models are compiled alike.

        Raises:
            ValueError: if the optimizer's state of a table is of another shape than the table.
        """
        trackers = zip(self.old._trackers.value, self.new._trackers.value, strict=True)
        kept = list(trackers)
        if self.old.weighting_state is not None:
            kept.append((self.old.weighting_state, self.new.weighting_state))
        for one, other in kept:
            for variable, target in zip(one.variables, other.variables, strict=True):
                target.assign(variable)
        if not self.old.optimizer.built:
            return
        variables, targets = zip(*self.pairs.values(), strict=True)
        before = slots_of(self.old.optimizer, variables)
        # Those of further columns, behind the others, start as they are.
        after = slots_of(self.new.optimizer, [*targets, *self.new.trainable_variables])
        for key, slots, new in zip(self.pairs, before.slots, after.slots, strict=False):
            # What was frozen after it was trained has no state any more.
            for name in {*slots} & {*new}:
                new[name].assign(self._grown_slot(key, name, slots[name], new[name]))
        for one, other in zip(before.others, after.others, strict=True):
            if tuple(one.shape) != tuple(other.shape):
                raise _unknown_state(self.old, one, other)
            other.assign(one)

    def _grown_slot(self, key: _Key, name: str, slot: Any, target: Any) -> np.ndarray:
        """What an optimizer's state is to be, of which `target` has what it starts with."""
        variable, its = self.pairs[key]
        values, table = self._grown(key, variable, slot, target), self.tables.get(id(variable))
        if table is not None and name.startswith("average/"):
            # A mean of the row itself, which begins at it.
            fresh = table.fresh(self.how)
            rows = np.moveaxis(ops.convert_to_numpy(its), table.axis, 0)
            np.moveaxis(values, table.axis, 0)[fresh] = rows[fresh]
        return values

    def _grown(self, key: _Key, variable: Any, source: Any, target: Any) -> np.ndarray:
        """What a variable, or an optimizer's state of it, is to be.

        Args:
            key, variable: the model's variable before.
            source: itself, or its state.
            target: what is to be filled, which has what it starts with.
        """
        values, old = np.array(ops.convert_to_numpy(target)), ops.convert_to_numpy(source)
        table = self.tables.get(id(variable))
        fresh = np.zeros(0, np.int64) if table is None else table.fresh(self.how)
        if table is not None and len(fresh):
            if old.shape != tuple(variable.shape):
                raise _unknown_state(self.old, source, variable)
            kept = np.setdiff1d(np.arange(old.shape[table.axis]), fresh)
            np.moveaxis(values, table.axis, 0)[kept] = np.moveaxis(old, table.axis, 0)[kept]
            return values
        if values.shape == old.shape:
            return old
        places = self.wide if key == ("wide kernel",) else self.encoded
        shapes = list(zip(old.shape, values.shape, strict=True))
        changed = [axis for axis, (one, other) in enumerate(shapes) if one != other]
        if len(changed) != 1 or old.shape[changed[0]] != len(places):
            raise ValueError(
                "Further columns are further rows of the kernels that read the encoder's output. "
                f"Received {variable.path!r} of shape {old.shape}, which would be "
                f"{values.shape}. Train the model anew with the columns, or grow without `schema`."
            )
        # Nothing is made of the new columns yet.
        values[...] = 0
        np.moveaxis(values, changed[0], 0)[places] = np.moveaxis(old, changed[0], 0)
        return values


class _IdTable(NamedTuple):
    """Of which ids a variable has a row each, along which axis; the first rows may be elsewhere."""

    owner: str
    axis: int = 0
    start: int = 0

    def fresh(self, how: Plan) -> np.ndarray:
        """The rows that belong to no value that there was."""
        ids = how.fresh.get(self.owner)
        return np.zeros(0, np.int64) if ids is None else ids - self.start


def _id_tables(model: Any) -> dict[int, _IdTable]:
    """By `id` of a variable that has a row for each id of a column: which."""
    found = {}
    for owner, table in model.encoder.tables.items():
        if isinstance(table, PretrainedEmbedding):
            vectors = table.frozen if table.vectors is None else table.vectors.embeddings
            found[id(vectors)] = _IdTable(owner, start=FIRST_ID)
        else:
            found[id(table.embeddings)] = _IdTable(owner)
    for name, table in {} if model.wide is None else model.wide.tables.items():
        found[id(table.embeddings)] = _IdTable(model.schema.column(name).table)
    if model.position_tower is not None:
        for table in model.position_tower.tables:
            found[id(table.embeddings)] = _IdTable(model.position)
    for layer in flatten_layers(model):
        if isinstance(layer, StarExperts):
            owner = model.schema.column(model.schema.scenario).table
            for pairs in layer.parts:
                found |= {id(own): _IdTable(owner, axis=1) for _, own in pairs}
    return found


def _variables(model: Any) -> Iterator[tuple[_Key, Any]]:
    """All variables of a model, random states too, and what tells each."""
    encoder = model.encoder
    for kind in ("tables", "unknown", "interests"):
        for name, layer in getattr(encoder, kind).items():
            yield from (((kind, (name,), place), v) for place, v in enumerate(layer.variables))
    for kind in ("maps", "biases", "positions"):
        for name, variable in getattr(encoder, kind, {}).items():
            yield (kind, (name,)), variable
    if model.wide is not None:
        for name, table in model.wide.tables.items():
            yield ("wide", (name,)), table.embeddings
        if hasattr(model.wide, "kernel"):
            yield ("wide kernel",), model.wide.kernel
    for kind in (
        *("mixture", "towers", "head", "input_gate", "tower_gate", "imputation"),
        *("interactions", "column_dropout", "position_tower"),
    ):
        layer = getattr(model, kind)
        for place, variable in enumerate([] if layer is None else layer.variables):
            yield (kind, place), variable


def _now(key: _Key, names: Mapping[str, str]) -> _Key:
    """A key with the column's name as it is now."""
    return tuple((names[part[0]],) if isinstance(part, tuple) else part for part in key)


def _unknown_state(model: Any, state: Any, variable: Any) -> ValueError:
    return ValueError(
        "A model grows with its optimizer's state where that has the shape of its variable. "
        f"Received {type(model.optimizer).__name__}, whose {state.name!r} has shape "
        f"{tuple(state.shape)} in place of {tuple(variable.shape)}. Compile the model anew, with "
        "Adam or SGD or, to start without what this one has kept, with it; then grow."
    )


def _sizes(model: Any) -> list[tuple[str, int]]:
    return list(zip([c.name for c in model.schema.columns], model.encoder.sizes, strict=True))


def _numbers(model: Any) -> list[str]:
    """The columns that are numbers, in their order."""
    return [column.name for column in model.schema.columns if not column.embeds]


def _width(model: Any, name: str) -> int:
    return math.prod(model.input[name].shape[1:])


def _places(
    old: Sequence[tuple[str, int]], new: Sequence[tuple[str, int]], names: Mapping[str, str]
) -> np.ndarray:
    """Where what a vector had stands in one that has more columns.

    Args:
        old, new: sequences of pairs, the columns and how many numbers each has of the vector.
        names: see `Plan`.
    """
    starts, start = {}, 0
    for name, size in new:
        starts[name], start = start, start + size
    found = [starts[names[name]] + np.arange(size) for name, size in old]
    return np.concatenate([*found, np.zeros(0, np.int64)])


def _check_predictions(old: Any, new: Any, names: Mapping[str, str]) -> None:
    """Raises ValueError where columns of which nothing is used change predictions."""
    rng = np.random.default_rng(0)
    now = {name: _made_up(new, name, symbol, rng) for name, symbol in new.input.items()}
    before = {name: now[name] for name in old.input if name == old.schema.task_column}
    for column in old.schema.columns:
        its = new.schema.column(names[column.name]).feature_names
        before |= {n: now[other] for n, other in zip(column.feature_names, its, strict=True)}
    one, other = (model(x, training=False) for model, x in ((old, before), (new, now)))
    for name in one:
        expected, found = (ops.convert_to_numpy(values[name]) for values in (one, other))
        apart = np.abs(found - expected).max() / max(1.0, np.abs(expected).max())
        if not apart <= _TOLERANCE:
            raise ValueError(
                "Columns of which nothing is used yet must not change what is predicted. Received "
                f"a {type(old.structure).__name__} with which {name!r} changes by {apart:.3g}: it "
                "reads more of its inputs than products with kernels. Train the model anew with "
                "the columns, or grow without `schema`."
            )


def _made_up(model: Any, name: str, symbol: Any, rng: np.random.Generator) -> np.ndarray:
    """Eight rows of an input."""
    shape = (8, *symbol.shape[1:])
    if name == model.schema.task_column:
        return np.arange(8, dtype="int32") % len(model.schema.tasks)
    if "int" in symbol.dtype:
        # Ids that every table has.
        return rng.integers(1, FIRST_ID, shape).astype("int32")
    return rng.normal(size=shape).astype("float32")


class Slots(NamedTuple):
    """The variables of an optimizer.

    Attributes:
        slots: for each of the model's variables a dict of its states, by what they are.
        others: those of no variable, such as the number of steps.
    """

    slots: list[dict[str, Any]]
    others: list[Any]


def slots_of(optimizer: Any, variables: Sequence[Any]) -> Slots:
    """Which variables of an optimizer belong to which of the model's."""
    # By name, as Keras gives them: that of the variable's path and the state's.
    places: dict[str, int] = {}
    for place, variable in enumerate(variables):
        places.setdefault(variable.path.replace("/", "_"), place)
    slots: list[dict[str, Any]] = [{} for _ in variables]
    others = []
    for slot in optimizer.variables:
        words = slot.name.split("_")
        heads = ("_".join(words[:end]) for end in range(len(words), 0, -1))
        head = next((head for head in heads if head in places), None)
        if head is None:
            others.append(slot)
        else:
            own = slots[places[head]]
            # Some states have the variable's name alone, several of them.
            own[f"{slot.name[len(head) + 1 :]}/{len(own)}"] = slot
    return Slots(slots, others)
