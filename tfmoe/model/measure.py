"""A model measured on rows with labels: by group, by segment, by decile of its predictions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np
import pyarrow as pa

from tfmoe.data.arrow import to_floats
from tfmoe.data.encode.values import ValueCodes
from tfmoe.model.inputs import frame_of
from tfmoe.objectives.exact import MOST_SCENARIOS, by_task, rows_of_tasks
from tfmoe.objectives.measures import (
    deciles_of,
    measured_tasks,
    numbers_of,
    segments,
    segments_of,
)
from tfmoe.schema.columns import Numeric
from tfmoe.schema.schema import GROUP_CODES, Schema
from tfmoe.validation import checks_arguments, integer

if TYPE_CHECKING:
    import pandas as pd


class Measures(NamedTuple):
    """What `measure` found.

    Attributes:
        numbers: dict of float, by task and measure: `click_auc`, `click_gauc`.
        segments: DataFrame with a line for each task and segment of rows, see `measure`.
        deciles: DataFrame with a line for each binary task and decile of its prediction: `task`,
            `decile`, `rows`, `weight`, `prediction`, `label` (both are means) and `calibration`,
            their ratio.
    """

    numbers: dict[str, float]
    segments: pd.DataFrame
    deciles: pd.DataFrame

    def by_segment(self) -> dict[str, float]:
        """The segments as numbers by name: `click_auc[country=de]`.

        A task's name has no brackets, so that none is called as any other number.
        """
        found = {}
        for row in self.segments.itertuples():
            if not np.isnan(row.value):
                found[f"{row.task}_{row.metric}[{row.column}={row.segment}]"] = float(row.value)
        return found


@checks_arguments
def measure(
    model: Any,
    rows: Any,
    by: str | Sequence[str] | None = None,
    group: str | None = None,
    k: int = 10,
    threshold: float | None = None,
    batch_size: int = 4096,
) -> Measures:
    """Measures a model's predictions on rows with labels, exactly, from all of them.

    Of each binary task: `auc`; `normalized_entropy`, the log loss divided by that of the mean
    label as everybody's prediction; `calibration`, the sum of the predictions divided by that of
    the labels, in all and by decile of the prediction. With `threshold` also
    `precision_above_<threshold>` and `recall_above_<threshold>`. With `group`, over its groups:

    - `gauc`, the mean of the AUC within groups that have both classes, each by its rows;
      `gauc_share` says what share of the labelled rows these hold.
    - `ndcg@<k>`, `recall@<k>` (the share of a group's positives among its first k rows) and `mrr`
      (the reciprocal rank of its first positive), means over the groups with a positive row.

    Of other tasks the first metric, `rmse` or `accuracy`. Row weights count, a group's by their
    mean; rows with a missing label or weight 0 count nowhere. Equal predictions have no order:
    what depends on one is its expected value for a random one. A number that rows do not have,
    such as the AUC of one class, is NaN. Where a task's negative rows were sampled, as
    `Binary(negatives_kept=...)` says, they count for all that they stand for in calibration,
    normalised entropy, precision and recall, for predictions are of the whole table. Of a task
    that is `given` another the conditional probability is measured too, as `buy_given_click`,
    on the rows where that one happened.

    Args:
        model: `MultiTaskModel`.
        rows: raw rows, as for `model.evaluate`: a DataFrame, files, a dict by column of lists. Or
            the triple of `Preprocessor.arrays`, or a dataset of it, which have no columns for
            `by`, and groups only by `Schema(group=...)`.
        by: a raw column, or a sequence of such, inputs or not, by whose values the rows are
            segments. A column of numbers with more than 20 values has deciles as segments, any
            other its values, of which the 100 with the most rows are told.
        group: a raw column whose values are groups. None for that of the schema, if it has one.
            Values are told apart exactly, none is hashed.
        k: int >= 1.
        threshold: float in (0, 1), or None. A prediction equal to it is not above.
        batch_size: int >= 1, rows at a time.

    Returns:
        `Measures`. Its `segments` have `task`, `column`, `segment`, `rows`, `weight`, `label`
        (the mean), `metric`, `value`, and, of binary tasks, `calibration`.

    Raises:
        ValueError: if a column is not in the table, or an argument is out of range.

    Example:

    >>> import pandas as pd
    >>> columns = [tfmoe.Numeric("age", transform="none")]
    >>> model = tfmoe.MultiTaskModel(
    ...     tfmoe.Schema(columns, [tfmoe.Binary("click")]), tfmoe.SharedBottom(hidden_units=(4,)))
    >>> rows = pd.DataFrame({"age": [1.0, 2, 3], "click": [0, 1, 1], "user": ["a", "a", "b"]})
    >>> float(tfmoe.measure(model, rows, group="user").numbers["click_gauc_share"])
    0.6666666666666666

    Sources: see `tfmoe.objectives.grouped` and `tfmoe.objectives.calibration`.
    """
    import pandas as pd

    schema: Schema = model.schema
    columns = [by] if isinstance(by, str) else list(by or ())
    check_measured(columns, group, k, threshold)
    read = Read(model, frame_of(schema, rows), columns, group or schema.group, batch_size)
    of_tasks = rows_of_tasks(read)
    numbers: dict[str, float] = {}
    deciles: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for task in (one for one in measured_tasks(schema.tasks) if one.name in of_tasks):
        labels, scores, weights, *codes = of_tasks[task.name]
        groups = codes.pop() if read.has_groups else None
        own = numbers_of(task, labels, scores, weights, groups, k, threshold)
        numbers |= {f"{task.name}_{name}": value for name, value in own.items()}
        deciles += deciles_of(task, labels, scores, weights)
        for column, values in zip(columns, codes, strict=True):
            of_code, names = read.segments(column)
            found += segments_of(task, labels, scores, weights, column, of_code[values], names)
    tables = [
        pd.DataFrame(lines, columns=None if lines else names)
        for lines, names in ((found, _SEGMENT), (deciles, _DECILE))
    ]
    return Measures(numbers, *tables)


def with_measures(
    logs: Mapping[str, float], found: Measures, reported: Collection[str]
) -> dict[str, float]:
    """What `evaluate` returns and `measure` found, as one dict.

    Args:
        logs: dict of what `evaluate` returns.
        found: `Measures`.
        reported: names of the model's own metrics, which mean the same in both.

    Raises:
        ValueError: if two numbers have one name: those by scenario may be called anything.
    """
    numbers = {**found.numbers, **found.by_segment()}
    twice = sorted((set(numbers) & set(logs)) - set(reported))
    if twice:
        raise ValueError(
            "Numbers are called by task and measure, no two of them alike. Received "
            f"{twice} twice. Choose another name for a task."
        )
    return {**logs, **numbers}


_SEGMENT = ["task", "column", "segment", "rows", "weight", "label", "metric", "value"]
_SEGMENT += ["calibration"]
_DECILE = ["task", "decile", "rows", "weight", "prediction", "label", "calibration"]


def check_measured(
    by: Sequence[str], group: str | None, k: int, threshold: float | None, owner: str = "measure"
) -> None:
    """Raises ValueError unless the arguments of `measure` are in range."""
    integer(owner, "k", k, 1)
    names = [*by, *([] if group is None else [group])]
    if not all(isinstance(name, str) and name for name in names) or len(set(by)) < len(by):
        raise ValueError(
            f"{owner} takes `by` as names of columns, each once, and `group` as one. Received "
            f"by={by!r}, group={group!r}."
        )
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(
            f"{owner} compares probabilities with a `threshold` above 0 and below 1. Received "
            f"threshold={threshold!r}."
        )


class Read:
    """Labels, scores and weights of each task, and codes of its rows' segments and groups.

    Args:
        model, rows, batch_size: see `measure`.
        by: the columns of segments.
        group: the column of groups, or None.

    Attributes:
        has_groups: bool, whether the codes of groups come, last.
    """

    def __init__(
        self, model: Any, rows: Any, by: Sequence[str], group: str | None, batch_size: int
    ) -> None:
        self._model, self._rows, self._by, self._group = model, rows, list(by), group
        self._batch_size = integer("measure", "batch_size", batch_size, 1)
        names = [*by, *([] if group is None else [group])]
        self._codes = {name: ValueCodes(name) for name in names}
        self._counts: dict[str, np.ndarray] = {}
        self._encoded = hasattr(rows, "element_spec") or _is_triple(rows)
        self.has_groups = group is not None
        own = group == model.schema.group
        if self._encoded and self.has_groups and own and _has_codes(rows):
            self._codes, names = {name: ValueCodes(name) for name in by}, list(by)
        if self._encoded and names:
            raise ValueError(
                "Segments and groups are told by columns of raw rows. Received "
                f"{names} with rows that are encoded already. Pass a DataFrame or files."
            )

    def __iter__(self) -> Iterator[tuple[str, tuple[np.ndarray, ...]]]:
        for (features, labels, weights), codes in self._batches():
            scores = self._model.predict_on_batch(features)
            for name in self._by:
                self._count(name, codes[name])
            more = [codes[name] for name in self._by]
            if self._group is not None:
                own = features[GROUP_CODES] if self._encoded else codes[self._group]
                more.append(own)
            yield from by_task(self._model.schema, features, labels, weights, scores, more)

    def _batches(self) -> Iterable[tuple[Any, dict[str, np.ndarray]]]:
        if not self._encoded:
            prep = self._model.preprocessor
            return prep.batches_beside(self._rows, self._codes, self._batch_size)
        return ((batch, {}) for batch in _batches(self._rows, self._batch_size))

    def _count(self, name: str, codes: np.ndarray) -> None:
        num = len(self._codes[name].texts)
        old = self._counts.get(name, np.zeros(1, int))
        counts = np.bincount(np.where(codes < 0, num, codes), minlength=num + 1)
        counts[: len(old) - 1] += old[:-1]
        counts[-1] += old[-1]
        self._counts[name] = counts

    def segments(self, column: str) -> tuple[np.ndarray, dict[int, str]]:
        """What the segments of a column are; see `tfmoe.objectives.measures.segments`."""
        texts = self._codes[column].texts
        inputs = [one for one in self._model.schema.columns if column in one.raw_names]
        amounts = [one for one in inputs if isinstance(one, Numeric) and one.element is None]
        # Nothing stands for a missing category unless the schema says so.
        missing = amounts[0].missing if amounts else () if inputs else None
        try:
            numbers = to_floats(pa.array(texts, pa.string()), column, missing)
        except TypeError:
            numbers = None
        return segments(
            texts, self._counts[column], MOST_SCENARIOS, numbers, are_amounts=bool(amounts)
        )


def _has_codes(rows: Any) -> bool:
    """Whether encoded rows have the codes of their groups among the features."""
    features = (rows.element_spec if hasattr(rows, "element_spec") else rows)[0]
    return GROUP_CODES in features


def _is_triple(rows: Any) -> bool:
    return isinstance(rows, tuple) and len(rows) == 3 and isinstance(rows[0], Mapping)


def _batches(rows: Any, batch_size: int) -> Iterator[Any]:
    """Features, labels and weights of encoded rows."""
    if hasattr(rows, "element_spec"):
        yield from map(keras.utils.unpack_x_y_sample_weight, rows)
        return
    num = len(keras.tree.flatten(rows)[0])
    for start in range(0, num, batch_size):
        part = slice(start, start + batch_size)
        yield keras.tree.map_structure(lambda v, part=part: v[part], rows)
