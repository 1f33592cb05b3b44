"""What a mixture's gates select, as numbers and as a picture."""

from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

# A weight below this counts as none.
USED = 1e-6


class GateUse(NamedTuple):
    """What one gate does on some rows.

    Attributes:
        mean_weight: `(t, e)`, mean weight of each expert for each task.
        share_used: `(t, e)`, share of the rows in which the weight is above 1e-6.
        num_used: `(t,)`, mean number of experts with such a weight.
    """

    mean_weight: np.ndarray
    share_used: np.ndarray
    num_used: np.ndarray


def gate_use(model, source, batch_size=4096):
    """Runs rows through a model's gates.

    Args:
        model: `MultiTaskModel`.
        source: anything `Preprocessor.arrays` takes.
        batch_size: int >= 1.

    Returns:
        List of `GateUse`, one for each gate of the mixture; empty if it has none.
    """
    if not getattr(model.mixture, "gate", None):
        return []
    features = model.preprocessor.arrays(source, labels=False)
    weights = keras.Model(model.input, _GateWeights(model.mixture)(model.encoder(model.input)))
    weights = weights.predict(features, batch_size=batch_size, verbose=0)
    # Keras returns a list of one output without its list.
    weights = weights if isinstance(weights, list) else [weights]
    return [
        GateUse(w.mean(axis=0), (w > USED).mean(axis=0), (w > USED).sum(axis=2).mean(axis=0))
        for w in weights
    ]


class _GateWeights(keras.layers.Layer):
    """A mixture's gate weights, as a list.

    A layer of its own, because a Functional model of Keras 3.15 loses outputs of a layer
    that was called before with fewer of them, as the mixture was without `return_aux`.
    """

    def __init__(self, mixture, **kwargs):
        super().__init__(**kwargs)
        self.mixture = mixture

    def call(self, inputs):
        return [record["weights"] for record in self.mixture(inputs, return_aux=True)[1]]


def draw_gates(uses, task_names, path):
    """Draws heat maps of mean gate weights, task by expert, side by side.

    Args:
        uses: dict of `GateUse` by title.
        task_names: sequence of str.
        path: file to write, `.png` or another kind that matplotlib knows.

    Raises:
        ImportError: if matplotlib is not installed.
        FileExistsError: if the file is there already.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Pictures need matplotlib: pip install 'tfmoe[plot]'") from error
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} is there already. Remove it or choose another name.")
    widths = [max(4, use.mean_weight.shape[1]) for use in uses.values()]
    height = 1.6 + 0.6 * len(task_names)
    figure = Figure(figsize=(2 + 0.6 * sum(widths), height), layout="constrained")
    axes = figure.subplots(1, len(uses), squeeze=False, width_ratios=widths)[0]
    for axis, (title, use) in zip(axes, uses.items(), strict=True):
        # A gate for all tasks has one row.
        rows = np.broadcast_to(use.mean_weight, (len(task_names), use.mean_weight.shape[1]))
        picture = axis.imshow(rows, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        axis.set_title(title, loc="left")
        axis.set_xlabel("expert")
        axis.set_xticks(range(rows.shape[1]))
        axis.set_yticks(range(len(task_names)), task_names if axis is axes[0] else [])
        for (t, e), value in np.ndenumerate(rows):
            if value > 0.005:
                color = "white" if value > 0.5 else "black"
                axis.text(e, t, f"{value:.2f}", ha="center", va="center", color=color, fontsize=7)
    figure.colorbar(picture, ax=axes, label="mean weight", shrink=0.9)
    figure.savefig(path, dpi=150)
