"""Towers: per task, the last layers and the outputs."""

import math

import keras
import numpy as np
from keras import ops

from tfmoe import dispatch, recipe
from tfmoe.device import check_tasks
from tfmoe.experts import Experts
from tfmoe.initializers import PerMember
from tfmoe.schema import part_from_dict, part_to_dict
from tfmoe.stacked import stacked_dense
from tfmoe.tasks import Binary, Multiclass, Task


@keras.saving.register_keras_serializable("tfmoe")
class Towers(keras.layers.Layer):
    r"""One small network a task, all computed together.

    Args:
        num_outputs: sequence of int >= 1, for each task how many numbers it needs: 1,
            or a multiclass task's number of classes.
        hidden_units: sequence of int >= 1, units of the hidden layers; `()` for none.
        activation, dropout, layer_norm, kernel_initializer: see `Experts`.

    Call arguments:
        inputs: float tensor `(b, t, u)`, one representation a task; `(b, 1, u)` with
            `task`.
        task: int tensor `(b,)`, the task of each row, or None where a row has them all.
            Only a row's own tower is computed where that is faster.
        training: bool, for the dropout.

    Returns:
        List of `t` float tensors `(b, num_outputs[t])`, without activation (logits).
        With `task` one tensor `(b, max(num_outputs))`; what a task has no outputs for is
        any. They are float32 under half precision too.

    Raises:
        ValueError: if a count is too small, or the input has another number of tasks.

    Example:

    >>> [logits.shape for logits in Towers((1, 3), hidden_units=(4,))(np.ones((2, 2, 8)))]
    [TensorShape([2, 1]), TensorShape([2, 3])]
    """

    def __init__(
        self,
        num_outputs,
        hidden_units=(64,),
        activation="relu",
        dropout=0.0,
        layer_norm=False,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_outputs = recipe.sizes("Towers", "num_outputs", num_outputs)
        if not self.num_outputs:
            raise ValueError("Towers need at least one task. Received num_outputs=().")
        self.hidden = Experts(
            len(self.num_outputs),
            hidden_units,
            activation,
            dropout,
            layer_norm,
            kernel_initializer,
            dtype=self.dtype_policy,
            name="hidden",
        )

    def build(self, input_shape):
        num = len(self.num_outputs)
        self._check_shape(input_shape, (1, num))
        input_shape = (input_shape[0], num, input_shape[2])
        self.hidden.build(input_shape)
        units = self.hidden.compute_output_shape(input_shape)[-1]
        # Tasks with fewer outputs than the widest have columns that nobody reads.
        shape = (len(self.num_outputs), units, max(self.num_outputs))
        self.kernel = self.add_weight(
            name="kernel",
            shape=shape,
            initializer=PerMember(self.hidden.kernel_initializer, salt=-1),
        )
        self.bias = self.add_weight(name="bias", shape=(shape[0], shape[2]), initializer="zeros")

    def _check_shape(self, shape, tasks):
        if len(shape) != 3 or shape[1] not in tasks:
            raise ValueError(
                "Towers take inputs of shape (batch, tasks, units) with "
                f"{len(self.num_outputs)} tasks, or (batch, 1, units) with the `task` of each "
                f"row. Received shape {tuple(shape)}."
            )

    def call(self, inputs, task=None, training=False):
        num = len(self.num_outputs)
        self._check_shape(inputs.shape, (num,) if task is None else (1,))
        if task is not None:
            task = ops.convert_to_tensor(task)
            check_tasks("Towers", task, num)
        if task is not None and num > 1 and self._dispatch_pays():
            return self._own(inputs[:, 0], task, training)
        if task is not None:
            inputs = ops.repeat(inputs, num, axis=1)
        hidden = self.hidden(inputs, training=training)
        logits = stacked_dense(ops.cast(hidden, self._exact), *self._last())
        if task is None:
            return [values[:, :n] for values, n in zip(logits, self.num_outputs, strict=True)]
        taken = ops.take_along_axis(ops.stack(logits, axis=1), task[:, None, None], axis=1)
        return taken[:, 0]

    @property
    def _exact(self):
        return keras.backend.result_type(self.compute_dtype, "float32")

    def _last(self):
        return ops.cast(self.kernel, self._exact), ops.cast(self.bias, self._exact)

    def _dispatch_pays(self):
        kernels = [*self.hidden.kernels, self.kernel]
        num_weights = sum(math.prod(kernel.shape[1:]) for kernel in kernels)
        return dispatch.pays(1, len(self.num_outputs), num_weights, certain=True)

    def _own(self, inputs, task, training):
        """Every row `(b, u)` through the tower of its task."""
        plan = dispatch.plan(task[:, None], len(self.num_outputs))
        parts = dispatch.spread(inputs, plan, len(self.num_outputs))
        parts = self.hidden.through(parts, plan, training)
        kernel, bias = self._last()
        parts = [ops.cast(part, self._exact) for part in parts]
        own, later = dispatch.grouped_matmul(*parts, kernel, plan)
        own = own + bias[:, None]
        later = later + ops.take(bias, plan.experts, axis=0)[:, None]
        return dispatch.collect(own, later, plan)[:, 0]

    def compute_output_shape(self, input_shape):
        return [(input_shape[0], num) for num in self.num_outputs]

    def compute_output_spec(self, inputs, task=None, training=False):
        if task is not None:
            shape = (inputs.shape[0], max(self.num_outputs))
            return keras.KerasTensor(shape, dtype=self._exact)
        return [
            keras.KerasTensor((inputs.shape[0], n), dtype=self._exact) for n in self.num_outputs
        ]

    def get_config(self):
        config = self.hidden.get_config()
        shared = ("hidden_units", "activation", "dropout", "layer_norm", "kernel_initializer")
        return {
            **super().get_config(),
            "num_outputs": list(self.num_outputs),
            **{name: config[name] for name in shared},
        }


@keras.saving.register_keras_serializable("tfmoe")
class ExtendedTowers(keras.layers.Layer):
    """Towers that were trained, and one for each task that came after them.

    All but the newest task's tower are frozen. Those trained before run apart, on the
    shapes they had, so that their logits stay the same to the bit.

    Args:
        num_outputs: see `Towers`; those of the added tasks come last.
        num_added: int >= 1, how many tasks were added, one at a time.
        hidden_units, dropout: see `Towers`.

    Call arguments, returns: see `Towers`.
    """

    def __init__(self, num_outputs, num_added, hidden_units=(64,), dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.num_outputs, self.num_added = tuple(num_outputs), num_added
        self.num_base = len(self.num_outputs) - num_added
        groups = [self.num_outputs[: self.num_base]]
        groups += [(num,) for num in self.num_outputs[self.num_base :]]
        self.groups = [
            Towers(group, hidden_units, dropout=dropout, dtype=self.dtype_policy, name=f"group_{i}")
            for i, group in enumerate(groups)
        ]
        self.hidden_units, self.dropout = tuple(hidden_units), dropout

    def build(self, input_shape):
        for group in self.groups:
            group.build((input_shape[0], len(group.num_outputs), input_shape[2]))
            group.trainable = group is self.groups[-1]

    def call(self, inputs, task=None, training=False):
        base, *added = self.groups
        if task is None:
            logits = base(inputs[:, : self.num_base], training=training)
            for i, group in enumerate(added, self.num_base):
                logits = logits + group(inputs[:, i : i + 1], training=training)
            return logits
        widest = max(self.num_outputs)
        old = ops.minimum(task, self.num_base - 1)
        logits = _widened(base(inputs, task=old, training=training), widest)
        for i, group in enumerate(added, self.num_base):
            own = group(inputs, training=training)[0]
            logits = ops.where((task == i)[:, None], _widened(own, widest), logits)
        return logits

    def get_config(self):
        return {
            **super().get_config(),
            "num_outputs": list(self.num_outputs),
            "num_added": self.num_added,
            "hidden_units": list(self.hidden_units),
            "dropout": self.dropout,
        }


def towers_of(num_outputs, num_added, **options):
    """`Towers`, or `ExtendedTowers` if the last `num_added` tasks came one by one."""
    if num_added:
        return ExtendedTowers(num_outputs, num_added, **options)
    return Towers(num_outputs, **options)


def _widened(logits, width):
    """`(b, n)` with columns of zeros up to `width`."""
    return ops.pad(logits, ((0, 0), (0, width - logits.shape[1])))


class _OfTasks(keras.layers.Layer):
    """A layer that is given the tasks, or a saved config of them."""

    def __init__(self, tasks, **kwargs):
        super().__init__(**kwargs)
        self.tasks = tuple(
            part_from_dict(task, Task) if isinstance(task, dict) else task for task in tasks
        )

    def get_config(self):
        return {**super().get_config(), "tasks": [part_to_dict(task) for task in self.tasks]}


@keras.saving.register_keras_serializable("tfmoe")
class Outputs(_OfTasks):
    """Towers' logits to `(predictions, logits)`, dicts by task."""

    def call(self, logits):
        predictions, named = {}, {}
        for task, values in zip(self.tasks, logits, strict=True):
            if isinstance(task, Multiclass):
                predictions[task.name] = ops.softmax(values, axis=-1)
            else:
                values = values[:, 0]
                binary = isinstance(task, Binary)
                predictions[task.name] = ops.sigmoid(values) if binary else values
            named[task.name] = values
        return predictions, named


@keras.saving.register_keras_serializable("tfmoe")
class ScoreOutputs(_OfTasks):
    """Towers' logits of rows of one task each to `(predictions, logits)`, both `{"score"}`.

    Tasks with fewer classes than the widest have probability 0 for the others.
    """

    def call(self, logits, task):
        if isinstance(self.tasks[0], Multiclass):
            counts = np.array([one.num_outputs for one in self.tasks])
            known = np.arange(counts.max()) < counts[:, None]
            logits = ops.where(ops.take(ops.array(known), task, axis=0), logits, -1e9)
            return {"score": ops.softmax(logits, axis=-1)}, {"score": logits}
        logits = logits[:, 0]
        binary = np.array([isinstance(one, Binary) for one in self.tasks])
        if binary.all():
            scores = ops.sigmoid(logits)
        elif not binary.any():
            scores = logits
        else:
            scores = ops.where(ops.take(ops.array(binary), task), ops.sigmoid(logits), logits)
        return {"score": scores}, {"score": logits}


def start_at_means(towers, tasks, label_means):
    """Sets the towers' last biases so that the first prediction is the mean label.

    Args:
        towers: built `Towers` of all tasks.
        tasks: sequence of `Task`.
        label_means: dict by task, as a `Preprocessor` has it; NaN where there is none.
    """
    bias = ops.convert_to_numpy(towers.bias).copy()
    for t, task in enumerate(tasks):
        mean = np.asarray(label_means.get(task.name, np.nan), "float64")
        if np.isnan(mean).any():
            continue
        if isinstance(task, Multiclass):
            bias[t, : task.num_outputs] = np.log(np.clip(mean, 1e-4, 1))
        elif isinstance(task, Binary):
            mean = np.clip(mean, 1e-4, 1 - 1e-4)
            bias[t, 0] = np.log(mean / (1 - mean))
        else:
            bias[t, 0] = mean
    towers.bias.assign(bias)
