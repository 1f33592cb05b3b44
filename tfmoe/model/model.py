"""The whole model: encoder, mixture, towers, and losses and metrics that follow from tasks."""

import contextlib
import contextvars
import copy
from typing import NamedTuple

import keras
from keras import ops

from tfmoe import keras_private
from tfmoe.compute import nested
from tfmoe.compute.device import num_replicas
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.features.encoder import Encoder
from tfmoe.heads.extended import towers_of
from tfmoe.heads.outputs import Outputs, ScoreOutputs, start_at_means
from tfmoe.model import add_task
from tfmoe.model.frozen import freeze_places, frozen_places
from tfmoe.model.inputs import (
    columns_of,
    ids_of,
    is_frame,
    labels_of,
    named,
    quiet_end,
    symbols,
    task_of,
    unpacked,
)
from tfmoe.model.jit import jit_pays
from tfmoe.objectives.exact_auc import exact_aucs
from tfmoe.objectives.joint_labels import AllLabels
from tfmoe.objectives.mutual_information import tracker_of
from tfmoe.objectives.task_per_row import OwnLabel
from tfmoe.schema.schema import Schema

# Set while a training or test step runs: the model then returns all of `Forward`, for
# losses need more than the public output. A context variable, because replicas of one
# model run their steps in threads of their own.
_IN_STEP = contextvars.ContextVar("tfmoe_in_step", default=None)


class Forward(NamedTuple):
    """Everything one pass makes.

    Attributes:
        predictions: dict by output: probabilities or numbers `(b,)`, or class
            probabilities `(b, c)`.
        logits: the same before the last activation.
        aux: the mixture's list of `GateOutput`s.
    """

    predictions: dict
    logits: dict
    aux: list


class _Sizes(NamedTuple):
    """What a model needs to know of a Preprocessor to be built without one."""

    schema: Schema
    table_sizes: dict
    lengths: dict


@keras.saving.register_keras_serializable("tfmoe")
class MultiTaskModel(keras.Model):
    r"""A multi-task model over a table: columns in, one prediction a task out.

        features -> Encoder -> mixture -> Towers -> {task: prediction}

    It is a Functional Keras model; its inputs are named by column and its outputs by
    task. A missing label (NaN, no such column, outside the task's `where`) adds nothing
    to loss, gradients or metrics.

    With a `task_column` in the schema each row belongs to one task: only that task's gate,
    experts and tower are computed for it, and the one output is `score`. Losses and
    metrics are still by task.

    Args:
        preprocessor: fitted `Preprocessor`; or a `Schema` of which every column can be
            used unfitted (hashed ids, numbers as they are).
        mixture: `SharedBottom`, `OMoE`, `MMoE`, `ModSquad`, or any layer
            `(b, f) -> (b, t, u)` with a constructor argument `num_tasks` and a call
            argument `return_aux` (and `task`, for rows of one task each). It is a recipe:
            the model's own copy, with `num_tasks` filled in, is `model.mixture`. It
            keeps its own dtype policy; a warning says where that is not the model's.
        tower_units: sequence of int >= 1, hidden units of every task's tower; `()` for
            none.
        tower_dropout: float in [0, 1).
        num_added: int, how many of the last tasks were added one by one; for `add_task`,
            which makes such models.

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
        preprocessor,
        mixture,
        tower_units=(64,),
        tower_dropout=0.0,
        num_added=0,
        **kwargs,
    ):
        if isinstance(preprocessor, Schema):
            preprocessor = Preprocessor(preprocessor)
        if not isinstance(preprocessor, Preprocessor | _Sizes):
            raise ValueError(
                "MultiTaskModel reads columns, tasks and vocabularies from a fitted "
                f"Preprocessor. Received preprocessor={preprocessor!r}. Make one with "
                "`tfmoe.Preprocessor(schema).fit(data)`."
            )
        schema, sizes = preprocessor.schema, preprocessor.table_sizes
        mixture = nested.given(mixture)
        if not isinstance(mixture, keras.layers.Layer):
            raise ValueError(
                "MultiTaskModel takes a mixture layer such as "
                f"tfmoe.MMoE(num_experts=8). Received mixture={mixture!r}."
            )
        dtype = keras.dtype_policies.get(kwargs.get("dtype") or keras.config.dtype_policy())
        nested.warn_of_policies(mixture, dtype)
        config, original = nested.config_of(mixture), mixture
        tokens = mixture.dim if getattr(mixture, "takes", "flat") == "tokens" else None
        encoder = Encoder(schema, sizes, tokens=tokens, dtype=dtype, name="tfmoe_encoder")
        # Layers are named so that no column's input can have the same name.
        mixture = nested.filled(
            config, "MultiTaskModel", name="tfmoe_mixture", num_tasks=len(schema.tasks)
        )
        outputs = [task.num_outputs for task in schema.tasks]
        towers = towers_of(
            outputs,
            num_added,
            hidden_units=tower_units,
            dropout=tower_dropout,
            dtype=dtype,
            name="tfmoe_towers",
        )
        kind = ScoreOutputs if schema.task_column else Outputs
        head = kind(schema.tasks, dtype="float32", name="tfmoe_outputs")
        inputs = symbols(schema, preprocessor.lengths)
        task = task_of(schema, inputs)
        encoded = encoder(columns_of(schema, inputs))
        hidden = mixture(encoded, **task, **ids_of(schema, mixture, inputs))
        if hasattr(mixture, "adopt"):
            mixture.adopt(original)
        predictions, _ = head(towers(hidden, **task), **task)
        super().__init__(inputs=inputs, outputs=predictions, **kwargs)
        self.encoder, self.mixture, self.towers, self.head = encoder, mixture, towers, head
        self.schema = schema
        self.tower_units = tuple(tower_units)
        self.tower_dropout = tower_dropout
        self.num_added = num_added
        self._mixture_config = config
        self.lengths = dict(preprocessor.lengths)
        self._fitted = _Untracked(None)
        self._objectives = _Untracked(None)
        if isinstance(preprocessor, Preprocessor):
            # Its own, for the caller may fit theirs again.
            self._fitted.value = copy.copy(preprocessor)
        if num_added:
            encoder.trainable = False
            mixture.freeze()
        elif isinstance(preprocessor, Preprocessor):
            start_at_means(self.towers, schema.tasks, preprocessor.label_means)

    @property
    def preprocessor(self):
        """The fitted Preprocessor, which travels with the model."""
        if self._fitted.value is None:
            raise ValueError(
                "This model was made from a config alone and has no vocabularies. Load "
                "it with keras.saving.load_model, or build it from a Preprocessor."
            )
        return self._fitted.value

    def add_task(self, task, like=None, routing="own"):
        """A new model with one more task, to be fitted on few rows of it.

        All there is stays as it is, experts, embeddings, gates and towers: it is frozen,
        and the old tasks' predictions are the same to the bit, also after training. Trained
        are only the new task's tower and its part of the gate, variables of their own.

        Args:
            task: `Task`, whose rows have the `preprocessor` of the new model encode them.
            like: sequence of names of related tasks that were trained together, or None
                for all. The new task starts from the mean of their gates, and with the
                tower of the first if that is of its kind. Where tasks have experts of their
                own, name one: the mean of several may select experts that none of them uses.
            routing: what is fitted of the gate: `"own"`, its embedding if the gate has a
                `TaskRouter`, else its own scores' weights; `"mix"`, the weights of a convex
                mix of the related tasks (of their embeddings with a `TaskRouter`, else of
                their scores), which is fewest.

        Returns:
            `MultiTaskModel`, not compiled.

        Raises:
            ValueError: if the mixture is neither `MMoE`, `OMoE` nor `SharedBottom`, or an
                argument is out of range.
        """
        related = add_task.places(self.schema, like, self.num_added)
        first = self.schema.tasks[related[0]]
        model = MultiTaskModel(
            self.preprocessor.add_task(task),
            add_task.extended_mixture(self.mixture, related, routing),
            tower_units=self.tower_units,
            tower_dropout=self.tower_dropout,
            num_added=self.num_added + 1,
            dtype=self.encoder.dtype_policy,
        )
        same_kind = type(first) is type(task) and first.num_outputs == task.num_outputs
        add_task.copy_extended(self, model, related, same_kind)
        return model

    def run(self, features, training=False):
        """One pass with everything losses and reports need; returns `Forward`."""
        encoded = self.encoder(columns_of(self.schema, features))
        task = task_of(self.schema, features)
        hidden, aux = self.mixture(
            encoded,
            **task,
            **ids_of(self.schema, self.mixture, features),
            training=training,
            return_aux=True,
        )
        logits = self.towers(hidden, **task, training=training)
        return Forward(*self.head(logits, **task), aux)

    def call(self, inputs, training=None, mask=None):
        if _IN_STEP.get() is self:
            return self.run(inputs, training=training)
        return super().call(inputs, training=training, mask=mask)

    @contextlib.contextmanager
    def _step(self):
        token = _IN_STEP.set(self)
        try:
            yield
        finally:
            _IN_STEP.reset(token)

    def train_step(self, *args):
        with self._step():
            return super().train_step(*self._named(*args))

    def test_step(self, *args):
        with self._step():
            return super().test_step(*self._named(*args))

    def _named(self, *args):
        """What a step is called with: a state on some backends, and data, the last."""
        *state, data = args
        x, *rest = keras.utils.unpack_x_y_sample_weight(data)
        return *state, (named(self.input, x), *rest)

    def compile(
        self,
        optimizer="adam",
        loss=None,
        loss_weights=None,
        metrics=None,
        jit_compile="auto",
        aux_losses=None,
        **kwargs,
    ):
        """As in Keras, but losses, weights and metrics follow from the tasks.

        Args:
            optimizer: Keras optimizer or its name; `"adam"` is `tfmoe.optimizers.Adam`.
            loss: dict by task of Keras losses or names that replace the task's own. They get
                the model's predictions, or with `from_logits=True` what these are made of.
            loss_weights: dict by task of floats that replace `Task.weight`.
            metrics: dict by task of lists of Keras metrics or names that replace the
                task's own, which get the same. Row weights and missing labels count for
                them too.
            jit_compile: bool or `"auto"`: on TensorFlow without a GPU, XLA is used if
                it was measured to pay: the model draws no random numbers in training
                (no dropout, no noisy gate), computes all experts, looks up at most 256
                embedding values a row, has no embedding table above 100,000 rows, is not
                in half precision, and runs on one device; elsewhere as Keras decides.
            aux_losses: `MutualInformationLoss`, or a list with one, or None.
            **kwargs: the other arguments of `keras.Model.compile`.

        Raises:
            ValueError: if a dict names an unknown task, or is no dict; for `weighted_metrics`.
        """
        if kwargs.get("weighted_metrics"):
            raise ValueError(
                "Row weights count for all metrics. Received weighted_metrics="
                f"{kwargs['weighted_metrics']!r}. Give them by task as `metrics`."
            )
        given = {"loss": loss, "loss_weights": loss_weights, "metrics": metrics}
        for name, value in given.items():
            self._check_by_task(name, value)
        if not isinstance(aux_losses, list | tuple):
            aux_losses = [] if aux_losses is None else [aux_losses]
        self._compiled_with = _Untracked(
            {
                "optimizer": optimizer,
                **given,
                "jit_compile": jit_compile,
                "aux_losses": list(aux_losses),
                **kwargs,
            }
        )
        kind = OwnLabel if self.schema.task_column else AllLabels
        self._objectives.value = kind(self.schema, loss or {}, loss_weights or {}, metrics or {})
        self._trackers = _Untracked([tracker_of(one, self.mixture) for one in aux_losses])
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

    def _check_by_task(self, name, value):
        if value is None:
            return
        names = list(self.schema.task_names)
        if not isinstance(value, dict) or not set(value) <= set(names):
            raise ValueError(
                f"compile takes `{name}` as a dict by task, of the tasks {names}. "
                f"Received {name}={value!r}. Leave out the tasks that keep their own."
            )

    def get_compile_config(self):
        given = self._compiled_with.value if self.compiled else {}
        # Left out what was not given: a clone is a plain Keras model, which knows less.
        return {
            name: keras.saving.serialize_keras_object(value)
            for name, value in given.items()
            if value is not None and value != []
        }

    def compile_from_config(self, config):
        given = {
            name: keras.saving.deserialize_keras_object(value) for name, value in config.items()
        }
        self.compile(**given)
        self.optimizer.build(self.trainable_variables)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if not isinstance(y_pred, Forward):
            raise ValueError(
                "compute_loss takes as `y_pred` all that a pass makes. Received "
                f"{type(y_pred).__name__}. In a train_step of your own call "
                "`self.run(x, training=True)` in place of the model."
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

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        task = task_of(self.schema, x)
        self._objectives.value.update_metrics(
            labels_of(self.schema, y), sample_weight, y_pred, **task
        )
        return self.get_metrics_result()

    @property
    def metrics(self):
        if not self.compiled:
            return super().metrics
        return [*super().metrics, *self._objectives.value.metrics, *self._trackers.value]

    def _encoded(self, x, labels):
        """DataFrames are encoded; anything else is what Keras takes."""
        if is_frame(x):
            return self.preprocessor.arrays(x, labels=labels)
        return x

    def fit(self, x=None, y=None, sample_weight=None, validation_data=None, **kwargs):
        """As in Keras; `x` and `validation_data` may also be DataFrames of raw rows.

        `sample_weight` is the third argument, so that `fit(*preprocessor.arrays(rows))`
        does what it says; all others are given by name. Beside a DataFrame it multiplies the
        rows' own weights.
        """
        x, y, sample_weight = unpacked(self._encoded(x, labels=True), y, sample_weight)
        validation_data = self._encoded(validation_data, labels=True)
        if hasattr(x, "element_spec"):
            # A tf.data.Dataset is shuffled where it is made; Keras warns otherwise.
            kwargs.setdefault("shuffle", False)
        self._build_optimizer()
        with quiet_end(x, validation_data):
            return super().fit(
                x, y, sample_weight=sample_weight, validation_data=validation_data, **kwargs
            )

    def _build_optimizer(self):
        """Makes the optimizer's variables before the first step, on one device.

        TensorFlow traces a step twice that makes variables.
        """
        strategy = getattr(self, "distribute_strategy", None)
        alone = strategy is not None and strategy.num_replicas_in_sync == 1
        if self.compiled and alone and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)

    def evaluate(self, x=None, y=None, sample_weight=None, exact=True, return_dict=True, **kwargs):
        """As in Keras, returning a dict; `x` may also be a DataFrame of raw rows.

        A DataFrame is read in batches of 4,096 rows unless `batch_size` says otherwise.

        Args:
            x, y, sample_weight: see `keras.Model.evaluate`.
            exact: bool; take the AUC of binary tasks from a second pass that sorts all
                scores, in place of the binned one (within about 2e-6 of it once scores are
                spread). A generator can be read once, and has the binned one.
            return_dict: bool; if False, a list in the order of `metrics`, as in Keras.
            **kwargs: see `keras.Model.evaluate`.
        """
        if is_frame(x):
            kwargs["batch_size"] = kwargs.get("batch_size") or 4096
        x, y, sample_weight = unpacked(self._encoded(x, labels=True), y, sample_weight)
        # `fit` validates through here, once an epoch.
        in_fit = keras_private.validates_in_fit(kwargs)
        with quiet_end(x):
            logs = super().evaluate(x, y, sample_weight=sample_weight, return_dict=True, **kwargs)
        if exact and not in_fit:
            names = self._objectives.value.sorted_aucs
            with quiet_end(x):
                logs.update(exact_aucs(self, names, x, y, sample_weight, **kwargs))
        return logs if return_dict else keras_private.metrics_in_order(self, logs)

    def predict(self, x, batch_size=None, **kwargs):
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

    def get_config(self):
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "schema": self.schema.to_dict(),
            "table_sizes": self.encoder.table_sizes,
            "lengths": self.lengths,
            "mixture": self._mixture_config,
            "tower_units": list(self.tower_units),
            "tower_dropout": self.tower_dropout,
            "num_added": self.num_added,
            "frozen": frozen_places(self),
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        sizes = _Sizes(
            Schema.from_dict(config.pop("schema")), config.pop("table_sizes"), config.pop("lengths")
        )
        frozen = config.pop("frozen", None)
        model = cls(sizes, **config)
        freeze_places(model, frozen)
        return model

    def save_assets(self, path):
        """Called by Keras in saving: vocabularies and moments go into the `.keras` file."""
        self.preprocessor.save(path, state=False)

    def load_assets(self, path):
        """Called by Keras in loading."""
        self._fitted.value = Preprocessor.load(path)


class _Untracked:
    """Holds what Keras must not take for a part of the model."""

    def __init__(self, value):
        self.value = value
