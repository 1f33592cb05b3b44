"""One number of several outputs, inside the served graph."""

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from typer.testing import CliRunner

import tfmoe
from tfmoe.cli.app import app
from tfmoe.serving.export import tensors


@pytest.fixture(scope="module")
def model():
    columns = [tfmoe.Numeric("x", transform="none")]
    tasks = [
        tfmoe.Binary("click", negatives_kept=0.1),
        tfmoe.Binary("like"),
        tfmoe.Regression("stars", standardize=False),
        tfmoe.Multiclass("size", num_classes=3),
    ]
    schema = tfmoe.Schema(columns, tasks)
    return tfmoe.MultiTaskModel(schema, tfmoe.SharedBottom(hidden_units=(4,)), tower_units=())


ROWS = pd.DataFrame({"x": [0.5, -1.0, 2.0]})


def served(model, folder):
    found = tf.saved_model.load(str(folder)).signatures["serving_default"]
    return found(**tensors(model.preprocessor, ROWS))


def test_a_sum_and_a_product_are_outputs_beside_the_others(model, tmp_path):
    one = model.predict(ROWS, verbose=0)
    summed = served(model, tfmoe.export(model, tmp_path / "a", {"click": 2.0, "stars": -0.5}))
    np.testing.assert_allclose(summed["score"], 2 * one["click"] - 0.5 * one["stars"], rtol=1e-5)
    assert set(summed) == {*one, "score"}
    model.save(tmp_path / "model.keras")
    arguments = ["--score", "click=1,like=0.5", "--score-as", "product"]
    run = CliRunner().invoke(
        app, ["export", str(tmp_path / "model.keras"), str(tmp_path / "b"), *arguments]
    )
    assert run.exit_code == 0, run.output
    product = served(model, tmp_path / "b" / "1")
    np.testing.assert_allclose(product["score"], one["click"] * one["like"] ** 0.5, rtol=1e-5)


def test_sampled_negatives_are_corrected_for_in_the_served_graph_too(model, tmp_path):
    features = {"x": ROWS["x"].to_numpy("float32")}
    logits = np.asarray(model.forward_pass(features).logits["click"], "float64")
    odds = np.exp(logits) * 0.1
    answers = served(model, tfmoe.export(model, tmp_path / "served"))
    np.testing.assert_allclose(answers["click"], odds / (1 + odds), rtol=1e-5)


@pytest.mark.parametrize(
    ("score", "how", "message"),
    [
        ({"clicks": 1.0}, "sum", "weights by output, of"),
        ({}, "sum", "weights by output, of"),
        ({"size": 1.0}, "sum", "weights by output, of"),
        ({"stars": 1.0}, "product", "factors of at least 0"),
        ({"click": float("nan")}, "sum", "finite number"),
        ({"click": 1.0}, "mean", "score_as"),
    ],
)
def test_what_makes_no_score_is_refused(model, tmp_path, score, how, message):
    with pytest.raises(ValueError, match=message):
        tfmoe.export(model, tmp_path / "served", score, how)
    assert not (tmp_path / "served").exists()
