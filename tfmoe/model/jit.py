"""Whether a model trains faster with XLA, as far as that was measured."""

from __future__ import annotations

from typing import Any, Literal

import keras

from tfmoe.compute import thresholds
from tfmoe.keras_private import flatten_layers


def jit_pays(model: Any) -> bool | Literal["auto"]:
    """What `compile(jit_compile="auto")` means for a `MultiTaskModel` on TensorFlow.

    For what the rules were measured on see `Thresholds.most_looked_up`.

    Returns:
        Whether to compile with XLA, or `"auto"` where Keras is to decide.
    """
    import tensorflow as tf

    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        return False
    if tf.config.list_physical_devices("GPU"):
        return "auto"
    most = thresholds.current().most_looked_up
    if most is None:
        return False
    layers = flatten_layers(model)
    generators = (getattr(layer, "seed_generator", None) for layer in layers)
    # Random numbers under XLA on a CPU take many times longer than the rest.
    random = any(isinstance(one, keras.random.SeedGenerator) for one in generators)
    # So do the gradients of many look-ups, which XLA sums on one core.
    looked_up = sum(
        model.encoder.tables[owner].dim * (model.lengths[column.name] if column.is_wide else 1)
        for owner, columns in model.encoder.groups.items()
        for column in columns
    )
    # Sparse compute is faster where shapes may depend on data.
    if model.structure.computes_sparsely(one_task=model.schema.task_column is not None):
        return False
    # XLA computes half precision in float32, where the processor may have something faster.
    half = any(layer.compute_dtype in ("bfloat16", "float16") for layer in layers)
    supported = all(layer.supports_jit for layer in layers)
    return supported and not random and not half and looked_up <= most
