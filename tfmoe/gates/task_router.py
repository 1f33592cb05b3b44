"""A router that all tasks share, and that knows the task by an embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute.initializers import member_initializer
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Initializer, Shape, Tensor
from tfmoe.gates.routers import MLPRouter, ScoreHead, ScoreSpec, add_score_weights


@registered
@dataclass(frozen=True)
class TaskRouter:
    r"""Makes a gate's scores with weights that all tasks share, and an embedding a task.

    Pass it to a gate: `TopKGate(router=TaskRouter())`. With `x` an example's inputs and
    `e_t` the task's embedding of size `dim`:

        kind="mlp":       scores[b, t] = MLP([x; e_t]) @ W
        kind="low_rank":  scores[b, t] = x @ W_0 + ((x @ U) * e_t) @ V

    What tasks have in common is learned from all of them, and a new task needs no more
    than an embedding. "low_rank" is one matrix a task, `W_0 + U diag(e_t) V`. There is no
    linear router on `[x; e_t]`: the task would only add a constant to the scores, the same
    for all examples. A scenario, `Schema(scenario=...)`, is a column and so in `x` already.

    Args:
        dim: int >= 1, size of a task's embedding; of "low_rank" also the rank by which
            tasks differ.
        hidden_units: sequence of int >= 1, at least one: units of the hidden layers of
            "mlp"; "low_rank" has none.
        kind: `"mlp"` or `"low_rank"`.
        activation: Keras activation of the hidden layers.
        embeddings_initializer: Keras initializer of the embeddings `(t, dim)`. They must
            not be alike, or tasks start, and may stay, so.
        kernel_initializer: Keras initializer of the hidden layers, or of `U`. The last
            matrix, `W` or `W_0` above `V`, starts as the gate's own do.

    Raises:
        ValueError: if a size is too small, or `kind` is unknown.

    Example:

    >>> gate = tfmoe.TopKGate(num_tasks=3, num_experts=8, router=TaskRouter(dim=4))
    >>> gate(np.ones((2, 5))).shape
    TensorShape([2, 3, 8])
    >>> tuple(gate.head.embeddings.shape)
    (3, 4)

    Source: Gupta et al., 2022, https://arxiv.org/abs/2204.07689, for a router that is
    conditioned on the task; both forms are ours.
    """

    dim: int = 16
    hidden_units: Sequence[int] = (64,)
    kind: str = "mlp"
    activation: Any = "relu"
    # Of the size of standardised inputs, beside which smaller ones would hardly count.
    embeddings_initializer: object = keras.initializers.RandomNormal(stddev=1.0)
    kernel_initializer: Initializer = "glorot_uniform"

    def __post_init__(self):
        dim = validation.integer("TaskRouter", "dim", self.dim, 1)
        if self.kind not in ("mlp", "low_rank"):
            raise ValueError(
                f'TaskRouter takes `kind` "mlp" or "low_rank". Received kind={self.kind!r}.'
            )
        units = validation.sizes("TaskRouter", "hidden_units", self.hidden_units)
        if self.kind == "mlp" and not units:
            raise ValueError(
                "TaskRouter needs at least one hidden layer, for without one the task only "
                "adds a constant to the scores. Received hidden_units=(). For none use "
                'kind="low_rank".'
            )
        for name, value in (
            ("dim", dim),
            ("hidden_units", units),
            ("activation", keras.activations.get(self.activation)),
            ("embeddings_initializer", keras.initializers.get(self.embeddings_initializer)),
            ("kernel_initializer", keras.initializers.get(self.kernel_initializer)),
        ):
            object.__setattr__(self, name, value)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.initializers.serialize
        return {
            "dim": self.dim,
            "hidden_units": list(self.hidden_units),
            "kind": self.kind,
            "activation": keras.activations.serialize(self.activation),
            "embeddings_initializer": serialize(self.embeddings_initializer),
            "kernel_initializer": serialize(self.kernel_initializer),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)


#: What a gate takes as `router`.
Router: TypeAlias = str | MLPRouter | TaskRouter


class TaskHead(keras.layers.Layer):
    """The weights of a `TaskRouter` for one gate: `(b, f)` to scores `(b, t, s)`.

    In float32, as `ScoreHead`, whose call it shares.

    Args:
        router: `TaskRouter`.
        num_tasks: int >= 1.
        parts: list of `ScoreSpec`.

    Call arguments:
        inputs, task: see `ScoreHead`.
        embeddings: `(t, dim)` in place of its own, or None.
    """

    def __init__(
        self,
        router: TaskRouter,
        num_tasks: int,
        parts: Sequence[ScoreSpec],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.router, self.num_tasks, self.parts = router, num_tasks, parts

    def build(self, input_shape: Shape) -> None:
        router, features = self.router, input_shape[-1]
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.num_tasks, router.dim),
            # A copy, for the default is one object, whose seed was drawn long before.
            initializer=member_initializer(router.embeddings_initializer, salt=-1),
            autocast=False,
        )
        size = features + router.dim
        self.hidden = []
        if router.kind == "low_rank":
            self.down = self.add_weight(
                name="down",
                shape=(features, router.dim),
                initializer=member_initializer(router.kernel_initializer),
                autocast=False,
            )
        else:
            for i, units in enumerate(router.hidden_units):
                self.hidden.append(self._layer(i, size, units))
                size = units
        self.kernel, self.bias = add_score_weights(self, size, self.parts, num_tasks=1)

    def _layer(self, index, size, units):
        kernel = self.add_weight(
            name=f"hidden_kernel_{index}",
            shape=(size, units),
            initializer=member_initializer(self.router.kernel_initializer, salt=index),
            autocast=False,
        )
        bias = self.add_weight(
            name=f"hidden_bias_{index}", shape=(units,), initializer="zeros", autocast=False
        )
        return kernel, bias

    def call(
        self, inputs: Tensor, task: Tensor | None = None, embeddings: Tensor | None = None
    ) -> Tensor:
        inputs = self._exact(inputs)
        embeddings = self._exact(self.embeddings if embeddings is None else embeddings)
        make = self._low_rank if self.router.kind == "low_rank" else self._mlp
        scores = make(inputs, embeddings, task)
        if self.bias is not None:
            scores = scores + self._exact(self.bias)
        num = embeddings.shape[0] if task is None else 1
        return ops.reshape(scores, (-1, num, self.kernel.shape[-1]))

    def _mlp(self, inputs, embeddings, task):
        (kernel, bias), *rest = self.hidden
        features = inputs.shape[-1]
        kernel = self._exact(kernel)
        # The examples' part and the tasks' part of `[x; e_t] @ kernel`, each made once.
        shared = ops.matmul(inputs, kernel[:features])
        own = ops.matmul(embeddings, kernel[features:]) + self._exact(bias)
        hidden = shared[:, None] + _of_rows(own, task)
        hidden = ops.reshape(self.router.activation(hidden), (-1, kernel.shape[-1]))
        for kernel, bias in rest:
            product = ops.matmul(hidden, self._exact(kernel))
            hidden = self.router.activation(product + self._exact(bias))
        return ops.matmul(hidden, self._exact(self.kernel))

    def _low_rank(self, inputs, embeddings, task):
        kernel, features = self._exact(self.kernel), inputs.shape[-1]
        shared = ops.matmul(inputs, kernel[:features])
        low = ops.matmul(inputs, self._exact(self.down))
        own = low[:, None] * _of_rows(embeddings, task)
        own = ops.matmul(ops.reshape(own, (-1, self.router.dim)), kernel[features:])
        num = embeddings.shape[0] if task is None else 1
        return shared[:, None] + ops.reshape(own, (-1, num, kernel.shape[-1]))

    def _exact(self, values):
        return ops.cast(values, keras.backend.result_type(self.compute_dtype, "float32"))


class MixedHead(keras.layers.Layer):
    """Scores `(b, 1, s)` of a task that is a convex mix of others.

    Args:
        head: `ScoreHead` or `TaskHead` of the tasks that are mixed.
    """

    def __init__(
        self,
        head: ScoreHead | TaskHead,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.head = head

    def build(self, input_shape: Shape) -> None:
        self.head.build(input_shape)
        self.mix = self.add_weight(
            name="mix", shape=(self.head.num_tasks,), initializer="zeros", autocast=False
        )

    def call(self, inputs: Tensor, task: Tensor | None = None) -> Tensor:
        exact = keras.backend.result_type(self.compute_dtype, "float32")
        shares = ops.exp(ops.log_softmax(ops.cast(self.mix, exact)))
        if isinstance(self.head, TaskHead):
            embeddings = ops.matmul(shares[None], ops.cast(self.head.embeddings, exact))
            return self.head(inputs, embeddings=embeddings)
        scores = ops.sum(self.head(inputs) * shares[:, None], axis=1, keepdims=True)
        # A static head has one row for all.
        rows = ops.zeros_like(ops.cast(inputs, exact)[:, :1, None])
        return scores if task is None else scores + rows


def _of_rows(values, task):
    """Of `(t, c)` what each row needs: all, `(1, t, c)`, or its task's, `(b, 1, c)`."""
    if task is None:
        return values[None]
    # The gradient of a reshape is dense; that of a look-up alone would have a task several
    # times, which Keras's optimizers on TensorFlow do not add up.
    values = ops.reshape(values, (values.shape[0], values.shape[1]))
    return ops.take(values, task, axis=0)[:, None]
