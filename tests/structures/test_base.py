"""What others ask of structures, and a plain layer in the place of one."""

import keras
import numpy as np
import pytest
from keras import ops

import tfmoe
from tfmoe.structures.base import PlainLayer, gates_inside, structure_of

SCHEMA = tfmoe.Schema(
    [tfmoe.Numeric("age", transform="none"), tfmoe.Categorical("city", hash_buckets=7)],
    [tfmoe.Binary("click"), tfmoe.Regression("spend", standardize=False)],
)
FEATURES = {"age": np.linspace(-1, 1, 6, dtype="float32"), "city": np.arange(3, 9, dtype="int32")}


@keras.saving.register_keras_serializable("tests")
class Repeated(keras.layers.Layer):
    """No structure, but with what a model needs to call it; with a gate inside."""

    def __init__(self, num_tasks=None, **kwargs):
        super().__init__(**kwargs)
        self.num_tasks = num_tasks
        self.inner = tfmoe.MMoE(num_tasks, 3, (4,), tfmoe.TopKGate(), name="inner")

    def build(self, input_shape):
        self.inner.build(input_shape)

    def call(self, inputs, training=False, return_aux=False):
        return self.inner(inputs, training=training, return_aux=return_aux)

    def get_config(self):
        return {**super().get_config(), "num_tasks": self.num_tasks}


def recipe(layer):
    """A layer with its tasks left open, and as it was otherwise."""
    config = keras.saving.serialize_keras_object(layer)
    config.pop("build_config", None)
    config["config"]["num_tasks"] = None
    return config


@pytest.fixture
def plain():
    model = tfmoe.MultiTaskModel(SCHEMA, Repeated(num_tasks=2))
    model.compile("adam", run_eagerly=True)
    return model


@pytest.mark.slow
def test_a_plain_layer_takes_the_place_of_a_structure(plain, tmp_path):
    assert isinstance(plain.mixture, Repeated)
    assert isinstance(plain.structure, PlainLayer)
    assert structure_of(plain.structure) is plain.structure
    labels = {"click": np.arange(6.0) > 2, "spend": np.arange(6.0)}
    plain.fit(FEATURES, labels, verbose=0)
    (use,) = tfmoe.gate_use(plain, FEATURES)
    assert use.tasks == ("click", "spend")
    assert use.num_used.tolist() == [2.0, 2.0]
    plain.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for name, values in plain(FEATURES).items():
        np.testing.assert_allclose(loaded(FEATURES)[name], values, atol=1e-6)


def test_what_a_plain_layer_cannot_do_is_said(plain):
    with pytest.raises(ValueError, match=r"on Repeated, which is none. Make it a subclass"):
        tfmoe.extract(plain, ["click"])
    with pytest.raises(ValueError, match=r"or another Structure. Received one on Repeated"):
        plain.add_task(tfmoe.Binary("buy"))


def test_gates_are_found_inside_of_what_holds_them():
    layer = Repeated(num_tasks=2)
    layer.build((None, 5))
    assert gates_inside(layer) == [layer.inner.gate] == structure_of(layer).gates
    assert gates_inside(tfmoe.SharedBottom(2)) == []


@pytest.mark.parametrize(
    ("structure", "point"),
    [
        (tfmoe.SharedBottom(hidden_units=(4,)), "outputs"),
        (tfmoe.OMoE(hidden_units=(4,)), "outputs"),
        (tfmoe.MMoE(hidden_units=(4,)), "inside"),
        (tfmoe.ModSquad(), "inputs"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_a_structure_says_what_all_tasks_share(structure, point):
    assert structure.shared_point() == point


def test_all_tasks_get_the_same_where_they_share_the_outputs():
    for structure in (tfmoe.SharedBottom(3, (4,)), tfmoe.OMoE(3, 4, (4,))):
        outputs = ops.convert_to_numpy(structure(np.eye(5, dtype="float32")))
        np.testing.assert_allclose(outputs, outputs[:, :1].repeat(3, axis=1), atol=1e-7)


def test_a_context_is_what_columns_were_declared():
    gate = tfmoe.HashGate(column="city")
    model = tfmoe.MultiTaskModel(SCHEMA, tfmoe.MMoE(num_experts=4, hidden_units=(3,), gate=gate))
    assert model.structure.context_columns == {"ids": "city"}
    assert tfmoe.MMoE().context_columns == {}
    inputs = np.ones((6, 2), "float32")
    mixture = tfmoe.MMoE(2, 4, (3,), tfmoe.HashGate())
    expected = mixture(inputs, ids=FEATURES["city"])
    found = mixture(inputs, context={"ids": FEATURES["city"]})
    np.testing.assert_array_equal(found, expected)
    mixture = tfmoe.MMoE(hidden_units=(3,), gate=tfmoe.HashGate(column="age"))
    with pytest.raises(ValueError, match=r"one Categorical column, of \['city'\]. Received col"):
        tfmoe.MultiTaskModel(SCHEMA, mixture)


def test_experts_may_be_a_recipe(tmp_path):
    experts = tfmoe.Experts(5, (6, 4), "gelu", layer_norm=True, last_activation="tanh")
    mixture = tfmoe.MMoE(2, gate=tfmoe.TopKGate(), experts=experts)
    inputs = np.random.default_rng(0).normal(size=(3, 7)).astype("float32")
    assert mixture(inputs).shape == (3, 2, 4)
    assert mixture.num_experts == 5
    assert not experts.built  # a recipe is left alone
    twin = tfmoe.MMoE.from_config(mixture.get_config())
    twin.build((None, 7))
    twin.set_weights(mixture.get_weights())
    np.testing.assert_array_equal(twin(inputs), mixture(inputs))
    model = tfmoe.MultiTaskModel(SCHEMA, recipe(mixture))
    alone = tfmoe.extract(model, ["spend"], data=FEATURES, threshold=0.0)
    np.testing.assert_allclose(
        alone(FEATURES)["spend"], model(FEATURES)["spend"], rtol=1e-5, atol=1e-6
    )
    alone.save(tmp_path / "alone.keras")
    loaded = keras.saving.load_model(tmp_path / "alone.keras")
    np.testing.assert_allclose(
        loaded(FEATURES)["spend"], alone(FEATURES)["spend"], rtol=1e-6, atol=1e-6
    )


def test_the_command_line_makes_structures_from_what_they_take():
    made = tfmoe.ModSquad.from_options(num_experts=4, hidden_units=(8, 6), num_nonzeros=3)
    assert (made.dim, made.get_config()["gate"]["config"]["num_nonzeros"]) == (6, 3)
    assert tfmoe.SharedBottom.from_options(num_experts=4, hidden_units=(8,)).num_tasks is None
