import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import tfmoe
from tests.oracles import reference

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


def expected_tokens(layer):
    """Tokens of `FEATURES`, and the mask; `visits` has three values at most."""
    vectors = expected(layer)
    ends = np.cumsum([1, DIM, DIM, 2, DIM, 1, DIM])
    parts = dict(zip([c.name for c in SHARED], np.split(vectors, ends[:-1], axis=1), strict=True))
    history = layer.tables["city"].embeddings.numpy()[FEATURES["visits"]]
    columns = [n for n in parts if n != "visits"]
    parts |= {f"visits_{i}": history[:, i] for i in range(3)}
    tokens = []
    for name in (*columns, "visits_0", "visits_1", "visits_2"):
        column, _, place = name.partition("_")
        token = parts[name] @ layer.maps[column].numpy() + layer.biases[column].numpy()
        tokens.append(token + layer.positions["visits"].numpy()[int(place)] if place else token)
    mask = np.ones((2, 9), bool)
    mask[0, 7:] = False
    return np.stack(tokens, axis=1), mask


def test_tokens_match_reference():
    layer = encoder(*SHARED, sizes=SIZES, tokens=4)
    symbols = {
        name: keras.Input((None,) if x.ndim == 2 else (), dtype=x.dtype.name, name=name)
        for name, x in FEATURES.items()
    }
    tokens, mask = layer(symbols)
    assert (tokens.shape, mask.shape) == ((None, None, 4), (None, None))
    model = keras.Model(symbols, (tokens, mask))
    tokens, mask = expected_tokens(layer)
    longer = {**FEATURES, "visits": np.pad(FEATURES["visits"], [(0, 0), (0, 2)])}
    for features in (FEATURES, longer):
        got, present = model(features)
        np.testing.assert_allclose(got[:, :9], tokens, atol=1e-5)
        np.testing.assert_array_equal(present[:, :9], mask)
        assert not np.any(present[:, 9:])


def test_copies_are_encodings_from_tables_of_their_own():
    layer = encoder(*SHARED, sizes=SIZES, copies=3)
    symbols = {
        name: keras.Input((None,) if x.ndim == 2 else (), dtype=x.dtype.name, name=name)
        for name, x in FEATURES.items()
    }
    outputs = layer(symbols)
    assert outputs.shape == (None, 3, 2 + 4 * DIM + 2)
    got = keras.Model(symbols, outputs)(FEATURES).numpy()
    for copy in range(3):
        alone = encoder(*SHARED, sizes=SIZES)
        alone(FEATURES)
        for name, table in alone.tables.items():
            wide = layer.tables[name].embeddings.numpy()
            table.embeddings.assign(wide[:, copy * table.dim : (copy + 1) * table.dim])
        np.testing.assert_allclose(got[:, copy], expected(alone), atol=1e-6)
        parts = [layer.part(got, ["wishes", "age"])[:, copy], alone.part(got[:, copy], ["wishes"])]
        np.testing.assert_array_equal(parts[0][:, :DIM], parts[1])
        np.testing.assert_array_equal(parts[0][:, DIM:], FEATURES["age"][:, None])


def test_some_copies_are_taken_over():
    whole, part = (encoder(*SHARED, sizes=SIZES, copies=num) for num in (3, 2))
    outputs = whole(FEATURES)
    part(FEATURES)
    part.copy_from(whole, [2, 0])
    np.testing.assert_array_equal(part(FEATURES), outputs.numpy()[:, [2, 0]])


@pytest.mark.parametrize("seed", [None, 3])
def test_copies_start_apart_and_each_as_one_table_does(seed):
    for kind in (keras.initializers.GlorotUniform, keras.initializers.Orthogonal):
        layer = encoder(
            tfmoe.Categorical("city", dim=DIM), embeddings_initializer=kind(seed=seed), copies=2
        )
        layer.build({"city": (None,)})
        first, second = np.split(layer.tables["city"].embeddings.numpy(), 2, axis=1)
        assert np.all(first != second)
        if kind is keras.initializers.Orthogonal:
            np.testing.assert_allclose(second.T @ second, np.eye(DIM), atol=1e-5)


def test_tokens_have_no_copies():
    with pytest.raises(ValueError, match="Received tokens=4 and copies=2"):
        encoder(*SHARED, sizes=SIZES, tokens=4, copies=2)


def test_histories_alone_are_tokens():
    layer = encoder(tfmoe.Sequence("city", dim=DIM), tokens=4)
    tokens, mask = layer({"city": np.array([[1, 5, 0]], "int32")})
    assert tokens.shape == (1, 3, 4)
    assert mask.numpy().tolist() == [[True, True, False]]


def test_tokens_start_apart_and_at_the_scale_of_their_fan_in():
    layer = encoder(
        tfmoe.Sequence("visits", share="city", max_length=3),
        tfmoe.Categorical("city", dim=400),
        tfmoe.Numeric("age"),
        embeddings_initializer=keras.initializers.RandomUniform(-1, 1, seed=3),
        tokens=200,
    )
    layer.build({"visits": (None, 3), "city": (None,), "age": (None,)})
    assert np.std(layer.maps["city"]) == pytest.approx(400**-0.5, rel=0.1)
    assert np.std(layer.maps["age"]) == pytest.approx(1, rel=0.2)
    vectors = [*layer.biases.values(), *layer.positions["visits"].numpy()]
    for i, vector in enumerate(vectors):
        for other in vectors[:i]:
            assert abs(np.corrcoef(vector, other)[0, 1]) < 0.5


def test_tokens_of_a_history_of_any_length_are_refused():
    layer = encoder(tfmoe.Sequence("city", max_length=None), tokens=4)
    with pytest.raises(ValueError, match="Received 'city' of any length, with max_length=None"):
        layer({"city": keras.Input((None,), dtype="int32")})


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
