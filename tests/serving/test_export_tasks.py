"""A served model of rows that belong to one task each."""

import json
import sys

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import tfmoe
from tfmoe.data.encode import graph
from tfmoe.serving.export import tensors
from tfmoe.serving.sample_rows import sample_rows

_MARKETS = [7, 12, 30]
_COLUMNS = [
    tfmoe.Numeric("age"),
    tfmoe.Categorical("market_id", source="market", dim=2),
    tfmoe.MultiCategorical("tags", max_length=2, dim=2),
]
_TASKS = {
    "numbers": [
        tfmoe.Binary("de", source="click", key=7),
        tfmoe.Regression("fr", source="hours", key=12, standardize=False),
        tfmoe.Binary("us", source="click", key="30"),
    ],
    "classes": [
        tfmoe.Multiclass("de", source="grade", key=7, num_classes=2),
        tfmoe.Multiclass("fr", source="grade", key=12, num_classes=4),
        tfmoe.Multiclass("us", source="grade", key="30", num_classes=3),
    ],
}


def _rows(num_rows=40):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": rng.normal(size=num_rows),
            "market": rng.choice(_MARKETS, num_rows),
            "tags": [["a", "b", "c"][: i % 4] for i in range(num_rows)],
            "click": rng.integers(0, 2, num_rows),
            "hours": rng.random(num_rows) + 20,
            "grade": rng.integers(0, 2, num_rows),
        }
    )


def _prep(kind):
    schema = tfmoe.Schema(_COLUMNS, _TASKS[kind], task_column="market")
    return tfmoe.Preprocessor(schema).fit(_rows(), progress=False)


@pytest.fixture(scope="module", params=["numbers", pytest.param("classes", marks=pytest.mark.slow)])
def model(request):
    keras.utils.set_random_seed(0)
    mixture = tfmoe.MMoE(num_experts=4, hidden_units=(8,), gate=tfmoe.TopKGate(num_nonzeros=2))
    return tfmoe.MultiTaskModel(_prep(request.param), mixture, tower_units=(4,))


@pytest.fixture(scope="module")
def version(model, tmp_path_factory):
    return tfmoe.export(model, tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def served(version):
    # The whole module is held, or its tables go with it.
    return tf.saved_model.load(str(version))


@pytest.fixture(scope="module")
def look_up():
    # Without the column that reads the market as an integer: the key may be any text.
    columns = [column for column in _COLUMNS if column.name != "market_id"]
    schema = tfmoe.Schema(columns, _TASKS["numbers"], task_column="market")
    prep = tfmoe.Preprocessor(schema).fit(_rows(), progress=False)
    return prep, graph.GraphEncoder(prep)


@settings(max_examples=2 * settings.default.max_examples)
@given(
    kind=st.sampled_from([int, float, str, lambda market: str(market).encode()]),
    cells=st.lists(
        st.tuples(
            st.sampled_from(_MARKETS),
            st.floats(),
            st.one_of(st.none(), st.lists(st.sampled_from(["a", "c", "", None, "new"]))),
        ),
        min_size=1,
        max_size=8,
    ),
)
def test_served_look_ups_are_the_preprocessors(look_up, kind, cells):
    prep, inputs = look_up
    market, age, tags = zip(*cells, strict=True)
    market = pd.Series(list(map(kind, market)), dtype=object)
    df = pd.DataFrame({"market": market, "age": age, "tags": pd.Series(tags, dtype=object)})
    expected = prep.arrays(df, labels=False)
    found = inputs(tensors(prep, df))
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
        assert found[name].dtype.name == values.dtype.name


@pytest.mark.quick(1)
def test_signatures_name_the_task_and_the_tasks(model, served):
    one, all_tasks = (served.signatures[name] for name in ("serving_default", "all_tasks"))
    specs = one.structured_input_signature[1]
    without = all_tasks.structured_input_signature[1]
    assert {name: spec.dtype.name for name, spec in specs.items()} == {
        "age": "float64",
        "market_id": "int64",
        "tags": "string",
        "market": "string",
    }
    assert set(without) == set(specs) - {"market"}
    assert set(one.structured_outputs) == {"score"}
    assert set(all_tasks.structured_outputs) == {"de", "fr", "us"}


@pytest.mark.quick(1)
def test_scores_are_the_models(model, served):
    rows = sample_rows(model.preprocessor, 50, seed=5)
    expected = model.predict(rows, verbose=0)["score"]
    found = served.signatures["serving_default"](**tensors(model.preprocessor, rows))["score"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    raw = tensors(model.preprocessor, rows, task=False)
    by_task = served.signatures["all_tasks"](**raw)
    features = model.preprocessor.arrays(rows, labels=False)
    for place, task in enumerate(model.schema.tasks):
        features["market"] = np.full(50, place, "int32")
        scores = model.predict(features, verbose=0)["score"]
        scores = scores if scores.ndim == 1 else scores[:, : task.num_outputs]
        assert by_task[task.name].shape == scores.shape
        np.testing.assert_allclose(by_task[task.name], scores, rtol=1e-5, atol=1e-6)
        if scores.ndim > 1:
            np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)


def test_a_key_that_is_unknown_has_no_score_and_changes_no_other(model, served):
    serve = served.signatures["serving_default"]
    raw = tensors(model.preprocessor, sample_rows(model.preprocessor, 6))
    expected = serve(**raw)["score"].numpy()
    keys = np.where([0, 1, 0, 0, 1, 1], ["", "", "", "", "es", "07"], raw["market"].numpy())
    found = serve(**{**raw, "market": tf.constant(keys)})["score"].numpy()
    assert np.isfinite(expected).all()
    assert np.isnan(found[[1, 4, 5]]).all()
    np.testing.assert_allclose(found[[0, 2, 3]], expected[[0, 2, 3]], rtol=1e-5, atol=1e-6)


def test_the_sample_request_can_be_served(version, served):
    body = json.loads((version / "sample_request.json").read_text("utf-8"))
    serve = served.signatures["serving_default"]
    specs = serve.structured_input_signature[1]
    columns = {name: [row[name] for row in body["instances"]] for name in specs}
    assert set(columns["market"]) <= {"7", "12", "30"}
    scores = serve(**{n: tf.constant(columns[n], specs[n].dtype) for n in specs})["score"]
    assert np.isfinite(scores).all()


@pytest.mark.quick(1)
@pytest.mark.parametrize("model", ["numbers"], indirect=True)
@pytest.mark.parametrize("fault", ["serving_default", "all_tasks"])
def test_a_graph_that_differs_is_not_written(model, tmp_path, monkeypatch, fault):
    exporting = sys.modules["tfmoe.serving.export"]
    if fault == "serving_default":  # the first task is read as an unknown one
        monkeypatch.setattr(exporting, "NO_TASK", 0)
    else:  # the last task's scores under the first one's name, in the graph alone
        by_task = exporting._by_task

        def swapped(schema, scores):
            graph = not isinstance(scores[0], np.ndarray)
            return by_task(schema, [scores[-1], *scores[1:]] if graph else scores)

        monkeypatch.setattr(exporting, "_by_task", swapped)
    with pytest.raises(RuntimeError, match="Nothing was written"):
        tfmoe.export(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_sample_rows_hold_every_task():
    prep = _prep("numbers")
    rows = sample_rows(prep, 100)
    assert set(prep.arrays(rows, labels=False)["market"].tolist()) == {0, 1, 2}
