"""Batches that several replicas share, of which each worker reads its own part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfmoe.data.batch.task_mixer import TaskMixer
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.validation import checks_arguments, integer

if TYPE_CHECKING:
    import tensorflow as tf

    from tfmoe.data.read.source import Rows


@checks_arguments
def dataset(
    preprocessor: Preprocessor,
    source: Rows,
    batch_size: int = 1024,
    *,
    strategy: tf.distribute.Strategy | None = None,
    shuffle: bool | int = False,
    seed: int = 0,
    labels: bool = True,
    drop_remainder: bool = False,
    mixer: TaskMixer | None = None,
) -> tf.distribute.DistributedDataset:
    """What `Preprocessor.dataset` makes, for the replicas of a strategy; each worker reads a part.

    Keras cuts the batches of a plain dataset by the number of replicas, and takes as many steps as
    the dataset has batches. Of one that has a worker's part already (`shard=`) most rows would so
    be lost in silence; what this function returns nothing cuts again.

    Workers may have more rows or fewer than others: an epoch ends when all have read theirs, and
    who has none left takes part without rows. Every row is read once an epoch.

    Args:
        preprocessor: `Preprocessor`.
        source: see `Preprocessor.dataset`; all workers must see the same.
        batch_size: int >= 1, the rows of all replicas together, a multiple of their number.
        strategy: `tf.distribute.Strategy`, by default the one in whose scope this is called.
        shuffle, seed, labels, drop_remainder, mixer: see `Preprocessor.dataset`.

    Returns:
        A distributed dataset for the `fit` and `evaluate` of a model that was made in the scope of
        the strategy.

    Raises:
        ValueError: if `batch_size` is no multiple of the replicas, or as `Preprocessor.dataset`.

    Example:

    >>> import tensorflow as tf
    >>> schema = tfmoe.Schema([tfmoe.Numeric("x", transform="none")], [tfmoe.Binary("y")])
    >>> rows = {"x": np.arange(5.0), "y": np.ones(5)}
    >>> batches = tfmoe.distribution.dataset(
    ...     tfmoe.Preprocessor(schema), rows, 2, strategy=tf.distribute.get_strategy()
    ... )
    >>> [len(labels["y"]) for _, labels, _ in batches]
    [2, 2, 1]
    """
    import tensorflow as tf

    batch_size = integer("dataset", "batch_size", batch_size, 1)
    strategy = strategy or tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise ValueError(
            "A batch is cut into as many equal parts as there are replicas. Received "
            f"batch_size={batch_size} for {replicas} replicas. Take a multiple of {replicas}."
        )

    def part(context: Any) -> tf.data.Dataset:
        shard = context.input_pipeline_id, context.num_input_pipelines
        own = preprocessor.dataset(
            source, batch_size // replicas, shuffle, seed, labels, shard, drop_remainder, mixer
        )
        # Workers may have other numbers of batches; only together they know the end.
        return own.filter(lambda *batch: True)

    return strategy.distribute_datasets_from_function(part)
