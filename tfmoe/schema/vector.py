"""A column of vectors. Plain data."""

from dataclasses import KW_ONLY, dataclass

from tfmoe.schema.columns import Column
from tfmoe.validation import check_bool, checks_arguments, integer


@checks_arguments
@dataclass(frozen=True)
class Vector(Column):
    """A list of numbers, as many in each cell: an embedding made elsewhere, a histogram.

    Missing cells (None, the empty list) and missing or infinite elements count as the fitted
    mean. A cell of another length is an error that names its row. A served request has float64
    `(b, size)`, with NaN for missing.

    Args:
        name, source: see `Column`.
        size: int >= 1, numbers of a cell; None for as many as the fitted cells have.
        standardize: whether each element has its fitted mean subtracted and is divided by its
            fitted standard deviation, and then clipped to 100 of them, as `Numeric` is. If not,
            numbers are left as they are, and a missing one is 0.
    """

    _: KW_ONLY
    size: int | None = None
    standardize: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = f"Vector({self.name!r})"
        integer(owner, "size", self.size, 1, optional=True)
        check_bool(owner, "standardize", self.standardize)

    @property
    def list_names(self) -> tuple[str, ...]:
        return (self.raw_name,)

    @property
    def is_wide(self) -> bool:
        return True

    @property
    def width(self) -> int | None:
        return self.size
