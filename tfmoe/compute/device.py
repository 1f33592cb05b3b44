"""Where operations run."""

from __future__ import annotations

import contextlib
from typing import Any

import keras


def on_cpu() -> bool:
    """Whether TensorFlow computes, and has nothing but CPUs."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return all(device.device_type == "CPU" for device in tf.config.list_logical_devices())


def check_tasks(owner: str, task: Any, num_tasks: int) -> None:
    """Raises ValueError where numbers of tasks are out of range, if they are known by now.

    While a graph is traced or compiled they are not.
    """
    values = _known(task)
    wrong = [] if values is None else values[(values < 0) | (values >= num_tasks)]
    if len(wrong):
        raise ValueError(
            f"{owner} takes as `task` the number of each row's task, from 0 to {num_tasks - 1}. "
            f"Received {int(wrong[0])}."
        )


def _known(tensor: Any) -> Any:
    """A tensor's values, or None."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tensor.numpy() if tf.executing_eagerly() else None
    if backend == "jax":
        import jax

        if isinstance(tensor, jax.core.Tracer):
            return None
    return keras.ops.convert_to_numpy(tensor)


def waiting_for(data: Any) -> contextlib.AbstractContextManager:
    """On TensorFlow, whatever is computed within waits until `data` has come.

    Keras asks for a dataset's next batch in the graph of the step. Where it learns of the end
    only by asking, as with files whose rows nobody has counted, the graph starts once more
    without a batch, and all in it that needs none would run: the optimizer's counter, weight
    decay, the state of schedules, gates and random numbers. An epoch would have one step too
    many.

    Args:
        data: tensors, in any nest.
    """
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.control_dependencies([x for x in tf.nest.flatten(data) if isinstance(x, tf.Tensor)])
