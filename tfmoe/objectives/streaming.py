"""Metrics of probabilities for `compile(metrics=...)`: sums over batches, and over devices."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfmoe import keras_private
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Tensor
from tfmoe.objectives.calibration import CLOSEST


class _Sums(keras.metrics.Metric):
    """Weighted sums of predictions, labels and losses of binary labels.

    Counts and sums are float32, and so are right to six digits or so.
    """

    def __init__(self, from_logits: bool, name: str, negatives_kept: float, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.from_logits = from_logits
        self.negatives_kept = negatives_kept
        # Of weights, weighted labels, predictions and log losses.
        self.sums = self.add_variable((4,), "zeros", name="sums")

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        labels = ops.reshape(ops.cast(y_true, "float32"), (-1,))
        outputs = ops.reshape(ops.cast(y_pred, "float32"), (-1,))
        if sample_weight is None:
            weights = ops.ones_like(labels)
        else:
            weights = ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        # What counts for nothing may be anything: a prediction of another task, a missing label.
        counts = weights > 0
        labels = ops.where(counts, labels, ops.zeros_like(labels))
        if self.negatives_kept != 1:
            weights = ops.where(labels > 0.5, weights, weights / self.negatives_kept)
        outputs = ops.where(counts, outputs, ops.full_like(outputs, 0.5))
        if self.from_logits:
            predictions = ops.sigmoid(outputs)
        else:
            predictions = outputs
            outputs = ops.clip(outputs, CLOSEST, 1 - CLOSEST)
        losses = ops.binary_crossentropy(labels, outputs, from_logits=self.from_logits)
        rows = ops.stack([ops.ones_like(labels), labels, predictions, losses])
        self.sums.assign_add(ops.sum(rows * weights, axis=1))

    def get_config(self) -> dict[str, Any]:
        own = {"from_logits": self.from_logits, "negatives_kept": self.negatives_kept}
        return {**super().get_config(), **own}


@registered
class NormalizedEntropy(_Sums):
    """The log loss, divided by that of the mean label as everybody's prediction.

    Below 1 is better than that mean, whatever it is: log losses of tasks of which one is rare
    cannot be compared, their normalised entropies can.

    Args:
        from_logits: bool; if False, predictions are probabilities, as far as 1e-7 from 0 and 1.
        name: str.
        negatives_kept: float in (0, 1]; rows with label 0 count `1 / negatives_kept` times. For
            probabilities, which are of the whole table, `compile` sets that of the task; logits
            are of the table as it is.

    Call arguments of `update_state`:
        y_true: 0 or 1, `(b,)` or `(b, 1)`.
        y_pred: of the same shape.
        sample_weight: `(b,)`, `(b, 1)` or None.

    Returns:
        Float >= 0; NaN while one of the classes has not been seen.

    Example:

    >>> metric = NormalizedEntropy()
    >>> metric.update_state(np.array([0, 0, 0, 1]), np.full(4, 0.25))
    >>> round(float(metric.result()), 6)
    1.0

    Source: He et al., 2014, section 3, eq. 1, https://doi.org/10.1145/2648584.2648589.
    """

    def __init__(
        self,
        from_logits: bool = False,
        name: str = "normalized_entropy",
        negatives_kept: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(from_logits, name, negatives_kept, **kwargs)
        keras_private.say_better(self, "down")

    def result(self) -> Tensor:
        weight, positive, _, loss = ops.unstack(ops.convert_to_tensor(self.sums), 4)
        rate = positive / weight
        inside = ops.logical_and(rate > 0, rate < 1)
        safe = ops.where(inside, rate, ops.full_like(rate, 0.5))
        entropy = -(safe * ops.log(safe) + (1 - safe) * ops.log1p(-safe))
        found = loss / weight / entropy
        return ops.where(inside, found, ops.full_like(found, float("nan")))


@registered
class Calibration(_Sums):
    """The sum of the predictions, divided by that of the labels: 1 is right, 2 twice too high.

    Neither more nor less of it is better, so that callbacks that watch it must be told a `mode`.

    Args:
        from_logits: bool; if False, predictions are probabilities.
        name: str.
        negatives_kept: see `NormalizedEntropy`.

    Call arguments of `update_state`: see `NormalizedEntropy`.

    Returns:
        Float >= 0; NaN while no positive label has been seen.

    Example:

    >>> metric = Calibration()
    >>> metric.update_state(np.array([0, 0, 1]), np.array([0.5, 0.25, 0.5]))
    >>> float(metric.result())
    1.25

    Source: He et al., 2014, section 3, https://doi.org/10.1145/2648584.2648589.
    """

    def __init__(
        self,
        from_logits: bool = False,
        name: str = "calibration",
        negatives_kept: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(from_logits, name, negatives_kept, **kwargs)

    def result(self) -> Tensor:
        _, positive, prediction, _ = ops.unstack(ops.convert_to_tensor(self.sums), 4)
        some = positive > 0
        ratio = prediction / ops.where(some, positive, ops.ones_like(positive))
        return ops.where(some, ratio, ops.full_like(ratio, float("nan")))
