"""A schema proposed for a table: of which kind its columns seem to be, and what to know of it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from tfmoe.schema.columns import Categorical, Column, MultiCategorical, Numeric
from tfmoe.schema.infer_labels import (
    a_task_each,
    is_named_positive,
    limited,
    names,
    proposed_tasks,
)
from tfmoe.schema.infer_weights import weights_of
from tfmoe.schema.leaks import leaks
from tfmoe.schema.naming import words_of
from tfmoe.schema.tasks import Binary, Multiclass, Regression, Task
from tfmoe.schema.text import Text
from tfmoe.schema.times import are_dates, time_unit
from tfmoe.schema.timestamp import Timestamp
from tfmoe.schema.vector import Vector
from tfmoe.validation import may_be_served

if TYPE_CHECKING:
    from tfmoe.data.read.look import Look, Traits

# An integer column with at most this many distinct values is categorical.
_MOST_CATEGORIES = 20
# A label of more different texts is perhaps a number that is written with a sign or unit.
_MOST_CLASSES = 50
# Free text has at least so many words a cell, half of the time, and so many different ones a cell.
_LEAST_WORDS, _LEAST_DIFFERENT = 5, 0.8
# Of fewer cells nothing is said.
_LEAST_TEXTS = 20
# Words that end in "id" and name no id.
_NO_IDS = ("paid", "bid", "valid", "grid", "acid", "fluid", "solid", "void")
# Words of a name that say that whole numbers are codes, those that do so as its last word, and
# those of amounts: `item_no` is a code, `no_items`, `type_count` and `size_of_group` are none.
_CODES = {
    *("code", "codes", "zip", "zipcode", "postcode", "postal", "plz", "sku", "ean", "upc", "isbn"),
    *("barcode", "type", "category", "kind"),
}
_LAST_CODES = {"no", "nr"}
_AMOUNTS = {
    *("of", "count", "counts", "total", "sum", "mean", "avg", "average", "min", "max", "median"),
    *("amount", "rate", "ratio", "share", "price", "cost", "length", "len", "size", "age", "days"),
}


def proposed_parts(
    source: Any, labels: str | Iterable[str], task_column: str | None = None
) -> tuple[list[Column], list[Task]]:
    """The columns and the tasks of `Schema.infer`."""
    # Reading files is the matter of a later room, which a schema alone does not load.
    from tfmoe.data.read.look import look_at

    labels = [labels] if isinstance(labels, str) else [str(label) for label in labels]
    if task_column is not None and len(labels) != 1:
        raise ValueError(
            "With `task_column` the rows of all tasks have one label, the first of `labels`. "
            f"Received task_column={task_column!r} with {len(labels)} labels {labels}. Write "
            "other schemas by hand."
        )
    if len(set(labels)) < len(labels):
        raise ValueError(
            f"Each label is a task. Received labels={labels!r}, one of them twice. Name it once; "
            "for two tasks of one column write the schema by hand."
        )
    look = look_at(source, task_column)
    roles = [*labels, *([] if task_column is None else [task_column])]
    missing = [name for name in roles if name not in look.columns]
    if missing or not labels:
        raise ValueError(
            f"Schema.infer needs `labels`{' and `task_column`' * (task_column is not None)} from "
            f"the table's columns {list(look.columns)}. Received labels={labels!r}, "
            f"{f'task_column={task_column!r}, ' if task_column else ''}of which {missing} are not "
            f"there.{_lacking(look, missing)}"
        )
    inputs = [name for name in look.columns if name not in roles]
    columns = {
        name: [] if look.columns[name].holds == "other" else [_column(look.columns[name], named)]
        for name, named in zip(inputs, names(inputs, may_be_served), strict=True)
    }
    for owner, name in weights_of({name: look.columns[name] for name in inputs}).items():
        columns[owner] = [
            dataclasses.replace(one, weights=name)
            for one in columns[owner]
            if isinstance(one, MultiCategorical)
        ]
        columns[name] = []
    seen = [look.columns[name] for name in labels]
    if task_column is None:
        tasks = limited(seen, proposed_tasks(seen))
    else:
        tasks = a_task_each(look.columns[task_column], proposed_tasks(seen)[0], labels[0])
    proposed = [column for some in columns.values() for column in some]
    if not proposed:
        advice = " ".join(f"{name}: {look.columns[name].advice}" for name in inputs)
        raise ValueError(
            f"A schema needs a column that can be read. Received columns {inputs} beside the "
            f"labels, of which none can be as it is. {advice}"
        )
    for notice in _notices(look, inputs, labels, columns, tasks):
        warnings.warn(notice, stacklevel=3)
    return proposed, tasks


def _lacking(look: Look, missing: Iterable[str]) -> str:
    files = {look.uneven[name] for name in missing if name in look.uneven}
    return f" They are in some files, but not in {sorted(files)}." if files else ""


def _column(traits: Traits, named: dict[str, Any]) -> Column:
    """A column of the kind that suits its cells."""
    if traits.holds == "lists":
        return MultiCategorical(**named)
    if traits.holds == "vectors":
        return Vector(**named)
    if traits.holds == "times":
        return Timestamp(**named)
    if traits.holds == "dates":
        return Timestamp(**named, parts=("weekday",))
    unit = time_unit(traits)
    if unit is not None and not traits.chosen and not _names_ids(traits.name):
        return Timestamp(**named, unit=unit)
    if traits.holds == "integers" and (
        traits.chosen
        or _names_ids(traits.name)
        or traits.num_distinct <= _MOST_CATEGORIES
        or _are_codes(traits)
    ):
        return Categorical(**named, dtype="int", missing=tuple(traits.markers))
    if traits.holds in ("integers", "numbers"):
        return Numeric(**named, transform="log" if _is_skewed(traits) else "standardize")
    if traits.holds == "text" and traits.separated:
        lists = traits.separated
        return MultiCategorical(**named, separator=lists.separator, strip=lists.blanks)
    if _is_free(traits):
        return Text(**named)
    marked = tuple(traits.markers) if traits.holds == "flags" else ()
    return Categorical(**named, dtype="string", missing=marked)


def _is_free(traits: Traits) -> bool:
    """Whether cells are texts of several words, nearly all of which are different."""
    if traits.holds != "text" or traits.codes is None or traits.odd:
        return False
    words = [text for text in traits.words if text]
    present = int((traits.codes >= 0).sum())
    if present < _LEAST_TEXTS or len(words) < _LEAST_DIFFERENT * present:
        return False
    return bool(np.median([len(text.split()) for text in words]) >= _LEAST_WORDS)


def _names_ids(name: str) -> bool:
    name = name.lower()
    return name.endswith("id") and not name.endswith(_NO_IDS)


def _are_codes(traits: Traits) -> bool:
    """Whether whole numbers are named as codes are, and come twice or more on average."""
    named = words_of(traits.name)
    if traits.holds != "integers" or traits.values is None or _AMOUNTS.intersection(named):
        return False
    present = traits.values[np.isfinite(traits.values)]
    if not len(present) or present.min() < 0 or 2 * traits.num_distinct > len(present):
        return False
    return not _CODES.isdisjoint(named) or bool(_LAST_CODES.intersection(named[-1:]))


def _are_whole(traits: Traits) -> bool:
    values = np.zeros(0) if traits.values is None else traits.values[np.isfinite(traits.values)]
    return bool((values % 1 == 0).all())


def _is_skewed(traits: Traits) -> bool:
    values = np.zeros(0) if traits.values is None else traits.values[np.isfinite(traits.values)]
    if not len(values):
        return False
    return bool(values.min() >= 0 and values.max() > 20 * (np.median(values) + 1))


def _notices(
    look: Look,
    inputs: list[str],
    labels: list[str],
    columns: dict[str, list[Column]],
    tasks: list[Task],
) -> Iterable[str]:
    """What a person should know who reads the schema."""
    weights = {
        column.weights: name
        for name, some in columns.items()
        for column in some
        if isinstance(column, MultiCategorical) and column.weights is not None
    }
    if weights:
        yield (
            "Numbers, as many in each row as another column has values, were taken for their "
            f"weights: {', '.join(f'{name!r} of {owner!r}' for name, owner in weights.items())}. "
            "Where they are not, leave out `weights`."
        )
    left_out = {
        name: look.columns[name].advice
        for name in inputs
        if not columns[name] and name not in weights
    }
    if left_out:
        advice = " ".join(f"{name}: {how}" for name, how in left_out.items())
        yield f"Left out {list(left_out)}, which no column reads as they are. {advice}"
    uneven = {n: file for n, file in look.uneven.items() if n not in labels}
    if uneven:
        yield (
            f"Left out columns that not all files have: "
            f"{', '.join(f'{name!r} (not in {file})' for name, file in uneven.items())}."
        )
    kinds = {name: type(one[0]).__name__ for name, one in columns.items() if one}
    vectors = [name for name, kind in kinds.items() if kind == "Vector"]
    if vectors:
        yield (
            f"Lists of numbers, as many in each cell, were taken for vectors: {vectors}. Where the "
            "numbers name things, make them integers, for MultiCategorical."
        )
    times = [name for name, kind in kinds.items() if kind == "Timestamp"]
    if times:
        yield (
            f"Of times the hour and the weekday are proposed, of dates the weekday, in UTC: "
            f"{times}. Write the `time_zone` that they are to be told in; parts=['age'] is the "
            "days since a date, which grow after training."
        )
    dates = [
        name
        for name, kind in kinds.items()
        if kind in ("Numeric", "Categorical") and are_dates(look.columns[name])
    ]
    if dates:
        yield (
            f"Whole numbers that read like dates were not taken for dates: {dates}. For a "
            "weekday or an age make dates of them, as by `pd.to_datetime(df['" + dates[0] + "'], "
            "format='%Y%m%d')`, and declare Timestamp."
        )
    free = [name for name, kind in kinds.items() if kind == "Text"]
    if free:
        yield (
            f"Texts of many words, nearly all of them different, were taken for free text: {free}. "
            "Where each is one value of a set, write Categorical instead of Text."
        )
    empty = [name for name in inputs if look.columns[name].holds == "nothing"]
    if empty:
        yield (
            f"No value was seen of {empty}, which are proposed as text: write Numeric if numbers "
            "come, or take them out."
        )
    marked = {
        name: one.markers.most_common(3)
        for name, one in look.columns.items()
        if one.markers and one.holds in ("integers", "numbers", "flags")
    }
    if marked:
        cells = ", ".join(
            f"{name!r} ({', '.join(repr(text) for text, _ in texts)})"
            for name, texts in marked.items()
        )
        yield (
            f"Taken for numbers, with texts that stand for a missing one: {cells}. Where such a "
            "text is a value, write Categorical; `missing` says which stand for a missing one."
        )
    lists = {
        name: look.columns[name].separated
        for name in inputs
        if columns[name] and getattr(columns[name][0], "separator", None) in (",", ";")
    }
    if lists:
        cells = ", ".join(
            f"{name!r} at {one.separator!r} ({one.num_values:,} values, such as {one.example!r})"
            for name, one in lists.items()
            if one is not None
        )
        yield (
            f"Texts were taken for lists: {cells}. Where such a cell is one value, write "
            "Categorical instead of MultiCategorical."
        )
    odd = {
        name: look.columns[name] for name in inputs if look.columns[name].odd and name not in lists
    }
    if odd:
        cells = ", ".join(
            f"{name!r} (missing={[*one.odd, *one.markers]})" for name, one in odd.items()
        )
        yield (
            f"Proposed as categories, for some texts are among the numbers: {cells}. Where these "
            "stand for a missing number, write Numeric with that `missing`."
        )
    few = [
        name
        for name in inputs
        if columns[name]
        and isinstance(columns[name][0], Categorical)
        and look.columns[name].holds == "integers"
        and not look.columns[name].chosen
        and not _names_ids(name)
        and look.columns[name].num_distinct > 2
    ]
    codes = [name for name in few if look.columns[name].num_distinct > _MOST_CATEGORIES]
    few = [name for name in few if name not in codes]
    if codes:
        counts = ", ".join(f"{name!r} ({look.columns[name].num_distinct:,})" for name in codes)
        yield (
            f"Whole numbers were taken for codes, by their names: {counts}. Where they are "
            "amounts, of which more is more, write Numeric instead of Categorical."
        )
    if few:
        counts = ", ".join(f"{name!r} ({look.columns[name].num_distinct})" for name in few)
        yield (
            f"Whole numbers of few different values were taken for categories: {counts}. Where "
            "they are amounts, of which more is more, write Numeric instead of Categorical."
        )
    amounts = [
        name
        for name, task in zip(labels, tasks, strict=False)
        if isinstance(task, Regression)
        and look.columns[name].num_distinct <= _MOST_CATEGORIES // 2
        and _are_whole(look.columns[name])
    ]
    if amounts:
        yield (
            f"Labels of few whole numbers were taken for amounts: {amounts}. Where they name "
            "kinds, write Multiclass with `classes`, or Binary with `positive`."
        )
    many = {
        task.raw_name: f"{task.raw_name!r} ({len(task.classes):,}, such as {task.classes[0]!r})"
        for task in tasks
        if isinstance(task, Multiclass) and task.classes and len(task.classes) > _MOST_CLASSES
    }
    if many:
        yield (
            f"Labels of many different texts were taken for classes: {', '.join(many.values())}. "
            "Where they are amounts, written with a sign or unit such as $12.50, put the numbers "
            "alone into the table: a Regression reads 12.50."
        )
    positives = {t.raw_name: t.positive for t in tasks if isinstance(t, Binary) and t.positive}
    for name, positive in positives.items():
        label = look.columns[name]
        others = [text for text in label.texts if text != positive]
        why = "" if not others or is_named_positive(label) else ", for it is the rarer one"
        yield (
            f"Label {name!r} has two values, of which {positive!r} counts as 1{why}. If "
            f"{others[0] if others else '-'!r} is meant, write that as `positive`."
        )
    within = {task.raw_name: task.where for task in tasks if task.where is not None}
    if within:
        limits = ", ".join(f"{name!r} (where={where!r})" for name, where in within.items())
        yield (
            f"Labels that are missing exactly where a binary one is not 1 count only where it is: "
            f"{limits}. Take `where` out if they are missing there by chance."
        )
    yield from leaks(
        [look.columns[name] for name in inputs if columns[name]],
        [look.columns[name] for name in labels],
        look.all_rows,
    )
