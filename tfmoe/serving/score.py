"""Several predictions as the one number that rows are ranked by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras import ops

from tfmoe.compute.types import Tensor
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Multiclass, Regression
from tfmoe.validation import check_choice, number

#: What the number is called among the outputs.
SCORE = "score"


def checked_score(schema: Schema, weights: Mapping[str, float], how: str) -> dict[str, float]:
    """Weights by output of a score.

    Raises:
        ValueError: if an output is unknown or has several numbers, a product would have a factor
            that may be below 0, or the name `score` is taken.
    """
    check_choice("export", "score_as", how, ("sum", "product"))
    if schema.task_column or SCORE in schema.served_names:
        raise ValueError(
            "export adds the output `score` to those of the tasks. Received a model that has one: "
            f"{list(schema.served_names)}. Rename the task, and give the table's column as "
            "`source`."
        )
    single: dict[str, Any] = {}
    for task in schema.tasks:
        if not isinstance(task, Multiclass):
            single |= dict.fromkeys((task.name, *task.further_outputs), task)
    known = [name for name in schema.served_names if name in single]
    if not weights or not set(weights) <= set(known):
        raise ValueError(
            f"A score has weights by output, of {known}. Received score={dict(weights)!r}."
        )
    checked = {name: number("export", f"score[{name!r}]", one) for name, one in weights.items()}
    below = [n for n in weights if isinstance(single[n], Regression) and not single[n].is_scaled]
    if how == "product" and below:
        raise ValueError(
            "A product has factors of at least 0: probabilities, and regressions with the loss "
            f'"poisson" or "lognormal". Received {below}. Use score_as="sum", or leave them out.'
        )
    return checked


def scored(predictions: Mapping[str, Tensor], weights: Mapping[str, float], how: str) -> Tensor:
    """`sum(w p)` or the product of `p^w` over the outputs with a weight, `(b,)`."""
    if how == "sum":
        terms = [weight * predictions[name] for name, weight in weights.items()]
        return sum(terms[1:], terms[0])
    result = None
    for name, weight in weights.items():
        factor = ops.power(predictions[name], weight)
        result = factor if result is None else result * factor
    return result
