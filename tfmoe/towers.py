"""Towers: per task, the last layers and the outputs."""

import keras
from keras import ops

from tfmoe import recipe
from tfmoe.experts import Experts, stacked_dense
from tfmoe.initializers import PerMember
from tfmoe.tasks import Binary, Multiclass


@keras.saving.register_keras_serializable("tfmoe")
class Towers(keras.layers.Layer):
    r"""One small network a task, all computed together.

    Args:
        num_outputs: sequence of int >= 1, for each task how many numbers it needs: 1,
            or a multiclass task's number of classes.
        hidden_units: sequence of int >= 1, units of the hidden layers; `()` for none.
        activation, dropout, layer_norm, kernel_initializer: see `Experts`.

    Call arguments:
        inputs: float tensor `(b, t, u)`, one representation a task.
        training: bool, for the dropout.

    Returns:
        List of `t` float tensors `(b, num_outputs[t])`, without activation (logits).
        They are float32 under half precision too.

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
        if len(input_shape) != 3 or input_shape[1] != len(self.num_outputs):
            raise ValueError(
                "Towers take inputs of shape (batch, tasks, units) with "
                f"{len(self.num_outputs)} tasks. Received shape {tuple(input_shape)}."
            )
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

    def call(self, inputs, training=False):
        hidden = self.hidden(inputs, training=training)
        exact = keras.backend.result_type(self.compute_dtype, "float32")
        kernel, bias = ops.cast(self.kernel, exact), ops.cast(self.bias, exact)
        logits = stacked_dense(ops.cast(hidden, exact), kernel, bias)
        return [values[:, :n] for values, n in zip(logits, self.num_outputs, strict=True)]

    def get_config(self):
        config = self.hidden.get_config()
        shared = ("hidden_units", "activation", "dropout", "layer_norm", "kernel_initializer")
        return {
            **super().get_config(),
            "num_outputs": list(self.num_outputs),
            **{name: config[name] for name in shared},
        }


class Outputs(keras.layers.Layer):
    """Towers' logits to `(predictions, logits)`, dicts by task."""

    def __init__(self, tasks, **kwargs):
        super().__init__(**kwargs)
        self.tasks = tasks

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
