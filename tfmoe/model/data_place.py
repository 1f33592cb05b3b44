"""Where a training is in its data, and how it comes there again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfmoe.keras_private import CountedSteps, datasets_of
from tfmoe.model.replicas import is_shared


class DataPlace:
    """The place in the data of a `fit`.

    A dataset of ours says in which of its epochs the data were begun, and begins there again with
    empty batches for those that were trained on. All other data are read from their beginning, and
    so is what was made of a dataset of ours, from the beginning of that epoch.

    Args:
        x: the data, as Keras's `fit` gets them.
        validation_data: those of validation, or None.
        shuffle: whether Keras shuffles them.

    Attributes:
        steps: `CountedSteps` of the fit.

    Raises:
        ValueError: if Keras shuffles them, or replicas share them and nobody knows their place.
    """

    def __init__(self, x: Any, validation_data: Any, shuffle: bool) -> None:
        is_read = hasattr(x, "element_spec") or hasattr(x, "__next__")
        if shuffle and not is_read:
            raise ValueError(
                "A training goes on in the order of rows in which it began. Received "
                f"{type(x).__name__} that Keras shuffles, in an order that nobody can repeat, "
                "beside a Checkpoint. Pass `preprocessor.dataset(rows, batch_size, shuffle=True)`, "
                "or shuffle=False."
            )
        self._direct = getattr(x, "epochs", None)
        self._epochs = _epochs_of(x)
        self._validation = _epochs_of(validation_data)
        self._begun = self._next
        self.steps = CountedSteps(self._begin)

    @property
    def description(self) -> dict[str, Any]:
        """What the order of the data follows from, as far as they say."""
        found = {"rows": self._epochs, "validation rows": self._validation}
        return {name: one.description for name, one in found.items() if one is not None}

    @property
    def _next(self) -> int | None:
        return None if self._epochs is None else self._epochs.next_epoch

    def _begin(self) -> None:
        self._begun = self._next

    def within(self) -> dict[str, Any]:
        """The place after a step, as plain data."""
        return self._place(self._begun, self.steps.taken)

    def between(self) -> dict[str, Any]:
        """The place after an epoch, as plain data."""
        return self.within() if self.steps.goes_on() else self._place(self._next, 0)

    def _place(self, epoch: int | None, batches: int) -> dict[str, Any]:
        validation = None if self._validation is None else self._validation.next_epoch
        return {"epoch": epoch, "batches": batches, "validation epoch": validation}

    def seek(self, place: dict[str, Any], step: int, passed: Callable[[], None]) -> None:
        """Lets the next epoch go on from a place.

        Args:
            place: what `within` or `between` returned.
            step: int, the batches of that epoch among those of the place.
            passed: called once these are passed over.
        """
        if self._validation is not None:
            self._validation.seek(place["validation epoch"])
        if self._epochs is not None:
            self._epochs.seek(
                place["epoch"], place["batches"] if self._direct is self._epochs else 0
            )
        self.steps.before, self.steps.first = place["batches"] - step, step
        self.steps.passed = passed


def _epochs_of(data: Any) -> Any:
    """The `Epochs` of a dataset of ours, or of one that it was made of; None of other data."""
    found = getattr(data, "epochs", None)
    if found is not None or not hasattr(data, "element_spec"):
        return found
    if is_shared(data):
        raise ValueError(
            "A training on several replicas goes on in batches whose place is known. Received a "
            f"{type(data).__name__} that the strategy has made, beside a Checkpoint. Pass "
            "`tfmoe.distribution.dataset(preprocessor, rows, batch_size, strategy=strategy)`."
        )
    found = (getattr(one, "epochs", None) for one in datasets_of(data))
    return next((one for one in found if one is not None), None)
