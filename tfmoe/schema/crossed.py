"""A column of several together. Plain data."""

from dataclasses import KW_ONLY, dataclass

from tfmoe.schema.columns import FIRST_ID, Column, check_regularizer
from tfmoe.validation import checks_arguments, integer


@checks_arguments
@dataclass(frozen=True)
class Crossed(Column):
    """The values of several columns together: the country and the device, the user and the hour.

    The id is that of the hashed texts of the values, one behind the other, and the missing one
    where a part is missing. It is made of the raw values rather than of the columns' ids, so that
    it stays what it is when these are fitted anew, also for values that are unknown to them. A
    served request has nothing of it, for it has the parts.

    Args:
        name: see `Column`; it reads no raw column of its own, and has no `source`.
        columns: sequence of the names of two or more `Categorical` columns of the schema.
        hash_buckets: int >= 1.
        dim: int >= 1, size of the embedding.
        regularizer: see `Categorical`.
    """

    _: KW_ONLY
    columns: tuple[str, ...] = ()
    hash_buckets: int = 10_000
    dim: int = 16
    regularizer: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = f"Crossed({self.name!r})"
        check_regularizer(owner, self)
        given = self.columns if isinstance(self.columns, list | tuple) else ()
        if len(set(map(str, given))) < 2 or len(set(map(str, given))) < len(given):
            raise ValueError(
                f"{owner} takes as `columns` the names of two or more columns of the schema. "
                f"Received columns={self.columns!r}."
            )
        object.__setattr__(self, "columns", tuple(given))
        integer(owner, "hash_buckets", self.hash_buckets, 1)
        integer(owner, "dim", self.dim, 1)
        if self.source is not None:
            raise ValueError(
                f"{owner} reads the raw columns of its parts. Received source={self.source!r}. "
                "Leave it out."
            )

    @property
    def raw_names(self) -> tuple[str, ...]:
        return ()

    @property
    def embeds(self) -> bool:
        return True

    @property
    def table_rows(self) -> int | None:
        return FIRST_ID + self.hash_buckets
