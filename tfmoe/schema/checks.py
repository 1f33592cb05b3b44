"""What a schema's parts must be to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfmoe.schema.columns import Categorical, MultiCategorical
from tfmoe.schema.crossed import Crossed
from tfmoe.schema.tasks import Binary, Multiclass, Task
from tfmoe.validation import may_be_served

if TYPE_CHECKING:
    from tfmoe.schema.schema import Schema


def check(schema: Schema) -> None:
    """Raises ValueError as `Schema` says, of parts that are each as they should be."""
    _check_served_names(schema)
    _check_reported_names(schema)
    _check_labels(schema)
    _check_tables(schema)
    _check_label_spaces(schema)
    _check_chains(schema)
    _check_served_outputs(schema)
    _check_task_column(schema)
    _check_scenario(schema)
    _check_group(schema)


def _check_served_names(schema: Schema) -> None:
    inputs = list(schema.feature_names)
    if len(set(inputs)) < len(inputs):
        twice = sorted({name for name in inputs if inputs.count(name) > 1})
        raise ValueError(
            "A list's weights are an input called `<name>_weights`. Received columns of which "
            f"two become {twice}. Choose another name, and give the table's as `source`."
        )
    if isinstance(schema.task_column, str):
        inputs.append(schema.task_column)
    lower = [name.lower() for name in inputs]
    twins = sorted(name for name in set(inputs) if lower.count(name.lower()) > 1)
    if len(twins) > 1:
        raise ValueError(
            "A served model's inputs must differ by more than capital letters. Received inputs "
            f"named {twins}. Choose another name, and give the table's as `source`."
        )


def _check_reported_names(schema: Schema) -> None:
    """Raises ValueError where a history would have one entry for two things."""
    owners = {"loss": "the total loss"}
    for task in schema.tasks:
        for name in task.reported_names:
            owner = f"task {task.name!r}"
            if name in owners:
                _refuse_names(name, owner, owners[name])
            owners[name] = owner
    for name, owner in owners.items():
        validated = name.removeprefix("val_")
        if validated != name and validated in owners:
            other = f"{owners[validated]} in validation"
            _refuse_names(name, owner, other)


def _refuse_names(name: str, owner: str, other: str) -> None:
    raise ValueError(
        "Losses and metrics are called by task, `<task>_loss` and the like, with `val_` before "
        f"it in validation, and no two of them alike. Received {owner} with {name!r}, which "
        f"is also what is reported of {other}. Choose another name for a task, and give the "
        "table's as `source`."
    )


def _check_labels(schema: Schema) -> None:
    inputs = {raw: column.name for column in schema.columns for raw in column.raw_names}
    for task in schema.tasks:
        if task.raw_name in inputs:
            raise ValueError(
                f"The label of task {task.name!r} must not be an input as well, or "
                f"the model reads the answer. Received column {inputs[task.raw_name]!r} "
                f"with source {task.raw_name!r}. Remove the column."
            )
    for weights in (schema.weight_column, *(task.weight_column for task in schema.tasks)):
        if weights in inputs:
            raise ValueError(
                f"`weight_column` is no input. Received weight_column={weights!r}, "
                "which is also among the columns. Remove one."
            )


def _check_tables(schema: Schema) -> None:
    owners = {column.name for column in schema.columns if column.may_be_shared}
    for column in schema.columns:
        share = getattr(column, "share", None)
        if share and share not in owners:
            raise ValueError(
                f"Column {column.name!r} can only share the table of a categorical "
                "column that has its own, or the vectors of a Pretrained. Received "
                f"share={share!r}; such columns are {sorted(owners)}."
            )

    single = {
        column.name
        for column in schema.columns
        if isinstance(column, Categorical) and not column.is_list
    }
    for column in schema.columns:
        if isinstance(column, Crossed) and not set(column.columns) <= single:
            raise ValueError(
                f"Column {column.name!r} crosses Categorical columns of the schema. Received "
                f"columns={list(column.columns)}; such columns are {sorted(single)}. For a "
                "number, cut it into intervals and declare these as Categorical."
            )


def _check_label_spaces(schema: Schema) -> None:
    binary = {task.name: task for task in schema.tasks if isinstance(task, Binary)}
    for task in schema.tasks:
        named = {t.name for t in schema.tasks}
        if task.where == task.name or (task.where in named and task.where not in binary):
            raise ValueError(
                f"Task {task.name!r} can only be limited by another, binary task or "
                f"by a raw column. Received where={task.where!r}; the binary tasks "
                f"are {sorted(binary)}."
            )
        if task.where_value is not None and task.where in binary:
            raise ValueError(
                f"Task {task.name!r} is limited by task {task.where!r}, whose labels are 0 and "
                f"1. Received where_value={task.where_value!r}. Leave it out; `positive` of "
                f"{task.where!r} says which label is 1."
            )


def _check_chains(schema: Schema) -> None:
    binary = {task.name: task for task in schema.tasks if isinstance(task, Binary)}
    for task in binary.values():
        if task.given is None:
            continue
        if schema.task_column is not None:
            raise ValueError(
                "With `task_column` a row has one task's label, and none of another to be "
                f"given. Received task {task.name!r} given {task.given!r}. Leave one out."
            )
        if task.given not in binary:
            raise ValueError(
                f"Task {task.name!r} is given another binary task. Received "
                f"given={task.given!r}; the binary tasks are {sorted(binary)}."
            )
        before: Task | None = schema.parent(task)
        seen = [task.name]
        while before is not None and before.name not in seen:
            seen.append(before.name)
            before = schema.parent(before)
        if before is not None:
            raise ValueError(
                "Tasks are given one another in a chain that begins somewhere. Received "
                f"{' given '.join([*seen, before.name])}. Leave out one `given`."
            )
        first = binary[seen[-1]]
        if first.loss == "pairwise":
            raise ValueError(
                f"Task {task.name!r} needs the probability of {first.name!r}. Received "
                f'loss="pairwise" of {first.name!r}, which makes none. Take another loss '
                "there, or leave out `given` here."
            )
        if first.where is not None or first.negatives_kept < 1 or first.positive_weight != 1:
            raise ValueError(
                f"Task {task.name!r} needs the probability of {first.name!r} in all rows, as "
                f"they are. Received {first!r} with `where`, `negatives_kept` or "
                "`positive_weight`. Leave these out there, or `given` here."
            )


def _check_served_outputs(schema: Schema) -> None:
    """Raises ValueError where two predictions would have one name, or there are none."""
    owners: dict[str, str] = {}
    for task in schema.tasks:
        for name in (task.name, *task.further_outputs):
            if name in owners:
                raise ValueError(
                    f"Predictions are called by task, and some tasks have further ones. "
                    f"Received task {task.name!r} with {name!r}, which is also one of task "
                    f"{owners[name]!r}. Choose another name, and give the table's as `source`."
                )
            owners[name] = task.name
    if not any(task.served for task in schema.tasks):
        raise ValueError(
            "At least one task is `served`. Received served=False for all of "
            f"{[task.name for task in schema.tasks]}."
        )


def _check_task_column(schema: Schema) -> None:
    if schema.task_column is None:
        keyed = [task.name for task in schema.tasks if task.key is not None]
        if keyed:
            raise ValueError(
                "A task's `key` is what its rows have in `task_column`. Received keys of "
                f"{keyed} with task_column=None. Name the column, or leave out the keys."
            )
        return
    if not isinstance(schema.task_column, str) or not may_be_served(schema.task_column):
        raise ValueError(
            "A served model takes `task_column`: letters, digits, underscores, a letter first, "
            "and no word of Python. "
            f"Received task_column={schema.task_column!r}. Rename the table's column."
        )
    taken: dict[str | None, str] = {
        task.raw_name: f"the label of task {task.name!r}" for task in schema.tasks
    }
    taken[schema.weight_column] = "the `weight_column`"
    taken |= {column.name: "the name of an input column" for column in schema.columns}
    if schema.task_column in taken:
        raise ValueError(
            "`task_column` says which task a row belongs to and is nothing else. Received "
            f"task_column={schema.task_column!r}, which is {taken[schema.task_column]}. An input "
            "that reads it has another name, and it as `source`."
        )
    unserved = [task.name for task in schema.tasks if not task.served or task.further_outputs]
    if unserved:
        raise ValueError(
            "With `task_column` all tasks share the one output `score`. Received tasks "
            f"{unserved} with served=False or parts=True. Leave that out."
        )
    keys = schema.task_keys
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if repeated:
        raise ValueError(
            "With `task_column` each task needs a `key` (or a name) of its own, as text. "
            f"Received {repeated} twice. Choose different ones."
        )
    limited = [task.name for task in schema.tasks if task.where in schema.task_names]
    if limited:
        raise ValueError(
            "With `task_column` a row has one task's label, so `where` must be a raw column. "
            f"Received tasks {limited} limited by another. Write that into a column."
        )
    multiclass = [task.name for task in schema.tasks if isinstance(task, Multiclass)]
    if 0 < len(multiclass) < len(schema.tasks):
        raise ValueError(
            "With `task_column` all tasks share one output, so all or none are Multiclass. "
            f"Received Multiclass {multiclass} among {list(schema.task_names)}. Make two schemas."
        )


def _check_scenario(schema: Schema) -> None:
    if schema.scenario is None:
        return
    owners = {c.name: c for c in schema.columns if isinstance(c, Categorical)}
    single = [c for c in owners.values() if not isinstance(c, MultiCategorical)]
    fitting = [c.name for c in single if c.table in owners and not owners[c.table].hash_buckets]
    if schema.scenario not in fitting:
        raise ValueError(
            "`scenario` is the name of a Categorical column whose values are counted, not "
            f"hashed: one of {fitting}. Received scenario={schema.scenario!r}. Add such a "
            "column, or leave `scenario` out."
        )


def _check_group(schema: Schema) -> None:
    if schema.ranks_pairs and (schema.group is None or schema.task_column is not None):
        raise ValueError(
            'The loss "pairwise" is of pairs of rows of one group, all with its label. '
            f"Received group={schema.group!r}, task_column={schema.task_column!r}. Name the column "
            "of the users, sessions or queries, and leave `task_column` out."
        )
    if schema.group is None:
        return
    taken: dict[str | None, str] = {
        task.raw_name: f"the label of task {task.name!r}" for task in schema.tasks
    }
    taken |= {schema.weight_column: "the `weight_column`", schema.task_column: "the `task_column`"}
    if not isinstance(schema.group, str) or not schema.group or schema.group in taken:
        what = f", which is {taken[schema.group]}" if schema.group in taken else ""
        raise ValueError(
            "`group` is the name of a raw column whose values group rows, and neither label, "
            f"weight nor task. Received group={schema.group!r}{what}. Name the column of the "
            "users, sessions or queries, or leave `group` out."
        )
