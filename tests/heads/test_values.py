import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfmoe
from tests.oracles import funnel
from tfmoe.heads import values
from tfmoe.heads.outputs import Outputs, ScoreOutputs, moments_of
from tfmoe.model.forward import ForwardOutput
from tfmoe.objectives.task_per_row import TaskPerRow

logits = st.floats(-12, 12)


@settings(max_examples=60)
@given(logits, logits)
def test_the_logit_of_a_product(parent, conditional):
    found = float(values.chain_logit(np.float32([parent]), np.float32([conditional]))[0])
    product = funnel.sigmoid(np.float32(parent)) * funnel.sigmoid(np.float32(conditional))
    assert found == pytest.approx(np.log(product) - np.log1p(-product), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("size", [60.0, 200.0])
def test_a_product_is_finite_where_its_parts_round_to_one(size):
    found = values.chain_logit(np.float32([size, size, -size]), np.float32([size, -size, -size]))
    # 1 - pq is twice what 1 - p is; of one sure part the other stays.
    np.testing.assert_allclose(found, [size - np.log(2), -size, -2 * size], rtol=1e-6)


@settings(max_examples=60)
@given(logits, st.floats(0.01, 12))
def test_the_logit_of_a_quotient(parent, below):
    chain = np.float32(parent) - np.float32(below)
    found = float(values.conditional_logit(np.float32([parent]), np.float32([chain]))[0])
    quotient = funnel.sigmoid(chain) / funnel.sigmoid(np.float32(parent))
    if quotient < 1 - 1e-4:
        assert float(funnel.sigmoid(found)) == pytest.approx(quotient, rel=1e-3)


def test_what_is_likelier_than_what_it_is_given_counts_as_nearly_certain():
    found = values.conditional_logit(np.float32([-1.0]), np.float32([2.0]))
    assert 10 < float(found[0]) < 20


def test_predictions_of_every_form():
    tasks = [
        tfmoe.Binary("refund", given="buy"),
        tfmoe.Binary("click"),
        tfmoe.Binary("buy", given="click", link="aitm"),
        tfmoe.Regression("visits", loss="poisson"),
        tfmoe.Regression("spend", loss="lognormal", parts=True),
        tfmoe.Binary("like", negatives_kept=0.25, positive_weight=2.0),
    ]
    rng = np.random.default_rng(0)
    made = [rng.normal(size=(5, task.num_logits)).astype("float32") for task in tasks]
    moments = {"visits": (0.0, 3.0), "spend": (0.0, 50.0)}
    predictions, _ = Outputs(tasks, moments)(made)
    found = {name: np.asarray(one, "float64") for name, one in predictions.items()}
    refund, click, buy, visits, spend, like = (np.asarray(one, "float64") for one in made)
    p_click, p_buy = funnel.sigmoid(click[:, 0]), funnel.sigmoid(buy[:, 0])
    sigma = np.log1p(np.exp(spend[:, 2]))
    if_any = np.exp(spend[:, 1] + sigma**2 / 2) * 50
    odds = np.exp(like[:, 0]) * 0.25 / 2
    expected = {
        "refund": p_buy * funnel.sigmoid(refund[:, 0]),
        "refund_given_buy": funnel.sigmoid(refund[:, 0]),
        "click": p_click,
        "buy": p_buy,
        "buy_given_click": np.minimum(p_buy / p_click, 1),
        "visits": 3 * np.exp(visits[:, 0]),
        "spend": funnel.sigmoid(spend[:, 0]) * if_any,
        "spend_probability": funnel.sigmoid(spend[:, 0]),
        "spend_if_any": if_any,
        "like": odds / (1 + odds),
    }
    assert list(found) == list(expected)
    for name, values_ in expected.items():
        np.testing.assert_allclose(found[name], values_, rtol=2e-5, err_msg=name)


def test_labels_that_cannot_be_shifted_are_divided_by_their_mean():
    tasks = [tfmoe.Regression("visits", loss="poisson"), tfmoe.Regression("rating")]
    known = {"visits": (4.0, 7.0), "rating": (3.0, 1.0)}
    once = moments_of(tasks, known)
    assert once == {"visits": (0.0, 4.0), "rating": (3.0, 1.0)}
    assert moments_of(tasks, once) == once


MARKETS = [
    tfmoe.Binary("de", source="click", negatives_kept=0.25),
    tfmoe.Regression("fr", source="visits", loss="poisson"),
    tfmoe.Regression("us", source="spend", loss="lognormal"),
    tfmoe.Regression("uk", source="minutes", loss="quantile", quantile=0.8),
]
UNITS = {"fr": (0.0, 3.0), "us": (0.0, 50.0), "uk": (4.0, 2.0)}


def test_a_row_of_one_task_is_predicted_in_its_form():
    rng = np.random.default_rng(0)
    logits, task = rng.normal(size=(8, 3)).astype("float32"), np.int32([0, 1, 2, 3] * 2)
    found, _ = ScoreOutputs(MARKETS, UNITS)(logits, task)
    exact = logits.astype("float64")
    odds = 0.25 * np.exp(exact[:, 0])
    sigma = np.log1p(np.exp(exact[:, 2]))
    expected = [
        odds / (1 + odds),
        3 * np.exp(exact[:, 0]),
        50 * funnel.sigmoid(exact[:, 0]) * np.exp(exact[:, 1] + sigma**2 / 2),
        4 + 2 * exact[:, 0],
    ]
    np.testing.assert_allclose(found["score"], np.choose(task, expected), rtol=2e-5)


def test_a_row_of_one_task_has_its_own_loss():
    rng = np.random.default_rng(1)
    logits, task = rng.normal(size=(8, 3)).astype("float32"), np.int32([0, 1, 2, 3] * 2)
    labels = np.float32([1, 4, 0, 3, 0, 0, 70, 9])
    predictions, named = ScoreOutputs(MARKETS, UNITS)(logits, task)
    schema = tfmoe.Schema([tfmoe.Numeric("x")], MARKETS, task_column="market")
    forward = ForwardOutput(predictions, named, [])
    found = TaskPerRow(schema, {}, {}, {}, UNITS).loss({"score": labels}, None, forward, task)
    rows_ = zip(logits.astype("float64"), labels, task, strict=True)
    expected = [_loss_of(one, float(label), row) for row, label, one in rows_]
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-5)


def _loss_of(task, label, row):
    mean, std = UNITS.get(MARKETS[task].name, (0.0, 1.0))
    scaled = (label - mean) / std
    if task == 0:
        return funnel.log_loss(label, funnel.sigmoid(row[0]))
    if task == 1:
        return np.exp(row[0]) - scaled * row[0]
    if task == 2:
        return funnel.zero_inflated_lognormal(scaled, row)
    return max(0.8 * (scaled - row[0]), -0.2 * (scaled - row[0]))


def test_an_expected_value_is_finite_where_one_of_its_factors_is_not():
    """In float32 the probability of a purchase may be 0, and its mean amount infinite."""
    logits = np.float32([[-110, 100, 0.5], [-40, 100, 0.5], [3, -2, 1]])
    found = values.regression_value(tfmoe.Regression("spend", loss="lognormal"), logits)
    sigma = np.log1p(np.exp(np.float64(logits[:, 2])))
    log_share = -np.log1p(np.exp(-np.float64(logits[:, 0])))
    expected = np.exp(log_share + logits[:, 1] + sigma**2 / 2)
    np.testing.assert_allclose(found, expected, rtol=2e-5)
