import keras
import numpy as np
import pytest
from keras import ops

import tfmoe
from tests.oracles import reference
from tfmoe.compute.initializers import PerMember

FEATURES, EXPERTS = 5, 3
MANY = 20  # so many are computed in another way


def inputs(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape or (4, FEATURES)).astype("float32")


def networks(layer):
    """The layer's weights as a list of `(W, b[, scale, offset])` for each expert."""
    stacks = [layer.kernels, layer.biases]
    if layer.layer_norm:
        stacks += [layer.scales, layer.offsets]
    return [
        [tuple(w.numpy()[e] for w in weights) for weights in zip(*stacks, strict=True)]
        for e in range(layer.num_experts)
    ]


def shake(layer):
    """Other values than those at the start, where biases are 0 and scales 1."""
    rng = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        weight.assign(weight + 0.3 * rng.normal(size=weight.shape))


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("hidden_units", [(6,), (6, 4), (6, 4, 2)])
@pytest.mark.parametrize("num_experts", [1, EXPERTS, MANY])
@pytest.mark.parametrize("own_inputs", [False, True])
def test_experts_match_reference(own_inputs, num_experts, hidden_units, layer_norm):
    shape = (4, num_experts, FEATURES) if own_inputs else (4, FEATURES)
    layer = tfmoe.Experts(num_experts, hidden_units, layer_norm=layer_norm)
    layer.build(shape)
    shake(layer)
    expected = reference.experts(inputs(*shape), networks(layer))
    np.testing.assert_allclose(layer(inputs(*shape)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_experts", [EXPERTS, MANY])
def test_experts_without_layers_pass_their_own_inputs(num_experts):
    x = inputs(4, num_experts, FEATURES)
    np.testing.assert_array_equal(tfmoe.Experts(num_experts, ())(x), x)


@pytest.mark.parametrize("num_experts", [EXPERTS, MANY])
def test_the_last_layer_may_end_otherwise(num_experts):
    layer = tfmoe.Experts(num_experts, (6, 4), last_activation="linear")
    layer.build((None, FEATURES))
    shake(layer)
    x = inputs(4, FEATURES)
    hidden = np.maximum(np.einsum("bf,efu->beu", x, layer.kernels[0]) + layer.biases[0], 0)
    expected = np.einsum("beu,euv->bev", hidden, layer.kernels[1]) + layer.biases[1]
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-5)
    chosen = np.array([[0, 2]] * 4)
    np.testing.assert_allclose(layer(x, chosen=chosen), expected[:, [0, 2]], rtol=1e-4, atol=1e-5)


def stacked_kernels(layer):
    """Every expert's kernel of every layer, as flat arrays."""
    return [kernel.ravel() for stack in layer.kernels for kernel in stack.numpy()]


@pytest.mark.parametrize(
    "initializer",
    [
        "glorot_uniform",
        keras.initializers.HeNormal(),
        keras.initializers.HeNormal(seed=1),
        keras.initializers.Orthogonal(seed=1),
        keras.initializers.RandomUniform(-1, 1, seed=0),
    ],
)
def test_experts_never_start_alike(initializer):
    # Layers of one shape, so that two of them could be equal.
    layer = tfmoe.Experts(EXPERTS, (FEATURES, FEATURES), kernel_initializer=initializer)
    layer.build((None, FEATURES))
    kernels = stacked_kernels(layer)
    assert len(kernels) == 2 * EXPERTS
    for i, kernel in enumerate(kernels):
        for other in kernels[:i]:
            assert abs(np.corrcoef(kernel, other)[0, 1]) < 0.9


def test_a_seed_gives_the_same_start_twice():
    def kernels(seed):
        initializer = keras.initializers.GlorotUniform(seed)
        layer = tfmoe.Experts(EXPERTS, (4, 4), kernel_initializer=initializer)
        layer.build((None, FEATURES))
        return np.concatenate(stacked_kernels(layer))

    np.testing.assert_array_equal(kernels(1), kernels(1))
    assert np.all(kernels(1) != kernels(2))


@pytest.mark.parametrize(
    ("initializer", "variance"),
    [("glorot_uniform", 2 / 128), ("he_normal", 2 / 64), ("lecun_normal", 1 / 64)],
)
def test_experts_start_at_the_scale_of_their_own_fan_in(initializer, variance):
    layer = tfmoe.Experts(8, (64,), kernel_initializer=initializer)
    layer.build((None, 64))
    for kernel in layer.kernels[0].numpy():
        assert kernel.std() == pytest.approx(np.sqrt(variance), rel=0.06)


def test_stack_initializer_keeps_what_draws_nothing():
    stack = PerMember("identity")((3, 4, 4))
    np.testing.assert_array_equal(stack, [np.eye(4)] * 3)


@pytest.mark.parametrize("num_experts", [EXPERTS, MANY])
def test_dropout_is_in_training_only_and_keeps_the_mean(num_experts):
    layer = tfmoe.Experts(num_experts, (64,), activation="linear", dropout=0.25)
    x = inputs(200, FEATURES)
    quiet = layer(x).numpy()
    np.testing.assert_allclose(layer(x), quiet, rtol=1e-5, atol=1e-6)
    trained = layer(x, training=True).numpy()
    kept = trained != 0
    assert kept.mean() == pytest.approx(0.75, abs=0.01)
    np.testing.assert_allclose(trained[kept], quiet[kept] / 0.75, rtol=1e-5)
    # Experts drop different units.
    assert np.any(kept[:, 0] != kept[:, 1])


def test_layer_norm_has_mean_0_and_variance_1_in_half_precision_too():
    layer = tfmoe.Experts(2, (256,), "linear", layer_norm=True, dtype="mixed_float16")
    rows = ops.convert_to_numpy(layer(100 * inputs(8, FEATURES))).astype("float64")
    np.testing.assert_allclose(rows.mean(axis=-1), 0, atol=2e-3)
    np.testing.assert_allclose(rows.var(axis=-1), 1, atol=2e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_experts": 0}, "at least 1. Received num_experts=0"),
        ({"num_experts": True}, "integer.*Received num_experts=True"),
        ({"hidden_units": (4, 0)}, "at least 1. Received hidden_units=0"),
        ({"hidden_units": 4}, r"sequence of integers. Received hidden_units=4.*write \(4,\)"),
        ({"dropout": 1.0}, "below 1. Received dropout=1.0"),
        ({"dropout": -0.1}, "at least 0.*Received dropout=-0.1"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfmoe.Experts(**{"num_experts": 2, "hidden_units": (4,), **arguments})


@pytest.mark.parametrize("shape", [(4,), (4, 2, 5), (4, 3, 5, 2)])
def test_inputs_of_another_rank_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(batch, features\).*Received shape \(4,"):
        tfmoe.Experts(3, (4,))(np.ones(shape))


def test_a_shared_input_needs_a_layer():
    with pytest.raises(ValueError, match=r"need a layer each. Received hidden_units=\(\)"):
        tfmoe.Experts(3, ())(inputs())
