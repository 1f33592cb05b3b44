"""Names of columns: the words in one, and names for what comes beside them."""

import itertools
import re
from collections.abc import Collection


def free_name(name: str, taken: Collection[str]) -> str:
    """What a prediction is called beside columns that may have its name."""
    numbered = (f"{name}_predicted_{number}" for number in itertools.count(2))
    names = itertools.chain([name, f"{name}_predicted"], numbered)
    return next(one for one in names if one not in taken)


def words_of(name: str) -> list[str]:
    """The words of a name in small letters.

    Example:

    >>> words_of("createdAt_ms"), words_of("item_no")
    (['created', 'at', 'ms'], ['item', 'no'])
    """
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    return [word.lower() for word in words]
