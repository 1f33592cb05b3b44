"""The whole model: encoder, structure, towers, and losses and metrics that follow from tasks."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self

import keras
import numpy as np
from keras import ops

from tfmoe import keras_private
from tfmoe.compute import nested
from tfmoe.compute.device import num_replicas, waiting_for
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Tensor
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.features.encoder import Encoder
from tfmoe.files import check_new, is_remote, replaced
from tfmoe.heads.extended import towers_of
from tfmoe.heads.outputs import Outputs, ScoreOutputs, start_at_means
from tfmoe.model.add_task import check_routing, copy_extended, places
from tfmoe.model.assets import check_goes_with, check_sizes
from tfmoe.model.class_weights import weighed_by_class
from tfmoe.model.forward import ForwardOutput, Stages, in_step, is_in_step
from tfmoe.model.frozen import freeze_places, frozen_places
from tfmoe.model.inputs import (
    is_frame,
    labels_of,
    named,
    quiet_end,
    symbols,
    task_of,
    unpacked,
    weights_and_batch,
)
from tfmoe.model.jit import jit_pays
from tfmoe.model.watched import check_reported, check_watched, warn_of_near_ties
from tfmoe.objectives.exact_auc import exact_aucs
from tfmoe.objectives.joint_labels import JointLabels
from tfmoe.objectives.mutual_information import MutualInformationLoss, tracker_of
from tfmoe.objectives.task_per_row import TaskPerRow
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Task
from tfmoe.structures.base import Structure, structure_of


class _Blueprint(NamedTuple):
    """What a model needs to know to be built, from a Preprocessor or a saved config.

    Attributes:
        schema: `Schema`.
        table_sizes: rows of each embedding table, by owner.
        lengths: positions of each list column.
        num_added: how many of the last tasks were added one by one.
        preprocessor: `Preprocessor`, or None where it comes later, out of a file.
    """

    schema: Schema
    table_sizes: dict[str, int]
    lengths: dict[str, int]
    num_added: int = 0
    preprocessor: Preprocessor | None = None

    @classmethod
    def of(cls, preprocessor: Any, num_added: int = 0) -> _Blueprint:
        """From the argument `preprocessor`, or as `add_task` and `from_config` made it.

        Raises:
            ValueError: if it is neither a Preprocessor nor a Schema, or is not fitted but must be.
        """
        if isinstance(preprocessor, cls):
            return preprocessor
        if isinstance(preprocessor, Schema):
            preprocessor = Preprocessor(preprocessor)
        if not isinstance(preprocessor, Preprocessor):
            raise ValueError(
                "MultiTaskModel reads columns, tasks and vocabularies from a fitted "
                f"Preprocessor. Received preprocessor={preprocessor!r}. Make one with "
                "`tfmoe.Preprocessor(schema).fit(data)`."
            )
        sizes, lengths = preprocessor.table_sizes, preprocessor.lengths
        # A copy of its own, for the caller may fit theirs again.
        return cls(preprocessor.schema, sizes, lengths, num_added, copy.copy(preprocessor))


@registered
class MultiTaskModel(keras.Model):
    r"""A multi-task model over a table: columns in, one prediction a task out.

        features -> Encoder -> structure -> Towers -> {task: prediction}

    It is a Functional Keras model; its inputs are named by column and its outputs by
    task. A missing label (NaN, no such column, outside the task's `where`) adds nothing
    to loss, gradients or metrics.

    With a `task_column` in the schema each row belongs to one task: only that task's gate,
    experts and tower are computed for it, and the one output is `score`. Losses and
    metrics are still by task.

    Args:
        preprocessor: fitted `Preprocessor`; or a `Schema` of which every column can be
            used unfitted (hashed ids, numbers as they are).
        mixture: a `Structure` such as `SharedBottom`, `OMoE`, `MMoE` or `ModSquad`; or any
            Keras layer `(b, f) -> (b, t, u)` with a constructor argument `num_tasks` and a
            call argument `return_aux` (and `task`, for rows of one task each), which then
            supports neither `extract` nor `add_task` nor a context. It is a recipe: the
            model's own copy, with `num_tasks` filled in, is `model.mixture`. It keeps its own
            dtype policy; a warning says where that is not the model's.
        tower_units: sequence of int >= 1, hidden units of every task's tower; `()` for
            none.
        tower_dropout: float in [0, 1), of the towers' hidden layers, in training.
        name, dtype, trainable: as for any Keras model.

    Call arguments:
        inputs: dict by column, as `Preprocessor.dataset` and `arrays` make it.
        training: bool.

    Returns:
        Dict by task: float32 `(b,)`, a probability for a binary task and a number for a
        regression; `(b, c)` probabilities for a multiclass task. With a task column
        `{"score"}`, with as many classes as the task with most of them has.

    Raises:
        ValueError: if the preprocessor is not fitted but must be, or an argument is of
            the wrong kind.
    """

    def __init__(
        self,
        preprocessor: Preprocessor | Schema,
        mixture: Structure | keras.layers.Layer,
        tower_units: Sequence[int] = (64,),
        tower_dropout: float = 0.0,
        *,
        name: str | None = None,
        dtype: str | keras.DTypePolicy | None = None,
        trainable: bool = True,
    ) -> None:
        blueprint = _Blueprint.of(preprocessor)
        schema, num_added = blueprint.schema, blueprint.num_added
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        original, config = _recipe_of(mixture, policy)
        # Layers are named so that no column's input can have the same name.
        mixture = nested.filled(
            config, "MultiTaskModel", name="tfmoe_mixture", num_tasks=len(schema.tasks)
        )
        structure = structure_of(mixture)
        encoder = Encoder(
            schema,
            blueprint.table_sizes,
            tokens=structure.token_dim if structure.input_kind == "tokens" else None,
            dtype=policy,
            name="tfmoe_encoder",
        )
        towers = towers_of(
            [task.num_outputs for task in schema.tasks],
            num_added,
            hidden_units=tower_units,
            dropout=tower_dropout,
            dtype=policy,
            name="tfmoe_towers",
        )
        kind: type[Outputs | ScoreOutputs] = ScoreOutputs if schema.task_column else Outputs
        head = kind(schema.tasks, dtype="float32", name="tfmoe_outputs")
        stages = Stages(schema, encoder, structure, towers, head)
        inputs = symbols(schema, blueprint.lengths)
        outputs = stages.forward(inputs, return_aux=False).predictions
        structure.adopt(original)
        super().__init__(
            inputs=inputs, outputs=outputs, name=name, dtype=dtype, trainable=trainable
        )
        self.encoder, self.mixture, self.towers, self.head = encoder, mixture, towers, head
        self.schema = schema
        self.tower_units = tuple(tower_units)
        self.tower_dropout = tower_dropout
        self.lengths = dict(blueprint.lengths)
        self._mixture_config = config
        self._num_added = num_added
        self._stages = _Untracked(stages)
        self._fitted = _Untracked(blueprint.preprocessor)
        self._objectives = _Untracked(None)
        if num_added:
            encoder.trainable = False
            structure.freeze()
        elif blueprint.preprocessor is not None:
            start_at_means(self.towers, schema.tasks, blueprint.preprocessor.label_means)

    @property
    def structure(self) -> Structure:
        """`model.mixture` as a `Structure`, which a plain layer is not by itself."""
        return self._stages.value.structure

    @property
    def preprocessor(self) -> Preprocessor:
        """The fitted Preprocessor, which travels with the model."""
        if self._fitted.value is None:
            raise ValueError(
                "This model was made from a config alone and has no vocabularies. Load "
                "it with keras.saving.load_model, or build it from a Preprocessor."
            )
        return self._fitted.value

    def add_task(
        self,
        task: Task,
        like: str | Sequence[str] | None = None,
        routing: Literal["own", "mix"] = "own",
    ) -> MultiTaskModel:
        """A new model with one more task, to be fitted on few rows of it.

        What was trained (experts, embeddings, gates and towers) is copied and frozen, and the
        old tasks' predictions are the same to the bit, also after further training. Only the
        new task's tower and its part of the gate are trained, as variables of their own. This
        model stays as it is.

        Args:
            task: `Task` such as `Binary`. The new model's `preprocessor` encodes its rows.
            like: sequence of names of related tasks that were trained together, or one name,
                or None for all. The new task starts from the mean of their gates, and with the
                tower of the first if that is of its kind. Where tasks have experts of their
                own, name one: the mean of several may select experts that none of them uses.
            routing: which part of the gate is trained: `"own"`, the new task's embedding if the
                gate has a `TaskRouter`, else the weights of its scores; `"mix"`, the weights of
                a convex combination of the related tasks (of their embeddings with a
                `TaskRouter`, else of their scores), the fewest parameters.

        Returns:
            `MultiTaskModel`, not compiled.

        Raises:
            ValueError: if the structure takes no further task, as `ModSquad` and plain layers,
                or an argument is out of range.
        """
        related = places(self.schema, like, self._num_added)
        check_routing(routing)
        blueprint: Any = _Blueprint.of(self.preprocessor.add_task(task), self._num_added + 1)
        model = MultiTaskModel(
            blueprint,
            self.structure.extended(related, routing),
            tower_units=self.tower_units,
            tower_dropout=self.tower_dropout,
            dtype=self.encoder.dtype_policy,
        )
        copy_extended(self, model, related)
        return model

    @property
    def added_tasks(self) -> tuple[str, ...]:
        """Names of the tasks that `add_task` has added, in their order."""
        return self.schema.task_names[len(self.schema.tasks) - self._num_added :]

    def forward(self, features: dict[str, Tensor], training: bool | None = False) -> ForwardOutput:
        """A forward pass with all that losses and reports need: predictions, logits, gate outputs.

        Args:
            features: dict by column, as `Preprocessor.arrays` makes it.
            training: bool, or None to leave it to Keras.
        """
        return self._stages.value.forward(features, training=training)

    def keep_recipe(self, config: dict[str, Any]) -> None:
        """Sets the recipe of the structure that is saved, to what `Structure.select` returned."""
        self._mixture_config = config

    def encode(self, features: dict[str, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        """The structure's inputs, of features: a vector a row, or tokens and their mask."""
        return self._stages.value.encode(features)

    def call(
        self, inputs: dict[str, Tensor], training: bool | None = None, mask: Any = None
    ) -> Any:
        if is_in_step(self):
            return self.forward(inputs, training=training)
        return super().call(inputs, training=training, mask=mask)

    def train_step(self, *args: Any) -> Any:
        with in_step(self), waiting_for(args[-1]):
            return super().train_step(*self._named(*args))

    def test_step(self, *args: Any) -> Any:
        with in_step(self), waiting_for(args[-1]):
            return super().test_step(*self._named(*args))

    def _named(self, *args: Any) -> tuple[Any, ...]:
        """A step's arguments, features by name: the data, after a state on some backends."""
        *state, data = args
        x, *rest = keras.utils.unpack_x_y_sample_weight(data)
        return *state, (named(self.input, x), *rest)

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        loss: Mapping[str, Any] | None = None,
        loss_weights: Mapping[str, float] | None = None,
        metrics: Mapping[str, Sequence[Any]] | None = None,
        jit_compile: bool | Literal["auto"] = "auto",
        aux_losses: MutualInformationLoss | Sequence[MutualInformationLoss] | None = None,
        **kwargs: Any,
    ) -> None:
        """As in Keras, but losses, weights and metrics follow from the tasks.

        Args:
            optimizer: Keras optimizer or its name; `"adam"` is `tfmoe.optimizers.Adam`.
            loss: dict by task of Keras losses or their names that replace the task's own. They
                get the model's predictions, or the logits if they have `from_logits=True`.
            loss_weights: dict by task of floats that replace `Task.weight`.
            metrics: dict by task of lists of Keras metrics or their names that replace the
                task's own. They get what losses get; row weights and missing labels count for
                them too.
            jit_compile: bool or `"auto"`: on TensorFlow without a GPU, XLA is used where
                it was measured to be faster: the model draws no random numbers in training
                (no dropout, no noisy gate), computes all experts, looks up few embedding
                values a row (`Thresholds.most_looked_up`), has no table so large that its
                gradient is sparse (`Thresholds.dense_rows`), is not in half precision, and
                runs on one device; elsewhere as Keras decides.
            aux_losses: `MutualInformationLoss`, or a list with one, or None.
            **kwargs: the other arguments of `keras.Model.compile`.

        Raises:
            ValueError: if a dict names an unknown task, or is no dict; if two metrics have one
                name; if `weighted_metrics` are given; if an auxiliary loss is of another kind, or
                no gate tells tasks apart.
        """
        if kwargs.get("weighted_metrics"):
            raise ValueError(
                "Row weights count for all metrics. Received weighted_metrics="
                f"{kwargs['weighted_metrics']!r}. Give them by task as `metrics`."
            )
        given: dict[str, Any] = {"loss": loss, "loss_weights": loss_weights, "metrics": metrics}
        for name, value in given.items():
            self._check_by_task(name, value)
        extra: list[Any] = []
        if isinstance(aux_losses, list | tuple):
            extra = list(aux_losses)
        elif aux_losses is not None:
            extra = [aux_losses]
        self._compiled_with = _Untracked(
            {
                "optimizer": optimizer,
                **given,
                "jit_compile": jit_compile,
                "aux_losses": extra,
                **kwargs,
            }
        )
        kind: Any = TaskPerRow if self.schema.task_column else JointLabels
        self._objectives.value = kind(self.schema, loss or {}, loss_weights or {}, metrics or {})
        self._trackers = _Untracked([tracker_of(one, self.structure) for one in extra])
        if optimizer == "adam":
            # Late, for Keras may be loaded in the middle of a user's `import tfmoe.optimizers`.
            from tfmoe.optimizers import Adam

            optimizer = Adam()
        if jit_compile == "auto" and keras.backend.backend() == "tensorflow":
            jit_compile = not kwargs.get("run_eagerly") and jit_pays(self)
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        for table in self.encoder.tables.values():
            table.may_be_compiled = bool(self.jit_compile)
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
                "`self.forward(x, training=True)` in place of the model."
            )
        labels = labels_of(self.schema, y)
        task = task_of(self.schema, x)
        total = self._objectives.value.loss(labels, sample_weight, y_pred, **task)
        for loss in self.losses:
            total = total + ops.sum(ops.cast(loss, "float32"))
        for tracker in self._trackers.value:
            with_label = self._objectives.value.with_label(labels)
            loss = tracker.add(y_pred.aux, with_label, training)
            total = total + loss if training else total
        # Keras adds up the replicas' gradients, and their losses.
        return total / num_replicas()

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        task = task_of(self.schema, x)
        self._objectives.value.update_metrics(
            labels_of(self.schema, y), sample_weight, y_pred, **task
        )
        return self.get_metrics_result()

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        if not self.compiled:
            return super().metrics
        return [*super().metrics, *self._objectives.value.metrics, *self._trackers.value]

    def _encoded(self, x: Any, labels: bool) -> Any:
        """A DataFrame encoded; anything else as it is, for Keras."""
        if is_frame(x):
            return self.preprocessor.arrays(x, labels=labels)
        return x

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | Literal["auto"] = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: dict[int, float] | None = None,
        sample_weight: Any = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """As in Keras; `x` and `validation_data` may also be DataFrames of raw rows.

        `x` may also be what `preprocessor.arrays(rows)` returns, a triple of features, labels
        and weights. With a DataFrame or a triple `sample_weight` multiplies the rows' own
        weights, as does `class_weight`, which is for models with one `Binary` or `Multiclass`
        task.

        Raises:
            ValueError: before the first step, also if a callback watches what is not reported,
                or `class_weight` is given with several tasks.
        """
        batch_size, sample_weight = weights_and_batch(batch_size, sample_weight)
        x, y, sample_weight = unpacked(self._encoded(x, labels=True), y, sample_weight)
        x, sample_weight = weighed_by_class(
            self.schema, class_weight, x, y, sample_weight, validation_split
        )
        validation_data = self._encoded(validation_data, labels=True)
        validates = validation_data is not None or validation_split > 0
        if self.compiled:
            check_watched(self, callbacks, validates)
        if hasattr(x, "element_spec"):
            # A tf.data.Dataset is shuffled where it is made; Keras warns otherwise.
            shuffle = False
        self._build_optimizer()
        self._told = _Untracked(set())
        with quiet_end(x, validation_data):
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
                **kwargs,
            )
        if not validates:
            warn_of_near_ties(self, self._told.value)
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

    def _build_optimizer(self) -> None:
        """Makes the optimizer's variables before the first step, on one device.

        TensorFlow traces a step twice that makes variables.
        """
        strategy = getattr(self, "distribute_strategy", None)
        alone = strategy is not None and strategy.num_replicas_in_sync == 1
        if self.compiled and alone and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)

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
        **kwargs: Any,
    ) -> Any:
        """As in Keras, returning a dict; `x` may also be a DataFrame of raw rows.

        A DataFrame is read in batches of 4,096 rows unless `batch_size` says otherwise.

        Args:
            x, y, batch_size, verbose, sample_weight, steps, callbacks: see
                `keras.Model.evaluate`; `x` may be the triple of `preprocessor.arrays`, as in
                `fit`.
            return_dict: bool; if False, a list in the order of `metrics`, as in Keras.
            exact: bool; compute the AUC of binary tasks in a second pass that sorts all
                scores, in place of the binned one (within about 2e-6 of it once scores are
                spread). A generator, which can be read only once, gets the binned one.
        """
        batch_size, sample_weight = weights_and_batch(batch_size, sample_weight)
        if is_frame(x):
            batch_size = batch_size or 4096
        x, y, sample_weight = unpacked(self._encoded(x, labels=True), y, sample_weight)
        shared: dict[str, Any] = {
            "batch_size": batch_size,
            "sample_weight": sample_weight,
            "steps": steps,
        }
        # `fit` validates through here, once an epoch.
        validates = keras_private.validates_in_fit(kwargs)
        if validates:
            warn_of_near_ties(self, self._told.value)
        with quiet_end(x):
            logs = super().evaluate(
                x, y, verbose=verbose, callbacks=callbacks, return_dict=True, **shared, **kwargs
            )
        if validates:
            warn_of_near_ties(self, self._told.value, "val_")
        elif exact:
            names = self._objectives.value.sorted_aucs
            with quiet_end(x):
                logs.update(exact_aucs(self, names, x, y, **shared))
        return logs if return_dict else keras_private.metrics_in_order(self, logs)

    def predict(
        self, x: Any, batch_size: int | None = None, **kwargs: Any
    ) -> dict[str, np.ndarray]:
        """As in Keras; `x` may also be a DataFrame of raw rows.

        A DataFrame is read in batches of 4,096 rows unless `batch_size` says otherwise.

        Returns:
            Dict by task of NumPy arrays, one entry a row.
        """
        if is_frame(x):
            batch_size = batch_size or 4096
        x = self._encoded(x, labels=False)
        with quiet_end(x):
            return super().predict(x, batch_size=batch_size, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "trainable": self.trainable,
            # Keras's Functional models drop theirs.
            "dtype": keras.dtype_policies.serialize(self.encoder.dtype_policy),
            "schema": self.schema.to_dict(),
            "table_sizes": self.encoder.table_sizes,
            "lengths": self.lengths,
            "mixture": self._mixture_config,
            "tower_units": list(self.tower_units),
            "tower_dropout": self.tower_dropout,
            "num_added": self._num_added,
            "frozen": frozen_places(self),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        config = dict(config)
        blueprint: Any = _Blueprint(
            Schema.from_dict(config.pop("schema")),
            config.pop("table_sizes"),
            config.pop("lengths"),
            config.pop("num_added", 0),
        )
        check_sizes(blueprint.schema, blueprint.table_sizes, blueprint.lengths)
        frozen = config.pop("frozen", None)
        model = cls(blueprint, **config)
        freeze_places(model, frozen)
        return model

    def save(
        self, filepath: Any, overwrite: bool = True, zipped: bool | None = None, **kwargs: Any
    ) -> None:
        """As in Keras, but the file appears whole or not at all.

        It is written beside its place, and takes the place of an older one when it is complete.

        Raises:
            FileExistsError: with `overwrite=False`, if something is there.
        """
        with _draft_of(filepath, overwrite) as draft:
            super().save(draft, zipped=zipped, **kwargs)

    def save_weights(
        self, filepath: Any, overwrite: bool = True, max_shard_size: float | None = None
    ) -> None:
        """As in Keras, but the file appears whole or not at all, unless there are several."""
        if max_shard_size is not None:
            super().save_weights(filepath, overwrite, max_shard_size)
            return
        with _draft_of(filepath, overwrite) as draft:
            super().save_weights(draft)

    def save_assets(self, path: str) -> None:
        """Called by Keras in saving: vocabularies and moments go into the `.keras` file."""
        self.preprocessor.save(path, state=False)

    def load_assets(self, path: str) -> None:
        """Called by Keras in loading.

        Raises:
            ValueError: if the vocabularies are not those that the model was made with.
        """
        preprocessor = Preprocessor.load(path)
        check_goes_with(
            preprocessor, self.schema, dict(self.encoder.table_sizes), dict(self.lengths)
        )
        self._fitted.value = preprocessor


def _draft_of(path: Any, overwrite: bool) -> contextlib.AbstractContextManager[Any]:
    """Where to write what is to appear at a path; the path itself if that is a remote one."""
    if is_remote(path):
        return contextlib.nullcontext(path)
    if not overwrite:
        check_new(path)
    return replaced(path)


class _Untracked:
    """Holds what Keras must not take for a part of the model."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _recipe_of(mixture: Any, policy: Any) -> tuple[Any, dict[str, Any]]:
    """The layer behind the argument `mixture`, and its config.

    Raises:
        ValueError: if it is no layer.
    """
    mixture = nested.given(mixture)
    if not isinstance(mixture, keras.layers.Layer):
        raise ValueError(
            "MultiTaskModel takes a mixture layer such as "
            f"tfmoe.MMoE(num_experts=8). Received mixture={mixture!r}."
        )
    nested.warn_of_policies(mixture, policy)
    return mixture, nested.config_of(mixture)
