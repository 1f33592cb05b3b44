"""Losses of weights, by part of the model, and dropout of whole columns."""

import keras
import numpy as np
import pandas as pd
import pytest

import tfmoe
from tests.oracles.other_backend import run_on
from tfmoe.features.column_dropout import ColumnDropout
from tfmoe.model.parts import parts_of

SCHEMA = tfmoe.Schema(
    [
        tfmoe.Numeric("age", transform="none"),
        tfmoe.Categorical("user", dim=3, hash_buckets=9),
        tfmoe.MultiCategorical("seen", dim=2, hash_buckets=5, max_length=3, regularizer=0.5),
        tfmoe.Categorical("last", share="seen"),
        tfmoe.Categorical("city", dim=2, hash_buckets=5, regularizer=0.0),
    ],
    [tfmoe.Binary("watch"), tfmoe.Binary("like")],
)


def data(num_rows=24):
    generator = np.random.default_rng(0)
    seen = generator.integers(3, 6, (num_rows, 3)).astype("int32")
    seen[::2, 1:] = 0
    x = {
        "age": generator.normal(size=num_rows).astype("float32"),
        "user": generator.integers(3, 8, num_rows).astype("int32"),
        "seen": seen,
        "last": generator.integers(6, 8, num_rows).astype("int32"),
        "city": generator.integers(3, 8, num_rows).astype("int32"),
    }
    return x, {name: (x["age"] > 0).astype("float32") for name in SCHEMA.task_names}


def model(optimizer="sgd", **options):
    keras.utils.set_random_seed(1)
    mixture = tfmoe.MMoE(num_experts=2, hidden_units=(4,))
    built = tfmoe.MultiTaskModel(SCHEMA, mixture, tower_units=(3,), **options)
    # Larger than they start, so that their losses count.
    for table in built.encoder.tables.values():
        table.embeddings.assign(keras.ops.multiply(table.embeddings, 20.0))
    built.compile(optimizer, jit_compile=False)
    return built


def table_losses(built, x, factors):
    """The oracle: each id of a table once, but for padding."""
    total = 0.0
    for owner, (columns, factor) in factors.items():
        table = keras.ops.convert_to_numpy(built.encoder.tables[owner].embeddings)
        ids = {int(one) for column in columns for one in np.ravel(x[column])} - {0}
        for one in ids:
            total += factor * sum(float(value) ** 2 for value in table[one])
    return total


FACTORS = {"user": (["user"], 0.25), "seen": (["seen", "last"], 0.5)}


def check_losses():
    """The losses that `fit` and `evaluate` add, on any backend."""
    x, y = data()
    plain, built = model(), model(embeddings_regularizer=0.25, kernel_regularizer=0.125)
    for each in (plain, built):
        each.set_weights(built.get_weights())
    columns = table_losses(built, x, {"seen": FACTORS["seen"]})
    kernels = [
        *built.mixture.experts.weights,
        *(weight for weight in built.towers.weights if "kernel" in weight.path),
    ]
    squares = [
        float(np.square(keras.ops.convert_to_numpy(kernel)).sum())
        for kernel in kernels
        if "kernel" in kernel.name
    ]
    assert len(squares) == 3
    added = table_losses(built, x, FACTORS) + 0.125 * sum(squares)
    without = plain.evaluate(x, y, batch_size=24, verbose=0)
    found = built.evaluate(x, y, batch_size=24, verbose=0)
    np.testing.assert_allclose(found["loss"] - without["loss"] + columns, added, rtol=1e-4)
    for name in set(found) - {"loss"}:
        np.testing.assert_allclose(found[name], without[name], rtol=1e-5, err_msg=name)
    tasks = found["watch_loss"] + found["like_loss"]
    step = built.train_on_batch(x, y, return_dict=True)
    np.testing.assert_allclose(step["loss"], tasks + added, rtol=1e-4)


def test_losses_are_those_of_the_oracle():
    check_losses()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_have_the_same_losses(backend):
    code = (
        "import sys\n"
        "sys.modules['tensorflow'] = None\n"
        "from tests.model import test_regularizers as t\n"
        "t.check_losses()\n"
        "t.check_dropout()\n"
        "t.check_dropout_of_tokens()\n"
    )
    run_on(backend, "-c", code)


@pytest.mark.slow
def test_only_rows_that_are_looked_up_move(monkeypatch):
    monkeypatch.setenv("TFMOE_THRESHOLDS", "dense_rows=2")
    x, y = data()
    moved = {}
    for factor in (None, 0.25):
        built = model(tfmoe.optimizers.LazyAdam(0.01), embeddings_regularizer=factor)
        table = built.encoder.tables["user"].embeddings
        before = table.numpy()
        built.fit(x, y, batch_size=24, verbose=0)
        rows = sorted({*x["user"]})
        others = [row for row in range(len(before)) if row not in rows]
        np.testing.assert_array_equal(table.numpy()[others], before[others])
        assert (table.numpy()[rows] != before[rows]).all()
        moved[factor] = np.square(table.numpy()[rows]).sum() - np.square(before[rows]).sum()
    assert moved[0.25] < moved[None]


@pytest.mark.slow
def test_under_xla_the_step_is_the_same():
    x, y = data()
    weights = []
    for jit_compile in (False, True):
        built = model(embeddings_regularizer=0.25, kernel_regularizer="l1")
        built.compile("sgd", jit_compile=jit_compile)
        built.fit(x, y, batch_size=24, verbose=0)
        weights.append(built.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_tables_start_as_they_are_told(tmp_path):
    built = model(embeddings_initializer=keras.initializers.RandomNormal(stddev=1e-4, seed=1))
    tables = [np.asarray(table.embeddings) for table in built.encoder.tables.values()]
    assert all(0 < np.abs(table).max() < 20 * 1e-3 for table in tables)
    built.save(tmp_path / "model.keras")
    for other in (tfmoe.load_model(tmp_path / "model.keras"), tfmoe.extract(built, ["like"])):
        assert other.encoder.embeddings_initializer.stddev == 1e-4


@pytest.mark.slow
def test_what_is_saved_extracted_and_frozen(tmp_path):
    options = {"embeddings_regularizer": 0.25, "kernel_regularizer": 0.125, "column_dropout": 0.2}
    built = model(**options)
    built.save(tmp_path / "model.keras")
    loaded = tfmoe.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == built.get_config()
    kernel = loaded.mixture.experts.weights[0]
    assert float(kernel.regularizer.l2) == 0.125
    x, _ = data()
    extracted = tfmoe.extract(built, ["like"])
    for other in (loaded, extracted):
        expected = built.predict(x, verbose=0)["like"]
        np.testing.assert_allclose(other.predict(x, verbose=0)["like"], expected, rtol=1e-5)
        assert other.encoder.embeddings_regularizer == 0.25
        assert other.column_dropout.rate == 0.2
    added = built.add_task(tfmoe.Binary("share"))
    added.forward_pass(x)
    own = [weight for weight in added.trainable_weights if weight.regularizer is not None]
    # Of what is trained, the newest task's tower, and nothing of what is frozen.
    assert own
    assert all("towers" in weight.path for weight in own)
    assert len(added.losses) == len(own)


def test_kernels_of_each_part_have_their_own(tmp_path):
    mixture = tfmoe.MMoE(num_experts=2, hidden_units=(4,))
    given = {"gates": "l1", "towers": 0.5, "experts": None}
    built = tfmoe.MultiTaskModel(SCHEMA, mixture, tower_units=(3,), kernel_regularizer=given)
    parts = parts_of(built)
    kinds = {
        part: {type(w.regularizer).__name__ for w in parts[part] if "kernel" in w.name}
        for part in ("gates", "experts", "towers")
    }
    assert kinds == {"gates": {"L1"}, "experts": {"NoneType"}, "towers": {"L2"}}
    built.save(tmp_path / "model.keras")
    loaded = tfmoe.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == built.get_config()
    assert {len(loaded.losses), len(built.losses)} == {3}
    none = tfmoe.MultiTaskModel(SCHEMA, mixture, kernel_regularizer={"gates": None})
    assert none.get_config()["kernel_regularizer"] is None
    with pytest.raises(ValueError, match=r"'towers', 'wide'|'gates'.*kernel_regularizer=.'wide'"):
        tfmoe.MultiTaskModel(SCHEMA, mixture, kernel_regularizer={"wide": 0.1})


def test_columns_of_every_kind_have_their_own_factor():
    columns = [
        tfmoe.Categorical("a", hash_buckets=4, dim=2),
        tfmoe.Categorical("b", hash_buckets=4, dim=2),
        tfmoe.Crossed("both", columns=["a", "b"], hash_buckets=9, dim=2, regularizer=0.5),
        tfmoe.Text("title", hash_buckets=9, dim=2, regularizer=0),
        tfmoe.Timestamp("at", cyclic=False, dim=2, regularizer=0.25),
    ]
    schema = tfmoe.Schema(columns, [tfmoe.Binary("y")])
    assert tfmoe.Schema.from_json(schema.to_json()) == schema
    rows = pd.DataFrame({"a": ["x", "y"], "b": ["p", "q"], "title": ["one two", "three"]})
    rows = rows.assign(at=["2024-01-01 10:00", "2024-01-03 11:00"], y=[0, 1])
    prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    mixture = tfmoe.SharedBottom(hidden_units=(2,))
    built = tfmoe.MultiTaskModel(prep, mixture, tower_units=(), embeddings_regularizer=0.125)
    built.forward_pass(prep.arrays(rows, labels=False), training=True)
    factors = {"a": 0.125, "b": 0.125, "both": 0.5, "at": 0.25}
    x = prep.arrays(rows, labels=False)
    expected = table_losses(built, x, {name: ([name], f) for name, f in factors.items()})
    np.testing.assert_allclose(sum(map(float, built.losses)), expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"with cyclic=False alone\. Received regularizer=0.1"):
        tfmoe.Timestamp("at", regularizer=0.1)


def test_regularizers_of_ones_own_stay():
    own = keras.regularizers.L1(0.5)
    layers = [keras.layers.Dense(4, kernel_regularizer=own if i else None) for i in range(2)]
    mixture = tfmoe.MMoE(experts=layers)
    built = tfmoe.MultiTaskModel(SCHEMA, mixture, tower_units=(), kernel_regularizer=0.125)
    kinds = sorted(type(weight.regularizer).__name__ for weight in built.structure.weights[:4])
    assert "L2" in kinds
    assert any(weight.regularizer is not None for weight in built.towers.weights)
    assert all(weight.regularizer is None for weight in built.mixture.gate.weights)


def check_dropout():
    """Whole columns are 0, each alone, and the rest is scaled, on any backend."""
    sizes, rate = [1, 3, 2], 0.25
    layer = ColumnDropout(sizes, rate, seed=3)
    inputs = np.ones((4000, 6), "float32")
    dropped = keras.ops.convert_to_numpy(layer(inputs, training=True))
    parts = np.split(dropped, [1, 4], axis=1)
    for part in parts:
        assert (part == part[:, :1]).all()
        np.testing.assert_allclose(np.unique(part), [0, 1 / (1 - rate)], rtol=1e-6)
        np.testing.assert_allclose((part[:, 0] == 0).mean(), rate, atol=0.03)
    together = (parts[0][:, 0] == 0) & (parts[1][:, 0] == 0)
    np.testing.assert_allclose(together.mean(), rate**2, atol=0.03)
    again = keras.ops.convert_to_numpy(ColumnDropout(sizes, rate, seed=3)(inputs, training=True))
    np.testing.assert_array_equal(again, dropped)
    copies = np.ones((50, 2, 6), "float32")
    dropped = keras.ops.convert_to_numpy(layer(copies, training=True))
    np.testing.assert_array_equal(dropped[:, 0], dropped[:, 1])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(inputs)), inputs)


def dropped_tokens(tokens, counts, kept, rate):
    """The oracle: the tokens of each row's columns, one after the other."""
    found = np.zeros_like(tokens)
    for row, own in enumerate(kept):
        start = 0
        for count, stays in zip(counts, own, strict=True):
            for place in range(start, start + count):
                found[row, place] = tokens[row, place] / (1 - rate) if stays else 0
            start += count
    return found


def check_dropout_of_tokens():
    """The tokens of a column are 0 together, on any backend."""
    counts, rate = [1, 1, 3, 2], 0.25
    layer = ColumnDropout(counts, rate, 3, axis=1)
    inputs = np.random.default_rng(0).normal(size=(3000, 7, 2)).astype("float32")
    dropped = keras.ops.convert_to_numpy(layer(inputs, training=True))
    kept = (dropped != 0).all(axis=2)[:, [0, 1, 2, 5]]
    np.testing.assert_allclose(dropped, dropped_tokens(inputs, counts, kept, rate), rtol=1e-6)
    np.testing.assert_allclose(kept.mean(axis=0), 1 - rate, atol=0.03)
    np.testing.assert_allclose((kept[:, 0] & kept[:, 2]).mean(), (1 - rate) ** 2, atol=0.03)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(inputs)), inputs)
    assert ColumnDropout.from_config(layer.get_config()).get_config() == layer.get_config()


def test_columns_are_dropped_as_a_whole():
    check_dropout()
    check_dropout_of_tokens()


def test_a_structure_of_tokens_loses_those_of_columns():
    columns = [
        tfmoe.Sequence("history", dim=2, hash_buckets=5, max_length=2),
        *(SCHEMA.column(name) for name in ("age", "user", "seen", "city")),
    ]
    schema = tfmoe.Schema(columns, SCHEMA.tasks)
    x, y = data()
    del x["last"]
    x["history"] = np.full((24, 2), 3, "int32")
    x["history"][::3, 1] = 0
    keras.utils.set_random_seed(1)
    squad = tfmoe.ModSquad(dim=4, num_blocks=1, num_experts=2)
    built = tfmoe.MultiTaskModel(schema, squad, column_dropout=0.5)
    assert built.column_dropout.sizes == (1, 1, 1, 1, 2)
    tokens, present = built.encode(x)
    stages = built._stages.value
    dropped, same = stages.inputs((tokens, present), {"training": True})
    np.testing.assert_array_equal(same, present)
    # The columns in the tokens' order; the sequence, the first column, comes last.
    kept = (np.asarray(dropped) != 0).all(axis=2)[:, :5]
    assert 0 < kept.mean() < 1
    expected = dropped_tokens(np.asarray(tokens), [1, 1, 1, 1, 2], kept, 0.5)
    np.testing.assert_allclose(dropped, expected, rtol=1e-6)
    built.compile("sgd", run_eagerly=True)
    assert np.isfinite(built.train_on_batch(x, y, return_dict=True)["loss"])
    again = tfmoe.MultiTaskModel.from_config(built.get_config())
    assert again.column_dropout.get_config() == built.column_dropout.get_config()


@pytest.mark.slow
def test_dropout_is_in_training_alone_and_seeded():
    x, y = data()
    plain = model()
    assert plain.column_dropout is None
    predicted, losses = plain.predict(x, verbose=0)["watch"], []
    for _ in range(2):
        built = model(column_dropout=0.9)
        built.set_weights(plain.get_weights())
        np.testing.assert_array_equal(built.predict(x, verbose=0)["watch"], predicted)
        losses.append(built.train_on_batch(x, y, return_dict=True)["loss"])
    assert losses[0] == losses[1] != plain.train_on_batch(x, y, return_dict=True)["loss"]


def test_errors():
    for options, message in (
        ({"embeddings_regularizer": -1}, "`embeddings_regularizer`.*Received .*=-1"),
        ({"kernel_regularizer": -0.5}, "`kernel_regularizer`.*Received .*=-0.5"),
        ({"column_dropout": 1.0}, "`column_dropout`.*Received column_dropout=1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**options)
    with pytest.raises(ValueError, match=r"`regularizer`.*Received regularizer=-1"):
        tfmoe.Categorical("user", regularizer=-1)
    with pytest.raises(ValueError, match="decides its `regularizer`"):
        tfmoe.Categorical("user", share="item", regularizer=0.1)
