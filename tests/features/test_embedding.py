import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmoe
from tfmoe.features import embedding

ROWS, DIM, LENGTH = 7, 3, 4
TABLE = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype("float32")
# Id 3 comes in every row and twice in some; ids 5 and 6 never come.
IDS = np.array([[3, 1, 3, 0], [3, 2, 1, 1], [4, 3, 3, 3]] * 2, "int32")
LABELS = np.linspace(-1, 1, len(IDS)).astype("float32")

OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.05),
    "adagrad": lambda: keras.optimizers.Adagrad(0.05),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.05),
    "ftrl": lambda: keras.optimizers.Ftrl(0.05),
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
}


@pytest.fixture(params=["dense", "dense, never compiled", "distinct"])
def path(request, monkeypatch):
    """The ways in which a gradient leaves the layer, whatever the table's size."""
    most = 0 if request.param == "distinct" else ROWS
    monkeypatch.setenv("TFMOE_THRESHOLDS", f"dense_rows={most}")
    if request.param == "dense, never compiled":
        look_up = embedding._look_up_dense
        monkeypatch.setattr(
            embedding,
            "_look_up_dense",
            lambda variable, ids, _: look_up(variable, ids, False),
        )
    return request.param.split(",")[0]


def table_after_fit(layer, x, optimizer, epochs=3, jit_compile=False):
    """Fits `x -> layer -> fixed sum`, and returns the layer's one weight."""
    symbol = keras.Input(x.shape[1:], dtype=x.dtype.name)
    vectors = layer(symbol)
    layer.weights[0].assign(TABLE)
    factors = np.linspace(0.5, 1.5, LENGTH * DIM).reshape(LENGTH, DIM).astype("float32")
    model = keras.Model(symbol, keras.ops.sum(vectors * factors, axis=(1, 2)))
    model.compile(OPTIMIZERS[optimizer](), "mse", jit_compile=jit_compile)
    model.fit(x, LABELS, batch_size=len(x), epochs=epochs, shuffle=False, verbose=0)
    return layer.weights[0].numpy()


@functools.cache
def dense_table(optimizer, epochs=3):
    """The oracle: a matrix times one-hot ids, whose gradient is dense and exact."""
    kernel = keras.layers.Dense(DIM, use_bias=False)
    return table_after_fit(kernel, np.eye(ROWS, dtype="float32")[IDS], optimizer, epochs)


@pytest.mark.quick(1)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_with_repeated_ids_are_those_of_dense_gradients(path, optimizer):
    table = table_after_fit(tfmoe.Embedding(ROWS, DIM), IDS, optimizer)
    np.testing.assert_allclose(table, dense_table(optimizer), atol=1e-5)
    assert np.all(np.any(table[:5] != TABLE[:5], axis=1))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_small_tables_train_under_xla(optimizer):
    table = table_after_fit(tfmoe.Embedding(ROWS, DIM), IDS, optimizer, jit_compile=True)
    np.testing.assert_allclose(table, dense_table(optimizer), atol=1e-5)


@pytest.mark.slow
def test_a_model_says_whether_its_step_is_compiled():
    schema = tfmoe.Schema([tfmoe.Categorical("a", hash_buckets=5)], [tfmoe.Binary("y")])
    model = tfmoe.MultiTaskModel(schema, tfmoe.SharedBottom(hidden_units=(2,)))
    (table,) = model.encoder.tables.values()
    assert table.may_be_compiled
    rows = {"a": np.array([3, 4, 3], "int32")}, {"y": np.array([0.0, 1.0, 1.0], "float32")}
    steps = []
    for compiled in (True, False, True):
        model.compile(keras.optimizers.SGD(0.0), jit_compile=compiled)
        assert table.may_be_compiled is compiled
        steps.append(model.fit(*rows, verbose=0).history["loss"])
    assert steps[0] == pytest.approx(steps[1])


def test_large_tables_rule_out_xla(path):
    assert tfmoe.Embedding(ROWS, DIM).supports_jit == (path == "dense")


def test_keras_still_takes_wrong_steps():
    table = table_after_fit(keras.layers.Embedding(ROWS, DIM), IDS, "adam")
    wrong = np.abs(table - dense_table("adam")).max() > 1e-3
    assert wrong, "Keras has mended this: remove the work-around in tfmoe.Embedding."


@pytest.mark.parametrize("dim", [1, DIM])
def test_gradient_has_each_row_once(path, dim):
    layer = tfmoe.Embedding(ROWS, dim)
    layer.build((None, LENGTH))
    upstream = np.random.default_rng(1).normal(size=(*IDS.shape, dim)).astype("float32")
    with tf.GradientTape() as tape:
        loss = keras.ops.sum(layer(IDS) * upstream)
    gradient = tape.gradient(loss, layer.embeddings.value)
    expected = np.zeros((ROWS, dim))
    for index in np.ndindex(IDS.shape):
        expected[IDS[index]] += upstream[index]
    if path == "distinct":
        assert isinstance(gradient, tf.IndexedSlices)
        assert sorted(gradient.indices.numpy()) == sorted(set(IDS.ravel()))
    np.testing.assert_allclose(tf.convert_to_tensor(gradient), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (2, 3, 2)])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_look_up(path, shape, dtype):
    layer = tfmoe.Embedding(ROWS, DIM)
    ids = np.random.default_rng(0).integers(0, ROWS, shape).astype(dtype)
    vectors = layer(ids)
    assert vectors.shape == (*shape, DIM)
    np.testing.assert_array_equal(vectors, layer.embeddings.numpy()[ids])


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_casts_the_rows_and_keeps_the_table(path, policy):
    layer = tfmoe.Embedding(ROWS, DIM, dtype=policy)
    assert keras.backend.standardize_dtype(layer(IDS).dtype) == layer.compute_dtype
    assert layer.embeddings.dtype == "float32"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, 2), "Received num_rows=0"), ((3, 0), "Received dim=0"), ((3.0, 2), "num_rows=3.0")],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfmoe.Embedding(*arguments)


def test_a_batch_without_rows_moves_nothing(path):
    layer = tfmoe.Embedding(40, 4)
    layer.build((None,))
    dirty = tf.random.normal((40, 4))  # what memory may hold that is given back
    del dirty

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.int32)])
    def gradient(ids):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(ids))
        return tf.convert_to_tensor(tape.gradient(loss, layer.embeddings.value))

    for _ in range(3):
        np.testing.assert_array_equal(gradient(tf.zeros((0,), tf.int32)), np.zeros((40, 4)))
        assert np.abs(gradient(tf.constant([1, 7]))).sum() == 8
