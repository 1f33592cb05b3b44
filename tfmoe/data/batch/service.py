"""Batches that the workers of a `tf.data` service make, for one training or several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tfmoe.data.batch.epochs import SHUFFLE_ROWS

if TYPE_CHECKING:
    import tensorflow as tf

    from tfmoe.data.encode.rows import RowEncoder

# A graph is sent to the workers whole, rows and all, and holds no more than twice as much.
_MOST_BYTES = 2**30


def check_service(service: object, **others: Any) -> None:
    """Raises ValueError unless it is an address, and what it does not go with is left out.

    Args:
        service: of a dispatcher.
        **others: by argument, what is not for a service; False, None or `(0, 1)` where left out.
    """
    if not isinstance(service, str) or "://" not in service:
        raise ValueError(
            "dataset takes as `service` the address of a tf.data service's dispatcher, such as "
            f'"grpc://10.0.0.1:5000". Received service={service!r}.'
        )
    given = [name for name, value in others.items() if value not in (False, None, (0, 1))]
    if given:
        raise ValueError(
            "The workers of a service part the rows among themselves, and each has batches of its "
            f"own. Received service={service!r} with {', '.join(given)}. Leave that out, or the "
            "service."
        )


def served(
    service: str,
    encoder: RowEncoder,
    rows: np.ndarray,
    batch_size: int,
    shuffle: bool | int,
    seed: int,
) -> tf.data.Dataset:
    """A dataset whose batches the workers of a service make; each row comes once an epoch.

    A generator of this process cannot be sent to them. So the encoded rows are, as a constant of
    the dataset's graph, in blocks that are handed out to whoever asks next.

    Args:
        service: address of the dispatcher.
        encoder: `RowEncoder`.
        rows: int32 `(n, width)`, all packed rows.
        batch_size, shuffle, seed: see `Preprocessor.dataset`.

    Raises:
        ValueError: if the rows are too many to be sent.
    """
    import tensorflow as tf

    if rows.nbytes > _MOST_BYTES:
        raise ValueError(
            f"The rows of a service are sent to its workers, {_MOST_BYTES // 2**20:,} MB at most "
            f"once encoded. Received {len(rows):,} rows of {rows.nbytes // 2**20:,} MB. Leave "
            "`service` out: files are then read in parts (`shard=`) and never held."
        )
    if shuffle:
        rows = rows[np.random.default_rng(seed).permutation(len(rows))]
    held = tf.constant(rows)
    blocks = tf.data.Dataset.range(0, len(rows), batch_size)
    batches = blocks.map(lambda start: held[start : start + batch_size])
    if shuffle:
        # Of the blocks that a worker has been handed.
        buffer = SHUFFLE_ROWS if shuffle is True else int(shuffle)
        several = batches.unbatch().batch(min(buffer, len(rows)))
        batches = several.map(_in_another_order).unbatch().batch(batch_size)

    def unpack(words: Any) -> Any:
        return encoder.unpack(words, tf.bitcast(words, tf.float32))

    dynamic = tf.data.experimental.service.ShardingPolicy.DYNAMIC
    asked = tf.data.experimental.service.distribute(processing_mode=dynamic, service=service)
    return batches.map(unpack).apply(asked).prefetch(4)


def _in_another_order(rows: Any) -> Any:
    """Rows in an order of their own each time; a dataset's shuffle repeats in a worker."""
    import tensorflow as tf

    now = tf.cast(tf.timestamp() * 1e6, tf.int64)
    draws = tf.random.stateless_uniform([tf.shape(rows)[0]], tf.stack([now, now]))
    return tf.gather(rows, tf.argsort(draws))
