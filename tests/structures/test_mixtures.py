import keras
import numpy as np
import pytest

import tfmoe
from tests.experts.test_experts import networks, shake
from tests.oracles import reference
from tfmoe.compute import nested
from tfmoe.compute.math import mix

FEATURES, TASKS, EXPERTS = 5, 3, 4


def inputs(rows=6):
    return np.random.default_rng(0).normal(size=(rows, FEATURES)).astype("float32")


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("router", ["linear", "static"])
def test_mmoe_matches_reference(router, layer_norm):
    gate = tfmoe.SoftmaxGate(router=router)
    mixture = tfmoe.MMoE(TASKS, EXPERTS, (6, 4), gate, layer_norm=layer_norm)
    mixture.build((None, FEATURES))
    shake(mixture)
    if router == "linear":
        matrices = np.split(mixture.gate.head.kernel.numpy(), TASKS, axis=1)
        weights = reference.softmax_gate(inputs(), matrices)
    else:
        rows = mixture.gate.head.scores.numpy().reshape(TASKS, EXPERTS)
        weights = np.array([[reference.softmax(row) for row in rows]])
    outputs = reference.experts(inputs(), networks(mixture.experts))
    expected = reference.mixture(outputs, weights)
    got, (record,) = mixture(inputs(), return_aux=True)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(record.weights, weights, atol=1e-6)
    np.testing.assert_allclose(mixture(inputs()), got, rtol=1e-5, atol=1e-6)


def test_omoe_gives_all_tasks_one_mixture():
    mixture = tfmoe.OMoE(TASKS, EXPERTS, (6, 4))
    outputs, (record,) = mixture(inputs(), return_aux=True)
    weights = reference.softmax_gate(inputs(), [mixture.gate.head.kernel.numpy()])
    one = reference.mixture(reference.experts(inputs(), networks(mixture.experts)), weights)
    np.testing.assert_allclose(outputs, np.repeat(one, TASKS, axis=1), atol=1e-5)
    assert record.weights.shape == (6, 1, EXPERTS)


def test_shared_bottom_matches_reference():
    mixture = tfmoe.SharedBottom(TASKS, (6, 4), layer_norm=True)
    mixture.build((None, FEATURES))
    shake(mixture)
    expected = reference.shared_bottom(inputs(), networks(mixture.bottom)[0], TASKS)
    outputs, records = mixture(inputs(), return_aux=True)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    assert records == []


@pytest.mark.parametrize("rows", [1, 6])
def test_mix_matches_reference(rows):
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(6, EXPERTS, 2))
    weights = rng.normal(size=(rows, TASKS, EXPERTS))
    expected = reference.mixture(outputs, weights)
    np.testing.assert_allclose(mix(keras.ops.array(outputs), weights), expected, atol=1e-6)


MIXTURES = [
    lambda: tfmoe.MMoE(TASKS, EXPERTS, (4,), tfmoe.DSelectKGate()),
    lambda: tfmoe.MMoE(TASKS, EXPERTS, (4,), tfmoe.TopKGate(router="static"), layer_norm=True),
    lambda: tfmoe.OMoE(TASKS, EXPERTS, (4,), tfmoe.TopKGate(noisy=True)),
    lambda: tfmoe.SharedBottom(TASKS, (4,), layer_norm=True),
]


@pytest.mark.parametrize("make", MIXTURES)
def test_no_row_depends_on_its_batch_mates(make):
    mixture = make()
    whole = mixture(inputs())
    for row in range(6):
        alone = mixture(inputs()[row : row + 1])
        np.testing.assert_allclose(alone[0], whole[row], rtol=1e-5, atol=1e-6)


def test_a_gate_is_a_recipe():
    gate = tfmoe.DSelectKGate(num_nonzeros=3)
    mixtures = [tfmoe.MMoE(num_tasks, EXPERTS, (4,), gate) for num_tasks in (1, 2)]
    for num_tasks, mixture in enumerate(mixtures, start=1):
        mixture(inputs())
        assert (mixture.gate.num_tasks, mixture.gate.num_experts) == (num_tasks, EXPERTS)
        assert mixture.gate.num_nonzeros == 3
    assert mixtures[0].gate is not mixtures[1].gate
    assert (gate.num_tasks, gate.num_experts, gate.built) == (None, None, False)


@keras.saving.register_keras_serializable("tests")
class TwoHolders(keras.layers.Layer):
    """Takes two recipes from one object, as two short-lived ones of one address would be."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        gate = tfmoe.DSelectKGate(num_nonzeros=3)
        self.recipes = [nested.config_of(gate), nested.config_of(gate)]


def test_recipes_are_not_taken_for_one_object_in_loading(tmp_path):
    model = keras.Sequential([keras.Input((FEATURES,)), TwoHolders()])
    model.save(tmp_path / "model.keras")
    recipes = keras.saving.load_model(tmp_path / "model.keras").layers[0].recipes
    assert [set(one) for one in recipes] == [set(model.layers[0].recipes[0])] * 2
    assert "shared_object_id" not in recipes[0]


def test_a_gates_losses_reach_the_model():
    gate = tfmoe.DSelectKGate(entropy_reg=1.0, router="static")
    mixture = tfmoe.MMoE(TASKS, EXPERTS, (4,), gate)
    mixture(inputs(), training=True)
    # Every bit starts undecided: two selectors of ln 4 a task.
    assert float(sum(mixture.losses)) == pytest.approx(TASKS * 2 * np.log(4), rel=1e-3)
    mixture(inputs())
    assert mixture.losses == []


@pytest.mark.slow
def test_a_functional_model_trains_on_a_mixture():
    x = inputs(64)
    y = np.stack([x[:, 0], -x[:, 0], x[:, 1]], axis=1)[..., None]
    symbol = keras.Input((FEATURES,))
    mixed = tfmoe.MMoE(TASKS, EXPERTS, (8,), tfmoe.DSelectKGate(entropy_reg=0.01))(symbol)
    outputs = keras.ops.stack(tfmoe.Towers((1, 1, 1), (4,))(mixed), axis=1)
    model = keras.Model(symbol, outputs)
    model.compile(keras.optimizers.Adam(0.03), "mse")
    losses = model.fit(x, y, epochs=25, batch_size=32, verbose=0).history["loss"]
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tfmoe.MMoE(0), "MMoE needs `num_tasks`.*Received num_tasks=0"),
        (lambda: tfmoe.OMoE(num_experts=0), "OMoE needs `num_experts`.*at least 2.*=0"),
        (lambda: tfmoe.MMoE(gate="softmax"), "tfmoe's gates.*Received gate='softmax'"),
        (lambda: tfmoe.MMoE(dropout=2.0), "below 1. Received dropout=2.0"),
        (lambda: tfmoe.SharedBottom(-1), "SharedBottom needs `num_tasks`.*num_tasks=-1"),
        (lambda: tfmoe.MMoE()(inputs()), "MMoE must know `num_tasks`.*Received num_tasks=None"),
        (lambda: tfmoe.SharedBottom()(inputs()), "SharedBottom must know `num_tasks`"),
        (
            lambda: tfmoe.MMoE(2, 3, gate=tfmoe.SoftmaxGate(num_experts=4))(inputs()),
            "MMoE sets `num_experts` of its SoftmaxGate to 3. Received num_experts=4 there. Leave",
        ),
        (
            # One input an expert is for Experts; a mixture would take it for examples.
            lambda: tfmoe.MMoE(2, EXPERTS, (4,))(np.ones((6, EXPERTS, FEATURES))),
            r"takes inputs of shape \(batch, features\). Received shape \(6, 4, 5\)",
        ),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def ready(units=4, num=3, **options):
    return [keras.layers.Dense(units, "tanh", **options) for _ in range(num)]


def test_ready_layers_are_experts():
    layers = ready()
    mixture = tfmoe.MMoE(TASKS, gate=tfmoe.SoftmaxGate(), experts=layers)
    outputs, (record,) = mixture(inputs(), return_aux=True)
    stacked = np.stack([layer(inputs()) for layer in layers], axis=1)
    expected = reference.mixture(stacked, np.array(record.weights))
    np.testing.assert_allclose(outputs, expected, atol=1e-6)
    assert mixture.num_experts == 3


def test_ready_layers_need_no_shapes():
    @keras.saving.register_keras_serializable("test")
    class Plain(keras.layers.Layer):
        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.units, self.inner = units, keras.layers.Dense(units)

        def call(self, inputs):
            return self.inner(inputs)

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    mixture = tfmoe.MMoE(2, experts=[Plain(3), Plain(3)])
    inputs = keras.Input((5,))
    model = keras.Model(inputs, mixture(inputs))
    assert model.output_shape == (None, 2, 3)
    assert len(model.trainable_variables) == 2 * 2 + 1


@pytest.mark.parametrize(
    "layer",
    [
        tfmoe.MMoE(2, 4, (3,)),
        tfmoe.OMoE(2, 4, (3,)),
        tfmoe.SharedBottom(2, (3,)),
        tfmoe.TopKGate(2, 3),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_rows_may_be_steps_of_time(layer):
    inputs = keras.Input((4, 5))
    model = keras.Model(inputs, keras.layers.TimeDistributed(layer)(inputs))
    x = np.random.default_rng(0).normal(size=(2, 4, 5)).astype("float32")
    outputs = model.predict(x, verbose=0)
    assert model.output_shape[1:] == outputs.shape[1:] == (4, 2, 3)
    np.testing.assert_allclose(outputs[:, 1], layer(x[:, 1]), atol=1e-6)


def test_frozen_experts_stay_as_they_are():
    layers = ready()
    layers[0].trainable = False
    symbol = keras.Input((FEATURES,))
    model = keras.Model(symbol, tfmoe.MMoE(TASKS, experts=layers)(symbol))
    before = [layer.kernel.numpy().copy() for layer in layers]
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(inputs(), np.ones((6, TASKS, 4)), verbose=0)
    moved = [np.any(a != layer.kernel) for a, layer in zip(before, layers, strict=True)]
    assert moved == [False, True, True]


def test_ready_experts_take_images_and_the_gate_sees_them_flat():
    images = np.random.default_rng(0).normal(size=(5, 6, 6, 1)).astype("float32")
    layers = [
        keras.Sequential([keras.layers.Conv2D(2, 3), keras.layers.Flatten(), keras.layers.Dense(4)])
        for _ in range(3)
    ]
    mixture = tfmoe.MMoE(TASKS, gate=tfmoe.TopKGate(), experts=layers)
    assert mixture(images).shape == (5, TASKS, 4)
    assert mixture.gate.head.kernel.shape == (36, TASKS * 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ready()[:1] * 2, "different Keras layers, one an expert"),
        (lambda: [len, max], "different Keras layers, one an expert"),
        (lambda: [*ready(4, 1), *ready(5, 1)], r"to \[\(6, 4\), \(6, 5\)\]"),
        (lambda: [keras.layers.Reshape((1, 5)) for _ in range(2)], r"to \[\(6, 1, 5\), "),
    ],
)
def test_ready_experts_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        tfmoe.MMoE(TASKS, experts=make())(inputs())
