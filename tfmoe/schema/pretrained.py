"""A column of values that have vectors already. Plain data."""

import os
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

from tfmoe.remote import address
from tfmoe.schema.columns import Column
from tfmoe.validation import check_bool, check_choice, checks_arguments, integer, number


@checks_arguments
@dataclass(frozen=True)
class Pretrained(Column):
    """One value of a set whose vectors were made elsewhere: products by their texts or pictures.

    Ids are those of `Categorical`, with the vectors' values as the vocabulary, in their order: 1 is
    missing, 2 unknown. Values of the data without a vector are unknown, and all have the one vector
    of the unknown, which is learned, as that of the missing is; `fit` warns of how many cells there
    are. The vectors travel with the Preprocessor, the model and what is exported.

    Other columns have the same vectors by `share`: a history of products is
    `Sequence("seen", share="product")`, pooled as any other, also with regard to the product. What
    is trained of the vectors, and the matrix, is then of all these columns.

    Args:
        name, source: see `Column`.
        vectors: what `fit` takes the vectors from: the path or URL of an `.npz` file with `ids` and
            `vectors`, of an `.npy` file, whose rows are those of the ids 0, 1 and on, or of a
            Parquet file with a column of ids and one of lists; or a dict of vectors by id, or a
            DataFrame whose index are the ids. A schema's file keeps a path only; to fit by a
            schema whose vectors were no file, give them again.
        trainable: whether the vectors are trained as other embeddings are, or stay.
        projection: int >= 1, units of a learned matrix by which the vectors are multiplied, or
            None for the vectors themselves.
        dtype: `"int"` or `"string"`, or None to take what the ids are.
        unknown_rate: see `Categorical`; where all values of the training data have vectors, nothing
            else trains the vector of the unknown.
    """

    _: KW_ONLY
    # A table is no plain data: schemas are equal without, and write but its path.
    vectors: Any = field(default=None, compare=False, repr=False)
    trainable: bool = False
    projection: int | None = None
    dtype: str | None = None
    unknown_rate: float = 0.0

    # What a `Categorical` says of its table, for columns that share this one.
    hash_buckets: ClassVar[None] = None
    missing: ClassVar[tuple[str | int, ...]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = f"Pretrained({self.name!r})"
        if isinstance(self.vectors, os.PathLike):
            object.__setattr__(self, "vectors", address(self.vectors))
        check_bool(owner, "trainable", self.trainable)
        integer(owner, "projection", self.projection, 1, optional=True)
        check_choice(owner, "dtype", self.dtype, ("int", "string", None))
        rate = number(owner, "unknown_rate", self.unknown_rate, least=0, most=1)
        object.__setattr__(self, "unknown_rate", rate)

    @property
    def embeds(self) -> bool:
        return True

    @property
    def is_sized(self) -> bool:
        return True

    @property
    def may_be_shared(self) -> bool:
        return True
