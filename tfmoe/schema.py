"""What a table holds: its columns, its tasks. Plain data, no TensorFlow."""

import dataclasses
import json
import re
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

# Ids enter saved files and served graphs, so they are fixed for good.
PADDING_ID, MISSING_ID, UNKNOWN_ID, FIRST_ID = 0, 1, 2, 3

# What stands for "missing" in a served request, where there is no None.
MISSING_INT = -(2**63)
MISSING_STRING = ""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_POOLINGS = ("mean", "sum", "max")
_TRANSFORMS = ("standardize", "log", "buckets", "none")


def _choice(owner, field, value, choices):
    if value not in choices:
        raise ValueError(
            f"{owner} takes `{field}` from {list(choices)}. Received {field}={value!r}."
        )


def _at_least(owner, field, value, least, optional=True):
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f"{owner} needs `{field}` to be an integer of at least {least}"
            f"{' or None' if optional else ''}. Received {field}={value!r}."
        )


def _check_name(owner, name):
    if not isinstance(name, str) or not _NAME.match(name):
        raise ValueError(
            f"{owner} needs a name of letters, digits and underscores that starts with "
            "a letter, because it becomes an argument of the served model. "
            f"Received name={name!r}. If the table's own name is different, choose a "
            f"plain one and give the table's as `source`: {owner}('capital_gain', "
            "source='capital-gain')."
        )


@dataclass(frozen=True)
class Column:
    """What all columns share. Use one of its four kinds.

    Args:
        name: letters, digits and underscores; the model's input and the served
            request are named by it.
        source: the column's name in the raw table, if it is not `name`.
    """

    name: str
    _: KW_ONLY
    source: str | None = None

    def __post_init__(self):
        _check_name(type(self).__name__, self.name)

    @property
    def raw(self):
        """The column's name in the raw table."""
        return self.source or self.name


@dataclass(frozen=True)
class Numeric(Column):
    """A number.

    Missing (None, NaN) and infinite cells take `fill`; with `"buckets"` they get an
    id of their own.

    Args:
        name, source: see `Column`.
        transform: `"standardize"` subtracts the fitted mean and divides by the fitted
            standard deviation; `"log"` does so after `sign(x) * log(1 + |x|)`;
            `"buckets"` cuts at fitted quantiles and embeds the bucket; `"none"`
            leaves the number as it is. Standardised values are clipped to
            100 standard deviations, lest one odd cell swamp the network.
        num_buckets: int >= 2, for `"buckets"`.
        dim: int >= 1, size of a bucket's embedding.
        fill: what a missing cell counts as, in raw units. None means the fitted mean
            (0 with `"none"`; with `"buckets"` the missing id).
    """

    _: KW_ONLY
    transform: str = "standardize"
    num_buckets: int = 32
    dim: int = 16
    fill: float | None = None

    def __post_init__(self):
        super().__post_init__()
        owner = f"Numeric({self.name!r})"
        _choice(owner, "transform", self.transform, _TRANSFORMS)
        _at_least(owner, "num_buckets", self.num_buckets, 2, optional=False)
        _at_least(owner, "dim", self.dim, 1, optional=False)

    @property
    def embeds(self):
        return self.transform == "buckets"


@dataclass(frozen=True)
class Categorical(Column):
    """One value of a set: a user, a country, a device.

    Ids: 0 padding, 1 missing (None, NaN, the empty string), 2 unknown, then the
    vocabulary by falling count (ties by value), or the hash buckets.

    Args:
        name, source: see `Column`.
        dim: int >= 1, size of the embedding.
        dtype: `"int"`, `"string"`, or None to take what the fitted data has. Integers
            in a string column count as their decimal digits.
        min_count: int >= 1; rarer values are unknown.
        max_size: int >= 1 or None; keep that many of the most frequent values.
        hash_buckets: int >= 1 or None. If set, nothing is fitted: a value's id is the
            SipHash of its text modulo this number.
        share: name of another column whose vocabulary and embedding table this one
            uses. Both are fitted together. `dim`, `dtype`, `min_count`, `max_size`
            and `hash_buckets` are then the other column's and must be left alone here.
    """

    _: KW_ONLY
    dim: int = 16
    dtype: str | None = None
    min_count: int = 1
    max_size: int | None = None
    hash_buckets: int | None = None
    share: str | None = None

    embeds = True

    def __post_init__(self):
        super().__post_init__()
        owner = f"{type(self).__name__}({self.name!r})"
        _choice(owner, "dtype", self.dtype, ("int", "string", None))
        _at_least(owner, "dim", self.dim, 1, optional=False)
        _at_least(owner, "min_count", self.min_count, 1, optional=False)
        _at_least(owner, "max_size", self.max_size, 1)
        _at_least(owner, "hash_buckets", self.hash_buckets, 1)
        if self.hash_buckets and (self.min_count > 1 or self.max_size):
            raise ValueError(
                f"{owner} hashes, so there is no vocabulary to cut. Received "
                f"hash_buckets={self.hash_buckets} with min_count={self.min_count}, "
                f"max_size={self.max_size}. Leave either out."
            )
        if self.share:
            own = {f.name: f.default for f in dataclasses.fields(Categorical)}
            for field in ("dim", "dtype", "min_count", "max_size", "hash_buckets"):
                if getattr(self, field) != own[field]:
                    raise ValueError(
                        f"{owner} uses the table of {self.share!r}, which decides its "
                        f"`{field}`. Received {field}={getattr(self, field)!r}. Set it "
                        f"on {self.share!r}."
                    )

    @property
    def table(self):
        """Name of the column that owns the vocabulary and the table."""
        return self.share or self.name


@dataclass(frozen=True)
class MultiCategorical(Categorical):
    """A set of values: genres, tags, interests.

    A cell is a list, or a string to be split at `separator`. Empty and missing
    elements are skipped; a cell without elements has the one id 1 (missing).

    Args:
        name, source, dim, dtype, min_count, max_size, hash_buckets, share: see
            `Categorical`.
        separator: string that parts a cell's values, or None if cells are lists.
        pooling: `"mean"`, `"sum"` or `"max"` over the values' embeddings.
        max_length: int >= 1 or None for the longest cell seen in fitting. Further
            values are dropped.
    """

    _: KW_ONLY
    separator: str | None = None
    pooling: str = "mean"
    max_length: int | None = None

    keeps_last = False

    def __post_init__(self):
        super().__post_init__()
        owner = f"{type(self).__name__}({self.name!r})"
        _choice(owner, "pooling", self.pooling, _POOLINGS)
        _at_least(owner, "max_length", self.max_length, 1)
        if self.separator == "":
            raise ValueError(
                f"{owner} cannot split at an empty string. Received separator=''. Use "
                "None if the cells are lists."
            )


@dataclass(frozen=True)
class Sequence(MultiCategorical):
    """An ordered history, oldest first: the films a user saw, the pages of a visit.

    Like `MultiCategorical`, but of a long cell the LAST `max_length` values are kept
    (missing values at its end do not count).
    The order is not used yet: the values are pooled.

    Args:
        name, source, dim, dtype, min_count, max_size, hash_buckets, share, separator,
            pooling: see `MultiCategorical`.
        max_length: int >= 1.
    """

    _: KW_ONLY
    max_length: int | None = 50

    keeps_last = True


@dataclass(frozen=True)
class Task:
    """What all tasks share. Use one of the three kinds.

    Args:
        name: the task's name in losses, metrics, predictions and the served response.
        source: the label's column in the raw table, if it is not `name`.
        weight: float >= 0, the task's weight in the loss.
        where: name of a binary task, or of a raw column of zeros and ones. Rows in
            which it is not 1 lie outside this task's label space: for this task their
            label counts as missing.
    """

    name: str
    _: KW_ONLY
    source: str | None = None
    weight: float = 1.0
    where: str | None = None

    num_outputs = 1

    def __post_init__(self):
        _check_name(type(self).__name__, self.name)
        if not (isinstance(self.weight, int | float) and 0 <= self.weight < float("inf")):
            raise ValueError(
                f"Task {self.name!r} needs a finite `weight` of at least 0. Received "
                f"weight={self.weight!r}."
            )

    @property
    def raw(self):
        """The label's column in the raw table."""
        return self.source or self.name


@dataclass(frozen=True)
class Binary(Task):
    """Yes or no: labels 0 and 1, the prediction is a probability.

    Args:
        name, source, weight, where: see `Task`.

    Loss: binary cross-entropy. Metrics: `auc`, `log_loss`.
    """


@dataclass(frozen=True)
class Regression(Task):
    """A number. The prediction is in the label's units.

    Args:
        name, source, weight, where: see `Task`.
        loss: `"mse"`, `"mae"` or `"huber"` (delta 1). Metrics: `rmse`, `mae`.
    """

    _: KW_ONLY
    loss: str = "mse"

    def __post_init__(self):
        super().__post_init__()
        _choice(f"Regression({self.name!r})", "loss", self.loss, ("mse", "mae", "huber"))


@dataclass(frozen=True)
class Multiclass(Task):
    """One of several classes. The prediction is a probability per class.

    Loss: categorical cross-entropy. Metrics: `accuracy`, `log_loss`.

    Args:
        name, source, weight, where: see `Task`.
        num_classes: int >= 2, if the labels are the integers `0 .. num_classes - 1`.
        classes: sequence of the labels, if they are strings or other integers; the
            probabilities come in this order. Give exactly one of the two.
    """

    _: KW_ONLY
    num_classes: int | None = None
    classes: tuple | None = None

    def __post_init__(self):
        super().__post_init__()
        owner = f"Multiclass({self.name!r})"
        if (self.num_classes is None) == (self.classes is None):
            raise ValueError(
                f"{owner} needs either `num_classes` (labels 0, 1, ...) or `classes` "
                f"(the labels themselves). Received num_classes={self.num_classes!r}, "
                f"classes={self.classes!r}."
            )
        _at_least(owner, "num_classes", self.num_classes, 2)
        if self.classes is not None:
            object.__setattr__(self, "classes", tuple(self.classes))
            kinds = {type(label) for label in self.classes}
            if kinds not in ({str}, {int}) or len(set(self.classes)) < max(2, len(self.classes)):
                raise ValueError(
                    f"{owner} needs at least two different `classes`, all strings or all "
                    f"integers. Received classes={self.classes!r}."
                )

    @property
    def num_outputs(self):
        return self.num_classes or len(self.classes)


_KINDS = {
    kind.__name__: kind
    for kind in (Numeric, Categorical, MultiCategorical, Sequence, Binary, Regression, Multiclass)
}


def _to_dict(part):
    """A column's or task's kind and the fields that differ from their defaults."""
    given = {"kind": type(part).__name__, "name": part.name}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if field.name != "name" and value != field.default:
            given[field.name] = list(value) if isinstance(value, tuple) else value
    return given


def _from_dict(given, base):
    if not isinstance(given, dict) or not isinstance(given.get("kind"), str):
        raise ValueError(
            "A schema file lists columns and tasks as mappings with a `kind` and a "
            f"`name`. Received {given!r}."
        )
    kinds = {name: kind for name, kind in _KINDS.items() if issubclass(kind, base)}
    _choice(
        f"The schema's {base.__name__.lower()} {given.get('name')!r}", "kind", given["kind"], kinds
    )
    kind = kinds[given["kind"]]
    fields = {name: value for name, value in given.items() if name != "kind"}
    known = [field.name for field in dataclasses.fields(kind)]
    unknown = sorted(set(fields) - set(known))
    if unknown or "name" not in fields:
        raise ValueError(
            f"A {given['kind']} has the fields {known}, of which `name` is required. "
            f"Received {given!r}, with unknown fields {unknown}."
        )
    return kind(**fields)


@dataclass(frozen=True)
class Schema:
    """The columns and tasks of a table. Frozen, and equal by value.

    Args:
        columns: sequence of `Numeric`, `Categorical`, `MultiCategorical`, `Sequence`.
        tasks: sequence of `Binary`, `Regression`, `Multiclass`.
        weight_column: name of a raw column of row weights >= 0, or None. It weighs
            losses and metrics and is no input.

    Raises:
        ValueError: if names repeat, a label is also an input, or `share` or `where`
            names nothing usable.

    Example:
    >>> schema = Schema([Numeric("age")], [Binary("click")])
    >>> Schema.from_json(schema.to_json()) == schema
    True
    """

    columns: tuple
    tasks: tuple
    weight_column: str | None = None

    def __post_init__(self):
        for field, base in (("columns", Column), ("tasks", Task)):
            parts = tuple(getattr(self, field))
            object.__setattr__(self, field, parts)
            for part in parts:
                if not isinstance(part, base) or type(part) is base:
                    kinds = [n for n, kind in _KINDS.items() if issubclass(kind, base)]
                    raise ValueError(
                        f"Schema takes `{field}` of the kinds {kinds}. Received {part!r}."
                    )
            if not parts:
                raise ValueError(f"Schema needs at least one of its `{field}`. Received none.")
            names = [part.name for part in parts]
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise ValueError(
                    f"Schema needs different names. Received {field} named {repeated} twice."
                )
        self._check_labels()
        self._check_tables()
        self._check_label_spaces()

    def _check_labels(self):
        inputs = {column.raw: column.name for column in self.columns}
        for task in self.tasks:
            if task.raw in inputs:
                raise ValueError(
                    f"The label of task {task.name!r} must not be an input as well, or "
                    f"the model reads the answer. Received column {inputs[task.raw]!r} "
                    f"with source {task.raw!r}. Remove the column."
                )
        if self.weight_column in inputs:
            raise ValueError(
                f"`weight_column` is no input. Received weight_column={self.weight_column!r}, "
                "which is also among the columns. Remove one."
            )

    def _check_tables(self):
        owners = {c.name: c for c in self.columns if isinstance(c, Categorical) and not c.share}
        for column in self.columns:
            share = getattr(column, "share", None)
            if share and share not in owners:
                raise ValueError(
                    f"Column {column.name!r} can only share the table of a categorical "
                    f"column that has its own. Received share={share!r}; such columns "
                    f"are {sorted(owners)}."
                )

    def _check_label_spaces(self):
        binary = {task.name: task for task in self.tasks if isinstance(task, Binary)}
        for task in self.tasks:
            named = {t.name for t in self.tasks}
            if task.where == task.name or (task.where in named and task.where not in binary):
                raise ValueError(
                    f"Task {task.name!r} can only be limited by another, binary task or "
                    f"by a raw column. Received where={task.where!r}; the binary tasks "
                    f"are {sorted(binary)}."
                )

    @property
    def task_names(self):
        return tuple(task.name for task in self.tasks)

    def column(self, name):
        """The column of that name; KeyError if there is none."""
        return {column.name: column for column in self.columns}[name]

    def where_source(self, task):
        """Raw column that limits the task's label space, or None."""
        names = {other.name: other.raw for other in self.tasks}
        return names.get(task.where, task.where)

    def to_dict(self):
        given = {
            "columns": [_to_dict(column) for column in self.columns],
            "tasks": [_to_dict(task) for task in self.tasks],
        }
        if self.weight_column:
            given["weight_column"] = self.weight_column
        return given

    @classmethod
    def from_dict(cls, given):
        if not isinstance(given, dict) or not {"columns", "tasks"} <= set(given):
            raise ValueError(
                f"A schema is a mapping with `columns` and `tasks`. Received {given!r}."
            )
        unknown = sorted(set(given) - {"columns", "tasks", "weight_column"})
        if unknown:
            raise ValueError(
                f"A schema has no field {unknown}. Known: columns, tasks, weight_column."
            )
        return cls(
            [_from_dict(column, Column) for column in given["columns"]],
            [_from_dict(task, Task) for task in given["tasks"]],
            given.get("weight_column"),
        )

    def to_json(self):
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text):
        return cls.from_dict(json.loads(text))

    @classmethod
    def load(cls, path):
        """Reads a schema from a `.json`, `.yaml` or `.yml` file."""
        path = Path(path)
        text = path.read_text(encoding="utf-8")
        if path.suffix in (".yaml", ".yml"):
            import yaml

            return cls.from_dict(yaml.safe_load(text))
        if path.suffix == ".json":
            return cls.from_json(text)
        raise ValueError(
            f"A schema file ends in .json, .yaml or .yml. Received path={str(path)!r}."
        )

    def save(self, path):
        """Writes the schema to a new `.json`, `.yaml` or `.yml` file."""
        path = Path(path)
        if path.suffix in (".yaml", ".yml"):
            import yaml

            text = yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)
        elif path.suffix == ".json":
            text = self.to_json()
        else:
            raise ValueError(f"A schema file ends in .json, .yaml or .yml. Received {path}.")
        with path.open("x", encoding="utf-8") as file:
            file.write(text)

    @classmethod
    def infer(cls, df, labels):
        """Proposes a schema for a DataFrame, for a person to read and edit.

        Floats become `Numeric`; integers too, unless their name ends in `id` or they
        take at most 20 values; strings, booleans and categories become `Categorical`;
        lists `MultiCategorical`. Strings of which most hold a `|` become
        `MultiCategorical` with that separator. A label of zeros and ones is `Binary`,
        one of strings `Multiclass`, any other `Regression`.

        Args:
            df: pandas DataFrame; a sample of some thousand rows is enough.
            labels: names of the label columns.

        Returns:
            A `Schema`. `print(schema.to_json())` shows it.

        Raises:
            ValueError: if a label is not among the columns or has no value.
        """
        missing = [label for label in labels if label not in df.columns]
        if missing or not labels:
            raise ValueError(
                f"Schema.infer needs `labels` from the table's columns "
                f"{[str(name) for name in df.columns]}. Received labels={list(labels)!r}, "
                f"of which {missing} are not there."
            )
        columns = [_infer_column(df[name]) for name in df.columns if name not in labels]
        return cls(columns, [_infer_task(df[name]) for name in labels])


def _plain(name):
    """A name that may be served, and the source if it had to change."""
    if _NAME.match(str(name)):
        return {"name": str(name)}
    plain = re.sub(r"[^A-Za-z0-9_]", "_", str(name))
    return {"name": plain if _NAME.match(plain) else f"c_{plain}", "source": str(name)}


def _infer_column(series):
    # Imported here so that reading a schema file does not load pandas.
    from pandas.api import types

    named = _plain(series.name)
    present = series.dropna()
    if types.is_bool_dtype(series) or isinstance(series.dtype, types.CategoricalDtype):
        return Categorical(**named, dtype="string")
    if types.is_numeric_dtype(series):
        whole = types.is_integer_dtype(series)
        if whole and (str(series.name).lower().endswith("id") or present.nunique() <= 20):
            return Categorical(**named, dtype="int")
        skewed = (
            len(present) > 0 and present.min() >= 0 and present.max() > 20 * (present.median() + 1)
        )
        return Numeric(**named, transform="log" if skewed else "standardize")
    first = present.iloc[0] if len(present) else ""
    if not isinstance(first, str | bytes) and hasattr(first, "__len__"):
        return MultiCategorical(**named)
    if present.astype(str).str.contains("|", regex=False).mean() > 0.3:
        return MultiCategorical(**named, separator="|")
    return Categorical(**named, dtype="string")


def _infer_task(series):
    from pandas.api import types

    named = _plain(series.name)
    values = series.dropna().unique()
    if not len(values):
        raise ValueError(f"Label {series.name!r} has no value to infer a task from.")
    if types.is_numeric_dtype(series):
        if set(values) <= {0, 1}:
            return Binary(**named)
        return Regression(**named)
    return Multiclass(**named, classes=tuple(sorted(str(v) for v in values)))
