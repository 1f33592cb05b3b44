"""The first-order term beside the network."""

import keras
import numpy as np
import pandas as pd
import pytest

import tfmoe
from tfmoe.features.wide import Wide

COLUMNS = [
    tfmoe.Numeric("age"),
    tfmoe.Categorical("city", dim=3),
    tfmoe.MultiCategorical("tags", separator="|", share="city"),
]
TASKS = [tfmoe.Binary("click"), tfmoe.Multiclass("kind", num_classes=3), tfmoe.Regression("stars")]


def rows(num=150, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"age": rng.normal(size=num), "city": rng.choice(list("abc"), num)})
    table["tags"] = rng.choice(["a|b", "c", "", "b|b|a"], num)
    table["click"], table["kind"] = rng.integers(0, 2, num), rng.integers(0, 3, num)
    return table.assign(stars=3 * table["age"] + 5 * (table["city"] == "a"))


def drawn(wide):
    for index, weight in enumerate(wide.weights):
        weight.assign(np.random.default_rng(index).normal(size=weight.shape))


def test_it_matches_reference():
    sizes = {"city": 6}
    wide = Wide(tfmoe.Schema(COLUMNS, TASKS), sizes, [1, 3, 1])
    ids, tags = np.int32([3, 1, 4]), np.int32([[3, 4, 0], [0, 0, 0], [4, 4, 3]])
    features = {"age": np.float32([1, -2, 0.5]), "city": ids, "tags": tags}
    assert not np.asarray(wide(features)).any()
    drawn(wide)
    tables = {name: np.asarray(table.embeddings) for name, table in wide.tables.items()}
    for row, found in enumerate(np.asarray(wide(features))):
        expected = features["age"][row] * np.asarray(wide.kernel)[0] + tables["city"][ids[row]]
        present = [one for one in tags[row] if one != 0]
        if present:
            expected = expected + np.mean([tables["tags"][one] for one in present], axis=0)
        np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5, atol=1e-6)


def made(schema, table, **options):
    prep = tfmoe.Preprocessor(schema).fit(table, progress=False)
    mixture = tfmoe.SharedBottom(hidden_units=(4,))
    model = tfmoe.MultiTaskModel(prep, mixture, tower_units=(), wide=True, **options)
    drawn(model.wide)
    return model


def test_what_counts_as_unknown_in_training_does_so_here_too():
    columns = [tfmoe.Categorical("city", dim=3, unknown_rate=0.5), tfmoe.Numeric("age")]
    table = rows()
    model = made(tfmoe.Schema(columns, TASKS[:1]), table)
    model.encoder.tables["city"].embeddings.assign(model.encoder.tables["city"].embeddings * 0)
    for weight in model.wide.weights:
        weight.assign(weight * 0)
    unknown = np.zeros(model.encoder.tables["city"].embeddings.shape, "float32")
    unknown[2] = 1
    model.encoder.tables["city"].embeddings.assign(unknown)
    x, _, _ = model.preprocessor.arrays(table)
    features = {name: x[name] for name in ("city", "age")}
    encoded, read = model.encoder(features, training=True, return_features=True)
    is_unknown = np.asarray(encoded)[:, 0] == 1
    assert 20 < is_unknown.sum() < 130
    np.testing.assert_array_equal(np.asarray(read["city"]) == 2, is_unknown)
    # In a step both see the same: only the unknown one's weights move where all are unknown.
    columns[0] = tfmoe.Categorical("city", dim=3, unknown_rate=1.0)
    model = made(tfmoe.Schema(columns, TASKS[:1]), table)
    tables = model.encoder.tables["city"].embeddings, model.wide.tables["city"].embeddings
    before = [np.array(one) for one in tables]
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    model.fit(*model.preprocessor.arrays(table)[:2], batch_size=50, verbose=0)
    for old, new in zip(before, tables, strict=True):
        assert set(np.flatnonzero((old != np.asarray(new)).any(axis=1))) == {2}


@pytest.mark.slow
def test_a_model_keeps_it(tmp_path):
    model = made(tfmoe.Schema(COLUMNS, TASKS), rows())
    model.compile(tfmoe.optimizers.LazyAdam(0.01), jit_compile=False)
    model.fit(*model.preprocessor.arrays(rows()), batch_size=50, verbose=0)
    found = model.predict(rows(), verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").predict(rows(), verbose=0)
    for name, values in found.items():
        np.testing.assert_array_equal(again[name], values)
    for tasks in (["stars", "click"], ["kind"]):
        alone = tfmoe.extract(model, tasks).predict(rows(), verbose=0)
        for name in tasks:
            np.testing.assert_allclose(alone[name], found[name], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"with wide=True\. Train it anew"):
        model.add_task(tfmoe.Binary("like"))
    with pytest.raises(ValueError, match="`wide` as True or False"):
        tfmoe.MultiTaskModel(model.preprocessor, tfmoe.SharedBottom(hidden_units=(4,)), wide=1)


def test_a_row_of_one_task_gets_its_own():
    table = rows().assign(market=np.random.default_rng(1).choice(["de", "fr"], 150))
    tasks = [tfmoe.Binary("de", source="click"), tfmoe.Regression("fr", source="stars")]
    model = made(tfmoe.Schema(COLUMNS, tasks, task_column="market"), table)
    features = model.preprocessor.arrays(table, labels=False)
    term = np.asarray(model.wide({c.name: features[c.name] for c in COLUMNS}))
    own = term[np.arange(len(table)), features["market"], 0]
    before = np.asarray(model.forward_pass(features).logits["score"])
    for weight in model.wide.weights:
        weight.assign(0 * weight)
    after = np.asarray(model.forward_pass(features).logits["score"])
    np.testing.assert_allclose(before - after, own, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_what_is_linear_is_learnt_at_once():
    table = rows(400)
    schema = tfmoe.Schema(COLUMNS, [tfmoe.Regression("stars")])
    prep = tfmoe.Preprocessor(schema).fit(table, progress=False)
    errors = {}
    for wide in (False, True):
        keras.utils.set_random_seed(0)
        mixture = tfmoe.SharedBottom(hidden_units=(2,))
        model = tfmoe.MultiTaskModel(prep, mixture, tower_units=(), wide=wide)
        model.compile(keras.optimizers.Adam(0.03), jit_compile=False)
        history = model.fit(*prep.arrays(table), batch_size=50, epochs=12, verbose=0).history
        errors[wide] = history["stars_rmse"][-1]
    assert errors[True] < 0.5 * errors[False]
