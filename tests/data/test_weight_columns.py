"""Row weights of tasks' own, and labels that a loss cannot take."""

import numpy as np
import pandas as pd
import pytest

import tfmoe

ROWS = pd.DataFrame(
    {
        "x": [0.0, 1.0, 2.0],
        "w": [1.0, 2.0, 0.5],
        "click": [1.0, 0.0, 1.0],
        "spend": [0.0, 3.0, 5.0],
        "dollars": [2.0, 0.0, 4.0],
    }
)
TASKS = [tfmoe.Binary("click"), tfmoe.Regression("spend", weight_column="dollars")]


def fitted(rows=ROWS, tasks=TASKS, **options):
    schema = tfmoe.Schema([tfmoe.Numeric("x")], tasks, **options)
    return tfmoe.Preprocessor(schema).fit(rows, progress=False)


def test_a_tasks_weights_multiply_those_of_the_row():
    prep = fitted(weight_column="w")
    _, _, weights = prep.arrays(ROWS)
    np.testing.assert_allclose(weights["click"], ROWS["w"])
    np.testing.assert_allclose(weights["spend"], ROWS["w"] * ROWS["dollars"])
    (batch,) = prep.dataset(ROWS, batch_size=3)
    np.testing.assert_allclose(batch[2]["spend"], weights["spend"])
    np.testing.assert_allclose(batch[2]["click"], weights["click"])


def test_a_table_without_the_tasks_label_needs_no_weights_of_it():
    _, labels, weights = fitted().arrays(ROWS.drop(columns=["spend", "dollars"]))
    assert np.isnan(labels["spend"]).all()
    np.testing.assert_array_equal(weights["click"], 1)
    with pytest.raises(ValueError, match="weight_column` of 'spend'"):
        fitted().arrays(ROWS.drop(columns=["dollars"]))


def test_rows_of_one_task_each_have_that_tasks_weights():
    rows = ROWS.assign(market=["de", "fr", "de"])
    tasks = [
        tfmoe.Binary("de", source="click", weight_column="dollars"),
        tfmoe.Binary("fr", source="click"),
    ]
    prep = fitted(rows, tasks, task_column="market", weight_column="w")
    _, _, weights = prep.arrays(rows)
    np.testing.assert_allclose(weights["score"], [2, 2, 2])
    bad = rows.assign(dollars=[1.0, np.nan, np.nan])
    with pytest.raises(ValueError, match="row 2"):
        prep.arrays(bad)


@pytest.mark.parametrize("weight", [1e39, np.inf, 3.403e38])
def test_weights_are_finite_in_32_bits(weight):
    rows = ROWS.assign(w=[1.0, weight, 0.5])
    with pytest.raises(ValueError, match=r"must hold a finite weight.*Received w=.*row 1 "):
        fitted(weight_column="w").arrays(rows)
    rows = ROWS.assign(dollars=[2.0, 0.0, weight])
    with pytest.raises(ValueError, match=r"must hold a finite weight.*dollars=.*row 2 "):
        fitted().arrays(rows)
    large = ROWS.assign(w=[1.0, 3.3e38, 0.5])
    weights = fitted(weight_column="w").arrays(large)[2]["click"]
    np.testing.assert_allclose(weights, large["w"], rtol=1e-6)


def test_products_of_weights_are_finite_in_32_bits():
    rows = ROWS.assign(w=[1.0, 1e30, 1e30], dollars=[1e30, 1e8, 1e30])
    with pytest.raises(ValueError, match=r"that of its task.*dollars=1e\+30 and 1\S*e\+30.*row 2 "):
        fitted(weight_column="w").arrays(rows)
    tasks = [
        tfmoe.Binary("de", source="click", weight_column="dollars"),
        tfmoe.Binary("fr", source="click"),
    ]
    rows = rows.assign(market=["fr", "fr", "de"])
    prep = fitted(rows, tasks, task_column="market", weight_column="w")
    with pytest.raises(ValueError, match=r"that of its task.*row 2 "):
        prep.arrays(rows)
    fine = rows.assign(market=["de", "de", "fr"])
    np.testing.assert_allclose(prep.arrays(fine)[2]["score"], [1e30, 1e38, 1e30], rtol=1e-6)


def test_a_weight_column_is_no_input():
    with pytest.raises(ValueError, match="`weight_column` is no input"):
        tfmoe.Schema([tfmoe.Numeric("x")], [tfmoe.Binary("click", weight_column="x")])


@pytest.mark.parametrize("loss", ["poisson", "lognormal"])
def test_labels_below_0_are_refused_where_the_loss_cannot_take_them(loss):
    with pytest.raises(ValueError, match="at least 0 for loss="):
        fitted(ROWS.assign(spend=-1.0), [tfmoe.Regression("spend", loss=loss)])


def test_labels_that_are_counts_or_spending_have_their_mean_as_unit():
    for loss in ("poisson", "lognormal"):
        prep = fitted(tasks=[tfmoe.Regression("spend", loss=loss)])
        model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(4,)), tower_units=())
        assert model.head.moments == {"spend": (0.0, pytest.approx(8 / 3))}
        model.towers.kernel.assign(0 * model.towers.kernel)
        found = model.predict(ROWS, verbose=0)["spend"]
        np.testing.assert_allclose(found, 8 / 3, rtol=1e-5)
