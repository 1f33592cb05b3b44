"""Clicks and purchases of which the true probabilities are known, of every row."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tfmoe.validation import integer, number

if TYPE_CHECKING:
    import pandas as pd

#: Names of the input columns.
COLUMNS = tuple(f"x{i}" for i in range(6))


class Funnel(NamedTuple):
    """Rows, and what no table has.

    Attributes:
        rows: DataFrame of the columns `x0` to `x5`, `click` and `buy`, NaN without a click.
        p_click: float64 `(n,)`, the true probability of a click.
        p_buy_given_click: float64 `(n,)`, that of a purchase of whoever clicked, or would have.
    """

    rows: pd.DataFrame
    p_click: np.ndarray
    p_buy_given_click: np.ndarray


def conversion_funnel(
    num_rows: int = 20_000, bias: float = 1.5, bend: float = 1.0, seed: int = 0
) -> Funnel:
    r"""A shop in which those who click are other people than those who do not.

        logit P(click)       = bias (x0 + x1) / sqrt(2) - 1
        logit P(buy | click) = bend (|x0| + |x1| - 2 sqrt(2 / pi)) + (x2 - x3) / 2 - 0.5

    with `x` standard normal. Clicks depend on columns that a model sees, so that one that is large
    enough learns `P(buy | click)` from clicked rows alone. One that is too small for the bends
    learns the slope that clicked rows have, which is the wrong one for most of the others.

    Args:
        num_rows: int >= 1.
        bias: float >= 0, how much clicks depend on `x0` and `x1`; with 0 not at all.
        bend: float >= 0; with 0 purchases are linear in their logit.
        seed: int. The same arguments give the same rows.

    Returns:
        `Funnel`.

    Raises:
        ValueError: if a number is out of its range.

    Example:

    >>> funnel = conversion_funnel(1000)
    >>> bool((funnel.rows["buy"].isna() == (funnel.rows["click"] == 0)).all())
    True
    """
    integer("conversion_funnel", "num_rows", num_rows, 1)
    number("conversion_funnel", "bias", bias, least=0)
    number("conversion_funnel", "bend", bend, least=0)
    import pandas as pd

    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_rows, len(COLUMNS)))
    p_click = _sigmoid(bias * (x[:, 0] + x[:, 1]) / np.sqrt(2) - 1)
    bent = np.abs(x[:, :2]).sum(axis=1) - 2 * np.sqrt(2 / np.pi)
    p_buy = _sigmoid(bend * bent + (x[:, 2] - x[:, 3]) / 2 - 0.5)
    rows = pd.DataFrame(x.astype("float32"), columns=list(COLUMNS))
    rows["click"] = (rng.random(num_rows) < p_click).astype("float32")
    bought = (rng.random(num_rows) < p_buy).astype("float32")
    rows["buy"] = np.where(rows["click"] == 1, bought, np.float32("nan"))
    return Funnel(rows, p_click, p_buy)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
