import keras
import numpy as np
import pandas as pd
import pytest

import tfmoe
from tfmoe.features.unknown import UnknownIds

TASKS = [tfmoe.Binary("click")]
IDS = np.array([[3, 4, 5], [3, 5, 0], [1, 0, 0], [4, 4, 0]], "int32")
WEIGHTS = np.array([[0.5, -2, 1], [0, 3, 0], [1, 0, 0], [0, 0, 0]], "float32")


@pytest.mark.parametrize("kind", [tfmoe.MultiCategorical, tfmoe.Sequence])
@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_weighted_pooling(kind, pooling):
    column = kind("tags", weights="w", pooling=pooling, dim=4)
    encoder = tfmoe.Encoder(tfmoe.Schema([column], TASKS), {"tags": 7})
    found = encoder({"tags": IDS, "tags_weights": WEIGHTS})
    vectors = np.array(encoder.tables["tags"].embeddings)[IDS] * WEIGHTS[..., None]
    expected = vectors.sum(axis=1)
    if pooling == "mean":
        size = np.abs(WEIGHTS).sum(axis=1, keepdims=True)
        expected = np.where(size > 0, expected / np.maximum(size, 0.1), 0)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"without \['tags_weights'\]"):
        encoder({"tags": IDS})


@pytest.mark.parametrize("pooling", ["mean", "sum", tfmoe.TargetAttention("item"), "softmax"])
def test_half_precision_holds_large_weights_and_long_lists(pooling):
    long = 3000
    if pooling == "softmax":
        pooling = tfmoe.TargetAttention("item", softmax=True)
    columns = [
        tfmoe.Categorical("item", dim=4),
        tfmoe.Sequence("seen", share="item", max_length=long, weights="ms", pooling=pooling),
        tfmoe.Numeric("at", transform="none"),
    ]
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"item": rng.integers(0, 9, 8), "click": [0, 1] * 4})
    table["at"] = 1.7e9
    table["seen"] = [rng.integers(0, 9, n).tolist() for n in (1, 2, 3, 4, 5, 6, 7, long)]
    table["ms"] = [rng.uniform(7e4, 9e4, len(one)).tolist() for one in table["seen"]]
    prep = tfmoe.Preprocessor(tfmoe.Schema(columns, TASKS)).fit(table, progress=False)
    x, _, _ = prep.arrays(table)

    def encoded(policy):
        keras.utils.set_random_seed(0)
        bottom = tfmoe.SharedBottom(hidden_units=(4,), dtype=policy)
        built = tfmoe.MultiTaskModel(prep, bottom, wide=True, dtype=policy)
        found = built.predict(x, verbose=0)["click"]
        assert np.all(np.isfinite(found))
        return np.asarray(built.encoder(x), "float32")

    half, whole = encoded("mixed_float16"), encoded("float32")
    np.testing.assert_array_equal(half[:, -1], 65504)
    np.testing.assert_allclose(half[:, :4], whole[:, :4], atol=1e-4)
    expected = np.clip(whole[:, 4:-1], -65504, 65504)
    size = np.abs(expected).max()
    np.testing.assert_allclose(half[:, 4:-1] / size, expected / size, atol=1e-2)


def test_vectors_and_times_side_by_side():
    columns = [
        tfmoe.Vector("emb"),
        tfmoe.Vector("given", size=2),
        tfmoe.Timestamp("at", parts=["hour", "age"]),
        tfmoe.Timestamp("ids", cyclic=False, dim=2),
    ]
    schema = tfmoe.Schema(columns, TASKS)
    sizes, rng = {"ids": 34}, np.random.default_rng(0)
    encoder = tfmoe.Encoder(schema, sizes, lengths={"emb": 3, "given": 2, "at": 3, "ids": 2})
    features = {
        name: rng.normal(size=(5, n)).astype("float32")
        for name, n in {"emb": 3, "given": 2, "at": 3}.items()
    }
    features["ids"] = rng.integers(1, 34, (5, 2)).astype("int32")
    found = np.array(encoder(features))
    assert encoder.sizes == [3, 2, 3, 4]
    numbers = np.concatenate([features[name] for name in ("emb", "given", "at")], axis=1)
    np.testing.assert_allclose(found[:, :8], numbers)
    table = np.array(encoder.tables["ids"].embeddings)
    np.testing.assert_allclose(found[:, 8:], table[features["ids"]].reshape(5, 4))
    again = tfmoe.Encoder.from_config(encoder.get_config())
    assert again.sizes == encoder.sizes
    copies = tfmoe.Encoder(schema, sizes, copies=3, lengths={"emb": 3})
    several = np.array(copies(features))
    assert several.shape == (5, 3, 12)
    wide = np.array(copies.tables["ids"].embeddings).reshape(34, 3, 2)
    for copy in range(3):
        expected = wide[:, copy][features["ids"]].reshape(5, 4)
        np.testing.assert_allclose(several[:, copy, 8:], expected)
        np.testing.assert_allclose(several[:, copy, :8], numbers)
    tokens, mask = tfmoe.Encoder(schema, sizes, tokens=6, lengths={"emb": 3})(features)
    assert tuple(tokens.shape) == (5, 4, 6)
    assert np.all(mask)
    with pytest.raises(ValueError, match=r"size of every vector.*without \['emb'\]"):
        tfmoe.Encoder(schema, sizes)


def test_known_ids_are_unknown_at_times():
    layer = UnknownIds(0.25, seed=0)
    ids = np.tile(np.array([0, 1, 2, 3, 9], "int32"), (4000, 1))
    found = np.array(layer(ids, training=True))
    assert np.all(found[:, :3] == ids[:, :3])
    assert set(found[:, 4].tolist()) == {2, 9}
    np.testing.assert_allclose((found[:, 3:] == 2).mean(axis=0), 0.25, atol=0.05)
    assert np.any(found != np.array(layer(ids, training=True)))
    np.testing.assert_array_equal(layer(ids), ids)
    layer.trainable = False
    np.testing.assert_array_equal(layer(ids, training=True), ids)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_the_unknown_embedding_is_trained(rate):
    keras.utils.set_random_seed(0)
    columns = [
        tfmoe.Categorical("city", dim=2, hash_buckets=5, unknown_rate=rate),
        tfmoe.MultiCategorical("tags", share="city", max_length=2, unknown_rate=rate),
    ]
    model = tfmoe.MultiTaskModel(
        tfmoe.Schema(columns, TASKS), tfmoe.SharedBottom(hidden_units=(2,))
    )
    model.compile("adam", jit_compile=False)
    before = np.array(model.encoder.tables["city"].embeddings)
    rows = {"city": ["a", "b"] * 20, "tags": [["a", "c"], ["b"]] * 20, "click": [0, 1] * 20}
    model.fit(*model.preprocessor.arrays(rows), batch_size=8, verbose=0)
    after = np.array(model.encoder.tables["city"].embeddings)
    assert np.any(before[2] != after[2]) == (rate > 0)
    np.testing.assert_array_equal(
        model.predict(rows, verbose=0)["click"], model.predict(rows, verbose=0)["click"]
    )
