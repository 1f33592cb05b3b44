"""What a table holds: its columns, its tasks. Plain data, no TensorFlow."""

from __future__ import annotations

import dataclasses
import json
from collections import abc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfmoe.files import PathLike, new_file
from tfmoe.remote import read_text
from tfmoe.schema.checks import check
from tfmoe.schema.columns import Column
from tfmoe.schema.files import (
    KINDS,
    named_once,
    nearest,
    parsed_yaml,
    part_from_dict,
    part_to_dict,
)
from tfmoe.schema.histories import cut_alike
from tfmoe.schema.tasks import Binary, Task, in_chain_order, parent_of
from tfmoe.validation import checks_arguments, did_you_mean

#: Where the codes of the rows' groups stand among the features; no column can be called so.
GROUP_CODES = "group codes"

# The names of columns with a part of their own, in the order of Schema's arguments.
_ROLES = ("weight_column", "task_column", "scenario", "group")


@checks_arguments
@dataclass(frozen=True)
class Schema:
    """The columns and tasks of a table. Frozen, and equal by value.

    Without `task_column` every row has the labels of all tasks. With it each row belongs
    to one task (a market, a domain, a scenario), which that raw column names by its name
    or `Task.key`: the model gives each row the `score` of its own task. Several tasks may
    then share a label column, by `source`.

    Args:
        columns: sequence of `Numeric`, `Categorical`, `MultiCategorical`, `Sequence`, `Vector`,
            `Timestamp`, `Crossed`, `Text`, `Pretrained`.
        tasks: sequence of `Binary`, `Regression`, `Multiclass`.
        weight_column: name of a raw column of row weights >= 0, or None. It weighs
            losses and metrics and is no input.
        task_column: name of the raw column that says which task a row belongs to, or
            None. An input that reads it too has another name, and this as its `source`.
        scenario: name of the `Categorical` among the columns that says under which
            circumstances a row came to be (a country, a page, a device), or None. Rows keep
            the labels of all tasks; structures such as `STAR`, a model's `input_gate` and
            `tower_gate`, and its `scenario_towers` are conditioned on it, and `evaluate` tells
            metrics by it.
        group: name of a raw column whose equal values make a group of rows (a user, a session, a
            query), or None. It is read where labels are, and is no input, so that there may be
            any number of groups; an input that reads it too has it as `source`, or its name.
            Metrics by group, such as GAUC, are of these groups, and `Preprocessor.dataset` can
            keep each of them in one batch.

    Raises:
        ValueError: if names repeat, also those of the tasks' metrics, a label is also an input,
            or `share` or `where` names nothing usable; with `task_column`, if it has another
            use, keys repeat, a `where` names a task, or some tasks are `Multiclass` and others
            not; without it, if a task has a `key`.

    Example:
    >>> from tfmoe import Binary, Numeric
    >>> schema = Schema([Numeric("age")], [Binary("click")])
    >>> Schema.from_json(schema.to_json()) == schema
    True
    >>> markets = [Binary("de", source="click"), Binary("fr", source="click")]
    >>> Schema([Numeric("age")], markets, task_column="market").output_names
    ('score',)
    """

    columns: abc.Sequence[Column]
    tasks: abc.Sequence[Task]
    weight_column: str | None = None
    task_column: str | None = None
    scenario: str | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        for field, base in (("columns", Column), ("tasks", Task)):
            parts = tuple(getattr(self, field))
            object.__setattr__(self, field, parts)
            for part in parts:
                if not isinstance(part, base) or type(part) is base:
                    kinds = [n for n, kind in KINDS.items() if issubclass(kind, base)]
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
        check(self)
        object.__setattr__(self, "columns", cut_alike(self.columns))

    @property
    def ranks_pairs(self) -> bool:
        """Whether a task's loss is of pairs of rows of one group."""
        return any(isinstance(t, Binary) and t.loss == "pairwise" for t in self.tasks)

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks' names, in their order."""
        return tuple(task.name for task in self.tasks)

    @property
    def task_keys(self) -> tuple[str, ...]:
        """What the task column holds in each task's rows, as text."""
        return tuple(task.key_text for task in self.tasks)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the labels and the model's outputs: the tasks', or `score` alone."""
        return ("score",) if self.task_column else self.task_names

    @property
    def served_names(self) -> tuple[str, ...]:
        """Names of what the model predicts: `output_names` without tasks that are not served, and
        with their `further_outputs`."""
        if self.task_column:
            return self.output_names
        served = [(t.name, *t.further_outputs) for t in self.tasks if t.served]
        return tuple(name for names in served for name in names)

    @property
    def num_outputs(self) -> int:
        """The largest `num_outputs` of the tasks."""
        return max(task.num_outputs for task in self.tasks)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the model's inputs that columns become."""
        return tuple(name for column in self.columns for name in column.feature_names)

    @property
    def readers(self) -> dict[str, list[Column]]:
        """By raw column the columns that depend on it, a `Crossed` on those of its parts."""
        found: dict[str, list[Column]] = {}
        for column in self.columns:
            parts = [self.column(name) for name in getattr(column, "columns", ())] or [column]
            for raw in dict.fromkeys(raw for part in parts for raw in part.raw_names):
                found.setdefault(raw, []).append(column)
        return found

    def column(self, name: str) -> Column:
        """The column of that name; KeyError if there is none."""
        return {column.name: column for column in self.columns}[name]

    def task(self, name: str) -> Task:
        """The task of that name; KeyError if there is none."""
        return {task.name: task for task in self.tasks}[name]

    def parent(self, task: Task) -> Binary | None:
        """The task that a task is given, or None."""
        return parent_of(task, self.tasks)

    def where_source(self, task: Task) -> str | None:
        """Raw column that limits the task's label space, or None."""
        limit = self.where_task(task)
        return limit.raw_name if limit else task.where

    def where_task(self, task: Task) -> Task | None:
        """Task that limits the task's label space, or None."""
        return next((other for other in self.tasks if other.name == task.where), None)

    def select(self, tasks: str | abc.Iterable[str]) -> Schema:
        """The schema of the same table with some of the tasks, in their old order.

        A `where` that names a task left out names that task's raw column instead: the
        label spaces stay what they were. Tasks that one of them is `given` stay too, but are not
        `served`; those that are asked for are.

        Args:
            tasks: sequence of task names.

        Raises:
            ValueError: if one is unknown, there are none, or such a raw column has the
                name of another task that stays.
        """
        names = [tasks] if isinstance(tasks, str) else list(tasks)
        if not names or not set(names) <= set(self.task_names):
            raise ValueError(
                f"Tasks are chosen by name, at least one of {list(self.task_names)}. Received "
                f"tasks={tasks!r}."
            )
        needed = set(names)
        for task in reversed(in_chain_order(self.tasks)):
            parent = self.parent(task)
            if task.name in needed and parent is not None:
                needed.add(parent.name)
        kept = {task.name: task for task in self.tasks if task.name in needed}
        kept = {
            name: dataclasses.replace(task, served=name in names) for name, task in kept.items()
        }
        return dataclasses.replace(self, tasks=[self._apart(t, kept) for t in kept.values()])

    def add(self, task: Task) -> Schema:
        """The same schema with one more task, the last. Raises ValueError as the class."""
        return dataclasses.replace(self, tasks=(*self.tasks, task))

    def without(self, column: str) -> Schema:
        """The same schema without one of its columns.

        Raises:
            ValueError: if there is no such column, another one shares its table, or as the class.
        """
        known = [one.name for one in self.columns]
        if column not in known:
            raise ValueError(
                f"A schema can leave out one of its columns, {known}. Received column={column!r}."
                f"{did_you_mean(column, known)}"
            )
        return dataclasses.replace(self, columns=[c for c in self.columns if c.name != column])

    def _apart(self, task: Task, kept: abc.Collection[str]) -> Task:
        """The task, its `where` without a task that is not `kept`."""
        raw = self.where_source(task)
        limit = self.where_task(task)
        if task.where in kept or limit is None:
            return task
        if raw in kept:
            raise ValueError(
                f"Without task {task.where!r}, task {task.name!r} is limited by the raw column "
                f"{raw!r}, which must not have the name of another task. Received "
                f"tasks={list(kept)}. Keep {task.where!r} too."
            )
        # The raw column has the labels as they are written.
        value = limit.positive if isinstance(limit, Binary) else None
        return dataclasses.replace(task, where=raw, where_value=value)

    def to_dict(self) -> dict[str, Any]:
        """The schema as dicts, lists, text and numbers: of each part what is not default."""
        given = {
            "columns": [part_to_dict(column) for column in self.columns],
            "tasks": [part_to_dict(task) for task in self.tasks],
        }
        for field in _ROLES:
            if getattr(self, field):
                given[field] = getattr(self, field)
        return given

    @classmethod
    def from_dict(cls, given: Any) -> Schema:
        """The schema that `to_dict` gave.

        Raises:
            ValueError: if a field is missing or unknown, or as the class.
        """
        if not isinstance(given, dict) or not {"columns", "tasks"} <= set(given):
            raise ValueError(
                f"A schema is a mapping with `columns` and `tasks`. Received {given!r}."
            )
        known = ("columns", "tasks", *_ROLES)
        unknown = sorted(set(given) - set(known), key=str)
        if unknown:
            raise ValueError(
                f"A schema has the fields {list(known)}. Received unknown fields "
                f"{unknown}.{nearest([str(name) for name in unknown], known)}"
            )
        for field in ("columns", "tasks"):
            if not isinstance(given[field], list | tuple):
                raise ValueError(f"A schema lists its `{field}`. Received {given[field]!r}.")
        return cls(
            [part_from_dict(column, Column) for column in given["columns"]],
            [part_from_dict(task, Task) for task in given["tasks"]],
            *map(given.get, _ROLES),
        )

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Schema:
        """The schema that `to_json` gave. Raises ValueError as `from_dict`."""
        return cls.from_dict(json.loads(text, object_pairs_hook=named_once))

    @classmethod
    def load(cls, path: PathLike) -> Schema:
        """Reads a schema from a `.json`, `.yaml` or `.yml` file.

        Raises:
            ValueError: if the file has another ending, or holds no schema.
            FileNotFoundError: if there is no such file.
        """
        text, path = read_text(path), Path(path)
        if path.suffix in (".yaml", ".yml"):
            import yaml

            try:
                return cls.from_dict(parsed_yaml(text, path))
            except yaml.YAMLError as error:
                raise ValueError(f"{path} is no YAML: {error}") from error
        if path.suffix == ".json":
            try:
                return cls.from_json(text)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path} is no JSON: {error}") from error
        raise ValueError(
            f"A schema file ends in .json, .yaml or .yml. Received path={str(path)!r}."
        )

    def save(self, path: PathLike) -> None:
        """Writes the schema to a new `.json`, `.yaml` or `.yml` file.

        Raises:
            FileExistsError: if something is there.
            ValueError: if the file has another ending.
        """
        path = Path(path)
        if path.suffix in (".yaml", ".yml"):
            import yaml

            text = yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)
        elif path.suffix == ".json":
            text = self.to_json()
        else:
            raise ValueError(f"A schema file ends in .json, .yaml or .yml. Received {path}.")
        with new_file(path) as draft:
            draft.write_text(text, encoding="utf-8")

    @classmethod
    def infer(
        cls, source: Any, labels: str | abc.Iterable[str], task_column: str | None = None
    ) -> Schema:
        """Proposes a schema for a table, for a person to read and edit.

        Numbers become `Numeric`, with `transform="log"` where none is negative and the largest is
        far from the median. Integers that lie between 1990 and 2100 as seconds, milliseconds,
        micro- or nanoseconds since 1970, and whose name ends in a time (`time`, `date`, `created`,
        `updated`, `at`, `ts` and the like), become `Timestamp`. Others (also with gaps, which
        pandas reads as floats) become `Categorical` if their name ends in `id` (but not in `paid`,
        `bid` and the like), if they take at most 20 values or exceed 64 bits, or if each occurs
        twice or more on average and a word of their name is `code`, `zip`, `sku`, `type`,
        `category`, `kind` or the like, or the last one is `no` or `nr`; codes of another name stay
        numbers. Text that is numbers (but for what stands for a missing one, such as NA) is
        numbers, unless it has leading zeros, as zip codes have.
        Lists of fractions, as many in each cell, become `Vector`, times and dates `Timestamp`, and
        texts of five words or more, of which eight in ten are different, `Text`. Other strings,
        booleans and categories become `Categorical`, other lists `MultiCategorical`, and so do
        strings, with that separator, if three in ten hold a `|`, or a `;` or `,` between short
        values that recur in other rows and change their places, as the parts of an address or of a
        sentence do not; with `strip` where spaces stand around them. Values with but spaces between
        them are not told from sentences. Fractions, as many in each row as another column has
        values, become its `weights`.

        A label of zeros and ones, or of True and False, is `Binary`, and so is one of two texts,
        with the `positive` one named: of yes and no, won and lost, click and no click and their
        like the one that means yes, of others the rarer; one of other numbers is `Regression`, any
        other `Multiclass`. A label that is missing exactly where a binary one is 0, or missing
        too, has that one as its `where`.

        Warnings say what was left out (spans of time, whatever else no column reads) and what
        to make of it, which lists, times and texts were taken for vectors, hours and free text,
        what counts as missing, which whole numbers were taken for categories or
        codes and which texts with `,` or `;` for lists, which label is the positive one,
        which labels are limited by `where`, and which columns may give a label away.

        Args:
            source: what `Preprocessor.fit` takes: a DataFrame, or a path, glob or list of files.
                Of files some hundred thousand rows are looked at, in parts all over them.
            labels: names of the label columns, or the one name.
            task_column: name of the column that says which task a row belongs to, if rows have
                one each; the one label is then theirs, and each of the column's values a task.

        Returns:
            A `Schema`. `print(schema.to_json())` shows it.

        Raises:
            ValueError: if a label is not among the columns or has no value, a name is there
                twice, or there are no rows.
        """
        # Imported here so that reading a schema file does not load pandas.
        from tfmoe.schema.infer import proposed_parts

        columns, tasks = proposed_parts(source, labels, task_column)
        return cls(columns, tasks, task_column=task_column)
