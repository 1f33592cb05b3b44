"""How a `MultiTaskModel` is compiled, fitted, evaluated and asked for predictions."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from tfmoe import keras_private
from tfmoe.compute.device import waiting_for
from tfmoe.compute.replicas import num_replicas, of_this_replica
from tfmoe.compute.shared import combining, current
from tfmoe.compute.types import Tensor
from tfmoe.model.checkpoint import checkpoint_of, kept_training
from tfmoe.model.class_weights import weighed_by_class
from tfmoe.model.device_rows import check_parts, filled, shared_size
from tfmoe.model.finite import FiniteLoss, guarded, warn_of_predictions
from tfmoe.model.forward import ForwardOutput, in_step
from tfmoe.model.inputs import (
    check_ids,
    frame_of,
    is_frame,
    is_path,
    labels_of,
    named,
    quiet_end,
    task_of,
    unpacked,
    weights_may_come_third,
)
from tfmoe.model.jit import jit_pays
from tfmoe.model.measure import measure, with_measures
from tfmoe.model.parts import parts_of
from tfmoe.model.plan import planned, warn_of_few_steps
from tfmoe.model.progress import Progress
from tfmoe.model.replicas import (
    check_workers,
    in_scope,
    own_batches,
    predict_alone,
    replicas_of,
    scope_of,
)
from tfmoe.model.separate_step import separate_step
from tfmoe.model.untracked import Untracked
from tfmoe.model.watched import check_reported, check_watched, reported, warn_of_near_ties
from tfmoe.model.weighing import EpochEnds, learner_of, looked_again
from tfmoe.objectives.exact import exact_metrics
from tfmoe.objectives.joint_labels import JointLabels
from tfmoe.objectives.losses import over_weights
from tfmoe.objectives.mutual_information import MutualInformationLoss, tracker_of
from tfmoe.objectives.objective import completed
from tfmoe.objectives.task_per_row import TaskPerRow
from tfmoe.objectives.weighting.base import Weighting
from tfmoe.objectives.weighting.by_name import weighting_of
from tfmoe.objectives.weighting.learner import WeightLearner, silent
from tfmoe.optimizers.by_part import made, routed
from tfmoe.optimizers.fused import updates_rows
from tfmoe.optimizers.replicas import (
    agree_on_overflow,
    check_accumulates_nothing,
    clip_together,
)
from tfmoe.schema.schema import GROUP_CODES
from tfmoe.validation import integer

# With more of them, a step returns the loss alone.
_MANY_METRICS = 32
# Rows of a batch where nothing is learnt.
_LARGE_BATCH = 4096


class Trainable(keras_private.BuiltBefore, keras_private.ReportsAtTheEnd, keras.Model):
    """A Keras model whose losses and metrics follow from the tasks of its schema.

    A part of `MultiTaskModel`, which has what is used here: `schema`, `preprocessor`, `encoder`,
    `structure`, `head`, `forward_pass`.
    """

    schema: Any
    preprocessor: Any
    encoder: Any
    structure: Any
    head: Any
    forward_pass: Any
    wide: Any
    position: str | None
    training_preprocessor: Any
    _objectives: Untracked
    _guard: Untracked
    #: What weighs the tasks' losses, and what it has learned; None where weights are fixed.
    weighting_state: WeightLearner | None = None
    #: Whether it is made for the steps of several processes.
    trains_on_workers: bool = False
    #: Whether this process is the one that writes files.
    is_chief: bool = True
    _predicts_alone: Untracked | None = None
    #: What `fit` has chosen by itself, in words.
    plan: str = ""
    #: The epoch, from 0, whose weights `fit` has kept by itself; None where it chose none.
    best_epoch: int | None = None

    def train_step(self, *args: Any) -> Any:
        learner = self.weighting_state
        combination = None if learner is None else learner.combination()
        step: Any = super().train_step
        if combination is not None and combination.by_parameter:
            step = functools.partial(separate_step, self, combination)
        with in_step(self), self._tracing(), waiting_for(args[-1]), combining(combination):
            if learner is not None and learner.weighting.looks_again:
                return looked_again(self, step, self._named(*args, training=True))
            return step(*self._named(*args, training=True))

    def test_step(self, *args: Any) -> Any:
        with in_step(self), self._tracing(), waiting_for(args[-1]), silent():
            return super().test_step(*self._named(*args))

    def _tracing(self) -> contextlib.AbstractContextManager[None]:
        """What a step is traced in; replicas, which trace by turns, would disturb each other."""
        if keras.backend.backend() != "tensorflow" or num_replicas() > 1:
            return contextlib.nullcontext()
        return keras_private.forgetting_gradients()

    def _named(self, *args: Any, training: bool = False) -> tuple[Any, ...]:
        """A step's arguments, features by name: the data, after a state on some backends."""
        inputs = self.input
        if training and self.position is not None:
            inputs = {**inputs, self.position: keras.KerasTensor((None,), "int32")}
        *state, data = args
        x, *rest = keras.utils.unpack_x_y_sample_weight(data)
        groups = {name: x[name] for name in {GROUP_CODES} & {*x}} if isinstance(x, dict) else {}
        return *state, ({**named(inputs, x), **groups}, *rest)

    def predict_step(self, *args: Any) -> Any:
        *state, data = args
        x, *rest = keras.utils.unpack_x_y_sample_weight(data)
        others = {GROUP_CODES, self.position}
        if isinstance(x, dict) and others & {*x}:
            # Keras would take them for inputs.
            x = {name: value for name, value in x.items() if name not in others}
            data = (x, *rest)
        return super().predict_step(*state, data)

    @in_scope
    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer | Mapping[str, Any] = "adam",
        loss: Mapping[str, Any] | None = None,
        loss_weights: Mapping[str, float] | None = None,
        metrics: Mapping[str, Sequence[Any]] | None = None,
        jit_compile: bool | Literal["auto"] = "auto",
        aux_losses: MutualInformationLoss | Sequence[MutualInformationLoss] | None = None,
        weighting: Weighting | str | None = None,
        **kwargs: Any,
    ) -> None:
        """As in Keras, but losses, weights and metrics follow from the tasks.

        Args:
            optimizer: Keras optimizer or its name; `"adam"` is `tfmoe.optimizers.Adam`. Or a dict
                of such by part of the model, `{"embeddings": tfmoe.optimizers.LazyAdam(0.01),
                "gates": keras.optimizers.Adam(1e-4), "rest": "adam"}`, of which it makes
                `tfmoe.optimizers.ByPart`; its docstring names the parts.
            loss: dict by task of Keras losses or their names that replace the task's own. They
                get the model's predictions, or the logits if they have `from_logits=True`; of a
                regression, labels and predictions as they are standardised; of a binary task the
                probability in the rows as they are, without the correction for `negatives_kept`.
            loss_weights: dict by task of floats that replace `Task.weight`.
            metrics: dict by task of lists of Keras metrics or their names that replace the
                task's own. They get what losses get, but of a regression in its label's units;
                row weights and missing labels count for them too.
            jit_compile: bool or `"auto"`: on TensorFlow without a GPU, XLA is not used, for it was
                slower wherever it was measured (see `Thresholds.most_looked_up`, which can say
                otherwise); elsewhere as Keras decides.
            aux_losses: `MutualInformationLoss`, or a list with one, or None.
            weighting: how the tasks' losses are weighed, or their gradients combined: a
                `Weighting` such as `tfmoe.Uncertainty()` or `tfmoe.PCGrad()`, its name in lower
                case, or None or `"fixed"` for fixed weights. `Task.weight` and `loss_weights`
                multiply a task's loss before. `loss` is reported as the plain sum all the same,
                and the weights as `<task>_weight`; losses of gates and `aux_losses` keep their
                own. What it learns is saved with the model.
            **kwargs: the other arguments of `keras.Model.compile`.

        Raises:
            ValueError: if a dict names an unknown task, or is no dict; if two metrics have one
                name; if `weighted_metrics` are given; if an auxiliary loss is of another kind, or
                no gate tells tasks apart; if `weighting` is unknown, or does not go with the
                tasks.
        """
        check_workers(self)
        if kwargs.get("weighted_metrics"):
            raise ValueError(
                "Row weights count for all metrics. Received weighted_metrics="
                f"{kwargs['weighted_metrics']!r}. Give them by task as `metrics`."
            )
        weighting = weighting_of(weighting)
        given: dict[str, Any] = {"loss": loss, "loss_weights": loss_weights, "metrics": metrics}
        for name, value in given.items():
            self._check_by_task(name, value)
        extra: list[Any] = []
        if isinstance(aux_losses, list | tuple):
            extra = list(aux_losses)
        elif aux_losses is not None:
            extra = [aux_losses]
        self._compiled_with = Untracked(
            {
                "optimizer": optimizer,
                **given,
                "jit_compile": jit_compile,
                "aux_losses": extra,
                "weighting": weighting,
                **kwargs,
            }
        )
        kind: Any = TaskPerRow if self.schema.task_column else JointLabels
        self._objectives.value = kind(
            self.schema, loss or {}, loss_weights or {}, metrics or {}, self.head.moments
        )
        self._trackers = Untracked([tracker_of(one, self.structure) for one in extra])
        # Past Keras's own lists, in which a metric stays for ever; its file has it all the same.
        self.__dict__["weighting_state"] = learner_of(self, weighting, loss or {})
        optimizer = made(optimizer)
        several = replicas_of(self) > 1
        if several:
            check_accumulates_nothing(keras.optimizers.get(optimizer))
        if jit_compile == "auto" and keras.backend.backend() == "tensorflow":
            jit_compile = not kwargs.get("run_eagerly") and jit_pays(self)
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        by_part = routed(self.optimizer)
        if by_part is not None:
            by_part.route(parts_of(self))
            by_part.grouped(self.trainable_variables)  # or its error
        if several:
            clip_together(self.optimizer)
            agree_on_overflow(self.optimizer)
        first_order = {} if self.wide is None else self.wide.tables
        for table in (*self.encoder.tables.values(), *first_order.values()):
            own = self.optimizer
            if by_part is not None and table.trainable:
                own = by_part.optimizer_of(table.embeddings)
            table.may_be_compiled = bool(self.jit_compile)
            table.may_be_sparse = updates_rows(own, several)
        self._compiled_with.value["optimizer"] = self.optimizer
        check_reported(self)

    def _check_by_task(self, name: str, value: Any) -> None:
        if value is None:
            return
        names = list(self.schema.task_names)
        if not isinstance(value, dict) or not set(value) <= set(names):
            raise ValueError(
                f"compile takes `{name}` as a dict by task, of the tasks {names}. "
                f"Received {name}={value!r}. Leave out the tasks that keep their own."
            )

    def get_compile_config(self) -> dict[str, Any]:
        given = self._compiled_with.value if self.compiled else {}
        # Only what was given: a clone is a plain Keras model, which takes fewer arguments.
        return {
            name: keras.saving.serialize_keras_object(value)
            for name, value in given.items()
            if value is not None and value != []
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        given = {
            name: keras.saving.deserialize_keras_object(value) for name, value in config.items()
        }
        self.compile(**given)
        self.optimizer.build(self.trainable_variables)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        if not isinstance(y_pred, ForwardOutput):
            raise ValueError(
                "compute_loss takes as `y_pred` all that a pass makes. Received "
                f"{type(y_pred).__name__}. In a train_step of your own call "
                "`self.forward_pass(x, training=True)` in place of the model."
            )
        labels = labels_of(self.schema, y)
        task = task_of(self.schema, x)
        y_pred = y_pred.of(x)
        learner = self.weighting_state
        if learner is None or not training:
            total = self._objectives.value.loss(labels, sample_weight, y_pred, **task)
        else:
            combination = current()
            if learner.weighting.combines and combination is None:
                raise ValueError(
                    "A train_step of your own trains with fixed weights, or a weighting of losses. "
                    f"Received weighting={learner.weighting!r}, which combines gradients. Leave "
                    "train_step as it is."
                )
            losses, counts = self._objectives.value.losses(labels, sample_weight, y_pred, **task)
            trained = ops.multiply(ops.stop_gradient(counts), self._objectives.value.trained)
            total = learner.weigh(losses, trained, combination)
            if self.schema.task_column:
                # What is reported is what evaluation reports, a mean over rows.
                plain = over_weights(ops.sum(losses * counts), ops.sum(counts))
                total = total + ops.stop_gradient(plain - total)
        others = [ops.sum(ops.cast(one, "float32")) for one in of_this_replica(self.losses)]
        for tracker in self._trackers.value:
            with_label = self._objectives.value.with_label(labels)
            loss = tracker.add(y_pred.aux, with_label, training)
            others += [loss] if training else []
        # All replicas have the same total. Keras adds up their gradients, and their losses.
        total = sum(others, start=total) / num_replicas()
        if not training:
            return total
        combination = current()
        if combination is None or not combination.by_parameter:
            return self._guarded(total, x, y_pred)
        parts = [combination.losses, *([sum(others)[None]] if others else [])]
        parts = ops.concatenate(parts) / num_replicas()
        combination.losses = self._guarded(parts, x, y_pred)
        return total

    def _guarded(self, loss: Any, x: Any, y_pred: Any) -> Any:
        """The loss, looked at in each step where that is wanted."""
        if self._guard.value is None:
            return loss
        return guarded(self._guard, self.optimizer.iterations, loss, x, y_pred.logits)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        combination = current()
        if combination is not None and self.weighting_state is not None:
            self.weighting_state.after_backward(combination)
        task = task_of(self.schema, x)
        self._objectives.value.update_metrics(
            labels_of(self.schema, y), sample_weight, y_pred, **task
        )
        if self.metrics_at_the_end:
            return {"loss": self.metrics[0].result()}
        return self.get_metrics_result()

    @property
    def metrics_at_the_end(self) -> bool:  # type: ignore[override]
        """Whether a step's logs have the loss alone, and an epoch's all metrics.

        So it is on TensorFlow with more than 32 metrics: with those of 139 tasks as outputs of the
        step's graph, TensorFlow took minutes to prepare it.
        """
        many = sum(len(getattr(metric, "names", [0])) for metric in self.metrics) > _MANY_METRICS
        return many and keras.backend.backend() == "tensorflow"

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        if not self.compiled:
            return super().metrics
        learners = [] if self.weighting_state is None else [self.weighting_state]
        ours = [*self._objectives.value.metrics, *self._trackers.value, *learners]
        return [*super().metrics, *ours]

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
        task.

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
        callbacks = _listed(callbacks)
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
            stopping = [] if own else stopping
            callbacks += stopping
            self.plan = words
            if words and verbose not in (0, "0"):
                print(words)
        else:
            stopping, self.plan = [], ""
            x, y, sample_weight = unpacked(
                self._encoded(x, labels=True, training=True), y, sample_weight
            )
            y = self._completed(y)
        x, sample_weight = weighed_by_class(
            self.schema, class_weight, x, y, sample_weight, validation_split
        )
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
        self.best_epoch = stopping[0].best_epoch if stopping else None
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
                spread). A generator, which can be read only once, gets the binned one. Where
                the schema names a `scenario`, the same pass tells a metric of each task by
                scenario, `watch_auc_de`, of the 100 scenarios with the most rows.
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
            callbacks = [Progress(), *_listed(callbacks)]
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
        elif exact:
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
            Dict by task of NumPy arrays, one entry a row.

        Warns:
            UserWarning: if a prediction is NaN or infinite.
        """
        x = self._rows(x)
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


def _listed(callbacks: Any) -> list[Any]:
    """Callbacks as a list of one's own."""
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]


def _losses(schema: Any, logs: Mapping[str, float]) -> dict[str, float]:
    """The losses of tasks that are not finite; NaN is also that of a task without labels."""
    losses = {name: logs.get(f"{name}_loss", 0.0) for name in schema.task_names}
    return {name: loss for name, loss in losses.items() if not np.isfinite(loss)}
