"""A run on several machines, each of which starts the same one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from tfmoe.runs.kept_run import begin, check_begun, fitted
from tfmoe.runs.run import Run


def check_workers(run: Run) -> None:
    """Raises ValueError where a run is not one for several workers."""
    if not os.environ.get("TF_CONFIG"):
        raise ValueError(
            "A training on several workers reads from TF_CONFIG which they are. Received none in "
            'the environment. Set it on each, as \'{"cluster": {"worker": ["10.0.0.1:5000", '
            '"10.0.0.2:5000"]}, "task": {"type": "worker", "index": 0}}\'.'
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


def build_with_workers(run: Run, strategy: Any) -> Any:
    """Builds a run's model as one of the workers that TF_CONFIG names.

    Each worker fits the Preprocessor on the whole table. Where a training is kept the chief alone
    does, and begins the folder, in which the others find it.

    Args:
        run: `Run`, which `check_workers` has seen.
        strategy: of `join_workers`.

    Returns:
        `MultiWorkerModel`.

    Raises:
        RuntimeError: where what is wrong has come up on another worker.
        ValueError: as `Run.build`, or if workers see other folders of checkpoints.
    """
    from tfmoe.distribution import MultiWorkerModel
    from tfmoe.distribution.workers import together

    schema = None
    if run.from_model is None:
        schema = run.read_schema()
        run.check_goes_together(schema)
    if run.checkpoints is not None:
        is_chief = strategy.extended.should_checkpoint

        def begun() -> None:
            begin(run)
            if schema is not None:
                fitted(run, schema)

        together(strategy, begun if is_chief else lambda: None)
        together(strategy, lambda: None if is_chief else check_begun(run))
    if schema is None:
        # Alone: how a model grows is no matter of several workers.
        return MultiWorkerModel.of(together(strategy, run.make), strategy)
    prep = fitted(run, schema)
    with strategy.scope():
        return run.make(prep, MultiWorkerModel)


def train_with_workers(
    run: Run, model: Any, strategy: Any, callbacks: Sequence[Any] = ()
) -> tuple[dict[str, list[float]], Any]:
    """Trains a run's model as one of the workers, of which each reads its part of the table.

    Args:
        run: `Run`.
        model: of `build_with_workers`.
        strategy: of `join_workers`.
        callbacks: of `fit`.

    Returns:
        The history, and the validation batches, or None.
    """
    from tfmoe.distribution import dataset

    whole = model.training_preprocessor
    size = run.batch_size or 0
    rows = dataset(whole, run.data, size, strategy=strategy, shuffle=True, seed=run.seed)
    valid = None
    if run.valid:
        valid = dataset(model.preprocessor, run.valid, size, strategy=strategy)
    return run.fit(model, callbacks, rows, valid), valid
