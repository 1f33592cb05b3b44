import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.features.embedding import Embedding
from tfmoe.optimizers import Adagrad, Adam, LazyAdam


def trained(optimizer, jit_compile, **embedding):
    """Weights of a small model after six steps."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((3,), dtype="int32")
    hidden = keras.layers.Flatten()(Embedding(20, 4, **embedding)(ids))
    model = keras.Model(ids, keras.layers.Dense(1)(hidden))
    model.compile(optimizer, "mse", jit_compile=jit_compile)
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 20, (48, 3)), generator.normal(size=(48, 1))
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.mark.quick(1)
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1, "clipnorm": 0.5, "use_ema": True}])
def test_steps_are_those_of_keras(jit_compile, settings):
    arguments = {"learning_rate": 0.05, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3, **settings}
    ours = trained(Adam(**arguments), jit_compile)
    keras_own = trained(keras.optimizers.Adam(**arguments), jit_compile)
    for weight, expected in zip(ours, keras_own, strict=True):
        np.testing.assert_allclose(weight, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.slow
def test_what_does_not_fit_the_kernel_is_kerass(monkeypatch):
    monkeypatch.setenv("TFMOE_THRESHOLDS", "dense_rows=5")  # slices instead of a table
    for settings in ({}, {"amsgrad": True}):
        ours = trained(Adam(0.05, **settings), False)
        expected = trained(keras.optimizers.Adam(0.05, **settings), False)
        for weight, other in zip(ours, expected, strict=True):
            np.testing.assert_allclose(weight, other, rtol=2e-5, atol=1e-6)


@pytest.mark.slow
def test_runs_under_a_strategy():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        weights = trained(Adam(0.05), False)
    for weight, expected in zip(weights, trained(Adam(0.05), False), strict=True):
        np.testing.assert_allclose(weight, expected, rtol=2e-5, atol=1e-6)


def test_config_round_trip():
    optimizer = Adam(0.1, beta_1=0.5, amsgrad=True, clipnorm=1.0)
    config = keras.saving.serialize_keras_object(optimizer)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is Adam
    assert again.get_config() == optimizer.get_config()


def steps(optimizer, batches, size=6):
    """A table of 6 x 3 after sparse gradients: each batch is `(ids, gradients)`."""
    table = keras.Variable(np.arange(3.0 * size).reshape(size, 3), dtype="float32")
    optimizer.build([table])
    for ids, gradients in batches:
        slices = tf.IndexedSlices(tf.constant(gradients, "float32"), tf.constant(ids), (size, 3))
        optimizer.apply([slices], [table])
    return table.numpy()


def sparse_batches(seed, ids, num=5):
    rng = np.random.default_rng(seed)
    return [(ids, rng.normal(size=(len(ids), 3))) for _ in range(num)]


def dense(batches, size=6):
    """The same gradients as whole tables."""
    tables = []
    for ids, gradients in batches:
        table = np.zeros((size, 3))
        np.add.at(table, ids, gradients)
        tables.append((np.arange(size), table))
    return tables


def test_lazy_adam_is_adam_where_all_rows_come_in_every_batch():
    batches = sparse_batches(0, [3, 1, 0, 5, 4, 2, 1, 1])
    for settings in ({}, {"beta_1": 0.5, "beta_2": 0.7, "epsilon": 1e-2}):
        ours = steps(LazyAdam(0.1, **settings), batches)
        exact = steps(keras.optimizers.Adam(0.1, **settings), dense(batches))
        np.testing.assert_allclose(ours, exact, rtol=1e-5)


def test_lazy_adam_leaves_other_rows_alone():
    """Row by row as by a loop: moments of a row change only when it comes."""
    batches = [([0, 2, 2], np.ones((3, 3))), ([1], -np.ones((1, 3))), ([2], 2 * np.ones((1, 3)))]
    expected = np.arange(18.0).reshape(6, 3)
    first, second = np.zeros((6, 3)), np.zeros((6, 3))
    for t, (ids, gradients) in enumerate(batches, start=1):
        for i in set(ids):
            gradient = sum(g for j, g in zip(ids, gradients, strict=True) if j == i)
            first[i] = 0.9 * first[i] + 0.1 * gradient
            second[i] = 0.999 * second[i] + 0.001 * gradient**2
            rate = 0.1 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            expected[i] -= rate * first[i] / (np.sqrt(second[i]) + 1e-7)
    found = steps(LazyAdam(0.1), batches)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert (found[3:] == np.arange(18.0).reshape(6, 3)[3:]).all()


def test_adagrad_is_kerass_whatever_rows_come():
    batches = sparse_batches(0, [3, 1, 1]) + sparse_batches(1, [5, 3, 0])
    ours = steps(Adagrad(0.1, initial_accumulator_value=0.2), batches)
    exact = keras.optimizers.Adagrad(0.1, initial_accumulator_value=0.2)
    np.testing.assert_allclose(ours, steps(exact, dense(batches)), rtol=1e-5)


@pytest.mark.quick(1)
@pytest.mark.parametrize("optimizer", [LazyAdam, Adagrad])
def test_large_tables_in_a_model(optimizer, monkeypatch):
    """Against whole tables: in `trained` every batch has rows that others lack."""
    whole = trained(optimizer(0.05), False)
    monkeypatch.setenv("TFMOE_THRESHOLDS", "dense_rows=5")
    weights = trained(optimizer(0.05), False)
    same = [np.allclose(*pair, rtol=2e-5) for pair in zip(weights, whole, strict=True)]
    assert all(same) == (optimizer is Adagrad)
    for weight in weights:
        assert np.isfinite(weight).all()


def test_two_look_ups_of_a_large_table_add_up(monkeypatch):
    """Each brings every row once, and together twice."""
    found = []
    for most in (5, 100):
        monkeypatch.setenv("TFMOE_THRESHOLDS", f"dense_rows={most}")
        table = Embedding(20, 3, embeddings_initializer="ones")
        ids = keras.Input((4,), dtype="int32")
        both = keras.ops.sum(table(ids) * 2 - table(ids + 1), axis=(1, 2))
        model = keras.Model(ids, both)
        model.compile(LazyAdam(0.1, epsilon=1.0), "mse", jit_compile=False)
        model.fit(np.arange(16).reshape(4, 4), np.arange(4.0), batch_size=4, epochs=1, verbose=0)
        found.append(table.get_weights()[0])
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_the_global_norm_is_of_summed_rows():
    """A row that comes twice has the norm of its sum; rows that do not come stay."""
    batches = [([3, 1, 1], np.ones((3, 3))), ([0, 2], 2 * np.ones((2, 3)))]
    scales = [1 / np.sqrt(5 * 3), 1 / np.sqrt(2 * 4 * 3)]
    clipped = [(ids, g * s) for (ids, g), s in zip(batches, scales, strict=True)]
    for optimizer in (LazyAdam, Adagrad):
        ours = steps(optimizer(0.1, global_clipnorm=1.0), batches)
        np.testing.assert_allclose(ours, steps(optimizer(0.1), clipped), rtol=1e-5)


@pytest.mark.parametrize("name", ["Adam", "LazyAdam", "Adagrad"])
@pytest.mark.parametrize(
    "settings", [{}, {"clipnorm": 0.5}, {"clipvalue": 0.3}, {"global_clipnorm": 0.5}]
)
@pytest.mark.parametrize("graph", [False, True])
def test_rows_that_come_twice_are_clipped_as_one(name, settings, graph):
    """As dense gradients; every row comes, for the lazy step is another where one does not."""
    batches = sparse_batches(1, [3, 1, 0, 5, 4, 2, 1, 1, 3])
    ours = {"Adam": Adam, "LazyAdam": LazyAdam, "Adagrad": Adagrad}[name](0.1, **settings)
    theirs = getattr(keras.optimizers, name.removeprefix("Lazy"))(0.1, **settings)
    expected = steps(theirs, dense(batches))
    tf.config.run_functions_eagerly(not graph)
    try:
        table = keras.Variable(np.arange(18.0).reshape(6, 3), dtype="float32")
        ours.build([table])

        @tf.function
        def step(ids, gradients):
            ours.apply([tf.IndexedSlices(gradients, ids, (6, 3))], [table])

        for ids, gradients in batches:
            step(tf.constant(ids), tf.constant(gradients, "float32"))
    finally:
        tf.config.run_functions_eagerly(False)
    np.testing.assert_allclose(table, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", [LazyAdam, Adagrad])
@pytest.mark.parametrize("settings", [{}, {"global_clipnorm": 0.1}, {"clipnorm": 0.1}])
def test_lazy_steps_do_not_depend_on_the_size_of_the_table(optimizer, settings):
    """No operation of the graph reads or writes a whole table."""
    optimizer = optimizer(0.1, **settings)
    table = keras.Variable(np.zeros((1000, 3)), dtype="float32")
    optimizer.build([table])

    @tf.function
    def step(ids, gradients):
        optimizer.apply([tf.IndexedSlices(gradients, ids, (1000, 3))], [table])

    graph = step.get_concrete_function(
        tf.TensorSpec((None,), "int32"), tf.TensorSpec((None, 3), "float32")
    ).graph
    shapes = [output.shape for op in graph.get_operations() for output in op.outputs]
    assert len(shapes) > 10
    assert not [shape for shape in shapes if shape.rank == 2 and shape[0] == 1000]


@pytest.mark.parametrize(
    "optimizer", [LazyAdam(0.1, weight_decay=0.1), LazyAdam(0.1, global_clipnorm=0.1), Adagrad(0.1)]
)
def test_only_rows_that_come_move(optimizer, monkeypatch):
    monkeypatch.setenv("TFMOE_THRESHOLDS", "dense_rows=5")
    optimizer.exclude_from_weight_decay(var_names=["embeddings"])
    ids = keras.Input((3,), dtype="int32")
    layer = Embedding(50, 4)
    model = keras.Model(ids, keras.layers.Dense(1)(keras.layers.Flatten()(layer(ids))))
    model.compile(optimizer, "mse", jit_compile=False)
    before = layer.embeddings.numpy()
    model.fit(np.array([[1, 2, 2]] * 8), np.ones((8, 1)), verbose=0)
    moved = np.any(layer.embeddings.numpy() != before, axis=1)
    assert np.flatnonzero(moved).tolist() == [1, 2]


def test_lazy_optimizers_round_trip_and_errors():
    for optimizer in (LazyAdam(0.1, beta_1=0.5, clipnorm=1.0), Adagrad(0.1, epsilon=0.5)):
        config = keras.saving.serialize_keras_object(optimizer)
        again = keras.saving.deserialize_keras_object(config)
        assert type(again) is type(optimizer)
        assert again.get_config() == optimizer.get_config()
    with pytest.raises(ValueError, match=r"amsgrad=True. Use tfmoe.optimizers.Adam"):
        LazyAdam(amsgrad=True)
