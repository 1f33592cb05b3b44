"""What mixtures ask of the model around them: ids, ready experts, a way to compute."""

import keras
import numpy as np
import pytest

import tfmoe
from tests.oracles import tables
from tfmoe.compute import thresholds


@pytest.fixture(scope="module")
def df():
    return tables.rows()


@pytest.fixture(scope="module")
def prep(df):
    return tables.fitted(df)


def build(prep, *arguments, **options):
    return tfmoe.MultiTaskModel(prep, tfmoe.MMoE(*arguments, **options), tower_units=(4,))


def hashed(column):
    return tfmoe.HashGate(column=column, per_task=True)


@pytest.mark.slow
def test_a_hash_gate_reads_its_column(prep, df, tmp_path):
    model = build(prep, None, 4, (6,), hashed("user_id"))
    model.compile("adam", jit_compile=False)
    model.fit(prep.dataset(df, batch_size=64), verbose=0)
    features = prep.arrays(df, labels=False)
    weights = model.forward_pass(features).aux[0].weights
    expected = model.mixture.gate(np.zeros((len(df), 1)), ids=features["user_id"])
    np.testing.assert_array_equal(weights, expected)
    assert len(np.unique(np.argmax(weights, axis=-1))) == 4
    expected = model.predict(df, verbose=0)
    model.save(tmp_path / "model.keras")
    tfmoe.export(model, tmp_path / "served")  # compares with the model on raw rows
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    for task, values in reloaded.predict(df, verbose=0).items():
        np.testing.assert_allclose(values, expected[task], atol=1e-6)


@pytest.mark.parametrize("column", ["genres", "age", "nobody"])
def test_a_hash_gates_column_has_one_id_a_row(prep, column):
    with pytest.raises(ValueError, match=f"hashes the ids of one Categorical.*column='{column}'"):
        build(prep, None, 4, (6,), hashed(column))


def test_a_hash_gate_without_column_says_so(prep):
    with pytest.raises(ValueError, match=r"HashGate routes by the ids.*Received ids=None"):
        build(prep, None, 4, (6,), tfmoe.HashGate())


@pytest.mark.slow
def test_ready_experts_bring_their_weights(prep, df, tmp_path):
    layers = [keras.layers.Dense(6, "tanh") for _ in range(3)]
    width = build(prep, None, 2, (6,)).mixture.experts.kernels[0].shape[1]
    for layer in layers[:2]:
        layer.build((None, width))
    layers[0].trainable = False
    model = build(prep, experts=layers)
    ours = model.mixture.experts.layers
    assert not set(map(id, ours)) & set(map(id, layers)), "The mixture given is a recipe."
    for layer, own in zip(layers[:2], ours, strict=False):
        np.testing.assert_array_equal(own.kernel, layer.kernel)
    model.compile("adam", jit_compile=False)
    model.fit(prep.dataset(df, batch_size=64), verbose=0)
    np.testing.assert_array_equal(ours[0].kernel, layers[0].kernel)
    assert np.any(ours[1].kernel != layers[1].kernel)
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    assert not reloaded.mixture.experts.layers[0].trainable
    expected = model.predict(df, verbose=0)
    for task, values in reloaded.predict(df, verbose=0).items():
        np.testing.assert_allclose(values, expected[task], atol=1e-6)


def test_ready_experts_stay_frozen_whenever_they_were(prep, df):
    layers = [keras.Sequential([keras.layers.Dense(6), keras.layers.Dense(6)]) for _ in range(2)]
    mixture = tfmoe.MMoE(experts=layers)
    width = build(prep, None, 2, (6,)).mixture.experts.kernels[0].shape[1]
    for layer in layers:
        layer.build((None, width))
    layers[0].trainable = False
    layers[1].layers[1].trainable = False
    ours = tfmoe.MultiTaskModel(prep, mixture).mixture.experts.layers
    assert [len(layer.trainable_variables) for layer in ours] == [0, 2]


@pytest.mark.slow
@pytest.mark.parametrize("gate", [tfmoe.TopKGate(), tfmoe.DSelectKGate(gamma=1e-4)])
def test_a_sparse_model_is_the_dense_one_from_fit_to_serving(prep, df, gate, tmp_path):
    results = []
    for dispatch in ("dense", "sparse"):
        keras.utils.set_random_seed(0)
        model = build(prep, None, 8, (6, 4), gate, dispatch=dispatch)
        model.compile(keras.optimizers.SGD(0.05))
        history = model.fit(prep.dataset(df, batch_size=64), epochs=2, verbose=0).history
        results.append([history["loss"], *model.predict(df, verbose=0).values()])
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-4)
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)
    tfmoe.export(model, tmp_path / "served")


def test_xla_is_left_out_where_shapes_may_follow_the_data(prep):
    def jit_of(num_experts, gate):
        model = build(prep, None, num_experts, (6,), gate)
        model.compile("adam")
        return model.jit_compile

    with thresholds.use(most_looked_up=256):
        assert jit_of(4, tfmoe.TopKGate())
        assert jit_of(64, tfmoe.SoftmaxGate())
        assert not jit_of(64, tfmoe.TopKGate())
