"""Towers: per task, the last layers and the outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute.dense import batched_dense
from tfmoe.compute.device import check_tasks
from tfmoe.compute.dispatch import Slots, pays
from tfmoe.compute.initializers import PerMember
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Activation, Initializer
from tfmoe.compute.weights import copy_weights
from tfmoe.experts.mlp import Experts
from tfmoe.heads.tower_links import Links, TowerLinks


@registered
class Towers(keras.layers.Layer):
    r"""One small network a task, all computed together.

    Args:
        num_outputs: sequence of int >= 1, for each task how many numbers it needs: 1,
            or a multiclass task's number of classes.
        hidden_units: sequence of int >= 1, units of the hidden layers; `()` for none.
        activation, dropout, layer_norm, kernel_initializer: see `Experts`.
        links: dict of what towers take from others', as `links_of` makes it of the tasks; None
            for nothing. Not with `task`.

    Call arguments:
        inputs: float tensor `(b, t, u)`, one representation a task; `(b, 1, u)` with
            `task`, or if all tasks read the same.
        task: int tensor `(b,)`, the task of each row, or None where a row has them all.
            Only a row's own tower is computed where that is faster.
        training: bool, for the dropout.
        gates: list of float tensors `(b, t, u)`, one for each hidden layer, by which its outputs
            are multiplied, see `PPNet`; or None.

    Returns:
        List of `t` float tensors `(b, num_outputs[t])`, without activation (logits).
        With `task` one tensor `(b, max(num_outputs))`; entries that a task has no outputs
        for are undefined. They are float32 under half precision too.

    Raises:
        ValueError: if a count is too small, or the input has another number of tasks.

    Example:

    >>> [logits.shape for logits in Towers((1, 3), hidden_units=(4,))(np.ones((2, 2, 8)))]
    [TensorShape([2, 1]), TensorShape([2, 3])]
    """

    def __init__(
        self,
        num_outputs: Sequence[int],
        hidden_units: Sequence[int] = (64,),
        activation: Activation = "relu",
        dropout: float = 0.0,
        layer_norm: bool = False,
        kernel_initializer: Initializer = "glorot_uniform",
        links: Links | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_outputs = validation.sizes("Towers", "num_outputs", num_outputs)
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
        self.links: Any = None
        if links:
            self.links = TowerLinks(links, dtype=self.dtype_policy, name="links")

    def build(self, input_shape: Any) -> None:
        num = len(self.num_outputs)
        self._check_shape(input_shape, (1, num))
        input_shape = (input_shape[0], num, input_shape[2])
        self.hidden.build(input_shape)
        units = self.hidden.compute_output_shape(input_shape)[-1]
        if self.links is not None:
            self.links.build((input_shape[0], num, units))
        # Tasks with fewer outputs than the widest have columns that nobody reads.
        shape = (len(self.num_outputs), units, max(self.num_outputs))
        self.kernel = self.add_weight(
            name="kernel",
            shape=shape,
            initializer=PerMember(self.hidden.kernel_initializer, salt=-1),
        )
        self.bias = self.add_weight(name="bias", shape=(shape[0], shape[2]), initializer="zeros")

    def _check_shape(self, shape: Any, tasks: Sequence[int]) -> None:
        if len(shape) != 3 or shape[1] not in tasks:
            raise ValueError(
                "Towers take inputs of shape (batch, tasks, units) with "
                f"{len(self.num_outputs)} tasks, or (batch, 1, units), read by all tasks or with "
                f"the `task` of each row. Received shape {tuple(shape)}."
            )

    def call(self, inputs: Any, task: Any = None, training: bool = False, gates: Any = None) -> Any:
        num = len(self.num_outputs)
        self._check_shape(inputs.shape, (1, num) if task is None else (1,))
        if task is not None:
            task = ops.convert_to_tensor(task)
            check_tasks("Towers", task, num)
        if task is not None and num > 1 and self._dispatch_pays():
            return self._own(inputs[:, 0], task, training, gates)
        if inputs.shape[1] < num:
            inputs = self._read_by_all(inputs, gates)
        if gates is not None:
            hidden = self.hidden.gated(inputs, gates, training)
        elif self.hidden.hidden_units:
            hidden = self.hidden(inputs, training=training)
        else:
            hidden = inputs
        if self.links is not None:
            hidden = self.links(hidden)
        logits = batched_dense(ops.cast(hidden, self._exact), *self._last())
        if task is None:
            return [values[:, :n] for values, n in zip(logits, self.num_outputs, strict=True)]
        taken = ops.take_along_axis(ops.stack(logits, axis=1), task[:, None, None], axis=1)
        return taken[:, 0]

    def _read_by_all(self, inputs: Any, gates: Any) -> Any:
        """What all towers read, `(b, u)` of `(b, 1, u)`, or a copy for each where one needs it."""
        linked_at_once = self.links is not None and not self.hidden.hidden_units
        if gates is not None or linked_at_once:
            return ops.repeat(inputs, len(self.num_outputs), axis=1)
        return inputs[:, 0]

    @property
    def _exact(self) -> str:
        return keras.backend.result_type(self.compute_dtype, "float32")

    def _last(self) -> tuple[Any, Any]:
        return ops.cast(self.kernel, self._exact), ops.cast(self.bias, self._exact)

    def _dispatch_pays(self) -> bool:
        kernels = [*self.hidden.kernels, self.kernel]
        num_weights = sum(math.prod(kernel.shape[1:]) for kernel in kernels)
        return pays(1, len(self.num_outputs), num_weights, certain=True)

    def _own(self, inputs: Any, task: Any, training: bool, gates: Any) -> Any:
        """Every row `(b, u)` through the tower of its task."""
        slots = Slots.of(inputs, task[:, None], len(self.num_outputs))
        own = None if gates is None else [of_own_task(gate, task) for gate in gates]
        slots = self.hidden.through(slots, training, own)
        kernel, bias = self._last()
        slots = slots.map(lambda hidden: ops.cast(hidden, self._exact))
        return slots.matmul(kernel).add(bias).gather()[:, 0]

    def copy_from(self, other: Towers, tasks: Sequence[int] | None = None) -> None:
        """Takes over the weights of all or some of other towers.

        Args:
            other: built `Towers` of the same layers. Where theirs have more outputs, ours get
                those that they have room for.
            tasks: for each tower its index among the others; None for all.
        """
        if self.links is None and other.links is None:
            copy_weights(other, self, tasks)
            return
        copy_weights(other.hidden, self.hidden, tasks)
        for name in ("kernel", "bias"):
            values = ops.convert_to_numpy(getattr(other, name))
            values = values if tasks is None else values[list(tasks)]
            target = getattr(self, name)
            target.assign(values[tuple(slice(n) for n in target.shape)])
        if self.links is not None:
            self.links.copy_from(other.links, tasks)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return [(input_shape[0], num) for num in self.num_outputs]

    def compute_output_spec(
        self, inputs: Any, task: Any = None, training: bool = False, gates: Any = None
    ) -> Any:
        if task is not None:
            shape = (inputs.shape[0], max(self.num_outputs))
            return keras.KerasTensor(shape, dtype=self._exact)
        return [
            keras.KerasTensor((inputs.shape[0], n), dtype=self._exact) for n in self.num_outputs
        ]

    def get_config(self) -> dict[str, Any]:
        config = self.hidden.get_config()
        shared = ("hidden_units", "activation", "dropout", "layer_norm", "kernel_initializer")
        return {
            **super().get_config(),
            "num_outputs": list(self.num_outputs),
            **{name: config[name] for name in shared},
            "links": self.links and self.links.get_config()["links"],
        }


def of_own_task(values: Any, task: Any) -> Any:
    """Of `(b, t, u)` what belongs to each row's task, `(b, 1, u)`."""
    return ops.take_along_axis(values, ops.cast(task, "int32")[:, None, None], axis=1)
