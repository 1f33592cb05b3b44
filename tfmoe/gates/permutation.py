"""A learned order of the experts, so that a gate's neighbours need not be the first draw's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from scipy.optimize import linear_sum_assignment

from tfmoe import validation
from tfmoe.compute.math import entropy
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Shape, Tensor
from tfmoe.keras_private import flatten_layers
from tfmoe.validation import checks_arguments


@registered
class LearnedPermutation(keras.layers.Layer):
    r"""Learns which expert stands in which place of a gate, then keeps to it.

    At first place `i` passes its weight on by a matrix `P` near a permutation, the same
    for all tasks and all trees:

        outputs[b, t, e] = sum_i inputs[b, t, i] * P[i, e]
        P = sinkhorn(log_weights / T)

    which normalises columns and rows in turn, in logarithms and rows last, so that a row of
    the outputs sums to what the inputs' row does. `T` falls geometrically over `num_steps`
    training steps, and the number of iterations rises linearly. Those beyond 20 come first
    and cool down from the spread of the log-weights to `T`, which low temperatures need
    to get near a permutation. `harden` then replaces `P` by the
    permutation nearest to it, for good. The callback `HardenPermutations` calls it; until
    then every expert may get some weight.

    Args:
        num_steps: int >= 1, training steps over which `P` turns into a permutation. The
            authors take 1 to 10 epochs.
        temperature: pair of float > 0, `T` at the first step and from the last on.
        num_iterations: pair of int >= 20, likewise.
        entropy_reg: float >= 0, weight of the sum over places of the entropies of `P`'s
            rows, added to the loss in training. The authors add it twice: halve a value
            from their code.

    Call arguments:
        inputs: float tensor `(b, t, n)`; `n` must be known.
        training: bool; steps are counted, and the loss added, in training only.

    Returns:
        Float tensor `(b, t, n)`, of the inputs' type.

    Raises:
        ValueError: if an argument is none of these.

    Example:

    >>> layer = LearnedPermutation(num_steps=100)
    >>> layer.build((None, 1, 4))
    >>> layer.harden()
    >>> sorted(layer.order.numpy().tolist())
    [0, 1, 2, 3]

    Source: Ibrahim et al., 2023, https://arxiv.org/abs/2306.02824. Differs from the authors'
    code in that iterations cool down: theirs all run at the present temperature, and at
    the last one leave `P` far from a permutation (largest column sum, 16 experts, mean of
    10 random starts: 2.40, here 1.00). Gradients flow through the last 20 iterations only.
    Rows come last, instead of a division of the outputs by their sum. The permutation is
    found once, at the hand-over.
    """

    def __init__(
        self,
        num_steps: int,
        temperature: Sequence[float] = (1e-3, 1e-7),
        num_iterations: Sequence[int] = (20, 150),
        entropy_reg: float = 1e-4,
        **kwargs: Any,
    ) -> None:
        # In half precision the weights that come in would be rounded.
        super().__init__(autocast=False, **kwargs)
        num_steps = validation.integer("LearnedPermutation", "num_steps", num_steps, 1)
        self.num_steps = num_steps
        self.temperature = _pair("temperature", temperature)
        self.num_iterations = _pair("num_iterations", num_iterations)
        for count in self.num_iterations:
            validation.check_counts("LearnedPermutation", num_iterations=(count, UNROLLED))
        if not all(value > 0 for value in self.temperature):
            raise ValueError(
                "LearnedPermutation divides by `temperature`, which must be above 0. Received "
                f"temperature={temperature}. The authors' is (1e-3, 1e-7)."
            )
        if not entropy_reg >= 0:
            raise ValueError(
                "LearnedPermutation's `entropy_reg` weighs a loss and must be at least 0. "
                f"Received entropy_reg={entropy_reg}."
            )
        self.entropy_reg = entropy_reg

    def build(self, input_shape: Shape) -> None:
        size = input_shape[-1]
        self.log_weights = self.add_weight(
            name="log_weights",
            shape=(size, size),
            initializer=keras.initializers.RandomUniform(-0.05, 0.05),
            autocast=False,
        )
        # Which place an expert takes its weight from; -1 until it is decided.
        self.order = self._state("order", (size,), keras.initializers.Constant(-1))
        self.steps = self._state("steps", (), "zeros")

    def _state(self, name, shape, initializer):
        return self.add_weight(
            name=name,
            shape=shape,
            dtype="int32",
            initializer=initializer,
            trainable=False,
            aggregation="only_first_replica",
        )

    def is_hard(self) -> Tensor:
        """Bool tensor `()`: whether the permutation is decided."""
        return self.order[0] >= 0

    def matrix(self) -> Tensor:
        """`P` `(n, n)` at the present step, before it is decided; at least float32."""
        weights = self.log_weights
        exact = keras.backend.result_type(weights.dtype, "float32")
        weights = ops.cast(weights, exact)
        progress = ops.minimum(ops.cast(self.steps, exact) / self.num_steps, 1.0)
        # A shift of a row changes nothing, and this one keeps the digits that tell apart
        # the entries near a row's largest.
        scores = weights - ops.stop_gradient(ops.max(weights, axis=-1, keepdims=True))
        first, last = self.num_iterations
        rounds = ops.cast(first + (last - first) * progress, "int32") - UNROLLED
        start, end = (math.log(value) for value in self.temperature)
        temperature = ops.exp(start + (end - start) * progress)
        # JAX differentiates no loop of unknown length, nor does TensorFlow's compiler.
        still = ops.stop_gradient(scores)
        hottest = ops.log(ops.maximum(-ops.min(still), temperature))
        span = ops.log(temperature) - hottest

        def cool(i, rows):
            done = ops.cast(i + 1, exact) / ops.cast(rounds, exact)
            return i + 1, _round(still, rows, ops.exp(hottest + span * done))

        _, rows = ops.while_loop(
            lambda i, rows: i < rounds,
            cool,
            (ops.zeros((), "int32"), ops.zeros_like(still[:, :1])),
        )
        rows = ops.stop_gradient(rows)
        for _ in range(UNROLLED - 1):
            rows = _round(scores, rows, temperature)
        shifted = scores + _columns(scores, rows, temperature)
        return ops.softmax(shifted / temperature, axis=-1)

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        def decided():
            return ops.take(inputs, self.order, axis=-1), ops.zeros((), "float32")

        def learning():
            matrix = self.matrix()
            outputs = ops.matmul(inputs, ops.cast(matrix, inputs.dtype))
            return outputs, ops.cast(ops.sum(entropy(matrix)), "float32")

        outputs, undecided = ops.cond(self.is_hard(), decided, learning)
        if training:
            self.add_loss(self.entropy_reg * undecided)
            self.steps.assign_add(1)
        return outputs

    def compute_output_spec(self, inputs: Tensor, training: bool = False) -> keras.KerasTensor:
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def harden(self) -> None:
        """Decides on the permutation nearest to the present `P`; later calls do nothing."""
        if not self.built:
            raise ValueError(
                "LearnedPermutation can decide only once it is built. Received built=False. "
                "Call the model first."
            )
        if ops.convert_to_numpy(self.is_hard()):
            return
        _, experts = linear_sum_assignment(ops.convert_to_numpy(self.matrix()), maximize=True)
        self.order.assign(np.argsort(experts).astype("int32"))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_steps": self.num_steps,
            "temperature": list(self.temperature),
            "num_iterations": list(self.num_iterations),
            "entropy_reg": self.entropy_reg,
        }


# Iterations through which gradients flow. Measured at a temperature of 1e-3, with 16
# experts and 5 random starts: the gradient through 20 of 150 iterations has a cosine of
# at least 0.99 with that through all.
UNROLLED = 20


def _columns(scores, rows, temperature):
    """Shifts `(1, n)` of the columns that make each sum to 1, given those of the rows."""
    return -temperature * ops.logsumexp((scores + rows) / temperature, axis=0, keepdims=True)


def _round(scores, rows, temperature):
    """Shifts `(n, 1)` of the rows after one normalisation of columns, then of rows."""
    scores = scores + _columns(scores, rows, temperature)
    return -temperature * ops.logsumexp(scores / temperature, axis=1, keepdims=True)


def _pair(name, values):
    if not isinstance(values, list | tuple) or len(values) != 2:
        raise ValueError(
            f"LearnedPermutation takes `{name}` as a pair: at the first step, and at the "
            f"last. Received {name}={values!r}."
        )
    return validation.plain(tuple(values))


@checks_arguments
class HardenPermutations(keras.callbacks.Callback):
    """Ends the learning of permutations: at an epoch's end, once their steps are over.

    Pass it to `fit` with every model that has a `LearnedPermutation`.
    """

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        for layer in flatten_layers(self.model):
            learning = isinstance(layer, LearnedPermutation) and layer.built
            if learning and int(ops.convert_to_numpy(layer.steps)) >= layer.num_steps:
                layer.harden()
