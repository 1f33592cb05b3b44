"""A column of free text. Plain data."""

from dataclasses import KW_ONLY, dataclass

from tfmoe.schema.columns import FIRST_ID, Column, check_regularizer
from tfmoe.validation import check_bool, checks_arguments, integer


@checks_arguments
@dataclass(frozen=True)
class Text(Column):
    """Free text: a title, a question. Words are hashed, and their embeddings averaged.

    A word is a run of characters that are no separators. ASCII characters other than letters and
    digits are separators, and so is the punctuation of Latin-1, of general punctuation
    (U+2000 to U+206F, U+2E00 to U+2E7F), of Chinese and Japanese (U+3000 to U+303F) and of
    full-width forms. All other characters, emoji too, belong to words: text that is written without
    spaces between words, as Chinese is, has long ones. A cell without words has the missing id.

    Nothing is fitted.

    Args:
        name, source: see `Column`.
        ngrams: int >= 1. With n, runs of 2 to n neighbouring words are features beside the words.
        hash_buckets: int >= 1.
        dim: int >= 1, size of the embedding.
        lower: whether capital letters are small ones: those of the code points below U+2000, the
            Latin, Greek, Cyrillic and Armenian scripts among them, each by itself.
        max_length: int >= 1, words of a cell; further ones are dropped.
        regularizer: see `Categorical`.
    """

    _: KW_ONLY
    ngrams: int = 1
    hash_buckets: int = 10_000
    dim: int = 16
    lower: bool = True
    max_length: int = 32
    regularizer: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = f"Text({self.name!r})"
        check_regularizer(owner, self)
        for field in ("ngrams", "hash_buckets", "dim", "max_length"):
            integer(owner, field, getattr(self, field), 1)
        check_bool(owner, "lower", self.lower)
        if self.ngrams > self.max_length:
            raise ValueError(
                f"{owner} has runs of at most `max_length` words. Received ngrams={self.ngrams}, "
                f"max_length={self.max_length}."
            )

    @property
    def embeds(self) -> bool:
        return True

    @property
    def is_list(self) -> bool:
        return True

    @property
    def width(self) -> int | None:
        return sum(self.max_length - count for count in range(self.ngrams))

    @property
    def pooling(self) -> str:
        """How the words' embeddings become one."""
        return "mean"

    @property
    def table_rows(self) -> int | None:
        return FIRST_ID + self.hash_buckets
