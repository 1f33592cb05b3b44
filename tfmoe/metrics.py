"""Metrics that can be trusted, over the rows that have a label."""

import keras
import numpy as np
from keras import ops

NUM_BINS, LIMIT = 65_536, 20.0
_SIDE = 256  # NUM_BINS = _SIDE ** 2


@keras.saving.register_keras_serializable("tfmoe")
class AUC(keras.metrics.Metric):
    r"""Area under the ROC curve from 65,536 bins of the logit.

    Examples are counted by label in bins of equal width of the logit, clipped to
    [-20, 20]; a pair in one bin counts half. Bins of the logit stay fine where
    probabilities crowd near 0, so a rare positive class does no harm: at a base rate of
    0.25 % the error is about 2e-6. Counts add up over batches and devices. They are
    kept in float32: above 16 million examples in one bin they no longer grow.

    Args:
        from_logits: bool; if False, predictions are probabilities.
        name: str.

    Call arguments of `update_state`:
        y_true: 0 or 1, `(b,)` or `(b, 1)`.
        y_pred: of the same shape.
        sample_weight: `(b,)`, `(b, 1)` or None.

    Returns:
        Float in [0, 1]; NaN while one of the classes has not been seen.

    Example:

    >>> auc = AUC()
    >>> auc.update_state(np.array([0, 0, 1]), np.array([0.1, 0.6, 0.5]))
    >>> float(auc.result())
    0.5
    """

    def __init__(self, from_logits=False, name="auc", **kwargs):
        super().__init__(name=name, **kwargs)
        self.from_logits = from_logits
        # Negatives, then positives.
        self.counts = self.add_variable((2 * NUM_BINS,), "zeros", name="counts")

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true = ops.reshape(ops.cast(y_true, "float32"), (-1,))
        logits = ops.reshape(ops.cast(y_pred, "float32"), (-1,))
        if not self.from_logits:
            tiny = 2e-9  # a logit of -20
            logits = ops.log(ops.maximum(logits, tiny)) - ops.log(ops.maximum(1 - logits, tiny))
        if sample_weight is None:
            weights = ops.ones_like(y_true)
        else:
            weights = ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        position = (logits + LIMIT) * (NUM_BINS / (2 * LIMIT))
        bins = ops.cast(ops.clip(position, 0, NUM_BINS - 1), "int32")
        bins = bins + NUM_BINS * ops.cast(y_true > 0.5, "int32")
        self.counts.assign_add(ops.segment_sum(weights, bins, 2 * NUM_BINS))

    def result(self):
        # Negatives below each bin: those of its row of bins, then those of the rows
        # before. Sums of 256 sums keep float32's digits. (A product with a triangle of
        # ones would not, where a GPU rounds the factors.)
        counts = ops.reshape(self.counts, (2, _SIDE, _SIDE))
        negatives, positives = counts[0], counts[1]
        same_row = ops.sum(positives * (ops.cumsum(negatives, axis=1) - negatives / 2))
        negative_rows, positive_rows = ops.sum(negatives, axis=1), ops.sum(positives, axis=1)
        rows_before = ops.sum(positive_rows * (ops.cumsum(negative_rows) - negative_rows))
        return (same_row + rows_before) / (ops.sum(negative_rows) * ops.sum(positive_rows))

    def get_config(self):
        return {**super().get_config(), "from_logits": self.from_logits}


class WeightedMean(keras.metrics.Metric):
    """Mean of `function(y_true, y_pred)` over rows; NaN while there are none.

    Args:
        function: maps `(b,)` labels and outputs to `(b,)` values.
        name: str.
        root: bool; if True, the square root of the mean.
    """

    def __init__(self, function, name, root=False, **kwargs):
        super().__init__(name=name, **kwargs)
        self.function, self.root = function, root
        self.total = self.add_variable((), "zeros", name="total")
        self.weight = self.add_variable((), "zeros", name="weight")

    def update_state(self, y_true, y_pred, sample_weight):
        values = ops.cast(self.function(y_true, y_pred), "float32")
        self.total.assign_add(ops.sum(values * sample_weight))
        self.weight.assign_add(ops.sum(sample_weight))

    def result(self):
        mean = self.total / ops.convert_to_tensor(self.weight)
        return ops.sqrt(mean) if self.root else mean


def exact_auc(labels, scores, weights=None):
    """Area under the ROC curve by sorting; NaN if a class is missing.

    Args:
        labels: array `(n,)` of 0 and 1; NaN for a missing label.
        scores: array `(n,)`, any monotone function of the probability.
        weights: array `(n,)` or None.
    """
    from sklearn.metrics import roc_auc_score

    labels = np.asarray(labels, "float64").reshape(-1)
    weights = np.ones_like(labels) if weights is None else np.asarray(weights).reshape(-1)
    use = ~np.isnan(labels) & (weights > 0)
    if len(np.unique(labels[use])) < 2:
        return float("nan")
    scores = np.asarray(scores).reshape(-1)
    return float(roc_auc_score(labels[use], scores[use], sample_weight=weights[use]))
