"""The kinds of task. Plain data, no TensorFlow."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from tfmoe.validation import (
    check_choice,
    check_name,
    checks_arguments,
    integer,
    is_integer,
    make_plain,
    number,
    plain,
)


@dataclass(frozen=True)
class Task:
    """What all tasks share. Use one of the three kinds.

    Args:
        name: the task's name in losses, metrics, predictions and the served response.
        source: the label's column in the raw table, if it is not `name`.
        weight: float >= 0, the task's weight in the loss.
        where: name of a binary task, or of a raw column of zeros and ones. Rows in
            which it is not 1 lie outside this task's label space: for this task their
            label counts as missing. Of a binary task with `positive` that is 1.
        where_value: string or number that marks the rows inside, if the raw column `where`
            has another value than 1 there; compared as text.
        key: string or integer, the value of the schema's `task_column` in this task's
            rows if it is not `name`. Compared as text: 7 and "7" are the same.
    """

    metrics: ClassVar[tuple[str, ...]] = ()

    name: str
    _: KW_ONLY
    source: str | None = None
    weight: float = 1.0
    where: str | None = None
    key: str | int | None = None
    where_value: str | int | float | None = None

    def __post_init__(self) -> None:
        make_plain(self)
        check_name(type(self).__name__, self.name)
        number(f"Task {self.name!r}", "weight", self.weight, least=0)
        is_key = is_integer(self.key) or (isinstance(self.key, str) and self.key != "")
        if self.key is not None and not is_key:
            raise ValueError(
                f"Task {self.name!r} needs `key` to be the string or integer that its rows "
                f"have in the task column. Received key={self.key!r}. Leave it out if that "
                "is the task's name."
            )
        if self.where_value is not None and not self.where:
            raise ValueError(
                f"Task {self.name!r} compares `where_value` with the raw column `where`. Received "
                f"where_value={self.where_value!r} with where=None. Name the column."
            )

    @property
    def num_outputs(self) -> int:
        """Numbers that the model predicts for the task: 1, or one a class."""
        return 1

    @property
    def reported_names(self) -> tuple[str, ...]:
        """What the task's loss and its own metrics are called in logs and histories."""
        return tuple(f"{self.name}_{what}" for what in ("loss", *self.metrics))

    @property
    def raw_name(self) -> str:
        """The label's column in the raw table."""
        return self.source or self.name

    @property
    def raw(self) -> str:
        """`raw_name`, as version 0.1 called it."""
        return self.raw_name

    @property
    def key_text(self) -> str:
        """The value of the task column in the task's rows, as text."""
        return self.name if self.key is None else str(self.key)


@checks_arguments
@dataclass(frozen=True)
class Binary(Task):
    """Yes or no: labels 0 and 1, the prediction is a probability.

    Args:
        name, source, weight, where, key, where_value: see `Task`.
        positive: string, number or bool, the label that counts as 1 where labels are not 0 and
            1 (or false and true); the prediction is its probability. Compared as text, so that 2
            and `"2"` are the same. There may be one other label, which counts as 0.
        negative: the label that counts as 0, or a sequence of several. Needed where there are
            several, or where the one is a usual sign of a missing value such as `-`.

    Loss: binary cross-entropy. Metrics: `auc`, `log_loss`.

    Example:
    >>> Binary("bought", positive="yes").positive
    'yes'
    """

    metrics = ("auc", "log_loss")

    _: KW_ONLY
    positive: str | int | float | bool | None = None
    negative: tuple[str | int | float | bool, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = f"Binary({self.name!r})"
        if isinstance(self.negative, str | int | float):
            object.__setattr__(self, "negative", (self.negative,))
        if self.negative is not None:
            object.__setattr__(self, "negative", tuple(self.negative))
        if self.positive is None:
            if self.negative is not None:
                raise ValueError(
                    f"{owner} tells `negative` labels from a `positive` one. Received negative="
                    f"{self.negative!r} with positive=None. Name the label that counts as 1."
                )
            return
        labels = (self.positive, *(self.negative or ()))
        texts = [str(label) for label in labels]
        proper = all(isinstance(one, str | int | float) and str(one) != "" for one in labels)
        if not proper or self.negative == () or len(set(texts)) < len(texts):
            raise ValueError(
                f"{owner} needs `positive` to be a label, a string or number, and `negative` to "
                f"be other ones. Received positive={self.positive!r}, negative={self.negative!r}. "
                "For more than two kinds of label there is Multiclass."
            )


@checks_arguments
@dataclass(frozen=True)
class Regression(Task):
    """A number. The prediction is in the label's units.

    Args:
        name, source, weight, where, key, where_value: see `Task`.
        loss: `"mse"`, `"mae"` or `"huber"` (delta 1). Metrics: `rmse`, `mae`, in the label's
            units.
        standardize: bool; whether the model learns `(label - mean) / std`, with the moments of
            the labels that the Preprocessor was fitted on, so that neither this task nor another
            depends on the label's unit. The loss is then of that number, and huber's delta one
            standard deviation. False for raw units, as published protocols have them.
    """

    metrics = ("rmse", "mae")

    _: KW_ONLY
    loss: str = "mse"
    standardize: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = f"Regression({self.name!r})"
        check_choice(owner, "loss", self.loss, ("mse", "mae", "huber"))
        if not isinstance(self.standardize, bool):
            raise ValueError(
                f"{owner} takes `standardize` as True or False. Received "
                f"standardize={self.standardize!r}."
            )


@checks_arguments
@dataclass(frozen=True)
class Multiclass(Task):
    """One of several classes. The prediction is a probability per class.

    Loss: categorical cross-entropy. Metrics: `accuracy`, `log_loss`.

    Args:
        name, source, weight, where, key, where_value: see `Task`.
        num_classes: int >= 2, if the labels are the integers `0 .. num_classes - 1`.
        classes: sequence of the labels, if they are strings or other integers; the
            probabilities come in this order. Give exactly one of the two.
    """

    metrics = ("accuracy", "log_loss")

    _: KW_ONLY
    num_classes: int | None = None
    classes: Sequence[str] | Sequence[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = f"Multiclass({self.name!r})"
        if (self.num_classes is None) == (self.classes is None):
            raise ValueError(
                f"{owner} needs either `num_classes` (labels 0, 1, ...) or `classes` "
                f"(the labels themselves). Received num_classes={self.num_classes!r}, "
                f"classes={self.classes!r}."
            )
        integer(owner, "num_classes", self.num_classes, 2, optional=True)
        if self.classes is not None:
            object.__setattr__(self, "classes", plain(tuple(self.classes)))
            kinds = {type(label) for label in self.classes}
            if kinds not in ({str}, {int}) or len(set(self.classes)) < max(2, len(self.classes)):
                raise ValueError(
                    f"{owner} needs at least two different `classes`, all strings or all "
                    f"integers. Received classes={self.classes!r}."
                )

    @property
    def num_outputs(self) -> int:
        return self.num_classes or len(self.classes or ())
