"""The contestants in tfmoe's own environment: tfmoe, the hand-written model, bare matmuls."""

import contextlib
import itertools
import time

import keras
import tensorflow as tf

import tfmoe
from benchmarks.rivals import dense_list
from benchmarks.rivals.worker import keras_turn, serve
from tfmoe.compute import thresholds
from tfmoe.schema.columns import FIRST_ID


def build(sizes):
    plain = _compiled(sizes)
    # With XLA where tfmoe takes none by itself, and without where it does.
    other = _compiled(sizes, jit_compile=not plain.jit_compile)
    models = {
        "tfmoe": plain,
        "tfmoe, jit" if other.jit_compile else "tfmoe, no jit": other,
        "tfmoe, bfloat16": _compiled(sizes, "mixed_bfloat16"),
        "dense list": _by_hand(sizes),
        "dense list, bfloat16": _by_hand(sizes, "mixed_bfloat16"),
    }
    contestants = {}
    for name, model in models.items():
        metrics = "with the tasks' metrics" if name.startswith("tfmoe") else "no metrics"
        what = f"model.fit, jit_compile={model.jit_compile}, {metrics}"
        contestants[name] = (what, keras_turn(model, sizes))
    for name, least in (("tfmoe, experts one after the other", None), ("tfmoe, batched", 0)):
        what = f"model.fit, jit_compile=False, large_kernel={least}, with the tasks' metrics"
        contestants[name] = (what, _forced(sizes, large_kernel=least))
    contestants["matmul"] = ("the fastest float32 matmul of the model's shapes", matmul_turn(sizes))
    return contestants


def _compiled(sizes, policy="float32", **settings):
    with _policy(policy):
        model = tfmoe_model(sizes)
    model.compile("adam", **settings)
    return model


def _forced(sizes, **changes):
    """A turn of a model that is traced under other thresholds, without XLA."""
    turn = keras_turn(_compiled(sizes, jit_compile=False), sizes)

    def forced_turn():
        with thresholds.use(**changes):
            turn()

    return forced_turn


def _by_hand(sizes, policy="float32"):
    with _policy(policy):
        model = dense_list.mmoe(sizes)
    model.compile("adam", "binary_crossentropy")
    return model


@contextlib.contextmanager
def _policy(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
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
