"""Optimizers whose step costs less."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("tfmoe")
class Adam(keras.optimizers.Adam):
    r"""Keras's Adam, with TensorFlow's fused kernel for the update of a variable.

    The same steps: with `m` and `v` the decayed means of the gradient and its square,

        variable <- variable - learning_rate * sqrt(1 - beta_2^t) / (1 - beta_1^t)
                               * m / (sqrt(v) + epsilon)

    Keras makes this of a dozen operations that each walk through memory, the kernel of
    one. Where it does not fit (other backends, sparse gradients, `amsgrad`, under
    `tf.distribute`), the step is Keras's own. `MultiTaskModel.compile("adam")` uses it.

    Args:
        Those of `keras.optimizers.Adam`.
    """

    def update_step(self, gradient, variable, learning_rate):
        if self.amsgrad or not _is_plain(gradient, variable):
            super().update_step(gradient, variable, learning_rate)
            return
        import tensorflow as tf

        index = self._get_variable_index(variable)
        dtype = variable.dtype
        step = ops.cast(self.iterations + 1, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=ops.power(ops.cast(self.beta_1, dtype), step),
            beta2_power=ops.power(ops.cast(self.beta_2, dtype), step),
            lr=ops.cast(learning_rate, dtype),
            beta1=ops.cast(self.beta_1, dtype),
            beta2=ops.cast(self.beta_2, dtype),
            epsilon=ops.cast(self.epsilon, dtype),
            grad=ops.cast(gradient, dtype),
        )


def _is_plain(gradient, variable):
    """Whether gradient and variable are a tensor and a variable on one device."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    if tf.distribute.has_strategy() or isinstance(gradient, tf.IndexedSlices):
        return False
    return isinstance(variable, tf.Variable) and hasattr(variable, "handle")
