"""Weights of rows: from raw columns to float32."""

import numpy as np
import pyarrow as pa

from tfmoe.data import arrow

# The largest label or weight: about the largest number of float32.
LARGEST_NUMBER = 3.4e38

_WEIGHT_ADVICE = (
    "Give rows that should not count the weight 0, and divide weights that are very large, for "
    "losses are means by weight."
)


def weight_values(array: pa.Array, name: str, of_rows: np.ndarray | float = 1.0) -> np.ndarray:
    """Row weights as float32 `(n,)`.

    Args:
        array: Arrow array of n weights.
        name: the column's name, for errors.
        of_rows: the rows' other weights, float32 `(n,)` or one for all, by which to multiply.

    Raises:
        ValueError: if one is missing, below 0 or infinite, as float32 and times `of_rows`.
    """
    weights = arrow.to_floats(array, name)
    bad = ~((weights >= 0) & (weights <= LARGEST_NUMBER))
    if bad.any():
        raise arrow.at_row(
            ValueError(
                "`weight_column` must hold a finite weight of at least 0 in every row. Received "
                f"{name}={weights[bad][0]}. {_WEIGHT_ADVICE}"
            ),
            np.flatnonzero(bad)[0],
        )
    with np.errstate(over="ignore"):
        product = weights.astype(np.float32) * of_rows
    if np.isinf(product).any():
        place = int(np.flatnonzero(np.isinf(product))[0])
        raise arrow.at_row(
            ValueError(
                "A row's weight times that of its task must be finite in 32 bits. Received "
                f"{name}={weights[place]} and {np.broadcast_to(of_rows, product.shape)[place]}. "
                f"{_WEIGHT_ADVICE}"
            ),
            place,
        )
    return product
