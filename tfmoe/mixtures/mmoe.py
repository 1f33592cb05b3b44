"""Shared experts, weighed by a gate a task or by one gate for all."""

import keras
from keras import ops

from tfmoe import recipe
from tfmoe.experts import Experts
from tfmoe.gates.base import Gate
from tfmoe.gates.softmax import SoftmaxGate
from tfmoe.ops import mix


@keras.saving.register_keras_serializable("tfmoe")
class MMoE(keras.layers.Layer):
    r"""Multi-gate mixture of experts: each task weighs the shared experts in its own way.

        output[b, t] = sum_e gate(inputs)[b, t, e] * expert_e(inputs)[b]

    With `SoftmaxGate` this is MMoE, with `DSelectKGate` the multi-task model of the
    DSelect-k paper.

    Args:
        num_tasks: int >= 1, or None to take it from the model that holds the mixture.
        num_experts: int >= 2.
        hidden_units: sequence of int >= 1, units of the experts' layers; the last is
            `u`.
        gate: a gate without `num_tasks` and `num_experts`; None means
            `SoftmaxGate()`. It is a recipe: the mixture's own copy is `mixture.gate`.
        activation, dropout, layer_norm, kernel_initializer: of the experts, see
            `Experts`.

    Call arguments:
        inputs: float tensor `(b, f)`.
        training: bool.
        return_aux: bool; if True, also return the gates' records.

    Returns:
        Float tensor `(b, t, u)`; with `return_aux` also a list with one record for each
        gate, see `Gate`.

    Raises:
        ValueError: if a count is too small, or `gate` is no gate.

    Example:

    >>> mixture = MMoE(num_tasks=2, num_experts=4, hidden_units=(16, 8))
    >>> mixture(np.ones((3, 5))).shape
    TensorShape([3, 2, 8])

    Source: Ma et al., 2018, eq. 6 to 8, https://doi.org/10.1145/3219819.3220007.
    """

    def __init__(
        self,
        num_tasks=None,
        num_experts=8,
        hidden_units=(256, 128),
        gate=None,
        activation="relu",
        dropout=0.0,
        layer_norm=False,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        name = type(self).__name__
        recipe.check_counts(
            name, optional=True, num_tasks=(num_tasks, 1), num_experts=(num_experts, 2)
        )
        gate = SoftmaxGate() if gate is None else recipe.given(gate)
        if not isinstance(gate, Gate):
            raise ValueError(
                f"{name} takes as `gate` one of tfmoe's gates, such as SoftmaxGate() or "
                f"DSelectKGate(num_nonzeros=2). Received gate={gate!r}."
            )
        self.num_tasks = num_tasks
        self.num_experts = num_experts
        self.experts = Experts(
            num_experts,
            hidden_units,
            activation,
            dropout,
            layer_norm,
            kernel_initializer,
            dtype=self.dtype_policy,
            name="experts",
        )
        self._gate_config = recipe.config_of(gate)
        self.gate = None

    @property
    def num_gates(self):
        """How many tasks the gate tells apart."""
        return self.num_tasks

    def build(self, input_shape):
        recipe.check_known(self, "num_tasks")
        self.gate = recipe.filled(
            self._gate_config,
            type(self).__name__,
            name="gate",
            num_tasks=self.num_gates,
            num_experts=self.num_experts,
        )
        self.gate.build(input_shape)
        self.experts.build(input_shape)

    def call(self, inputs, training=False, return_aux=False):
        weights, record = self.gate(inputs, training=training, return_aux=True)
        outputs = mix(self.experts(inputs, training=training), weights)
        if self.num_gates != self.num_tasks:
            outputs = ops.repeat(outputs, self.num_tasks, axis=1)
        return (outputs, [record]) if return_aux else outputs

    def get_config(self):
        config = self.experts.get_config()
        shared = ("num_experts", "hidden_units", "activation", "dropout", "layer_norm")
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            "gate": self._gate_config,
            **{name: config[name] for name in (*shared, "kernel_initializer")},
        }


@keras.saving.register_keras_serializable("tfmoe")
class OMoE(MMoE):
    r"""One-gate mixture of experts: all tasks weigh the experts alike.

        output[b, t] = sum_e gate(inputs)[b, e] * expert_e(inputs)[b]    for every t

    Args:
        num_tasks, num_experts, hidden_units, gate, activation, dropout, layer_norm,
            kernel_initializer: see `MMoE`.

    Call arguments, returns, errors: see `MMoE`; the record's tensors have one task.

    Source: Ma et al., 2018, section 4.1, https://doi.org/10.1145/3219819.3220007.
    """

    @property
    def num_gates(self):
        return 1
