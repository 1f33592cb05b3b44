"""What a `MultiTaskModel` is built of: what was fitted or saved, and a recipe."""

from __future__ import annotations

import copy
import warnings
from typing import Any, NamedTuple

import keras

from tfmoe.compute import nested
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Regression


class Blueprint(NamedTuple):
    """What a model needs to know to be built, from a Preprocessor or a saved config.

    Attributes:
        schema: `Schema`.
        table_sizes: rows of each embedding table, by owner.
        lengths: positions of each list column.
        label_moments: dict by task of the mean and standard deviation of its labels.
        num_added: how many of the last tasks were added one by one.
        preprocessor: `Preprocessor`, or None where it comes later, out of a file.
    """

    schema: Schema
    table_sizes: dict[str, int]
    lengths: dict[str, int]
    label_moments: dict[str, tuple[float, float]]
    num_added: int = 0
    preprocessor: Preprocessor | None = None

    @classmethod
    def of(cls, preprocessor: Any, num_added: int = 0) -> Blueprint:
        """From the argument `preprocessor`, or as `add_task` and `from_config` made it.

        Raises:
            ValueError: if it is neither a Preprocessor nor a Schema, or is not fitted but must be.
        """
        if isinstance(preprocessor, cls):
            return preprocessor
        if isinstance(preprocessor, Schema):
            preprocessor = Preprocessor(preprocessor)
        if not isinstance(preprocessor, Preprocessor):
            raise ValueError(
                "MultiTaskModel reads columns, tasks and vocabularies from a fitted "
                f"Preprocessor. Received preprocessor={preprocessor!r}. Make one with "
                "`tfmoe.Preprocessor(schema).fit(data)`."
            )
        _warn_of_units(preprocessor)
        # A copy of its own, for the caller may fit theirs again.
        return cls(
            preprocessor.schema,
            preprocessor.table_sizes,
            preprocessor.lengths,
            preprocessor.label_moments,
            num_added,
            copy.copy(preprocessor),
        )


def _warn_of_units(preprocessor: Preprocessor) -> None:
    """Says which regressions are not standardised though they should be."""
    names = [
        task.name
        for task in preprocessor.schema.tasks
        if isinstance(task, Regression)
        and task.standardize
        and task.name not in preprocessor.label_moments
    ]
    if names:
        warnings.warn(
            f"The labels of {names} are not standardised: this Preprocessor has seen none of "
            "them, or was fitted by an earlier version. Large or small ones may drown the other "
            "tasks or learn nothing. Fit it on rows with labels, or declare "
            "Regression(..., standardize=False).",
            stacklevel=4,
        )


def recipe_of(mixture: Any, policy: Any) -> tuple[Any, dict[str, Any]]:
    """The layer behind the argument `mixture`, and its config.

    Raises:
        ValueError: if it is no layer.
    """
    mixture = nested.given(mixture)
    if not isinstance(mixture, keras.layers.Layer):
        raise ValueError(
            "MultiTaskModel takes a mixture layer such as "
            f"tfmoe.MMoE(num_experts=8). Received mixture={mixture!r}."
        )
    nested.warn_of_policies(mixture, policy)
    return mixture, nested.config_of(mixture)
