"""Whether probabilities are right: calibration, normalised entropy, precision; exact, in NumPy.

Rows whose label is missing or whose weight is 0 are left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

# A probability nearer to 0 or 1 than this counts as this near: float32 knows none between 1 and
# its neighbour, 6e-8 below.
CLOSEST = 1e-7


def normalized_entropy(labels: Any, predictions: Any, weights: Any = None) -> float:
    """The log loss, divided by that of the share of positives as everybody's prediction.

    Below 1 is better than that share; NaN if a class is missing.

    Args:
        labels: array `(n,)` of 0 and 1; NaN for a missing label.
        predictions: array `(n,)` of probabilities; as far as 1e-7 from 0 and 1.
        weights: array `(n,)` or None.

    Source: He et al., 2014, section 3, eq. 1, https://doi.org/10.1145/2648584.2648589.
    """
    labels, predictions, weights = labelled(labels, predictions, weights)
    total = weights.sum()
    rate = (weights * labels).sum() / total if total > 0 else float("nan")
    if not 0 < rate < 1:
        return float("nan")
    p = np.clip(predictions, CLOSEST, 1 - CLOSEST)
    losses = -(labels * np.log(p) + (1 - labels) * np.log1p(-p))
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    return float((weights * losses).sum() / total / entropy)


def calibration(labels: Any, predictions: Any, weights: Any = None) -> float:
    """The sum of the predictions, divided by that of the labels: 1 is right, 2 twice too high.

    NaN if the labels sum to 0. Arguments as of `normalized_entropy`.
    """
    labels, predictions, weights = labelled(labels, predictions, weights)
    positives = (weights * labels).sum()
    return float((weights * predictions).sum() / positives) if positives > 0 else float("nan")


class Reliability(NamedTuple):
    """Bins of rows by their prediction, the lowest first.

    Attributes:
        rows: int `(m,)`, how many rows a bin has.
        weight: `(m,)`, sum of their weights.
        prediction: `(m,)`, their mean prediction.
        label: `(m,)`, their mean label.
    """

    rows: np.ndarray
    weight: np.ndarray
    prediction: np.ndarray
    label: np.ndarray


def reliability(
    labels: Any, predictions: Any, weights: Any = None, num_bins: int = 10
) -> Reliability:
    """Mean prediction and mean label by quantile of the prediction, deciles by default.

    Bins have equal weight, as far as equal predictions allow, which are never parted: they go
    where the middle of their weight lies. A bin in which none lies is left out.

    Args:
        labels, predictions, weights: see `normalized_entropy`.
        num_bins: int >= 1.

    Returns:
        `Reliability` of at most `num_bins` bins.
    """
    return binned(labels, predictions, weights, num_bins)[1]


def binned(
    labels: Any, predictions: Any, weights: Any = None, num_bins: int = 10
) -> tuple[np.ndarray, Reliability]:
    """As `reliability`, and before it the bins' numbers from 0, int `(m,)`."""
    labels, predictions, weights = labelled(labels, predictions, weights)
    values, which = np.unique(predictions, return_inverse=True)
    of_value = np.bincount(which, weights, len(values))
    middle = np.cumsum(of_value) - of_value / 2
    total = of_value.sum()
    # Rounding may bring the last one to the end.
    bins = np.minimum((num_bins * middle / total).astype(int), num_bins - 1)[which]
    rows = np.bincount(bins, minlength=num_bins)
    some = rows > 0
    sums = [
        np.bincount(bins, own, num_bins)[some]
        for own in (weights, weights * predictions, weights * labels)
    ]
    found = Reliability(rows[some], sums[0], sums[1] / sums[0], sums[2] / sums[0])
    return np.flatnonzero(some), found


def precision_and_recall(
    labels: Any, predictions: Any, threshold: float, weights: Any = None
) -> tuple[float, float]:
    """Of the rows predicted above a threshold, the share of positives; and the share of all
    positives that these are.

    A prediction equal to the threshold is not above it, as in `keras.metrics.Precision`.

    Args:
        labels, predictions, weights: see `normalized_entropy`.
        threshold: float.

    Returns:
        Precision, NaN if no prediction is above; recall, NaN if there are no positives.
    """
    # A prediction of single precision is compared with the threshold of that precision.
    kind = np.asarray(predictions).dtype
    bound = float(kind.type(threshold)) if kind.kind == "f" else threshold
    labels, predictions, weights = labelled(labels, predictions, weights)
    chosen = (weights * (predictions > bound)).sum()
    positives = (weights * labels).sum()
    right = (weights * labels * (predictions > bound)).sum()
    return (
        float(right / chosen) if chosen > 0 else float("nan"),
        float(right / positives) if positives > 0 else float("nan"),
    )


def labelled(labels: Any, predictions: Any, weights: Any) -> tuple[np.ndarray, ...]:
    """The rows that count, float64 `(n,)` each, with weights."""
    labels, predictions = (np.asarray(one, "float64").reshape(-1) for one in (labels, predictions))
    if weights is None:
        weights = np.ones_like(labels)
    weights = np.asarray(weights, "float64").reshape(-1)
    use = ~np.isnan(labels) & (weights > 0)
    return labels[use], predictions[use], weights[use]
