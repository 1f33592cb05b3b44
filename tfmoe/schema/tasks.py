"""The kinds of task. Plain data, no TensorFlow."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from tfmoe.schema.links import Link, link_of
from tfmoe.validation import (
    check_bool,
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
        weight_column: name of a raw column of row weights >= 0 for this task alone, or None.
            They multiply those of the schema's `weight_column`, in loss and metrics.
        served: bool; False for a task that is trained along but not among the predictions, as
            `extract` leaves those that a task it was asked for is `given`.
    """

    metrics: ClassVar[tuple[str, ...]] = ()

    name: str
    _: KW_ONLY
    source: str | None = None
    weight: float = 1.0
    where: str | None = None
    key: str | int | None = None
    where_value: str | int | float | None = None
    weight_column: str | None = None
    served: bool = True

    def __post_init__(self) -> None:
        make_plain(self)
        check_name(type(self).__name__, self.name)
        check_bool(f"Task {self.name!r}", "served", self.served)
        if self.weight_column is not None and not _is_name(self.weight_column):
            raise ValueError(
                f"Task {self.name!r} takes `weight_column` as the name of a raw column, or None. "
                f"Received weight_column={self.weight_column!r}."
            )
        number(f"Task {self.name!r}", "weight", self.weight, least=0)
        is_key = is_integer(self.key) or _is_name(self.key)
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
    def num_logits(self) -> int:
        """Numbers that the task's tower makes of a row."""
        return self.num_outputs

    @property
    def further_outputs(self) -> tuple[str, ...]:
        """Names of what is predicted of the task beside its own."""
        return ()

    @property
    def reported_names(self) -> tuple[str, ...]:
        """What the task's loss and its own metrics are called in logs and histories."""
        return tuple(f"{self.name}_{what}" for what in ("loss", *self.metrics))

    @property
    def raw_name(self) -> str:
        """The label's column in the raw table."""
        return self.name if self.source is None else self.source

    @property
    def raw(self) -> str:
        """`raw_name`, as version 0.1 called it."""
        return self.raw_name

    @property
    def key_text(self) -> str:
        """The value of the task column in the task's rows, as text."""
        return self.name if self.key is None else str(self.key)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


# Losses of regressions whose labels may be shifted, and of labels of at least 0.
_SHIFTED = ("mse", "mae", "huber", "quantile")
_SCALED = ("poisson", "lognormal")


@checks_arguments
@dataclass(frozen=True)
class Binary(Task):
    """Yes or no: labels 0 and 1, the prediction is a probability.

    Args:
        name, source, weight, where, key, where_value, weight_column, served: see `Task`.
        positive: string, number or bool, the label that counts as 1 where labels are not 0 and
            1 (or false and true); the prediction is its probability. Compared as text, so that 2
            and `"2"` are the same. There may be one other label, which counts as 0.
        negative: the label that counts as 0, or a sequence of several. Needed where there are
            several, or where the one is a usual sign of a missing value such as `-`.
        given: name of the binary task that comes before this one, as a click before a purchase, or
            None; its probability must be one, which a focal loss does not make. `name` is then the
            probability of both, over all rows, and `<name>_given_<given>` is predicted beside it,
            the conditional one. Where the label of `given` is 0 and this
            one's is missing, it counts as 0. Excludes `where` and a `task_column`.
        link: `ESMM`, `ESCM2`, `AITM` or `DBMTL`, or `"esmm"` (the default), `"escm2-ips"`,
            `"escm2-dr"`, `"aitm"`, `"dbmtl"`: how the task hangs on `given`. See there.
        loss: `"log_loss"`, binary cross-entropy; `"focal"`,
            `-alpha (1 - p)^gamma log p` where the label is 1 and
            `-(1 - alpha) p^gamma log(1 - p)` where it is 0, whose `p` is not calibrated; or
            `"pairwise"`, `log(1 + exp(z_j - z_i))` of pairs of rows of one group, see
            `Schema(group=...)`, and one batch, of which row `i` has label 1 and row `j` 0, with `z`
            the logits: it ranks within groups, and its `p` says nothing alone.
        gamma, alpha: float >= 0, and in [0, 1], of the focal loss.
        label_smoothing: float in [0, 1): in the loss a label `y` counts as
            `(1 - label_smoothing) y + label_smoothing / 2`.
        positive_weight: float > 0, by which losses of positive rows are multiplied. What is
            predicted is corrected for it, see `negatives_kept`.
        negatives_kept: float in (0, 1], the share of this task's negative rows that the table still
            has, if they were sampled. Predictions have the odds of the whole table, `negatives_kept
            / positive_weight` times those that the loss is of; loss, `log_loss` and `auc` are of
            the table as it is. Rows with label 0 here count `1 / negatives_kept` times in the
            losses and metrics of the other tasks. Does not go with `given`, nor with a task that
            is given this one.

    Metrics: `auc`, `log_loss`; with `given` also `<name>_given_<given>_auc` and `_log_loss`, over
    rows in which that happened.

    Example:
    >>> Binary("bought", positive="yes").positive
    'yes'
    >>> Binary("buy", given="click").further_outputs
    ('buy_given_click',)

    Sources: Lin et al., 2017, https://arxiv.org/abs/1708.02002 (focal); He et al., 2014, section
    6.3, https://doi.org/10.1145/2648584.2648589 (sampled negatives).
    """

    metrics = ("auc", "log_loss")

    _: KW_ONLY
    positive: str | int | float | bool | None = None
    negative: tuple[str | int | float | bool, ...] | None = None
    given: str | None = None
    link: str | Link | None = None
    loss: str = "log_loss"
    gamma: float = 2.0
    alpha: float = 0.25
    label_smoothing: float = 0.0
    positive_weight: float = 1.0
    negatives_kept: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_given()
        self._check_loss()
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

    def _check_given(self) -> None:
        owner = f"Binary({self.name!r})"
        if self.given is None:
            if self.link is not None:
                raise ValueError(
                    f"{owner} hangs by `link` on the task that it is `given`. Received "
                    f"link={self.link!r} with given=None. Name that task, or leave the link out."
                )
            return
        object.__setattr__(self, "link", link_of(owner, self.link or "esmm"))
        if not _is_name(self.given) or self.given == self.name:
            raise ValueError(
                f"{owner} is `given` another binary task, by its name. Received "
                f"given={self.given!r}."
            )
        for name in ("where", "where_value", "key"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{owner} has a label space by what it is `given`: all rows. Received "
                    f"given={self.given!r} with {name}={getattr(self, name)!r}. Leave one of them "
                    "out: `where` alone trains it on the rows inside and predicts for those."
                )

    def _check_loss(self) -> None:
        owner = f"Binary({self.name!r})"
        check_choice(owner, "loss", self.loss, ("log_loss", "focal", "pairwise"))
        number(owner, "gamma", self.gamma, least=0)
        number(owner, "alpha", self.alpha, least=0, most=1)
        number(owner, "label_smoothing", self.label_smoothing, least=0, most=0.999)
        number(owner, "positive_weight", self.positive_weight, above=0)
        number(owner, "negatives_kept", self.negatives_kept, above=0, most=1)
        ignored: dict[str, float] = {}
        if self.loss != "focal":
            ignored |= {"gamma": 2.0, "alpha": 0.25}
        if self.loss == "pairwise":
            ignored |= {"label_smoothing": 0.0, "positive_weight": 1.0, "negatives_kept": 1.0}
        given = [name for name, default in ignored.items() if getattr(self, name) != default]
        if given:
            raise ValueError(
                f"{owner} has loss={self.loss!r}, which knows no {given[0]!r}. Received "
                f"{given[0]}={getattr(self, given[0])}. Leave it out, or choose another loss."
            )
        if self.loss == "pairwise" and self.given is not None:
            raise ValueError(
                f"{owner} is given {self.given!r}: its probability is that of the whole chain. "
                'Received loss="pairwise", which makes none. Leave one of them out.'
            )
        if self.given is not None and (self.negatives_kept < 1 or self.positive_weight != 1):
            raise ValueError(
                f"{owner} is given {self.given!r}, and so its probability is that of the whole "
                f"chain in the table as it is. Received negatives_kept={self.negatives_kept}, "
                f"positive_weight={self.positive_weight}. Leave them out, or put the weights of "
                "sampled rows into a `weight_column`."
            )

    @property
    def further_outputs(self) -> tuple[str, ...]:
        return () if self.given is None else (f"{self.name}_given_{self.given}",)

    @property
    def reported_names(self) -> tuple[str, ...]:
        further = [f"{name}_{what}" for name in self.further_outputs for what in self.metrics]
        return (*super().reported_names, *further)


@checks_arguments
@dataclass(frozen=True)
class Regression(Task):
    """A number. The prediction is in the label's units.

    Args:
        name, source, weight, where, key, where_value, weight_column, served: see `Task`.
        loss: `"mse"`; `"mae"`; `"huber"` (delta 1); `"quantile"`,
            `max(q (y - f), (q - 1) (y - f))`, for the quantile `q` of the label; for labels of at
            least 0 `"poisson"`, of counts, with `exp` of the tower's number as the mean; and
            `"lognormal"`, of spending, which is 0 with a probability and else lognormal. The
            prediction of the last is the expected value, `p exp(mu + sigma^2 / 2)`, of which the
            tower makes three numbers. Metrics: `rmse`, `mae`, in the label's units.
        standardize: bool; whether the model learns `(label - mean) / std`, with the moments of
            the labels that the Preprocessor was fitted on, so that neither this task nor another
            depends on the label's unit. The loss is then of that number, and huber's delta one
            standard deviation. `"poisson"` and `"lognormal"`, whose labels cannot be shifted, learn
            `label / mean`. False for raw units, as published protocols have them.
        quantile: float in (0, 1), of the loss of that name; 0.5 is the median.
        parts: bool; whether a task with `"lognormal"` also predicts `<name>_probability`, of a
            label above 0, and `<name>_if_any`, the expected value of such a one.

    Source: Wang et al., 2019, https://arxiv.org/abs/1912.07753 (zero-inflated lognormal).
    """

    metrics = ("rmse", "mae")

    _: KW_ONLY
    loss: str = "mse"
    standardize: bool = True
    quantile: float = 0.5
    parts: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = f"Regression({self.name!r})"
        check_choice(owner, "loss", self.loss, (*_SHIFTED, *_SCALED))
        check_bool(owner, "standardize", self.standardize)
        check_bool(owner, "parts", self.parts)
        number(owner, "quantile", self.quantile, above=0, most=0.999999)
        if self.quantile != 0.5 and self.loss != "quantile":
            raise ValueError(
                f"{owner} has loss={self.loss!r}, which knows no `quantile`. Received "
                f'quantile={self.quantile}. Leave it out, or choose loss="quantile".'
            )
        if self.parts and self.loss != "lognormal":
            raise ValueError(
                f'{owner} has `parts` with loss="lognormal". Received loss={self.loss!r}. Leave '
                "`parts` out."
            )

    @property
    def num_logits(self) -> int:
        return 3 if self.loss == "lognormal" else 1

    @property
    def further_outputs(self) -> tuple[str, ...]:
        return (f"{self.name}_probability", f"{self.name}_if_any") if self.parts else ()

    @property
    def is_scaled(self) -> bool:
        """Whether labels are at least 0, and standardised by their mean alone."""
        return self.loss in _SCALED


@checks_arguments
@dataclass(frozen=True)
class Multiclass(Task):
    """One of several classes. The prediction is a probability per class.

    Loss: categorical cross-entropy. Metrics: `accuracy`, `log_loss`.

    Args:
        name, source, weight, where, key, where_value, weight_column, served: see `Task`.
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


def parent_of(task: Task, tasks: Sequence[Task]) -> Binary | None:
    """The one of the tasks that a task is given, or None."""
    given = task.given if isinstance(task, Binary) else None
    found = [one for one in tasks if isinstance(one, Binary) and one.name == given]
    return found[0] if found else None


def in_chain_order(tasks: Sequence[Task]) -> list[Task]:
    """The tasks, each after the one that it is given."""
    ordered: list[Task] = []
    for task in tasks:
        chain: list[Task] = []
        one: Task | None = task
        while one is not None and one not in ordered:
            chain.insert(0, one)
            one = parent_of(one, tasks)
        ordered += chain
    return ordered
