"""The contestants in tfmoe's own environment: tfmoe, the hand-written model, bare matmuls."""

import itertools
import time

import keras
import tensorflow as tf

import tfmoe
from benchmarks.rivals import dense_list
from benchmarks.rivals.worker import keras_turn, serve
from tfmoe.columns import FIRST_ID


def build(sizes):
    """Each with a model of its own; in bfloat16 too, where half precision is quick or is not."""
    contestants = {}
    for name, settings in {
        "tfmoe": {},
        "tfmoe, jit": {"jit_compile": True},
        "tfmoe, no jit": {"jit_compile": False},
        "tfmoe, bfloat16": {},
    }.items():
        model = _made(tfmoe_model, sizes, name)
        model.compile("adam", **settings)
        what = f"model.fit, jit_compile={model.jit_compile}, with the tasks' metrics"
        contestants[name] = (what, keras_turn(model, sizes))
    for name in ("dense list", "dense list, bfloat16"):
        model = _made(dense_list.mmoe, sizes, name)
        model.compile("adam", "binary_crossentropy")
        what = f"model.fit, jit_compile={model.jit_compile}, no metrics"
        contestants[name] = (what, keras_turn(model, sizes))
    contestants["matmul"] = ("the fastest float32 matmul of the model's shapes", matmul_turn(sizes))
    return contestants


def _made(build, sizes, name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if "bfloat16" in name else "float32")
    try:
        return build(sizes)
    finally:
        keras.config.set_dtype_policy(before)


def tfmoe_model(sizes, **options):
    # Hashed columns need no fitting; three ids of a table are no buckets.
    buckets = sizes.num_values - FIRST_ID
    schema = tfmoe.Schema(
        [tfmoe.Categorical(name, dim=sizes.dim, hash_buckets=buckets) for name in sizes.categorical]
        + [tfmoe.Numeric(name, transform="none") for name in sizes.numeric],
        [tfmoe.Binary(name) for name in sizes.tasks],
    )
    mixture = tfmoe.MMoE(None, sizes.num_experts, sizes.expert_units, **options)
    return tfmoe.MultiTaskModel(schema, mixture, tower_units=sizes.tower_units)


def matmul_turn(sizes):
    """A turn that returns the best GFLOP/s of the matmuls the experts' layers need."""
    rows, experts = sizes.batch_size, sizes.num_experts
    # The first layer as one matmul for all experts, later ones as one for each expert.
    kernels = [(sizes.num_inputs, experts * sizes.expert_units[0])]
    kernels += itertools.pairwise(sizes.expert_units)
    products = []
    for inputs, units in kernels:
        x, w = tf.random.normal((rows, inputs)), tf.random.normal((inputs, units))
        y = tf.random.normal((rows, units))
        products += [
            (x, w, {}),  # forward
            (x, y, {"transpose_a": True}),  # the kernel's gradient
            (y, w, {"transpose_b": True}),  # the input's gradient
        ]
    flops = [2 * rows * inputs * units for inputs, units in kernels for _ in range(3)]

    def turn():
        return max(map(_gflops, products, flops))

    return turn


def _gflops(product, flops, seconds=0.2):
    a, b, transposed = product
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        tf.matmul(a, b, **transposed)  # eager on a CPU: done when it returns
        count += 1
    return count * flops / (time.perf_counter() - start) / 1e9


if __name__ == "__main__":
    serve(build)
