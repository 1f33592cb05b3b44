"""Optimizers whose step costs less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfmoe.compute.registered import registered
from tfmoe.compute.types import Tensor
from tfmoe.keras_private import ClipsGradients, slot


class SumsRows(ClipsGradients):
    """Adds up what a sparse gradient has of one row, before anything is done with it.

    Two look-ups in one table give such gradients. Clipped part by part, or squared, they would be
    others than the dense ones.
    """

    global_clipnorm: float | None

    def clip(
        self, gradients: list[Tensor], usual: Callable[[list[Tensor]], list[Tensor]]
    ) -> list[Tensor]:
        if not any(map(_is_sparse, gradients)):
            return usual(gradients)
        summed = [_summed(one) if _is_sparse(one) else one for one in gradients]
        if not self.global_clipnorm:
            return usual(summed)
        import tensorflow as tf

        # Keras makes them dense.
        return tf.clip_by_global_norm(summed, self.global_clipnorm)[0]


@registered
class Adam(SumsRows, keras.optimizers.Adam):
    r"""Keras's Adam, with TensorFlow's fused kernel for the update of a variable.

    The same steps: with `m` and `v` the decayed means of the gradient and its square,

        variable <- variable - learning_rate * sqrt(1 - beta_2^t) / (1 - beta_1^t)
                               * m / (sqrt(v) + epsilon)

    Keras computes this in a dozen operations, each of which passes over memory; the fused
    kernel passes once. Where it does not apply (other backends, sparse gradients, `amsgrad`), the
    step is Keras's own; but of a sparse gradient rows that come more than once are added up first,
    as in a dense one, before they are clipped or squared.
    `MultiTaskModel.compile("adam")` uses it.

    Args:
        Those of `keras.optimizers.Adam`.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if self.amsgrad or not _is_plain(gradient, variable):
            super().update_step(gradient, variable, learning_rate)
            return
        import tensorflow as tf

        dtype = variable.dtype
        step = ops.cast(self.iterations + 1, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=slot(self, "momentums", variable).handle,
            v=slot(self, "velocities", variable).handle,
            beta1_power=ops.power(ops.cast(self.beta_1, dtype), step),
            beta2_power=ops.power(ops.cast(self.beta_2, dtype), step),
            lr=ops.cast(learning_rate, dtype),
            beta1=ops.cast(self.beta_1, dtype),
            beta2=ops.cast(self.beta_2, dtype),
            epsilon=ops.cast(self.epsilon, dtype),
            grad=ops.cast(gradient, dtype),
        )


@registered
class LazyAdam(Adam):
    r"""Adam that updates only those rows of a table that a batch looks up.

    Of a table with a sparse gradient, as `Embedding` has above 30,000 rows, only the rows
    in the batch are read and written: moments and weights of the others stay as they are,
    and a step costs the same whatever the number of rows. For the rows in the batch the step
    is `Adam`'s, with `t` the number of all steps. So a row that is looked up in every step is
    updated as under Adam; a rare one keeps the moments of its last look-up, which Adam would
    let decay, and does not move in between, where Adam would go on moving it.

    All other variables, and all of them on other backends, are updated as by `Adam`. Not lazy are
    Keras's `weight_decay`, `use_ema` and `gradient_accumulation_steps`, which update whole tables:
    leave the tables out of the decay by
    `optimizer.exclude_from_weight_decay(var_names=["embeddings"])`.

    Args:
        learning_rate: float > 0, or a Keras schedule.
        amsgrad: must be False.
        name: str.
        **kwargs: the other arguments of `keras.optimizers.Adam`.

    Raises:
        ValueError: with `amsgrad=True`.

    Example:

    >>> model.compile(tfmoe.optimizers.LazyAdam(1e-3))  # doctest: +SKIP
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.001,
        amsgrad: bool = False,
        name: str = "lazy_adam",
        **kwargs: Any,
    ) -> None:
        if amsgrad:
            raise ValueError(
                "LazyAdam does not keep the maxima that `amsgrad` asks for. Received "
                "amsgrad=True. Use tfmoe.optimizers.Adam, which walks through whole tables."
            )
        super().__init__(learning_rate, amsgrad=False, name=name, **kwargs)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if not _is_sparse(gradient):
            super().update_step(gradient, variable, learning_rate)
            return
        ids, gradient = _distinct(gradient)
        moments = slot(self, "momentums", variable), slot(self, "velocities", variable)
        betas = (ops.cast(beta, gradient.dtype) for beta in (self.beta_1, self.beta_2))
        found = []
        for moment, beta, new in zip(moments, betas, (gradient, gradient**2), strict=True):
            rows = beta * _rows(moment, ids) + (1 - beta) * new
            _write(moment, ids, rows)
            found.append((rows, 1 - beta ** ops.cast(self.iterations + 1, beta.dtype)))
        (first, first_bias), (second, second_bias) = found
        rate = ops.cast(learning_rate, gradient.dtype) * ops.sqrt(second_bias) / first_bias
        step = rate * first / (ops.sqrt(second) + self.epsilon)
        _write(variable, ids, _rows(variable, ids) - step)


@registered
class Adagrad(SumsRows, keras.optimizers.Adagrad):
    r"""Keras's Adagrad, whose step reads and writes only those rows that a batch looks up.

    The same steps, sparse gradient or not: with `a` the sum of squared gradients

        variable <- variable - learning_rate * gradient / sqrt(a + epsilon)

    in which a row without gradient does not move. Keras updates the whole table all the same;
    here a table with a sparse gradient (`Embedding` above 30,000 rows) is updated by rows.
    Other variables, and all of them on other backends, are updated by Keras's own step.
    `weight_decay`, `use_ema` and `gradient_accumulation_steps` update whole tables.

    Args:
        Those of `keras.optimizers.Adagrad`.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if not _is_sparse(gradient):
            super().update_step(gradient, variable, learning_rate)
            return
        ids, gradient = _distinct(gradient)
        sums = slot(self, "accumulators", variable)
        rows = _rows(sums, ids) + gradient**2
        _write(sums, ids, rows)
        rate = ops.cast(learning_rate, gradient.dtype)
        step = rate * gradient / ops.sqrt(rows + self.epsilon)
        _write(variable, ids, _rows(variable, ids) - step)


def updates_rows(optimizer: Any, several_replicas: bool = False) -> bool:
    """Whether the step of a table with a sparse gradient costs less than one of the whole table.

    Most of Keras's optimizers make such a gradient dense, or what they keep of it. Of those that
    are not known the better is assumed; but sparse gradients of several replicas are put one behind
    the other, so that ids repeat, and only those that add them up take the right step.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if type(optimizer) is keras.optimizers.SGD:
        return not optimizer.momentum
    if isinstance(optimizer, LazyAdam | Adagrad):
        return True
    return not several_replicas and not _is_of(optimizer, "keras", "tfmoe")


def _is_of(thing: Any, *packages: str) -> bool:
    return type(thing).__module__.split(".")[0] in packages


def _is_sparse(gradient: Any) -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return isinstance(gradient, tf.IndexedSlices)


def _summed(gradient: Any) -> Any:
    """A sparse gradient in which each row comes once."""
    import tensorflow as tf

    ids, values = _distinct(gradient)
    return tf.IndexedSlices(values, ids, gradient.dense_shape)


def _distinct(gradient: Any) -> tuple[Tensor, Tensor]:
    """Ids `(n,)`, each once, and their gradients `(n, ...)`, summed where one came twice."""
    import tensorflow as tf

    if _are_distinct(gradient.indices):
        return gradient.indices, gradient.values
    ids, places = tf.unique(gradient.indices)
    return ids, tf.math.unsorted_segment_sum(gradient.values, places, tf.size(ids))


def _are_distinct(ids: Any) -> bool:
    """Whether ids of a graph come straight from `tf.unique`, as `Embedding` looks them up."""
    import tensorflow as tf

    if tf.executing_eagerly():
        return False
    while ids.op.type in ("Reshape", "Identity", "Cast"):
        ids = ids.op.inputs[0]
    return ids.op.type == "Unique" and ids.value_index == 0


def _rows(variable: Any, ids: Tensor) -> Tensor:
    """`variable[ids]`, without a copy of the variable."""
    import tensorflow as tf

    return tf.nn.embedding_lookup(variable, ids)


def _write(variable: Any, ids: Tensor, rows: Tensor) -> None:
    """`variable[ids] = rows`, in place."""
    import tensorflow as tf

    tf.raw_ops.ResourceScatterUpdate(resource=variable.handle, indices=ids, updates=rows)


def _is_plain(gradient: Any, variable: Any) -> bool:
    """Whether gradient and variable are a tensor and a variable of TensorFlow."""
    if keras.backend.backend() != "tensorflow" or _is_sparse(gradient):
        return False
    import tensorflow as tf

    return isinstance(variable, tf.Variable) and hasattr(variable, "handle")
