"""MMoE as people write it by hand in Keras 3: a list of `Dense` stacks and a loop over tasks."""

import keras
from keras import layers


def mmoe(sizes):
    """The functional model for the sizes, uncompiled; inputs by column name."""
    ids = {name: keras.Input((), dtype="int32", name=name) for name in sizes.categorical}
    numbers = {name: keras.Input((1,), name=name) for name in sizes.numeric}
    embedded = [layers.Embedding(sizes.num_values, sizes.dim)(ids[name]) for name in ids]
    x = layers.Concatenate()(embedded + list(numbers.values()))

    experts = [_dense_stack(x, sizes.expert_units) for _ in range(sizes.num_experts)]
    experts = keras.ops.stack(experts, axis=1)
    outputs = {}
    for name in sizes.tasks:
        weights = layers.Dense(sizes.num_experts, activation="softmax", use_bias=False)(x)
        mixed = keras.ops.sum(keras.ops.expand_dims(weights, -1) * experts, axis=1)
        tower = _dense_stack(mixed, sizes.tower_units)
        outputs[name] = layers.Dense(1, activation="sigmoid", name=name)(tower)
    return keras.Model({**ids, **numbers}, outputs)


def _dense_stack(x, units):
    for size in units:
        x = layers.Dense(size, activation="relu")(x)
    return x
