"""What a model has that is none of its parts."""

from __future__ import annotations

from typing import Any


class Untracked:
    """Holds what Keras must not take for a part of the model."""

    def __init__(self, value: Any) -> None:
        self.value = value
