"""Metrics that add up over batches in `fit`."""

import keras
import numpy as np
import pandas as pd
import pytest

import tfmoe
from tfmoe.objectives import calibration as cal

EXACT = {tfmoe.NormalizedEntropy: cal.normalized_entropy, tfmoe.Calibration: cal.calibration}


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("from_logits", [True, False])
def test_batches_add_up_to_the_exact_number(kind, from_logits):
    random = np.random.default_rng(0)
    logits = random.normal(-2, 1, 3000).astype("float32")
    labels = (random.random(3000) < 1 / (1 + np.exp(-logits))).astype("float32")
    weights = random.integers(0, 3, 3000).astype("float32")
    probabilities = 1 / (1 + np.exp(-logits))
    outputs = logits if from_logits else probabilities
    # Weight 0 hides what is no number.
    outputs = np.where(weights > 0, outputs, np.nan)
    metric = kind(from_logits=from_logits)
    assert np.isnan(float(metric.result()))
    for part in np.array_split(np.arange(3000), 7):
        metric.update_state(labels[part, None], outputs[part, None], weights[part])
    expected = EXACT[kind](labels, probabilities, weights)
    assert float(metric.result()) == pytest.approx(expected, rel=1e-5)
    again = kind.from_config(metric.get_config())
    assert (again.from_logits, again.name) == (from_logits, metric.name)
    metric.reset_state()
    assert np.isnan(float(metric.result()))


def test_certain_predictions_are_finite():
    metric = tfmoe.NormalizedEntropy()
    metric.update_state(np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    expected = cal.normalized_entropy([0, 1], [1, 0])
    assert float(metric.result()) == pytest.approx(expected, rel=1e-2)


def table(num_rows=600):
    random = np.random.default_rng(0)
    rows = pd.DataFrame({"age": random.normal(size=num_rows).astype("float32")})
    rows["market"] = random.choice(["de", "fr"], num_rows)
    rows["click"] = (rows["age"] + random.normal(size=num_rows) > 1) * 1.0
    rows.loc[::5, "click"] = np.nan
    rows["weight"] = random.integers(0, 3, num_rows)
    return rows


METRICS = ["normalized_entropy", "calibration", "precision", "auc"]


def metrics(logits=False):
    return [
        tfmoe.NormalizedEntropy(from_logits=logits),
        tfmoe.Calibration(from_logits=logits),
        keras.metrics.Precision(thresholds=0.4, name="precision"),
        tfmoe.AUC(from_logits=logits),
    ]


@pytest.mark.quick(1)
@pytest.mark.parametrize("per_row", [False, True])
def test_they_are_compiled_in_both_ways_of_labels(per_row, tmp_path):
    rows, age = table(), [tfmoe.Numeric("age", transform="none")]
    options = {"weight_column": "weight"}
    if per_row:
        tasks = [tfmoe.Binary("de", source="click"), tfmoe.Binary("fr", source="click")]
        options["task_column"] = "market"
    else:
        tasks = [tfmoe.Binary("fr", source="click")]
    schema = tfmoe.Schema(age, tasks, **options)
    model = tfmoe.MultiTaskModel(schema, tfmoe.SharedBottom(hidden_units=(4,)))
    model.compile(metrics={"fr": metrics(logits=True)}, jit_compile=False)
    held_out = None if per_row else rows  # each takes seconds to trace
    options = {"epochs": 1, "batch_size": 100, "verbose": 0}
    logs = model.fit(*model.preprocessor.arrays(rows), validation_data=held_out, **options).history
    found = model.evaluate(rows, verbose=0)
    own = rows[rows["market"] == "fr"] if per_row else rows
    scores = model.predict(own, verbose=0)["score" if per_row else "fr"]
    given = (own["click"], scores)
    expected = [
        *(exact(*given, own["weight"]) for exact in EXACT.values()),
        cal.precision_and_recall(*given, 0.4, own["weight"])[0],
    ]
    for name, value in zip(METRICS, expected, strict=False):
        assert found[f"fr_{name}"] == pytest.approx(value, rel=1e-4), name
        assert f"fr_{name}" in logs
    if per_row:
        return
    for name in METRICS[:3]:
        assert logs[f"val_fr_{name}"][-1] == pytest.approx(found[f"fr_{name}"], rel=1e-4), name
    model.save(tmp_path / "model.keras")
    again = tfmoe.load_model(tmp_path / "model.keras").evaluate(rows, verbose=0)
    assert again == pytest.approx(found, rel=1e-6)


def test_callbacks_know_which_way_is_better():
    rows = table()
    schema = tfmoe.Schema([tfmoe.Numeric("age", transform="none")], [tfmoe.Binary("click")])
    model = tfmoe.MultiTaskModel(schema, tfmoe.SharedBottom(hidden_units=(4,)))
    model.compile(metrics={"click": metrics()}, jit_compile=False)
    stopping = keras.callbacks.EarlyStopping("click_normalized_entropy")
    options = {"epochs": 1, "batch_size": 300, "verbose": 0}
    model.fit(rows, callbacks=[stopping], **options)
    assert stopping.mode == "min"
    with pytest.raises(ValueError, match="more or less of what it watches"):
        model.fit(rows, callbacks=[keras.callbacks.EarlyStopping("click_calibration")], **options)
