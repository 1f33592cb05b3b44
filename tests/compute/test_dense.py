import keras
import numpy as np
import pytest
from keras import ops

import tfmoe
from tfmoe.compute import dense, thresholds


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def plain(inputs, kernel, bias):
    return np.stack(
        [
            (inputs if inputs.ndim == 2 else inputs[e]).astype("float64") @ kernel[e] + bias[e]
            for e in range(len(kernel))
        ]
    )


# With 15 and the bias's feature there is nothing to fill; of 32, networks are narrow.
@pytest.mark.parametrize("size", [5, 15, 16, 32])
@pytest.mark.parametrize("shared", [True, False])
def test_affine_and_its_gradients(shared, size):
    import tensorflow as tf

    x = draw(*(() if shared else (3,)), 7, size)
    kernel, bias, upstream = draw(3, size, 4, seed=1), draw(3, 4, seed=2), draw(3, 7, 4, seed=3)
    arguments = [tf.constant(a) for a in (x, kernel, bias)]

    @tf.function(jit_compile=True)
    def compiled(*arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            outputs = dense.affine(*arguments)
        return outputs, *tape.gradient(outputs, arguments, upstream)

    each = [plain(x if shared else x[e], kernel[e : e + 1], bias[e : e + 1])[0] for e in range(3)]
    of_x = np.stack([upstream[e] @ kernel[e].T for e in range(3)])
    own = np.stack([x] * 3) if shared else x
    expected = [
        np.stack(each),
        of_x.sum(axis=0) if shared else of_x,
        np.stack([own[e].T @ upstream[e] for e in range(3)]),
        upstream.sum(axis=1),
    ]
    for function in (compiled, compiled.python_function):
        for found, right in zip(function(*arguments), expected, strict=True):
            assert found.shape == right.shape
            np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)


@pytest.mark.quick(1)
@pytest.mark.parametrize("layer_norm", [True, False])
def test_large_kernels_run_together_with_the_same_results(layer_norm):
    """Outputs, and steps of an optimizer, as of experts that run one by one."""
    x, y = draw(20, 6), draw(20, 4, 3, seed=1)
    found = {}
    for least in (1, None):
        with thresholds.use(large_kernel=least, large_kernel_inference=least):
            for training in (False, True):
                assert dense.is_unrolled(4, (6, 5), training) is (least is None)
            keras.utils.set_random_seed(0)
            inputs = keras.Input((6,))
            experts = tfmoe.Experts(4, (5, 3), layer_norm=layer_norm)
            model = keras.Model(inputs, experts(inputs))
            model.compile(keras.optimizers.SGD(0.5), "mse")
            model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
            found[least] = [model.predict(x, verbose=0), *experts.get_weights()]
    for one, other in zip(*found.values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_few_networks_run_one_by_one():
    with thresholds.use("avx512"):
        assert dense.is_unrolled(2, (1000, 1000), training=True)
        assert not dense.is_unrolled(3, (1000, 1000), training=True)
        assert dense.is_unrolled(3, (1000, 1000), training=False)
        assert dense.is_unrolled(16, (100, 100), training=True)
        assert not dense.is_unrolled(17)
        assert not dense.is_unrolled(17, (128, 256), training=True)
    with thresholds.use("other"):
        assert dense.is_unrolled(3, (1000, 1000), training=True)
        # Large ones gain by it in larger numbers than small ones do.
        for num, shape, unrolled in [
            (12, (128, 32), True),
            (13, (128, 32), False),
            (32, (128, 128), True),
            (32, (127, 128), False),
            (33, (128, 128), False),
        ]:
            assert dense.is_unrolled(num, shape, training=True) is unrolled
            assert dense.is_unrolled(num, shape, training=False) is unrolled


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(policy):
    experts = tfmoe.Experts(3, (256, 8), dtype=policy)
    outputs = experts(draw(10, 256))
    assert outputs.dtype == policy.removeprefix("mixed_")
    full = tfmoe.Experts(3, (256, 8))
    full.build((None, 256))
    full.set_weights(experts.get_weights())
    exact = full(draw(10, 256))
    np.testing.assert_allclose(ops.cast(outputs, "float32"), exact, atol=0.1)
