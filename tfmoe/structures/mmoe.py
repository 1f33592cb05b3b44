"""Shared experts, weighed by a gate a task or by one gate for all."""

import math

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute import nested
from tfmoe.compute.dispatch import pays, shapes_follow_data
from tfmoe.compute.math import mix
from tfmoe.experts.mlp import Experts
from tfmoe.experts.ready_layers import GivenExperts
from tfmoe.gates.base import Gate
from tfmoe.gates.softmax import SoftmaxGate


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
        dispatch: `"dense"` computes all experts for every row, `"sparse"` only those
            that some task of a row selects, none of them dropped. `"auto"` is sparse
            where a gate selects so few that it was measured to be faster. Gates that
            are not bound to their number of experts, as DSelect-k before it has
            converged, are dense until all rows of a batch keep to it (and always where
            XLA compiles for a batch of any size). The outputs are the same up to
            rounding.
        experts: sequence of Keras layers `(b, ...) -> (b, u)`, trainable or not, used
            as experts in place of perceptrons and computed densely; the number of
            experts is theirs, and the arguments of perceptrons have no effect. Inputs
            may then have any shape, and the gate sees them flattened.

    Call arguments:
        inputs: float tensor `(b, f)`.
        task: int tensor `(b,)`, the task of each row, or None where a row has them all.
        ids: int tensor `(b,)`, for a `HashGate`.
        training: bool.
        return_aux: bool; if True, also return the gates' records.

    Returns:
        Float tensor `(b, t, u)`, or `(b, 1, u)` with `task`; with `return_aux` also a list
        with a `GateOutput` for each gate.

    Raises:
        ValueError: if a count is too small, or `gate` is no gate.

    Example:

    >>> mixture = MMoE(num_tasks=2, num_experts=4, hidden_units=(16, 8))
    >>> mixture(np.ones((3, 5))).shape
    TensorShape([3, 2, 8])

    Source: Ma et al., 2018, eq. 6 to 8, https://doi.org/10.1145/3219819.3220007.
    """

    takes = "flat"

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
        dispatch="auto",
        experts=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        name = type(self).__name__
        if experts is not None:
            num_experts = len(experts)
        gate = SoftmaxGate() if gate is None else nested.given(gate)
        # One expert is left where others were cut.
        least = 2 if getattr(gate, "kept", None) is None else 1
        validation.check_counts(
            name, optional=True, num_tasks=(num_tasks, 1), num_experts=(num_experts, least)
        )
        if not isinstance(gate, Gate):
            raise ValueError(
                f"{name} takes as `gate` one of tfmoe's gates, such as SoftmaxGate() or "
                f"DSelectKGate(num_nonzeros=2). Received gate={gate!r}."
            )
        if dispatch not in ("auto", "dense", "sparse"):
            raise ValueError(
                f'{name} takes `dispatch` "auto", "dense" or "sparse". Received '
                f"dispatch={dispatch!r}."
            )
        if dispatch == "sparse" and (experts is not None or not gate.selects):
            raise ValueError(
                f"{name} computes only selected experts if the gate selects and the experts "
                f"are its own perceptrons. Received dispatch='sparse' with gate={gate!r} and "
                f"experts={experts!r}. Use dispatch='auto', or a gate such as TopKGate()."
            )
        self.num_tasks = num_tasks
        self.num_experts = num_experts
        self.dispatch = dispatch
        perceptrons = Experts(
            num_experts,
            hidden_units,
            activation,
            dropout,
            layer_norm,
            kernel_initializer,
            dtype=self.dtype_policy,
            name="experts",
        )
        self._perceptrons_config = nested.config_of(perceptrons)["config"]
        self.experts = perceptrons
        if experts is not None:
            self.experts = GivenExperts(experts, dtype=self.dtype_policy, name="experts")
        self._gate_config = nested.config_of(gate)
        self.gate = None

    @property
    def num_gates(self):
        """How many tasks the gate tells apart."""
        return self.num_tasks

    def freeze(self):
        """Leaves only a gate's part for the newest task to be trained."""
        self.experts.trainable = False
        if self.num_gates != self.num_tasks or not hasattr(self.gate, "num_base"):
            self.gate.trainable = False

    @property
    def gates(self):
        """Its gates, in the order of the records."""
        return [self.gate]

    @property
    def id_column(self):
        """Name of the column whose ids `call` wants, or None."""
        config = self._gate_config["config"]
        # A gate that had tasks added holds the one that hashes.
        inner = config.get("gate") or {"config": config}
        return inner["config"].get("column")

    def build(self, input_shape):
        validation.check_known(self, "num_tasks")
        if len(input_shape) != 2 and not isinstance(self.experts, GivenExperts):
            # Experts would take a third axis for one input an expert.
            raise ValueError(
                f"{type(self).__name__} takes inputs of shape (batch, features). Received "
                f"shape {tuple(input_shape)}. For other shapes give the experts yourself: "
                "experts=[...]."
            )
        self.gate = nested.filled(
            self._gate_config,
            type(self).__name__,
            name="gate",
            num_tasks=self.num_gates,
            num_experts=self.num_experts,
        )
        self.experts.build(input_shape)
        self.gate.build((input_shape[0], math.prod(input_shape[1:])))

    def adopt(self, original):
        """Takes over from the mixture it was copied from ready experts' weights, frozen or not."""
        if isinstance(original.experts, GivenExperts):
            self.experts.adopt(original.experts)

    def computes_sparsely(self, one_task=False):
        """Whether training may compute only the selected experts.

        Args:
            one_task: bool; whether rows are of one task each.
        """
        return self._most_chosen(1 if one_task else self.num_gates, training=True) is not None

    def call(self, inputs, task=None, ids=None, training=False, return_aux=False):
        seen = inputs
        if len(inputs.shape) > 2:
            seen = ops.reshape(inputs, (-1, math.prod(inputs.shape[1:])))
        weights, record = self.gate(
            seen, task=self._told(task), ids=ids, training=training, return_aux=True
        )
        # Tasks added later are mixed apart, lest rounding move those there were before.
        num_base = getattr(self.gate, "num_base", None) if task is None else None
        parts = [slice(None)] if num_base is None else [slice(num_base), slice(num_base, None)]
        outputs = [
            self._mixed(inputs, weights[:, part], record.weights[:, part], training)
            for part in parts
        ]
        outputs = outputs[0] if num_base is None else ops.concatenate(outputs, axis=1)
        if task is None and self.num_gates != self.num_tasks:
            outputs = ops.repeat(outputs, self.num_tasks, axis=1)
        return (outputs, [record]) if return_aux else outputs

    def _told(self, task):
        """The row's task, for a gate that tells tasks apart."""
        return task if self.num_gates == self.num_tasks else None

    def compute_output_shape(self, input_shape):
        batch, _, units = self.experts.compute_output_shape(input_shape)
        return (batch, self.num_tasks, units)

    def compute_output_spec(self, inputs, task=None, ids=None, training=False, return_aux=False):
        batch, _, units = self.experts.compute_output_shape(inputs.shape)
        shape = (batch, self.num_tasks if task is None else 1, units)
        outputs = keras.KerasTensor(shape, dtype=self.compute_dtype)
        seen = keras.KerasTensor((batch, math.prod(inputs.shape[1:])), dtype=inputs.dtype)
        _, record = self.gate.compute_output_spec(
            seen, task=self._told(task), ids=ids, return_aux=True
        )
        return (outputs, [record]) if return_aux else outputs

    def _mixed(self, inputs, weights, exact, training):
        """`(b, t, u)`, from all experts or from those that have a weight.

        Args:
            inputs: `(b, f)`.
            weights: `(b, t, e)` or `(1, t, e)`.
            exact: the same in float32, in which small weights are no zeros.
            training: bool.
        """

        def dense():
            return mix(self.experts(inputs, training=training), weights)

        most = self._most_chosen(weights.shape[1], training)
        if most is None:
            return dense()
        used = ops.any(exact != 0, axis=1)

        def sparse():
            # Used experts come first; where a row has fewer, unused ones fill it up.
            marks, chosen = ops.top_k(ops.cast(used, "float32"), most)
            if weights.shape[0] == 1:
                outputs = self.experts(inputs, chosen=chosen[0], training=training)
            else:
                absent = ops.where(marks > 0, chosen, self.num_experts)
                outputs = self.experts(inputs, chosen=absent, training=training)
            taken = ops.take_along_axis(weights, chosen[:, None], axis=-1)
            return mix(outputs, taken * ops.cast(marks[:, None], taken.dtype))

        if self.gate.always_sparse:
            return sparse()
        dropped = training and self._perceptrons_config["dropout"]
        if dropped and keras.backend.backend() == "jax":
            # Both branches would draw from one generator, which JAX cannot have.
            return dense()
        if inputs.shape[0] is None and not shapes_follow_data():
            # XLA cannot compile the gradient of a choice between shapes that are only
            # known when it runs.
            return dense()
        return ops.cond(ops.max(ops.sum(ops.cast(used, "int32"), -1)) <= most, sparse, dense)

    def _most_chosen(self, num_tasks, training):
        """The most experts of a row of which only they are computed; None for all.

        Args:
            num_tasks: int, tasks of a row that a gate tells apart.
            training: bool.
        """
        gate, num = self.gate, self.num_experts
        if self.dispatch == "dense" or not gate.selects or isinstance(self.experts, GivenExperts):
            return None
        if training and gate.trains_unselected:
            return None
        most = gate.num_nonzeros * num_tasks if gate.num_nonzeros else num // 4
        most = max(1, min(most, num))
        if self.dispatch == "sparse":
            return most
        num_weights = sum(math.prod(kernel.shape[1:]) for kernel in self.experts.kernels)
        return most if pays(most, num, num_weights, gate.always_sparse) else None

    def get_config(self):
        shared = ("hidden_units", "activation", "dropout", "layer_norm", "kernel_initializer")
        given = isinstance(self.experts, GivenExperts)
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            "num_experts": self.num_experts,
            "gate": self._gate_config,
            **{name: self._perceptrons_config[name] for name in shared},
            "dispatch": self.dispatch,
            "experts": self.experts.get_config()["layers"] if given else None,
        }


@keras.saving.register_keras_serializable("tfmoe")
class OMoE(MMoE):
    r"""One-gate mixture of experts: all tasks weigh the experts alike.

        output[b, t] = sum_e gate(inputs)[b, e] * expert_e(inputs)[b]    for every t

    Args:
        num_tasks, num_experts, hidden_units, gate, activation, dropout, layer_norm,
            kernel_initializer, dispatch, experts: see `MMoE`.

    Call arguments, returns, errors: see `MMoE`; the record's tensors have one task.

    Source: Ma et al., 2018, section 4.1, https://doi.org/10.1145/3219819.3220007.
    """

    @property
    def num_gates(self):
        return 1
