"""How a `MultiTaskModel` is fitted, evaluated and asked for predictions."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np

from tfmoe import keras_private
from tfmoe.model.checkpoint import checkpoint_of, kept_training
from tfmoe.model.class_weights import weighed_by_class
from tfmoe.model.compiled import Compiled
from tfmoe.model.device_rows import check_parts, filled, shared_size
from tfmoe.model.finite import FiniteLoss, warn_of_predictions
from tfmoe.model.home import at_home
from tfmoe.model.inputs import (
    check_ids,
    frame_of,
    is_frame,
    is_path,
    listed,
    quiet_end,
    unpacked,
    weights_may_come_third,
)
from tfmoe.model.measure import measure, with_measures
from tfmoe.model.no_rows import has_no_rows, predictions_of_none
from tfmoe.model.plan import planned, restored_epoch, warn_of_few_steps
from tfmoe.model.progress import Progress
from tfmoe.model.replicas import (
    own_batches,
    predict_alone,
    replicas_of,
    scope_of,
)
from tfmoe.model.untracked import Untracked
from tfmoe.model.watched import check_watched, reported, warn_of_near_ties
from tfmoe.model.weighing import EpochEnds
from tfmoe.objectives.exact import exact_metrics
from tfmoe.objectives.objective import completed
from tfmoe.objectives.weighting.learner import silent
from tfmoe.validation import integer

# Rows of a batch where nothing is learnt.
_LARGE_BATCH = 4096


class Trainable(Compiled):
    """A compiled model that is fitted, evaluated and asked for predictions, also of raw rows.

    A part of `MultiTaskModel`, which has the `preprocessor`s.
    """

    preprocessor: Any
    training_preprocessor: Any
    #: Whether it is made for the steps of several processes.
    trains_on_workers: bool = False
    #: Whether this process is the one that writes files.
    is_chief: bool = True
    _predicts_alone: Untracked | None = None
    #: What `fit` has chosen by itself, in words.
    plan: str = ""
    #: The epoch, from 0, whose weights an early stopping has restored; None where none has.
    best_epoch: int | None = None

    def _rows(self, x: Any) -> Any:
        """Raw rows of all kinds but files as a DataFrame; anything else as it is, but checked."""
        x = frame_of(self.schema, x)
        check_ids(self.schema, self.encoder.table_sizes, x)
        return x

    def _completed(self, y: Any) -> Any:
        """Arrays of labels as the Preprocessor has those of a chain; anything else as it is."""
        return completed(self.schema, y) if isinstance(y, dict) else y

    def _encoded(
        self, x: Any, labels: bool, batch_size: int | None = None, training: bool = False
    ) -> Any:
        """Raw rows, of a DataFrame or of files, encoded; anything else as it is, for Keras."""
        preprocessor = self.training_preprocessor if training else self.preprocessor
        if is_path(x) and keras.backend.backend() == "tensorflow":
            return preprocessor.dataset(x, batch_size or _LARGE_BATCH, labels=labels)
        if is_frame(x) or is_path(x):
            return preprocessor.arrays(x, labels=labels)
        return x

    def _in_parts(self, data: Any) -> Any:
        """Features, labels and weights, of which the first may be raw rows; encoded then."""
        x = frame_of(self.schema, data[0]) if data else None
        if is_path(x):
            raise ValueError(
                "The weights of rows in files are a column of theirs, which the schema names as "
                f"`weight_column`. Received validation_data of {len(data)} parts, the first of "
                "them files. Pass these alone."
            )
        if not is_frame(x):
            return data
        if len(data) > 3:
            raise ValueError(
                "validation_data has up to three parts: a table, None and weights. Received "
                f"{len(data)}. Leave out the others."
            )
        return unpacked(self._encoded(x, labels=True), *(*data[1:], None, None)[:2])

    @weights_may_come_third
    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int | None = None,
        verbose: int | Literal["auto"] = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: dict[int, float] | None = None,
        sample_weight: Any = None,
        *,
        patience: int = 3,
        seed: int = 0,
        check_finite: bool = True,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """As in Keras; `x` and `validation_data` may also be raw rows, a DataFrame or files.

        A dict by column of equally long lists is raw rows too, and so is one of arrays of which
        one holds text or objects. A dict of numeric arrays alone is not: it holds the ids and
        floats that `preprocessor.arrays` makes.

        `x` may also be what `preprocessor.arrays(rows)` returns, a triple of features, labels
        and weights. With a DataFrame or a triple `sample_weight` multiplies the rows' own
        weights, as does `class_weight`, which is for models with one `Binary` or `Multiclass`
        task; so does `weights` in `validation_data=(table, None, weights)`.

        Of raw rows, what is not given is chosen, and said. `batch_size`: the power of two with
        which an epoch has some 200 steps, from 32 to 4,096. `epochs`: training ends when the
        validation loss does not improve any more, or after 100, and keeps the best weights;
        without `validation_data` and `validation_split` a tenth of the rows, drawn by `seed`,
        is held out for it (of fewer than 100 rows none is, and one epoch is trained). Datasets
        and arrays have Keras's defaults, a batch of 32 (in arrays) and one epoch.

        With a `tfmoe.Checkpoint` among the callbacks a training goes on where a process died. On
        TensorFlow a DataFrame is then trained on as files are, in an order that can be repeated.

        Args:
            x, y, batch_size, epochs, verbose, callbacks, validation_split, validation_data,
                shuffle, class_weight, sample_weight: see above and `keras.Model.fit`.
            patience: int >= 0, epochs without a better validation loss after which a training
                without `epochs` ends.
            seed: int >= 0, of the rows held out, and of the order of those in files.
            check_finite: bool; whether a loss or weight that is NaN or infinite ends the training.

        Returns:
            `keras.callbacks.History`.

        Raises:
            ValueError: before the first step, also if a callback watches what is not reported,
                or `class_weight` is given with several tasks.
            FloatingPointError: if a loss or weight is not finite, naming the batch, task and
                columns as far as they are known; the weights are those before.

        Warns:
            UserWarning: if all trainings of this model had fewer than 200 steps.
        """
        callbacks = [at_home(one) for one in listed(callbacks)]
        x, validation_data = self._rows(x), self._rows(validation_data)
        if y is None and (is_frame(x) or is_path(x)):
            plan = planned(
                self,
                x,
                sample_weight,
                validation_data,
                validation_split,
                batch_size,
                epochs,
                integer("fit", "patience", patience, 0),
                integer("fit", "seed", seed, 0),
                reads_anew=checkpoint_of(callbacks) is not None,
            )
            x, y, sample_weight, validation_data, batch_size, epochs, stopping, words = plan
            own = any(isinstance(one, keras.callbacks.EarlyStopping) for one in callbacks)
            callbacks += [] if own else stopping
            self.plan = words
            if words and verbose not in (0, "0"):
                print(words)
        else:
            self.plan = ""
            x, y, sample_weight = unpacked(
                self._encoded(x, labels=True, training=True), y, sample_weight
            )
            y = self._completed(y)
        x, sample_weight = weighed_by_class(
            self.schema, class_weight, x, y, sample_weight, validation_split
        )
        if isinstance(validation_data, list | tuple) and not is_path(validation_data):
            validation_data = self._in_parts(validation_data)
        validation_data = self._encoded(validation_data, labels=True, batch_size=batch_size)
        if isinstance(validation_data, tuple) and len(validation_data) > 1:
            features, labels, *rest = validation_data
            validation_data = filled(features, self._completed(labels), *rest)
        check_parts(batch_size, validation_split)
        x, y, sample_weight = filled(x, y, sample_weight)
        whole = getattr(getattr(x, "epochs", None), "keeps_groups", False)
        if self.schema.ranks_pairs and not whole:
            warnings.warn(
                "A pairwise loss makes its pairs of the rows of one batch. Received rows whose "
                "groups may be parted, so that most pairs are lost. Fit "
                "`model.training_preprocessor.dataset(rows, batch_size, shuffle=True, "
                "keep_groups=True)`.",
                stacklevel=3,
            )
        validates = validation_data is not None or validation_split > 0
        if self.compiled:
            check_watched(self, callbacks, validates)
        if hasattr(x, "element_spec"):
            # A tf.data.Dataset is shuffled where it is made; Keras warns otherwise.
            shuffle = False
        self._build_optimizer()
        self._told = Untracked(set())
        if verbose not in (0, "0"):
            callbacks.insert(0, Progress())
        if self.weighting_state is not None:
            callbacks.insert(0, EpochEnds(self.weighting_state))
        epochs = 1 if epochs is None else epochs
        settings = {"shuffle": shuffle, "batch_size": batch_size, **kwargs}
        with (
            quiet_end(x, validation_data),
            self._finite(check_finite, callbacks),
            self._written_once(callbacks),
            kept_training(
                self, callbacks, x, validation_data, epochs, settings, verbose not in (0, "0")
            ) as changed,
        ):
            history = super().fit(
                x,
                y,
                batch_size=batch_size,
                epochs=epochs,
                verbose=verbose,
                callbacks=callbacks,
                validation_split=validation_split,
                validation_data=validation_data,
                shuffle=shuffle,
                sample_weight=sample_weight,
                **{**kwargs, **changed},
            )
        self.best_epoch = restored_epoch(callbacks)
        if not validates:
            warn_of_near_ties(self, self._told.value)
        warn_of_few_steps(self)
        return history

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: dict[int, float] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """As in Keras; `class_weight` as in `fit`."""
        x, sample_weight = weighed_by_class(self.schema, class_weight, x, y, sample_weight)
        return super().train_on_batch(x, y, sample_weight, return_dict=return_dict)

    def _written_once(self, callbacks: list[Any]) -> contextlib.AbstractContextManager[None]:
        """While it lasts, callbacks write files in one process only."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def _finite(self, wanted: bool, callbacks: list[Any]) -> Iterator[None]:
        """While it lasts, a loss that is not finite ends the training."""
        if not wanted:
            yield
            return
        guard = FiniteLoss()
        callbacks.append(guard)
        self._guard.value = guard
        try:
            yield
        except Exception as error:
            if isinstance(error, FloatingPointError):
                guard.restore()  # of validation, which comes before the epoch's end
            if guard.message is None or isinstance(error, FloatingPointError):
                raise
            raise guard.error() from None
        finally:
            self._guard.value = None

    def _build_optimizer(self) -> None:
        """Makes the optimizer's variables before the first step, on TensorFlow.

        It traces a step twice that makes variables, and on several replicas makes none.
        """
        on_tensorflow = keras.backend.backend() == "tensorflow"
        if self.compiled and on_tensorflow and not self.optimizer.built:
            with scope_of(self):
                self.optimizer.build(self.trainable_variables)

    @weights_may_come_third
    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: int | Literal["auto"] = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = True,
        *,
        exact: bool = True,
        by: str | Sequence[str] | None = None,
        group: str | None = None,
        k: int = 10,
        threshold: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in Keras, returning a dict; `x` may also be raw rows, a DataFrame, files or a dict,
        as in `fit`.

        Raw rows are read in batches of 4,096 rows unless `batch_size` says otherwise.

        Args:
            x, y, batch_size, verbose, sample_weight, steps, callbacks: see
                `keras.Model.evaluate`; `x` may be the triple of `preprocessor.arrays`, as in
                `fit`.
            return_dict: bool; if False, a list in the order of `metrics`, as in Keras.
            exact: bool; compute the AUC of binary tasks in a second pass that sorts all
                scores, in place of the binned one (within about 2e-6 of it once scores are
                spread). A generator, which can be read only once, gets the binned one, and so
                do `steps` of a dataset, which may begin otherwise the next time. Where the
                schema names a `scenario`, the same pass tells a metric of each task by scenario,
                `watch_auc_de`, of the 100 scenarios with the most rows.
            by, group, k, threshold: for raw rows, see `tfmoe.measure`, whose numbers come along:
                `watch_gauc`, `watch_calibration`, and by segment `watch_auc[country=de]`. They do
                where one of `by`, `group` and `threshold` is given, or the schema has a `group`.
        """
        x = self._rows(x)
        is_raw = y is None and (is_frame(x) or is_path(x))
        more = self._to_measure(is_raw, exact, sample_weight, steps, by, group, k, threshold)
        raw = x
        if is_frame(x):
            batch_size = batch_size or _LARGE_BATCH
        if y is None:
            x = self._encoded(x, labels=True, batch_size=batch_size)
        x, y, sample_weight = unpacked(x, y, sample_weight)
        x, y, sample_weight = filled(x, self._completed(y), sample_weight)
        shared: dict[str, Any] = {
            "batch_size": shared_size(batch_size),
            "sample_weight": sample_weight,
            "steps": steps,
        }
        # `fit` validates through here, once an epoch.
        validates = keras_private.validates_in_fit(kwargs)
        if validates:
            warn_of_near_ties(self, self._told.value)
        elif verbose not in (0, "0"):
            callbacks = [Progress(), *listed(callbacks)]
        with quiet_end(x), silent():
            logs = super().evaluate(
                x, y, verbose=verbose, callbacks=callbacks, return_dict=True, **shared, **kwargs
            )
        wanted = self._guard.value is not None or not validates
        if wanted and not np.isfinite(logs.get("loss", 0.0)):
            raise FloatingPointError(
                f"Losses must be finite numbers. Received loss={logs['loss']}, with losses of the "
                f"tasks {_losses(self.schema, logs)}. Look for huge numbers in the rows, or at "
                "the model's weights."
            )
        if validates:
            warn_of_near_ties(self, self._told.value, "val_")
        elif exact and (is_raw or _comes_again(x, steps)):
            names = self._objectives.value.sorted_aucs
            with quiet_end(x):
                logs.update(exact_metrics(self, names, x, y, **shared))
            if more:
                found = measure(self, raw, batch_size=batch_size or _LARGE_BATCH, **more)
                logs = with_measures(logs, found, reported(self))
        return logs if return_dict else keras_private.metrics_in_order(self, logs)

    def _to_measure(
        self,
        is_raw: bool,
        exact: bool,
        sample_weight: Any,
        steps: int | None,
        by: Any,
        group: Any,
        k: Any,
        threshold: Any,
    ) -> dict[str, Any]:
        """The arguments of `measure`, if something is to be measured beside the metrics.

        Raises:
            ValueError: if the rows are not raw, or others count than those of a table.
        """
        given = {"by": by, "group": group, "threshold": threshold}
        given = {name: value for name, value in given.items() if value is not None}
        wholly = is_raw and exact and sample_weight is None and steps is None
        if given and not wholly:
            raise ValueError(
                "What evaluate measures by segment, group and threshold, it measures exactly, on "
                f"all raw rows of a table, by their own weights. Received {given} with "
                f"{'rows that are encoded' if not is_raw else 'exact, sample_weight or steps'}. "
                "Pass a DataFrame or files, and leave these out."
            )
        return {**given, "k": k} if given or (wholly and self.schema.group) else {}

    def predict(
        self, x: Any, batch_size: int | None = None, **kwargs: Any
    ) -> dict[str, np.ndarray]:
        """As in Keras; `x` may also be raw rows: a DataFrame, files, one row as a dict, a list of
        such, or a dict by column of equally long lists, as `{"city": ["Rome", "Oslo"]}`.

        Arrays in place of lists are raw where one holds text or objects; a dict of numeric arrays
        alone holds the ids and floats that `preprocessor.arrays` makes. Raw rows are read in
        batches of 4,096 unless `batch_size` says otherwise.

        Returns:
            Dict by task of NumPy arrays, one entry a row; without entries where there are no rows.

        Warns:
            UserWarning: if a prediction is NaN or infinite.
        """
        x = self._rows(x)
        if has_no_rows(x):
            return predictions_of_none(self)
        if is_frame(x):
            batch_size = batch_size or _LARGE_BATCH
        x = self._encoded(x, labels=False, batch_size=batch_size)
        if hasattr(x, "element_spec"):
            batch_size = None
        shared, _, _ = filled(x)
        with quiet_end(shared):
            predictions = super().predict(shared, batch_size=shared_size(batch_size), **kwargs)
        if shared is not x:
            num = len(next(iter(x.values())))
            predictions = {name: values[:num] for name, values in predictions.items()}
        warn_of_predictions(predictions)
        return predictions

    def batches_of(self, batches: Iterable[Any]) -> Iterable[Any]:
        """Batches of a dataset as those of this process, also of one that replicas share."""
        return own_batches(self, batches)

    def rows_of_all(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Of arrays by task with the rows that this process has seen, those with all rows."""
        return rows

    def together(self, act: Callable[[], Any]) -> Any:
        """What a function returns; if it fails in one of several processes, it fails in all."""
        return act()

    def predict_on_batch(self, x: Any) -> dict[str, np.ndarray]:
        """As in Keras; of several replicas one predicts the batch."""
        if replicas_of(self) == 1:
            return super().predict_on_batch(x)
        if self._predicts_alone is None:
            self._predicts_alone = Untracked(predict_alone(self))
        return self._predicts_alone.value(x)


def _comes_again(x: Any, steps: int | None) -> bool:
    """Whether a second pass reads the rows of the first."""
    return not isinstance(x, Iterator) and (steps is None or isinstance(x, Mapping))


def _losses(schema: Any, logs: Mapping[str, float]) -> dict[str, float]:
    """The losses of tasks that are not finite; NaN is also that of a task without labels."""
    losses = {name: logs.get(f"{name}_loss", 0.0) for name in schema.task_names}
    return {name: loss for name, loss in losses.items() if not np.isfinite(loss)}
