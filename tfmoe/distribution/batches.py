"""Batches that several replicas share, of which each worker reads its own part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tfmoe.data.batch.epochs import Epochs
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

    parts: list[Epochs] = []
    workers = 1

    def part(context: Any) -> tf.data.Dataset:
        nonlocal workers
        workers = context.num_input_pipelines
        shard = context.input_pipeline_id, workers
        own = preprocessor.dataset(
            source, batch_size // replicas, shuffle, seed, labels, shard, drop_remainder, mixer
        )
        parts.append(own.epochs)
        # Workers may have other numbers of batches; only together they know the end.
        return own.filter(lambda *batch: True)

    shared = strategy.distribute_datasets_from_function(part)
    shared.epochs = SharedEpochs(parts, workers, replicas)
    return shared


class SharedEpochs:
    """The epochs of batches that replicas share, in steps that all replicas take together.

    As `tfmoe.data.batch.epochs.Epochs`, of which a process has one for each part that it reads.

    Args:
        parts: sequence of `Epochs`, those of this process.
        workers: int >= 1, into how many parts the rows are cut.
        replicas: int >= 1, of all workers.
    """

    def __init__(self, parts: Sequence[Epochs], workers: int, replicas: int) -> None:
        self._parts = list(parts)
        self._workers, self._replicas = workers, replicas

    @property
    def next_epoch(self) -> int:
        """The number of the epoch that comes next."""
        return self._parts[0].next_epoch

    @property
    def keeps_groups(self) -> bool:
        """Whether the rows of a group share a batch."""
        return self._parts[0].keeps_groups

    @property
    def description(self) -> dict[str, Any]:
        """What the batches follow from, as plain data that is the same for all workers."""
        own = self._parts[0].description
        batch_size = own["batch_size"] * self._replicas
        shared = {"workers": self._workers, "replicas": self._replicas}
        return {**own, "batch_size": batch_size, "shard": None, **shared}

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Lets the next call go on with an epoch, after a number of steps; see `Epochs`."""
        for part in self._parts:
            # In a step each of a worker's replicas takes one of its batches.
            part.seek(epoch, batch * (self._replicas // self._workers))
