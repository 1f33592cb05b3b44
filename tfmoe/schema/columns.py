"""The kinds of column. Plain data, no TensorFlow."""

import dataclasses
import itertools
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from tfmoe.schema.missing import check_missing
from tfmoe.schema.poolings import Pooling, pooling_of
from tfmoe.validation import (
    check_choice,
    check_input,
    check_name,
    checks_arguments,
    integer,
    make_plain,
    number,
)

# Ids enter saved files and served graphs, so they are fixed for good.
PADDING_ID, MISSING_ID, UNKNOWN_ID, FIRST_ID = 0, 1, 2, 3

#: Where a part of a model asks for a column: that which `Schema.scenario` names.
SCENARIO = "<scenario>"

# What stands for "missing" in a served request, where there is no None.
MISSING_INT = -(2**63)
MISSING_STRING = ""

_POOLINGS = ("mean", "sum", "max")
_TRANSFORMS = ("standardize", "log", "buckets", "none")
#: Positions of a `Sequence` of which nothing else is said.
LONGEST_HISTORY = 50


@dataclass(frozen=True)
class Column:
    """What all columns share. Use one of its kinds.

    Args:
        name: letters, digits and underscores, and no word of Python; the model's input
            and the served request are named by it. Those of a schema differ by more than
            capital letters.
        source: the column's name in the raw table, if it is not `name`.
    """

    name: str
    _: KW_ONLY
    source: str | None = None

    def __post_init__(self) -> None:
        make_plain(self)
        check_input(type(self).__name__, self.name)
        if not isinstance(self.source, str | None):
            raise ValueError(
                f"{type(self).__name__}({self.name!r}) needs `source` to be a column's name or "
                f"None. Received source={self.source!r}."
            )

    @property
    def raw_name(self) -> str:
        """The column's name in the raw table."""
        return self.name if self.source is None else self.source

    @property
    def raw(self) -> str:
        """`raw_name`, as version 0.1 called it."""
        return self.raw_name

    # What the rest of the package asks of a column, so that a kind of its own is but a class here
    # and a codec in `tfmoe.data.encode.codecs`.

    @property
    def raw_names(self) -> tuple[str, ...]:
        """The raw columns that it reads, but for those of other columns of the schema."""
        return (self.raw_name,)

    @property
    def list_names(self) -> tuple[str, ...]:
        """Those of `raw_names` whose cells may be lists."""
        return ()

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The model's inputs that it becomes; the first has its name."""
        return (self.name,)

    @property
    def embeds(self) -> bool:
        """Whether it becomes ids, which are embedded, rather than numbers."""
        return False

    @property
    def is_list(self) -> bool:
        """Whether a row has a list of ids, which are pooled."""
        return False

    @property
    def is_wide(self) -> bool:
        """Whether a row has several numbers or ids, `(b, width)`, rather than one, `(b,)`."""
        return self.is_list

    @property
    def is_sized(self) -> bool:
        """Whether `Preprocessor.lengths` has it: as it `is_wide`, or with its vectors' size."""
        return self.is_wide

    @property
    def width(self) -> int | None:
        """That length, if the schema alone says so."""
        return None

    @property
    def table(self) -> str:
        """Name of the column that owns its embedding table."""
        return self.name

    @property
    def table_rows(self) -> int | None:
        """Rows of its own embedding table, if the schema alone says so."""
        return None

    @property
    def may_be_shared(self) -> bool:
        """Whether other columns may use its vocabulary and its table, by `share`."""
        return False


def check_regularizer(owner: str, column: Any) -> None:
    """Makes a column's `regularizer` a float, or None. Raises ValueError if it is below 0."""
    factor = number(owner, "regularizer", column.regularizer, 0, optional=True)
    # An integer too becomes a float, so that equal schemas are written alike.
    object.__setattr__(column, "regularizer", factor)


@checks_arguments
@dataclass(frozen=True)
class Numeric(Column):
    """A number.

    Missing cells (None, NaN) and infinite ones count as `fill`. Text is read as numbers,
    whichever source it comes from: `1.5`, `1e5`, `+7`, with spaces around; `true` and
    `false`, in any letters, are 1 and 0.

    Args:
        name, source: see `Column`.
        transform: `"standardize"` subtracts the fitted mean and divides by the fitted
            standard deviation; `"log"` does so after `sign(x) * log(1 + |x|)`;
            `"buckets"` cuts at fitted quantiles and embeds the bucket; `"none"`
            leaves the number as it is. Standardised values are clipped to
            100 standard deviations, so that no single outlier dominates a step.
        num_buckets: int >= 2, for `"buckets"`.
        dim: int >= 1, size of a bucket's embedding.
        regularizer: see `Categorical`, of a bucket's embedding.
        fill: what a missing cell counts as, in raw units; with `"buckets"` it has the
            bucket of that number. None means the fitted mean, with `"log"` the mean of the
            logarithms, with `"none"` 0; with `"buckets"` missing cells then have an id of
            their own.
        missing: sequence of the texts and numbers that stand for a missing number, such as
            `["unknown", -1, 999]`, and no others do (beside the empty cell). None for the
            usual texts: NA, N/A, NULL, None, NaN, \\N, ?, -, #N/A and their like,
            `tfmoe.schema.missing.MARKERS`; `fit` warns of them.
        element: int >= 0, the place of the number in cells that are lists, such as vectors;
            missing in a shorter list. A vector of n numbers is n columns, of one `source`.
            The served model takes the number itself.
    """

    _: KW_ONLY
    transform: str = "standardize"
    num_buckets: int = 32
    dim: int = 16
    regularizer: float | None = None
    fill: float | None = None
    missing: tuple[str | int | float, ...] | None = None
    element: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = f"Numeric({self.name!r})"
        check_choice(owner, "transform", self.transform, _TRANSFORMS)
        integer(owner, "num_buckets", self.num_buckets, 2)
        integer(owner, "dim", self.dim, 1)
        check_regularizer(owner, self)
        # An integer too becomes a float, so that equal schemas are written alike.
        object.__setattr__(self, "fill", number(owner, "fill", self.fill, optional=True))
        integer(owner, "element", self.element, 0, optional=True)
        if self.missing is not None:
            object.__setattr__(self, "missing", check_missing(owner, self.missing, fractions=True))

    @property
    def embeds(self) -> bool:
        return self.transform == "buckets"

    @property
    def list_names(self) -> tuple[str, ...]:
        return () if self.element is None else (self.raw_name,)

    @property
    def table_rows(self) -> int | None:
        return FIRST_ID + self.num_buckets if self.embeds else None


@checks_arguments
@dataclass(frozen=True)
class Categorical(Column):
    """One value of a set: a user, a country, a device.

    Ids: 0 padding, 1 missing (None, NaN, the empty string), 2 unknown, then the
    vocabulary by falling count (ties by value), or the hash buckets.

    Args:
        name, source: see `Column`.
        dim: int >= 1, size of the embedding.
        regularizer: float >= 0, the factor of an L2 loss of the embeddings that a batch looks up,
            see `Encoder`; 0 for none, None for `MultiTaskModel`'s `embeddings_regularizer`.
        dtype: `"int"`, `"string"`, or None to take what the fitted data has: integers
            where all values are, of 64 bits and, in a text file, written without leading
            zeros or a plus; text otherwise. Integers in a string column count as their
            decimal digits, and so do whole floats: `12.0` is `12`, in text too. True and
            false are one value each, however a source spells them, in a column that has
            nothing else.
        min_count: int >= 1; rarer values are unknown.
        max_size: int >= 1 or None; keep that many of the most frequent values.
        hash_buckets: int >= 1 or None. If set, nothing is fitted: a value's id is the
            SipHash of its text modulo this number.
        share: name of another column whose vocabulary and embedding table this one
            uses, also of a `Pretrained`, whose vectors it then has. Both are fitted together.
            `dim`, `regularizer`, `dtype`, `min_count`, `max_size`, `hash_buckets` and `missing`
            are then the other column's and must be left alone here.
        missing: sequence of the texts and integers that stand for a missing value, such as
            `["NA", "?"]` or `[-1]`, beside the empty cell. Nothing does by default: `NA` may
            be Namibia. Of lists they are missing elements.
        unknown_rate: float in [0, 1]. In training each known id counts as unknown with this
            probability, so that the embedding of the unknown one is trained. A few percent are
            enough. Nothing is drawn where the model predicts.
    """

    _: KW_ONLY
    dim: int = 16
    regularizer: float | None = None
    dtype: str | None = None
    min_count: int = 1
    max_size: int | None = None
    hash_buckets: int | None = None
    share: str | None = None
    missing: tuple[str | int, ...] = ()
    unknown_rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = f"{type(self).__name__}({self.name!r})"
        check_choice(owner, "dtype", self.dtype, ("int", "string", None))
        integer(owner, "dim", self.dim, 1)
        check_regularizer(owner, self)
        integer(owner, "min_count", self.min_count, 1)
        integer(owner, "max_size", self.max_size, 1, optional=True)
        integer(owner, "hash_buckets", self.hash_buckets, 1, optional=True)
        object.__setattr__(self, "missing", check_missing(owner, self.missing, fractions=False))
        rate = number(owner, "unknown_rate", self.unknown_rate, least=0, most=1)
        object.__setattr__(self, "unknown_rate", rate)
        if self.hash_buckets and (self.min_count > 1 or self.max_size):
            raise ValueError(
                f"{owner} hashes, so there is no vocabulary to cut. Received "
                f"hash_buckets={self.hash_buckets} with min_count={self.min_count}, "
                f"max_size={self.max_size}. Leave either out."
            )
        if self.share:
            own = {f.name: f.default for f in dataclasses.fields(Categorical)}
            for field in (
                *("dim", "regularizer", "dtype", "min_count", "max_size", "hash_buckets"),
                "missing",
            ):
                if getattr(self, field) != own[field]:
                    raise ValueError(
                        f"{owner} uses the table of {self.share!r}, which decides its "
                        f"`{field}`. Received {field}={getattr(self, field)!r}. Set it "
                        f"on {self.share!r}."
                    )

    @property
    def embeds(self) -> bool:
        return True

    @property
    def table(self) -> str:
        """Name of the column that owns the vocabulary and the table."""
        return self.share or self.name

    @property
    def table_rows(self) -> int | None:
        return FIRST_ID + self.hash_buckets if self.hash_buckets else None

    @property
    def may_be_shared(self) -> bool:
        return not self.share


@checks_arguments
@dataclass(frozen=True)
class MultiCategorical(Categorical):
    """A set of values: genres, tags, interests.

    A cell is a list, or a string to be split at `separator`. Missing and empty elements
    are left out of the pooling (but keep their positions, so that they count towards
    `max_length`, unless they end the cell); a cell without elements has the one id 1
    (missing).

    Args:
        name, source, dim, regularizer, dtype, min_count, max_size, hash_buckets, share, missing,
            unknown_rate: see `Categorical`.
        separator: string between a cell's values, or None if cells are lists.
        strip: bool, whether spaces (and tabs and line ends) around the values of separated text
            are left out, in training and served: `"a, b"` at `","` is then `"a"` and `"b"`, and
            else `"a"` and `" b"`.
        pooling: `"mean"`, `"sum"` or `"max"` over the values' embeddings.
        max_length: int >= 1. Further values are dropped. None for the longest cell seen in
            fitting, but for cells of more than 64 values that are longer than 999 in 1,000,
            or than 16 times the mean: those are cut, and a warning says how many.
        weights: name of the raw column that has a number for each value of a cell, in a list as
            long (or in text, parted at `separator`), or None. The mean is then `sum(w v) /
            sum(|w|)`, the sum `sum(w v)`; a missing weight is 1. They are one more input,
            `<name>_weights`. Values that are cut or missing take their weights along.
    """

    _: KW_ONLY
    separator: str | None = None
    strip: bool = False
    pooling: str | Pooling = "mean"
    max_length: int | None = None
    weights: str | None = None

    keeps_last: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = f"{type(self).__name__}({self.name!r})"
        self._check_pooling(owner)
        integer(owner, "max_length", self.max_length, 1, optional=True)
        if self.separator == "" or not isinstance(self.separator, str | None):
            raise ValueError(
                f"{owner} needs `separator` to be a string that is not empty, or None if the "
                f"cells are lists. Received separator={self.separator!r}."
            )
        if not isinstance(self.strip, bool) or (self.strip and self.separator is None):
            raise ValueError(
                f"{owner} takes `strip` as True or False, and True only of text that is parted at "
                f"`separator`. Received strip={self.strip!r}, separator={self.separator!r}. Give "
                "the separator, or leave `strip` out if cells are lists."
            )
        weighs = self.pooling in ("mean", "sum") or getattr(self.pooling, "takes_weights", False)
        if self.weights is not None and (
            not isinstance(self.weights, str) or self.weights in ("", self.raw_name) or not weighs
        ):
            raise ValueError(
                f"{owner} takes as `weights` the name of another raw column, whose numbers weigh "
                "the values in a mean, a sum or TargetAttention: a maximum and a last value are "
                "what they are, and BST norms its tokens. Received "
                f"weights={self.weights!r} with pooling={self.pooling!r}. Take one of the three, "
                "or leave `weights` out."
            )

    @property
    def raw_names(self) -> tuple[str, ...]:
        return (self.raw_name,) if self.weights is None else (self.raw_name, self.weights)

    @property
    def list_names(self) -> tuple[str, ...]:
        return self.raw_names

    @property
    def feature_names(self) -> tuple[str, ...]:
        return (self.name,) if self.weights is None else (self.name, f"{self.name}_weights")

    @property
    def is_list(self) -> bool:
        return True

    @property
    def width(self) -> int | None:
        return self.max_length

    def _check_pooling(self, owner: str) -> None:
        check_choice(owner, "pooling", self.pooling, _POOLINGS)


@checks_arguments
@dataclass(frozen=True)
class Sequence(MultiCategorical):
    """An ordered history, oldest first: the films a user saw, the pages of a visit.

    Like `MultiCategorical`, but of a long cell the LAST `max_length` values are kept
    (missing values at its end do not count). A model whose mixture takes tokens, such as
    `ModSquad`, sees every value at its place. For other mixtures the values are pooled: by
    a mean and its like, in which their order does not count, by the last one, or with regard to a
    candidate, the item that the row is about.

    Args:
        name, source, dim, regularizer, dtype, min_count, max_size, hash_buckets, share, missing,
            unknown_rate, separator, strip, weights: see `MultiCategorical`, and of a pooling by a
            candidate `TargetAttention`. Tokens are not weighed.
        max_length: int >= 1, or None for what `MultiCategorical` takes.
        pooling: `"mean"`, `"sum"` or `"max"` over the values' embeddings; `"last"`, the last
            value's; or `TargetAttention(candidate)` or `BST(candidate)`.
        aligned_with: name of another `Sequence` whose positions this one's values belong to, as
            the films' genres to the films; or None. Cells of a row are then equally long, but one
            that is missing as a whole; both are cut alike, at the other's `max_length`, which need
            not be repeated, and a position counts where one of them has a value. A pooling by a
            candidate of the other one weighs its position by all of them, and pools this one by
            the same weights, so that a column of `weights` is the other one's too; without one,
            each is pooled by its own word.
        boundaries: numbers, each larger than the one before, of cells that are lists of numbers,
            such as seconds watched: a number has the embedding of the interval that it is in, of
            which a boundary begins one. Nothing is fitted then, no value is unknown, and what is
            said of values (`dtype`, `min_count`, `share` and the like) stays as it is by default.
            A served request has the numbers, NaN for missing.
    """

    _: KW_ONLY
    max_length: int | None = LONGEST_HISTORY
    aligned_with: str | None = None
    boundaries: tuple[float, ...] = ()

    keeps_last: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = f"Sequence({self.name!r})"
        self._check_boundaries(owner)
        if self.aligned_with is None:
            return
        check_name(f"{owner} `aligned_with`", self.aligned_with)
        if self.aligned_with == self.name:
            raise ValueError(
                f"{owner} can be aligned with another sequence. Received aligned_with="
                f"{self.aligned_with!r}. Name the one whose positions it shares."
            )
        if isinstance(self.pooling, Pooling):
            raise ValueError(
                f"{owner} is pooled by the candidate of {self.aligned_with!r}. Received pooling="
                f"{self.pooling!r}. Set it on {self.aligned_with!r}, with the candidates of all "
                "the tables."
            )

    def _check_boundaries(self, owner: str) -> None:
        given = self.boundaries
        listed = isinstance(given, list | tuple)
        whole: Any = [number(owner, "boundaries", one) for one in given] if listed else None
        if whole is None or any(b <= a for a, b in itertools.pairwise(whole)):
            raise ValueError(
                f"{owner} takes as `boundaries` numbers, each larger than the one before. Received "
                f"boundaries={given!r}."
            )
        object.__setattr__(self, "boundaries", tuple(whole))
        of_values = ("dtype", "min_count", "max_size", "hash_buckets", "share", "missing")
        fields = {field.name: field.default for field in dataclasses.fields(self)}
        said = [n for n in (*of_values, "unknown_rate") if getattr(self, n) != fields[n]]
        if whole and said:
            raise ValueError(
                f"{owner} with `boundaries` has numbers, and no table of values. Received {said} "
                "beside them. Leave them out."
            )

    @property
    def table_rows(self) -> int | None:
        return FIRST_ID + len(self.boundaries) + 1 if self.boundaries else super().table_rows

    @property
    def may_be_shared(self) -> bool:
        return not self.boundaries and super().may_be_shared

    def _check_pooling(self, owner: str) -> None:
        words = (*_POOLINGS, "last")
        object.__setattr__(self, "pooling", pooling_of(owner, self.pooling, words))
