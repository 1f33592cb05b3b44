import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import tfmoe

SIZE, DIM = 8, 3
TASKS = [tfmoe.Binary("click")]


def encoder(*columns, sizes=None, **options):
    return tfmoe.Encoder(tfmoe.Schema(columns, TASKS), sizes or {"city": SIZE}, **options)


@pytest.mark.parametrize("kind", [tfmoe.MultiCategorical, tfmoe.Sequence])
@pytest.mark.parametrize("pooling", ["mean", "sum", "max"])
@given(
    ids=st.lists(
        st.lists(st.sampled_from([0, 0, 0, 1, 2, 7]), min_size=4, max_size=4),
        min_size=1,
        max_size=5,
    )
)
def test_pooling_matches_reference(kind, pooling, ids):
    ids = np.array([[0, 0, 0, 0], *ids], "int32")
    layer = encoder(kind("city", dim=DIM, pooling=pooling))
    vectors = layer({"city": ids}).numpy()
    table = layer.tables["city"].embeddings.numpy()
    np.testing.assert_allclose(vectors, reference.pool(ids, table, pooling), atol=1e-6)
    assert np.all(vectors[0] == 0)


@pytest.mark.parametrize("pooling", ["mean", "sum", "max"])
def test_padding_gets_no_gradient(pooling):
    layer = encoder(tfmoe.MultiCategorical("city", dim=DIM, pooling=pooling))
    ids = np.array([[0, 0, 0], [2, 0, 0], [2, 3, 0]], "int32")
    layer({"city": ids})
    with tf.GradientTape() as tape:
        loss = keras.ops.sum(layer({"city": ids}))
    gradient = tape.gradient(loss, layer.tables["city"].embeddings.value).numpy()
    assert np.isfinite(gradient).all()
    assert np.all(gradient[0] == 0)
    assert np.any(gradient[2] != 0)


SHARED = [
    tfmoe.Numeric("age"),
    tfmoe.Categorical("home", share="city"),
    tfmoe.Categorical("city", dim=DIM),
    tfmoe.Numeric("income", transform="buckets", dim=2),
    tfmoe.Sequence("visits", share="city"),
    tfmoe.Numeric("height", transform="none"),
    tfmoe.MultiCategorical("wishes", share="city", pooling="max"),
]
FEATURES = {
    "age": np.array([0.5, -1.0], "float32"),
    "home": np.array([1, 2], "int32"),
    "city": np.array([3, 1], "int32"),
    "income": np.array([2, 4], "int32"),
    "visits": np.array([[4, 0, 0], [5, 6, 7]], "int32"),
    "height": np.array([1.5, 2.5], "float32"),
    "wishes": np.array([[7, 2], [0, 0]], "int32"),
}
SIZES = {"city": SIZE, "income": 5}


def expected(layer):
    city, income = (layer.tables[name].embeddings.numpy() for name in ("city", "income"))
    columns = [
        FEATURES["age"][:, None],
        city[FEATURES["home"]],
        city[FEATURES["city"]],
        income[FEATURES["income"]],
        reference.pool(FEATURES["visits"], city, "mean"),
        FEATURES["height"][:, None],
        reference.pool(FEATURES["wishes"], city, "max"),
    ]
    return np.concatenate(columns, axis=1)


def test_columns_come_in_the_schemas_order_with_one_look_up_a_table(monkeypatch):
    layer = encoder(*SHARED, sizes=SIZES)
    calls, call = [], tfmoe.Embedding.call
    monkeypatch.setattr(
        tfmoe.Embedding, "call", lambda self, ids: calls.append(self.name) or call(self, ids)
    )
    shuffled = dict(sorted(FEATURES.items()))
    np.testing.assert_allclose(layer(shuffled), expected(layer), atol=1e-6)
    assert sorted(calls) == ["table_city", "table_income"]


def test_lists_of_any_length_in_a_functional_model():
    layer = encoder(*SHARED, sizes=SIZES)
    symbols = {
        name: keras.Input((None,) if x.ndim == 2 else (), dtype=x.dtype.name, name=name)
        for name, x in FEATURES.items()
    }
    outputs = layer(symbols)
    assert outputs.shape == (None, 2 + 4 * DIM + 2)
    model = keras.Model(symbols, outputs)
    # As in a served graph, which knows no lengths.
    shapes = {name: tf.TensorSpec([None] * x.ndim, x.dtype) for name, x in FEATURES.items()}
    served = tf.function(lambda features: model(features), input_signature=[shapes])
    longer = {**FEATURES, "visits": np.pad(FEATURES["visits"], [(0, 0), (0, 2)])}
    for features in (FEATURES, longer):
        np.testing.assert_allclose(served(features), expected(layer), atol=1e-6)


@pytest.mark.parametrize("seed", [None, 3])
def test_tables_never_start_alike(seed):
    initializer = keras.initializers.RandomUniform(-1, 1, seed=seed)
    columns = [tfmoe.Categorical("user"), tfmoe.Categorical("film")]
    layer = encoder(
        *columns, sizes={"user": SIZE, "film": SIZE}, embeddings_initializer=initializer
    )
    layer({"user": np.array([1]), "film": np.array([1])})
    user, film = (table.embeddings.numpy() for table in layer.tables.values())
    assert np.all(user != film)


def test_a_missing_table_size_is_named():
    with pytest.raises(ValueError, match=r"Received table_sizes={'city': 8}, without \['income'\]"):
        encoder(*SHARED)


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match=r"every column.*Received features=\['age'\], without"):
        encoder(*SHARED, sizes=SIZES)({"age": FEATURES["age"]})
