"""A run on several machines, each of which starts the same one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from tfmoe.data.preprocessor import Preprocessor
from tfmoe.runs.run import Run


def check_workers(run: Run) -> None:
    """Raises ValueError where a run is not one for several workers."""
    if not os.environ.get("TF_CONFIG"):
        raise ValueError(
            "A training on several workers reads from TF_CONFIG which they are. Received none in "
            'the environment. Set it on each, as \'{"cluster": {"worker": ["10.0.0.1:5000", '
            '"10.0.0.2:5000"]}, "task": {"type": "worker", "index": 0}}\'.'
        )
    for option in ("from_model", "checkpoints"):
        if getattr(run, option) is not None:
            raise ValueError(
                f"Several workers train a model anew, and keep no checkpoints. Received {option}="
                f"{getattr(run, option)!r}. Leave it out; for what dies on workers, see Keras's "
                "BackupAndRestore."
            )
    for option in ("epochs", "batch_size"):
        if getattr(run, option) is None:
            name = f"--{option.replace('_', '-')}"
            raise ValueError(
                f"Workers train as long and in such batches as they are told. Received no {name}. "
                f"Give {name}; a batch is the rows of all workers together."
            )


def join_workers() -> Any:
    """The strategy of the workers that TF_CONFIG names.

    To be called before TensorFlow has run an operation, for it starts the server that other
    workers wait for.
    """
    import tensorflow as tf

    return tf.distribute.MultiWorkerMirroredStrategy()


def train_with_workers(
    run: Run, strategy: Any, callbacks: Sequence[Any] = ()
) -> tuple[Any, dict[str, list[float]], Any]:
    """Builds and trains a run's model as one of the workers that TF_CONFIG names.

    Each worker fits the Preprocessor on the whole table, and reads its part of it in training.

    Args:
        run: `Run`, which `check_workers` has seen.
        strategy: of `join_workers`.
        callbacks: of `fit`.

    Returns:
        `MultiWorkerModel`, the history, and the validation batches, or None.
    """
    from tfmoe.distribution import MultiWorkerModel, dataset

    prep = Preprocessor(run.read_schema()).fit(run.data)
    with strategy.scope():
        model = run.build(prep, MultiWorkerModel)
    whole = model.training_preprocessor
    size = run.batch_size or 0
    rows = dataset(whole, run.data, size, strategy=strategy, shuffle=True, seed=run.seed)
    valid = None
    if run.valid:
        valid = dataset(model.preprocessor, run.valid, size, strategy=strategy)
    history = run.fit(model, callbacks, rows, valid)
    return model, history, valid
