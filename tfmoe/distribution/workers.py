"""A model that several processes train together, each on a machine of its own."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfmoe.compute.registered import registered
from tfmoe.distribution.written import backups, written_by_chief
from tfmoe.model.inputs import quiet_end
from tfmoe.model.load import load_model
from tfmoe.model.model import MultiTaskModel
from tfmoe.model.no_rows import has_no_rows
from tfmoe.model.replicas import has_workers, is_shared
from tfmoe.remote import names_in


@registered
class MultiWorkerModel(MultiTaskModel):
    """A `MultiTaskModel` for `tf.distribute.MultiWorkerMirroredStrategy`.

    Every worker runs the same program. The model is made in the strategy's scope, fitted and
    evaluated on what `tfmoe.distribution.dataset` makes, and trains as one process does on batches
    of the same rows. `fit`, `evaluate`, `save` and `save_weights` are to be called by all workers,
    for they wait for each other: metrics are those of all rows, exact ones too, and of files only
    the chief's are written, also by `tfmoe.Checkpoint` and Keras's callbacks `ModelCheckpoint`,
    `BackupAndRestore` and `CSVLogger`. `predict` is each worker's own: it predicts all rows that it
    is given. `MultiWorkerModel.of` makes one of a model that there is.

    A class of its own, because Keras 3's `fit` does not run under that strategy. Outside of it, as
    after loading, it is a `MultiTaskModel`.

    Args:
        preprocessor, mixture, tower_units, tower_dropout, input_gate, tower_gate,
            scenario_towers, interactions, wide, embeddings_initializer,
            embeddings_regularizer, kernel_regularizer, column_dropout, position,
            rows_multiple, name, dtype, trainable: see `MultiTaskModel`.

    Example:

    >>> import tensorflow as tf
    >>> strategy = tf.distribute.MultiWorkerMirroredStrategy()  # doctest: +SKIP
    >>> with strategy.scope():  # doctest: +SKIP
    ...     model = tfmoe.MultiWorkerModel(prep, tfmoe.MMoE(num_experts=8))
    ...     model.compile()
    >>> model.fit(  # doctest: +SKIP
    ...     tfmoe.distribution.dataset(prep, "rows-*.parquet", 4096, strategy=strategy)
    ... )
    """

    trains_on_workers = True

    @classmethod
    def of(cls, model: MultiTaskModel, strategy: Any) -> MultiWorkerModel:
        """A model like one that there is, for the workers of a strategy to train on together.

        All of them call it with the same model, outside of the strategy's scope. Weights, random
        states, the optimizer's state and what a weighting has learned come along.

        Args:
            model: `MultiTaskModel`, loaded, grown or trained in this process alone.
            strategy: `tf.distribute.MultiWorkerMirroredStrategy`.

        Returns:
            `MultiWorkerModel`, compiled if the model is.

        Example:

        >>> model = tfmoe.load_model("model.keras")  # doctest: +SKIP
        >>> model = tfmoe.MultiWorkerModel.of(model, strategy)  # doctest: +SKIP
        """
        name = keras.saving.get_registered_name(MultiTaskModel)
        with tempfile.TemporaryDirectory() as folder:
            # A file is how a model comes whole into another class and another scope.
            path = Path(folder) / "model.keras"
            model.save(path)
            with strategy.scope(), keras.saving.custom_object_scope({name: cls}):
                found: Any = load_model(path)
        # A file says nothing of how a Preprocessor has just grown.
        found._adopt(model.training_preprocessor)
        return found

    @property
    def _strategy(self) -> Any:
        """The strategy of several workers under which it was made, or None."""
        return self.distribute_strategy if has_workers(self) else None

    @property
    def is_chief(self) -> bool:  # type: ignore[override]
        """Whether this worker is the one that writes files."""
        return self._strategy is None or self._strategy.extended.should_checkpoint

    @property
    def metrics_at_the_end(self) -> bool:  # type: ignore[override]
        """See `MultiTaskModel`; so it is here, for workers would wait for each number."""
        return self._strategy is not None or super().metrics_at_the_end

    def train_step(self, *args: Any) -> Any:
        return self._in_rows(super().train_step(*args))

    def test_step(self, *args: Any) -> Any:
        return self._in_rows(super().test_step(*args))

    def _in_rows(self, logs: Any) -> Any:
        """A step's numbers with the axis over which Keras takes means of several workers'."""
        if self._strategy is None:
            return logs
        return keras.tree.map_structure(lambda value: keras.ops.reshape(value, (1,)), logs)

    def fit(self, x: Any = None, *args: Any, validation_data: Any = None, **kwargs: Any) -> Any:
        """As `MultiTaskModel.fit`, on what `tfmoe.distribution.dataset` makes."""
        self._check_shared("x", x)
        if validation_data is not None:
            self._check_shared("validation_data", validation_data)
        return super().fit(x, *args, validation_data=validation_data, **kwargs)

    def _written_once(self, callbacks: list[Any]) -> contextlib.AbstractContextManager[None]:
        if self._strategy is not None:
            for folder in backups(callbacks):
                self._check_seen_by_all(folder)
        return written_by_chief(callbacks, self.is_chief)

    def _check_seen_by_all(self, folder: str) -> None:
        """Raises ValueError on all workers if some find in a folder what others do not."""
        own = np.array([[int(bool(names_in(folder)))]])
        (of_all,) = self.rows_of_all({"backups": (own,)})["backups"]
        if (of_all != own).any():
            raise ValueError(
                "Workers go on from one folder, which all of them see. Received "
                f"backup_dir={folder!r}, in which a backup is found by workers "
                f"{np.flatnonzero(of_all).tolist()} alone, counted from 0. Take a folder that they "
                "share."
            )

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `MultiTaskModel.evaluate`, on what `tfmoe.distribution.dataset` makes."""
        self._check_shared("x", x)
        return super().evaluate(x, *args, **kwargs)

    def _check_shared(self, name: str, data: Any) -> None:
        """Raises ValueError for batches of which Keras would make other ones on each worker."""
        if self._strategy is None or is_shared(data):
            return
        raise ValueError(
            "Several workers share batches of which each reads its part; of other data Keras would "
            f"read rows twice or never. Received {name} of type {type(data).__name__}. Pass "
            "`tfmoe.distribution.dataset(preprocessor, rows, batch_size, strategy=strategy)`."
        )

    def predict(
        self, x: Any, batch_size: int | None = None, steps: int | None = None, **kwargs: Any
    ) -> dict[str, np.ndarray]:
        """As `MultiTaskModel.predict`; a worker predicts its rows alone, and all of them."""
        if self._strategy is None or has_no_rows(self._rows(x)):
            return super().predict(x, batch_size, steps=steps, **kwargs)
        if kwargs.keys() - {"verbose"}:
            raise ValueError(
                "One of several workers predicts without callbacks. Received "
                f"{sorted(kwargs)}. Load the saved model in a process of its own to predict "
                "otherwise."
            )
        size = batch_size or 4096
        batches = self._encoded(self._rows(x), labels=False, batch_size=size)
        if isinstance(batches, dict):
            batches = _cut(batches, size)
        with quiet_end(batches):
            parts = [
                self.predict_on_batch(keras.utils.unpack_x_y_sample_weight(batch)[0])
                for step, batch in enumerate(batches)
                if steps is None or step < steps
            ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def rows_of_all(self, rows: dict[str, tuple[np.ndarray, ...]]) -> dict[str, Any]:
        """See `MultiTaskModel`: the rows of all workers, one after the other."""
        if self._strategy is None:
            return rows
        return {
            name: tuple(_of_workers(self._strategy, values) for values in own)
            for name, own in rows.items()
        }

    def together(self, act: Callable[[], Any]) -> Any:
        """See `MultiTaskModel`."""
        return act() if self._strategy is None else together(self._strategy, act)

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """As `MultiTaskModel.save`, on all workers; the chief's file is written."""
        with self._of_chief(filepath) as place:
            super().save(place, *args, **kwargs)

    def save_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """As `MultiTaskModel.save_weights`, on all workers; the chief's file is written."""
        with self._of_chief(filepath) as place:
            super().save_weights(place, *args, **kwargs)

    @contextlib.contextmanager
    def _of_chief(self, path: Any) -> Iterator[Any]:
        """Where this worker writes: at the path, or where nobody looks."""
        if self.is_chief:
            yield path
            return
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / Path(path).name


def together(strategy: Any, act: Callable[[], Any]) -> Any:
    """What a function returns on this worker; if it fails on one of them, it fails on all.

    All workers call it, and none goes on before all have done theirs.

    Args:
        strategy: of several workers.
        act: callable without arguments.

    Raises:
        RuntimeError: if it has failed on another worker alone.
    """
    failed, found = None, None
    try:
        found = act()
    except Exception as error:  # told to the others, who would wait for ever
        failed = error
    bad = _of_workers(strategy, np.array([int(failed is not None)]))
    if failed is not None:
        raise failed
    if bad.any():
        raise RuntimeError(
            "Workers train together. Received an error on another one, of "
            f"{np.flatnonzero(bad).tolist()}, counted from 0. See what it says there."
        )
    return found


def _cut(features: dict[str, np.ndarray], size: int) -> Iterator[dict[str, np.ndarray]]:
    """Features in batches."""
    num = len(next(iter(features.values())))
    for start in range(0, num, size):
        yield {name: values[start : start + size] for name, values in features.items()}


def _of_workers(strategy: Any, values: np.ndarray) -> np.ndarray:
    """Rows of all workers, in their order; each may have another number."""
    import tensorflow as tf

    of_each = len(strategy.extended.worker_devices)

    @tf.function(autograph=False)
    def gathered(values: Any) -> Any:
        def of_replica() -> Any:
            context = tf.distribute.get_replica_context()
            # The replicas of a worker have the same.
            first = tf.equal(context.replica_id_in_sync_group % of_each, 0)
            own = values[: tf.where(first, tf.shape(values)[0], 0)]
            return context.all_gather(own, axis=0)

        return strategy.run(of_replica)

    found = gathered(tf.convert_to_tensor(values))
    return strategy.experimental_local_results(found)[0].numpy()
