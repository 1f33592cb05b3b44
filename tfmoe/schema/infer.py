"""A schema proposed for a table: of which kind its columns and labels seem to be."""

import decimal
import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
from pandas.api import types

from tfmoe.schema.columns import Categorical, Column, MultiCategorical, Numeric
from tfmoe.schema.tasks import Binary, Multiclass, Regression, Task
from tfmoe.validation import NAME, may_be_served

# An integer column with at most this many distinct values is categorical.
_MOST_CATEGORIES = 20
# Words that end in "id" and name no id.
_NO_IDS = ("paid", "bid", "valid", "grid", "acid", "fluid", "solid", "void")


def columns_and_tasks(
    df: pd.DataFrame, labels: str | Iterable[str]
) -> tuple[list[Column], list[Task]]:
    """The columns and the tasks of `Schema.infer`."""
    labels = [labels] if isinstance(labels, str) else list(labels)
    missing = [label for label in labels if label not in df.columns]
    if missing or not labels:
        raise ValueError(
            f"Schema.infer needs `labels` from the table's columns "
            f"{[str(name) for name in df.columns]}. Received labels={labels!r}, "
            f"of which {missing} are not there."
        )
    inputs = [name for name in df.columns if name not in labels]
    columns = [
        _column(df[name], named)
        for name, named in zip(inputs, names(inputs, may_be_served), strict=True)
    ]
    left_out = [str(name) for name, column in zip(inputs, columns, strict=True) if column is None]
    if left_out:
        warnings.warn(
            f"Left out {left_out}: no column reads times, intervals or mappings. Make numbers of "
            "them (an hour, an age, a field), or text.",
            stacklevel=3,
        )
    tasks = [
        _task(df[name], named)
        for name, named in zip(labels, names(labels, NAME.match), strict=True)
    ]
    return [column for column in columns if column is not None], tasks


def names(raw: Iterable[Any], may_be: Callable[[str], Any]) -> list[dict[str, str]]:
    """Names of which all `may_be`, all different, and sources where they had to change."""
    taken: set[str] = set()
    found = []
    for name in map(str, raw):
        base = re.sub(r"[^A-Za-z0-9_]", "_", name)
        base = fitting = base if may_be(base) else f"c_{base}"
        number = 1
        while fitting.lower() in taken:
            number += 1
            fitting = f"{base}_{number}"
        taken.add(fitting.lower())
        found.append({"name": fitting} if fitting == name else {"name": fitting, "source": name})
    return found


def _column(series: pd.Series, named: dict[str, Any]) -> Column | None:
    """A column of the kind that suits its cells; None if there is none."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        cells = series.cat.categories
        if types.is_integer_dtype(cells):
            return Categorical(**named, dtype="int")
        # Floats are numbers, whatever pandas holds them as.
        series = series.astype(cells.dtype)
    present = series.dropna()
    first = present.iloc[0] if len(present) else ""
    if isinstance(first, bool) or types.is_bool_dtype(series):
        return Categorical(**named, dtype="string")
    if isinstance(first, decimal.Decimal):
        return Numeric(**named)
    if types.is_numeric_dtype(series) and not types.is_complex_dtype(series):
        return _of_numbers(series, present, named)
    if isinstance(first, str | bytes):
        if present.astype(str).str.contains("|", regex=False).mean() > 0.3:
            return MultiCategorical(**named, separator="|")
        return Categorical(**named, dtype="string")
    if types.is_list_like(first) and not isinstance(first, dict | set):
        return MultiCategorical(**named)
    return None


def _of_numbers(series: pd.Series, present: pd.Series, named: dict[str, Any]) -> Column:
    whole = types.is_integer_dtype(series)
    # pandas reads integers with gaps as floats.
    whole = whole or (0 < len(present) < len(series) and bool((present % 1 == 0).all()))
    name = str(series.name).lower()
    is_id = name.endswith("id") and not name.endswith(_NO_IDS)
    if whole and (is_id or present.nunique() <= _MOST_CATEGORIES):
        return Categorical(**named, dtype="int")
    skewed = len(present) > 0 and present.min() >= 0 and present.max() > 20 * (present.median() + 1)
    return Numeric(**named, transform="log" if skewed else "standardize")


def _task(series: pd.Series, named: dict[str, Any]) -> Task:
    values = series.dropna().unique()
    if not len(values):
        raise ValueError(f"Label {series.name!r} has no value to infer a task from.")
    if all(types.is_number(value) or types.is_bool(value) for value in values):
        # True is 1 and False 0.
        return Binary(**named) if set(values) <= {0, 1} else Regression(**named)
    if all(isinstance(value, decimal.Decimal) for value in values):
        return Regression(**named)
    texts = {v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in values}
    return Multiclass(**named, classes=tuple(sorted(texts)))
