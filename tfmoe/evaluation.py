"""What is measured after training from all scores at once."""

import keras
import numpy as np

from tfmoe.metrics import exact_auc


def exact_aucs(model, names, x, y=None, sample_weight=None, batch_size=None, steps=None, **_):
    """AUC of binary tasks from all scores, sorted.

    Args:
        model: Keras model that returns a dict by task.
        names: the tasks.
        x, y, sample_weight, batch_size, steps: as for `keras.Model.evaluate`. Labels and
            weights may be dicts by task; NaN labels are missing.

    Returns:
        Dict `{"<task>_auc": float}` of the tasks that have labels.
    """
    if not names:
        return {}
    if y is None:
        scored = _scored_batches(model, x, steps)
    else:
        size = batch_size or 32
        scored = [(y, sample_weight, model.predict(x, batch_size=size, verbose=0))]
    columns = {name: ([], [], []) for name in names}
    for labels, weights, scores in scored:
        labels = labels if isinstance(labels, dict) else {names[0]: labels}
        for name in names:
            if name not in labels:
                continue
            own = weights.get(name) if isinstance(weights, dict) else weights
            own = np.ones(len(scores[name])) if own is None else np.asarray(own)
            row = (np.asarray(labels[name]), scores[name], own)
            for values, value in zip(columns[name], row, strict=True):
                values.append(value.reshape(-1))
    return {
        f"{name}_auc": exact_auc(*map(np.concatenate, parts))
        for name, parts in columns.items()
        if parts[0]
    }


def _scored_batches(model, batches, steps):
    for step, batch in enumerate(batches):
        if steps is not None and step >= steps:
            return
        x, labels, weights = keras.utils.unpack_x_y_sample_weight(batch)
        yield labels, weights, model.predict_on_batch(x)
