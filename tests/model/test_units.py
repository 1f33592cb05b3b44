"""The unit of a regression's label changes neither its own training nor another task's."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import tfmoe


def table(num_rows=1500, unit=1.0, shift=0.0, seed=0):
    random = np.random.default_rng(seed)
    x, z = random.normal(size=(2, num_rows))
    price = 3 + x + 0.3 * random.normal(size=num_rows)
    price[random.random(num_rows) < 0.2] = np.nan
    click = (z + 0.3 * random.normal(size=num_rows) > 0) * 1
    return pd.DataFrame({"x": x, "z": z, "price": price * unit + shift, "click": click})


def schema(**options):
    columns = [tfmoe.Numeric("x"), tfmoe.Numeric("z")]
    return tfmoe.Schema(columns, [tfmoe.Regression("price", **options), tfmoe.Binary("click")])


def model_of(rows, dtype="float32", **options):
    keras.utils.set_random_seed(0)
    prep = tfmoe.Preprocessor(schema(**options)).fit(rows, progress=False)
    mixture = tfmoe.MMoE(num_experts=2, hidden_units=(8,), dtype=dtype)
    model = tfmoe.MultiTaskModel(prep, mixture, tower_units=(4,), dtype=dtype)
    model.compile(keras.optimizers.Adam(0.02), jit_compile=False)
    return model


def trained(rows, epochs=8, **options):
    model = model_of(rows, **options)
    dataset = model.preprocessor.dataset(rows, batch_size=100, shuffle=True)
    model.history_of_fit = model.fit(dataset, epochs=epochs, verbose=0).history
    return model


def r2(model, rows):
    rmse = model.evaluate(rows, verbose=0)["price_rmse"]
    return 1 - (rmse / rows["price"].std()) ** 2


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_units_do_not_matter(loss):
    scores, losses = [], []
    for unit, shift in ((1, 0), (100, 7), (1e4, -3e5)):
        rows = table(unit=unit, shift=shift)
        model = trained(rows, loss=loss)
        scores.append((r2(model, rows), model.evaluate(rows, verbose=0)["click_auc"]))
        losses.append(model.history_of_fit["price_loss"])
    assert scores[0][0] > 0.8
    np.testing.assert_allclose(scores[1:], [scores[0]] * 2, atol=0.01)
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=0.02)


def test_losses_are_of_standardised_labels_and_metrics_of_raw_ones():
    rows = table(unit=50.0)
    model = model_of(rows)
    present = rows["price"].dropna()
    mean, std = model.preprocessor.label_moments["price"]
    assert mean == pytest.approx(present.mean(), rel=1e-6)
    assert std == pytest.approx(present.std(ddof=0), rel=1e-6)
    logs = model.evaluate(rows, verbose=0)
    predicted = model.predict(rows, verbose=0)["price"]
    errors = (predicted - rows["price"])[rows["price"].notna()]
    assert logs["price_rmse"] == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-5)
    assert logs["price_mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-5)
    assert logs["price_loss"] == pytest.approx(((errors / std) ** 2).mean(), rel=1e-5)


def test_the_first_prediction_is_the_mean_label():
    rows = table(unit=1000.0)
    predicted = model_of(rows).predict(rows, verbose=0)["price"]
    assert abs(predicted.mean() - rows["price"].mean()) < rows["price"].std()


def test_raw_units_stay_raw():
    rows = table(unit=3.0)
    model = model_of(rows, standardize=False)
    logs = model.evaluate(rows, verbose=0)
    assert logs["price_loss"] == pytest.approx(logs["price_rmse"] ** 2, rel=1e-5)
    assert model.head.moments == {}


def test_a_loss_of_ones_own_gets_standardised_labels_and_a_metric_raw_ones():
    rows = table(unit=70.0).dropna()
    model = model_of(rows)
    model.compile("sgd", loss={"price": "mae"}, metrics={"price": ["mae"]}, jit_compile=False)
    logs = model.evaluate(rows, verbose=0)
    std = model.preprocessor.label_moments["price"][1]
    assert logs["price_loss"] * std == pytest.approx(logs["price_mean_absolute_error"], rel=1e-4)


def test_labels_outside_a_task_do_not_count_and_constant_ones_survive():
    rows = table()
    rows.loc[rows["click"] == 0, "price"] = 1e6
    rows.loc[rows["click"] == 1, "price"] = 5.0
    model = model_of(rows, where="click")
    assert model.preprocessor.label_moments["price"] == (5.0, 1.0)
    model.fit(model.preprocessor.dataset(rows, batch_size=100), epochs=1, verbose=0)
    assert np.isfinite(model.predict(rows, verbose=0)["price"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_is_right_for_large_labels(dtype):
    rows = table(unit=1e3, shift=1e6)
    model = trained(rows, epochs=6, dtype=dtype)
    assert r2(model, rows) > 0.8


@pytest.mark.slow
def test_extracted_saved_and_served_predictions_are_in_the_labels_unit(tmp_path):
    rows = table(unit=1e4, shift=1e5)
    model = trained(rows, epochs=2)
    expected = model.predict(rows, verbose=0)["price"]
    assert abs(expected.mean() - rows["price"].mean()) < rows["price"].std()
    extracted = tfmoe.extract(model, ["price"])
    np.testing.assert_allclose(extracted.predict(rows, verbose=0)["price"], expected, rtol=1e-5)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again.predict(rows, verbose=0)["price"], expected)
    assert again.evaluate(rows, verbose=0) == pytest.approx(model.evaluate(rows, verbose=0))
    served = tf.saved_model.load(str(tfmoe.export(again, tmp_path / "served")))
    given = {name: tf.constant(rows[name], tf.float64) for name in ("x", "z")}
    answer = served.signatures["serving_default"](**given)["price"]
    np.testing.assert_allclose(answer, expected, rtol=1e-5)


def test_a_preprocessor_without_moments_warns_and_keeps_raw_units():
    bare = tfmoe.Schema([tfmoe.Numeric("x", transform="none")], [tfmoe.Regression("price")])
    with pytest.warns(UserWarning, match=r"labels of \['price'\] are not standardised"):
        model = tfmoe.MultiTaskModel(bare, tfmoe.SharedBottom(hidden_units=(4,)))
    assert model.head.moments == {}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"rows": table(unit=9.0)}, {"mean": 27.0, "std": 9.4}])
def test_an_added_regression_is_standardised(options):
    rows = table(unit=9.0)
    model = trained(rows.drop(columns="price").assign(price=rows["x"]), epochs=1)
    wider = model.add_task(tfmoe.Regression("cost", source="price"), like=["price"], **options)
    mean, std = wider.head.moments["cost"]
    assert mean == pytest.approx(27, abs=1)
    assert std == pytest.approx(9.4, abs=0.3)
    wider.compile(keras.optimizers.Adam(0.02), jit_compile=False)
    wider.fit(wider.preprocessor.dataset(rows, batch_size=50), epochs=5, verbose=0)
    errors = wider.predict(rows, verbose=0)["cost"] - rows["price"]
    assert np.sqrt(np.nanmean(errors**2)) < 0.8 * rows["price"].std()


def test_an_added_regression_needs_rows():
    model = model_of(table())
    with pytest.raises(ValueError, match=r"Received task='cost' without `rows`"):
        model.add_task(tfmoe.Regression("cost"))
    with pytest.raises(ValueError, match=r"Received mean=1\.0, std=None"):
        model.add_task(tfmoe.Regression("cost"), mean=1.0)
    assert "cost" not in model.add_task(tfmoe.Regression("cost", standardize=False)).head.moments


@pytest.mark.slow
def test_each_task_of_a_task_column_has_its_own_moments():
    random = np.random.default_rng(0)
    rows = pd.DataFrame({"x": random.normal(size=900), "task": ["a", "b", "c"] * 300})
    factor = rows["task"].map({"a": 1.0, "b": 1e4, "c": 1.0})
    rows["label"] = (2 + rows["x"]) * factor
    rows.loc[rows["task"] == "c", "label"] = (rows["x"] > 0) * 1.0
    tasks = [
        tfmoe.Regression("a", source="label"),
        tfmoe.Regression("b", source="label"),
        tfmoe.Binary("c", source="label"),
    ]
    prep = tfmoe.Preprocessor(tfmoe.Schema([tfmoe.Numeric("x")], tasks, task_column="task"))
    prep.fit(rows, progress=False)
    keras.utils.set_random_seed(0)
    model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(8,)), tower_units=(4,))
    model.compile(keras.optimizers.Adam(0.03), jit_compile=False)
    logs = model.fit(prep.dataset(rows, batch_size=50, shuffle=True), epochs=12, verbose=0).history
    assert logs["b_loss"][-1] == pytest.approx(logs["a_loss"][-1], abs=0.05)
    scores = model.predict(rows, verbose=0)["score"]
    for task, unit in (("a", 1.0), ("b", 1e4)):
        mine = rows["task"] == task
        assert np.sqrt(((scores - rows["label"])[mine] ** 2).mean()) < 0.3 * unit
    logs = model.evaluate(rows, verbose=0)
    mine = rows["task"] == "b"
    rmse = np.sqrt(((scores - rows["label"])[mine] ** 2).mean())
    assert logs["b_rmse"] == pytest.approx(rmse, rel=1e-4)
