"""Tasks that are given others, from raw rows to what is served."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from typer.testing import CliRunner

import tfmoe
from tfmoe.cli.app import app
from tfmoe.serving.export import tensors

OUTPUTS = ["click", "buy", "buy_given_click", "refund", "refund_given_buy", "stars"]


def table(num_rows=400, seed=0):
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame({"age": rng.normal(size=num_rows)})
    rows["page"] = rng.choice(["home", "cart"], num_rows)
    rows["click"] = (rng.random(num_rows) < 0.5) * 1.0
    rows["buy"] = np.where(rows["click"] == 1, rng.random(num_rows) < 0.4, np.nan)
    rows["refund"] = np.where(rows["buy"] == 1, rng.random(num_rows) < 0.3, np.nan)
    rows["stars"] = rng.normal(size=num_rows)
    return rows


def schema_of(first, second):
    columns = [tfmoe.Numeric("age"), tfmoe.Categorical("page", dim=4)]
    tasks = [
        tfmoe.Binary("click"),
        tfmoe.Binary("buy", given="click", link=first),
        tfmoe.Binary("refund", given="buy", link=second),
        tfmoe.Regression("stars"),
    ]
    return tfmoe.Schema(columns, tasks)


@pytest.fixture(scope="module")
def rows():
    return table()


def fitted(schema, rows, **options):
    keras.utils.set_random_seed(0)
    prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    mixture = tfmoe.MMoE(
        num_experts=4, hidden_units=(6,), gate=tfmoe.TopKGate(num_nonzeros=2, router="static")
    )
    model = tfmoe.MultiTaskModel(prep, mixture, tower_units=(5,), **options)
    model.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    model.fit(*prep.arrays(rows), batch_size=100, epochs=2, verbose=0)
    return model


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("escm2-dr", "aitm"), marks=pytest.mark.slow),
        pytest.param(("dbmtl", "escm2-ips"), marks=pytest.mark.slow),
    ],
    ids=str,
)
def model(request, rows):
    return fitted(schema_of(*request.param), rows)


def predictions(model, rows):
    return {name: np.asarray(one) for name, one in model.predict(rows, verbose=0).items()}


def test_all_of_the_chain_is_predicted(model, rows):
    found = predictions(model, rows)
    assert list(found) == OUTPUTS
    both = found["click"] * found["buy_given_click"]
    np.testing.assert_allclose(np.minimum(both, found["click"]), both)
    numbers = model.evaluate(rows, verbose=0, return_dict=True)
    assert {"buy_auc", "buy_given_click_auc", "refund_given_buy_log_loss"} <= set(numbers)


@pytest.mark.slow
def test_a_file_has_the_whole_of_it(model, rows, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.schema == model.schema
    before, after = predictions(model, rows), predictions(loaded, rows)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    loaded.fit(rows, epochs=1, batch_size=100, verbose=0)


@pytest.mark.slow
def test_an_extracted_task_brings_what_it_is_given_along_but_serves_itself(model, rows):
    alone = tfmoe.extract(model, ["buy"], data=rows)
    found, whole = predictions(alone, rows), predictions(model, rows)
    assert list(found) == ["buy", "buy_given_click"]
    for name, values in found.items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-5)
    assert [task.served for task in alone.schema.tasks] == [False, True]
    assert alone.count_params() < model.count_params()
    alone.compile(jit_compile=False)
    alone.fit(*alone.preprocessor.arrays(rows), batch_size=100, verbose=0)
    assert "click_auc" in alone.evaluate(rows, verbose=0, return_dict=True)


@pytest.mark.slow
def test_the_served_graph_has_the_same_names(model, rows, tmp_path):
    folder = tfmoe.export(model, tmp_path / "served")
    served = tf.saved_model.load(str(folder)).signatures["serving_default"]
    answers = served(**tensors(model.preprocessor, rows[:20]))
    assert sorted(answers) == sorted(OUTPUTS)
    for name, values in predictions(model, rows[:20]).items():
        np.testing.assert_allclose(answers[name], values, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_task_may_be_added_to_the_end_of_a_chain(rows):
    model = fitted(schema_of("esmm", "esmm").select(["click", "buy"]), rows)
    more = model.add_task(tfmoe.Binary("refund", given="buy"))
    before, after = predictions(model, rows), predictions(more, rows)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    product = after["buy"] * after["refund_given_buy"]
    np.testing.assert_allclose(after["refund"], product, rtol=1e-5)
    for link in ("aitm", "escm2-dr"):
        with pytest.raises(ValueError, match="add_task adds stands apart"):
            model.add_task(tfmoe.Binary("refund", given="buy", link=link))


def test_training_starts_at_the_means_of_the_whole_chain(rows):
    prep = tfmoe.Preprocessor(schema_of("esmm", "dbmtl")).fit(rows, progress=False)
    model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(4,)), tower_units=())
    model.towers.kernel.assign(0 * model.towers.kernel)
    found = predictions(model, rows[:1])
    whole = rows.fillna(0)
    assert found["buy"][0] == pytest.approx(whole["buy"].mean(), rel=1e-4)
    assert found["refund"][0] == pytest.approx(whole["refund"].mean(), rel=1e-4)


def test_labels_that_contradict_the_chain_are_told_with_their_number(rows):
    schema = schema_of("esmm", "esmm")
    wrong = rows.copy()
    wrong.loc[wrong.index[wrong["click"] == 0][:3], "buy"] = 1.0
    with pytest.warns(UserWarning, match="3 rows have buy=1 where click=0"):
        prep = tfmoe.Preprocessor(schema).fit(wrong, progress=False)
    _, labels, _ = prep.arrays(wrong)
    assert labels["buy"].sum() == wrong["buy"].sum()
    assert not np.isnan(labels["buy"]).any()


@pytest.mark.slow
def test_a_table_without_the_label_teaches_nothing_of_it(rows):
    model = fitted(schema_of("esmm", "esmm"), rows)
    before = [np.asarray(weight) for weight in model.towers.weights]
    for table_ in (rows.drop(columns=["buy", "refund"]), rows.assign(buy=np.nan, refund=np.nan)):
        _, labels, _ = model.preprocessor.arrays(table_)
        # A column of nothing but gaps says where nothing was bought; no column says nothing.
        assert np.isnan(labels["buy"]).all() == ("buy" not in table_)
    arrays = model.preprocessor.arrays(rows.drop(columns=["buy", "refund"]))
    model.compile("sgd", jit_compile=False)  # without momentum
    model.fit(*arrays, batch_size=100, verbose=0)
    moved = [
        not np.array_equal(old[1:3], np.asarray(new)[1:3])
        for old, new in zip(before, model.towers.weights, strict=True)
    ]
    assert not any(moved)


@pytest.mark.slow
def test_labels_of_ones_own_are_completed(rows):
    model = fitted(schema_of("esmm", "esmm"), rows)
    x, y, _ = model.preprocessor.arrays(rows)
    own = {name: np.where(rows[name].isna(), np.nan, rows[name]) for name in y}
    assert np.isnan(own["buy"]).any()
    found = model.evaluate(x, own, verbose=0, return_dict=True)
    assert found == pytest.approx(model.evaluate(x, y, verbose=0, return_dict=True), nan_ok=True)


@pytest.mark.slow
def test_what_is_asked_for_is_served(rows):
    model = fitted(schema_of("esmm", "esmm"), rows)
    buys = tfmoe.extract(model, ["buy"])
    assert list(predictions(tfmoe.extract(buys, ["click"]), rows)) == ["click"]
    both = predictions(tfmoe.extract(buys, ["click", "buy"]), rows)
    assert list(both) == ["click", "buy", "buy_given_click"]


def test_texts_may_name_the_positive_label_of_a_chain(rows):
    words = rows.copy()
    words["click"] = np.where(rows["click"] == 1, "yes", "no")
    columns = [tfmoe.Numeric("age")]
    tasks = [tfmoe.Binary("click", positive="yes"), tfmoe.Binary("buy", given="click")]
    prep = tfmoe.Preprocessor(tfmoe.Schema(columns, tasks)).fit(words, progress=False)
    _, labels, _ = prep.arrays(words)
    np.testing.assert_array_equal(labels["buy"], rows["buy"].fillna(0))


@pytest.mark.slow
def test_the_command_line_predicts_and_measures_the_whole_chain(model, rows, tmp_path):
    model.save(tmp_path / "model.keras")
    rows.to_csv(tmp_path / "rows.csv", index=False)
    file, table_, out = (str(tmp_path / name) for name in ("model.keras", "rows.csv", "out.csv"))
    run = CliRunner().invoke(app, ["predict", file, table_, "--out", out])
    assert run.exit_code == 0, run.output
    assert list(pd.read_csv(out).columns) == OUTPUTS
    run = CliRunner().invoke(app, ["evaluate", file, table_])
    assert run.exit_code == 0, run.output
    for name in ("buy_auc", "buy_given_click_auc", "refund_given_buy_log_loss"):
        assert name in run.output
