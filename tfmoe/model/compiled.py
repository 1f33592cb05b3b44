"""How a `MultiTaskModel` is compiled, and what a step of it does."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
from keras import ops

from tfmoe import keras_private
from tfmoe.compute.device import waiting_for
from tfmoe.compute.replicas import num_replicas, of_this_replica
from tfmoe.compute.shared import combining, current
from tfmoe.compute.types import Tensor
from tfmoe.model.finite import guarded
from tfmoe.model.forward import ForwardOutput, in_step
from tfmoe.model.inputs import (
    labels_of,
    listed,
    named,
    task_of,
)
from tfmoe.model.jit import jit_pays
from tfmoe.model.parts import parts_of
from tfmoe.model.replicas import (
    check_workers,
    in_scope,
    replicas_of,
)
from tfmoe.model.separate_step import separate_step
from tfmoe.model.untracked import Untracked
from tfmoe.model.watched import check_reported
from tfmoe.model.weighing import learner_of, looked_again
from tfmoe.objectives.joint_labels import JointLabels
from tfmoe.objectives.mutual_information import MutualInformationLoss, tracker_of
from tfmoe.objectives.task_per_row import TaskPerRow
from tfmoe.objectives.total_loss import TotalLoss
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

# With more of them, a step returns the loss alone.
_MANY_METRICS = 32

_ON_REPLICAS = (
    "On several replicas an optimizer takes a step for each batch: TensorFlow cannot add up "
    "replicas' gradients in some steps only"
)


class Compiled(keras_private.BuiltBefore, keras_private.ReportsAtTheEnd, keras.Model):
    """A Keras model whose losses and metrics follow from the tasks of its schema.

    A part of `MultiTaskModel`, which has what is used here: `schema`, `encoder`, `structure`,
    `head`, `forward_pass`.
    """

    schema: Any
    encoder: Any
    structure: Any
    head: Any
    forward_pass: Any
    wide: Any
    position: str | None
    _objectives: Untracked
    _guard: Untracked
    #: What weighs the tasks' losses, and what it has learned; None where weights are fixed.
    weighting_state: WeightLearner | None = None

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
        metrics: Mapping[str, Any] | None = None,
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
                They make a number for each row, which `positive_weight` multiplies too.
            loss_weights: dict by task of floats that replace `Task.weight`.
            metrics: dict by task of Keras metrics or their names, or of lists of such, that replace
                the task's own. They get what losses get, but of a regression in its label's units;
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
                own. What it learns is saved with the model. With an optimizer's
                `gradient_accumulation_steps` it learns at every batch all the same, not at every
                update; `FAMO` is then refused.
            **kwargs: the other arguments of `keras.Model.compile`.

        Raises:
            ValueError: if a dict names an unknown task, or is no dict; if two metrics have one
                name; if `weighted_metrics` are given; if an auxiliary loss is of another kind, or
                no gate tells tasks apart; if `weighting` is unknown, or does not go with the
                tasks or the optimizer.
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
        if metrics is not None:
            metrics = {task: listed(own) for task, own in metrics.items() if own is not None}
            given["metrics"] = metrics
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
            check_accumulates_nothing(keras.optimizers.get(optimizer), _ON_REPLICAS)
        elif weighting is not None and weighting.looks_again:
            why = f"{type(weighting).__name__} compares a batch's losses before and after its step"
            check_accumulates_nothing(keras.optimizers.get(optimizer), why)
        if jit_compile == "auto" and keras.backend.backend() == "tensorflow":
            jit_compile = not kwargs.get("run_eagerly") and jit_pays(self)
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        keras_private.report_loss_by(self, TotalLoss(self._objectives.value.reported_loss))
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
            if by_part is not None and table.trainable_weights:
                own = by_part.optimizer_of(table.trainable_weights[0])
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
        others = [ops.sum(ops.cast(one, "float32")) for one in of_this_replica(self.losses)]
        for tracker in self._trackers.value:
            with_label = self._objectives.value.with_label(labels)
            loss = tracker.add(y_pred.aux, with_label, training)
            others += [loss] if training else []
        if others:
            num_rows = ops.shape(next(iter(y_pred.logits.values())))[0]
            self.metrics[0].add(sum(others), num_rows)
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
        """The loss, looked at in each step.

        Also where nobody wants to know now: a later training may run the same graph.
        """
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
