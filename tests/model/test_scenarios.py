"""Rows of many scenarios, each with the labels of all tasks."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from sklearn.metrics import roc_auc_score

import tfmoe

COUNTRIES = np.array(["de", "fr", "us"])


def table(num_rows=300, seed=0):
    random = np.random.default_rng(seed)
    rows = pd.DataFrame({"age": random.normal(size=num_rows)})
    rows["country"] = random.choice(COUNTRIES, num_rows)
    rows["user"] = random.integers(0, 20, num_rows)
    rows["click"] = (rows["age"] * np.where(rows["country"] == "de", 1, -1) > 0) * 1.0
    rows["stars"] = random.normal(size=num_rows) + rows["click"]
    rows.loc[rows["country"] == "us", "stars"] = np.nan
    rows["size"] = random.integers(0, 3, num_rows)
    return rows


COLUMNS = [
    tfmoe.Numeric("age"),
    tfmoe.Categorical("country", dim=4),
    tfmoe.Categorical("user", dim=4),
]
TASKS = [
    tfmoe.Binary("click"),
    tfmoe.Regression("stars"),
    tfmoe.Multiclass("size", num_classes=3),
]
SCHEMA = tfmoe.Schema(COLUMNS, TASKS, scenario="country")
PEPNET = {"input_gate": tfmoe.EPNet((4,)), "tower_gate": tfmoe.PPNet(["user"], (5,))}
MODELS = {
    "star": {"mixture": tfmoe.STAR(hidden_units=(8, 4))},
    "pepnet": {"mixture": tfmoe.MMoE(num_experts=2, hidden_units=(8,)), **PEPNET},
    "towers": {"mixture": tfmoe.SharedBottom(hidden_units=(8,)), "scenario_towers": True},
    "all": {"mixture": tfmoe.STAR(hidden_units=(8,)), "scenario_towers": True, **PEPNET},
}


@pytest.fixture(scope="module")
def rows():
    return table()


@pytest.fixture(scope="module")
def prep(rows):
    return tfmoe.Preprocessor(SCHEMA).fit(rows, progress=False)


def fitted(prep, rows, **options):
    keras.utils.set_random_seed(0)
    model = tfmoe.MultiTaskModel(prep, tower_units=(6, 5), **options)
    model.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    model.fit(rows, batch_size=32, epochs=2, verbose=0)
    return model


def check_alike(found, expected, names=("click", "stars", "size")):
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_conditioned_model_goes_all_the_way(prep, rows, name, tmp_path):
    model = fitted(prep, rows, **MODELS[name])
    # One of a country, a user and an age that training did not see.
    strange = pd.DataFrame({"age": [0.5, None], "country": ["at", None], "user": [99, None]})
    shown = pd.concat([rows, strange])
    before = model.predict(shown, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    check_alike(loaded.predict(shown, verbose=0), before)
    version = tfmoe.export(model, tmp_path / "served")
    served = tf.saved_model.load(str(version)).signatures["serving_default"]
    given = {
        "age": tf.constant(shown["age"].to_numpy("float32")),
        "country": tf.constant(shown["country"].fillna("").tolist()),
        "user": tf.constant(shown["user"].astype("Int64").fillna(-1).to_numpy("int64")),
    }
    given = {n: tf.cast(v, served.structured_input_signature[1][n].dtype) for n, v in given.items()}
    check_alike(
        {n: v.numpy()[:-1] for n, v in served(**given).items()},
        {n: v[:-1] for n, v in before.items()},
    )
    for tasks in (["stars"], ["size", "click"]):
        own = tfmoe.extract(model, tasks)
        check_alike(own.predict(shown, verbose=0), before, tasks)
        assert own.count_params() < model.count_params()


@pytest.mark.slow
def test_an_unknown_scenario_gets_what_all_share(prep, rows):
    model = fitted(prep, rows, mixture=tfmoe.STAR(hidden_units=(8,)), scenario_towers=True)
    place = tfmoe.schema.columns.UNKNOWN_ID
    parts = [*model.mixture.network.parts, *model.towers.hidden.parts, *model.towers.last.parts]
    for pairs in parts:
        for _, own in pairs:
            assert not np.any(own.numpy()[:, place])
            assert np.any(own.numpy()[:, place + 1])


@pytest.mark.slow
def test_conditions_change_what_is_learnt(prep, rows):
    """The label turns with the country, which a linear look at both cannot tell."""
    for name in ("star", "pepnet"):
        keras.utils.set_random_seed(0)
        model = tfmoe.MultiTaskModel(prep, tower_units=(6,), **MODELS[name])
        model.compile(keras.optimizers.Adam(0.02), jit_compile=False)
        model.fit(rows, batch_size=32, epochs=12, verbose=0)
        assert model.evaluate(rows, verbose=0)["click_auc"] > 0.95, name


@pytest.mark.slow
@pytest.mark.parametrize("source", ["frame", "arrays", "dataset"])
def test_evaluate_tells_metrics_by_scenario(prep, rows, source):
    model = fitted(prep, rows, mixture=tfmoe.SharedBottom(hidden_units=(4,)))
    given = {"frame": rows, "arrays": prep.arrays(rows), "dataset": prep.dataset(rows, 64)}[source]
    logs = model.evaluate(given, verbose=0)
    predicted = model.predict(rows, verbose=0)
    for country in COUNTRIES:
        own = (rows["country"] == country).to_numpy()
        labels = rows[own]
        auc = roc_auc_score(labels["click"], predicted["click"][own])
        assert logs[f"click_auc_{country}"] == pytest.approx(auc, abs=1e-6)
        hits = predicted["size"][own].argmax(-1) == labels["size"]
        assert logs[f"size_accuracy_{country}"] == pytest.approx(hits.mean(), abs=1e-6)
        if country == "us":
            assert "stars_rmse_us" not in logs  # no label there
        else:
            error = np.sqrt(np.mean((predicted["stars"][own] - labels["stars"]) ** 2))
            assert logs[f"stars_rmse_{country}"] == pytest.approx(error, rel=1e-5)
    assert "click_auc_at" not in logs
    assert not any(name.endswith("_de") for name in model.evaluate(rows, verbose=0, exact=False))


@pytest.mark.slow
def test_rows_of_one_task_may_have_a_scenario_too(rows):
    markets = [tfmoe.Binary("a", source="click"), tfmoe.Binary("b", source="click")]
    schema = tfmoe.Schema(COLUMNS, markets, task_column="shop", scenario="country")
    rows = rows.assign(shop=np.where(np.arange(len(rows)) % 2, "a", "b"))
    prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    for name in ("star", "pepnet", "towers"):
        model = fitted(prep, rows, **MODELS[name])
        before = model.predict(rows, verbose=0)["score"]
        own = rows[rows["shop"] == "b"]
        alone = tfmoe.extract(model, "b", data=own).predict(own, verbose=0)["score"]
        np.testing.assert_allclose(alone, before[(rows["shop"] == "b").to_numpy()], atol=1e-6)
        assert "a_auc_de" in model.evaluate(rows, verbose=0)


@pytest.mark.slow
def test_a_task_is_added_where_towers_are_the_tasks_alone(prep, rows, tmp_path):
    mixture = tfmoe.STAR(hidden_units=(8,))
    model = fitted(prep, rows, mixture=mixture, input_gate=tfmoe.EPNet((4,)))
    before = model.predict(rows, verbose=0)
    larger = model.add_task(tfmoe.Binary("buy"))
    larger.compile(jit_compile=False)
    larger.fit(rows.assign(buy=rows["click"]), batch_size=32, epochs=1, verbose=0)
    after = larger.predict(rows, verbose=0)
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)
    larger.save(tmp_path / "larger.keras")
    loaded = tfmoe.load_model(tmp_path / "larger.keras")
    assert not loaded.input_gate.trainable_weights
    assert len(loaded.trainable_weights) == len(larger.trainable_weights) > 0
    for options in ({"scenario_towers": True}, {"tower_gate": tfmoe.PPNet("user")}):
        model = tfmoe.MultiTaskModel(prep, mixture, **options)
        with pytest.raises(ValueError, match="towers are the tasks' alone"):
            model.add_task(tfmoe.Binary("buy"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixture": tfmoe.STAR()}, "STAR is conditioned on the scenario"),
        ({"scenario_towers": True}, "scenario_towers is conditioned on the scenario"),
        ({"input_gate": tfmoe.EPNet()}, "EPNet is conditioned on the scenario"),
        ({"input_gate": tfmoe.PPNet("user")}, "`input_gate` a EPNet, or None"),
        ({"tower_gate": tfmoe.PPNet("nobody")}, "of which .'nobody'. are none"),
        ({"tower_gate": tfmoe.PPNet("user"), "tower_units": ()}, "towers without any"),
        (
            {"tower_gate": tfmoe.PPNet("user"), "mixture": tfmoe.ModSquad(num_blocks=1, dim=4)},
            "read one vector a row. Received a ModSquad, which reads tokens",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(rows, options, message):
    prep = tfmoe.Preprocessor(tfmoe.Schema(COLUMNS, TASKS)).fit(rows, progress=False)
    with pytest.raises(ValueError, match=message):
        tfmoe.MultiTaskModel(prep, **{"mixture": tfmoe.SharedBottom(), **options})
