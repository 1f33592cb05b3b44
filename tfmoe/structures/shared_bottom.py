"""The simplest sharing: one network for all tasks."""

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute.registered import registered
from tfmoe.experts.mlp import Experts
from tfmoe.structures.base import Structure


@registered
class SharedBottom(Structure):
    r"""One network whose output every task's tower reads.

        output[b, t] = network(inputs)[b]    for every t

    Args:
        num_tasks: int >= 1, or None to take it from the model that holds the mixture.
        hidden_units: sequence of int >= 1, units of the layers; the last is `u`.
        activation, dropout, layer_norm, kernel_initializer: see `Experts`.

    Call arguments:
        inputs: float tensor `(b, f)`.
        task: int tensor `(b,)`, the task of each row, or None where a row has them all.
        training: bool, for the dropout.
        context: not looked at.
        return_aux: bool; if True, also return an empty list: there is no gate.

    Returns:
        Float tensor `(b, t, u)`, or `(b, 1, u)` with `task`.

    Raises:
        ValueError: if a count is too small.

    Example:

    >>> SharedBottom(num_tasks=2, hidden_units=(16, 8))(np.ones((3, 5))).shape
    TensorShape([3, 2, 8])

    Source: Caruana, 1997, https://doi.org/10.1023/A:1007379606734.
    """

    def __init__(
        self,
        num_tasks=None,
        hidden_units=(256, 128),
        activation="relu",
        dropout=0.0,
        layer_norm=False,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(num_tasks, **kwargs)
        self.bottom = Experts(
            1,
            hidden_units,
            activation,
            dropout,
            layer_norm,
            kernel_initializer,
            dtype=self.dtype_policy,
            name="bottom",
        )

    def build(self, input_shape):
        validation.check_known(self, "num_tasks")
        self.bottom.build(input_shape)

    def call(self, inputs, task=None, context=None, training=False, return_aux=False):
        outputs = self.bottom(inputs, training=training)
        if task is None:
            outputs = ops.repeat(outputs, self.num_tasks, axis=1)
        return (outputs, []) if return_aux else outputs

    def compute_output_shape(self, input_shape):
        batch, _, units = self.bottom.compute_output_shape(input_shape)
        return (batch, self.num_tasks, units)

    def compute_output_spec(
        self, inputs, task=None, context=None, training=False, return_aux=False
    ):
        batch, num, units = self.compute_output_shape(inputs.shape)
        shape = (batch, num if task is None else 1, units)
        outputs = keras.KerasTensor(shape, dtype=self.compute_dtype)
        return (outputs, []) if return_aux else outputs

    def shared_point(self):
        return "outputs"

    def extended(self, like, routing):
        return self.select([])

    def freeze(self):
        self.bottom.trainable = False

    def get_config(self):
        config = self.bottom.get_config()
        shared = ("hidden_units", "activation", "dropout", "layer_norm", "kernel_initializer")
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            **{name: config[name] for name in shared},
        }
