"""Names for what comes beside columns that have names."""

import itertools
from collections.abc import Collection


def free_name(name: str, taken: Collection[str]) -> str:
    """What a prediction is called beside columns that may have its name."""
    numbered = (f"{name}_predicted_{number}" for number in itertools.count(2))
    names = itertools.chain([name, f"{name}_predicted"], numbered)
    return next(one for one in names if one not in taken)
