"""Losses of tasks that are given others."""

import numpy as np
import pytest
import tensorflow as tf

import tfmoe
from tests.oracles import funnel
from tfmoe.heads.outputs import Outputs
from tfmoe.heads.values import imputed_name, imputed_tasks
from tfmoe.model.forward import ForwardOutput
from tfmoe.objectives.joint_labels import JointLabels
from tfmoe.objectives.objective import completed

NAN = np.nan
CLICKS = np.float32([1, 1, 0, 0, NAN, NAN, 1, 0])
BUYS = np.float32([1, 0, NAN, 0, 1, NAN, NAN, 1])
WEIGHTS = np.float32([1, 2, 0.5, 1, 1, 1, 3, 1])
LINKS = ["esmm", "escm2-ips", "escm2-dr", "aitm", "dbmtl"]


def schema_of(link):
    tasks = [tfmoe.Binary("click"), tfmoe.Binary("buy", given="click", link=link)]
    return tfmoe.Schema([tfmoe.Numeric("x")], tasks)


def forward(schema, made, imputed):
    predictions, logits = Outputs(schema.tasks)([one[:, None] for one in made])
    if imputed_tasks(schema.tasks):
        logits = {**logits, imputed_name(schema.tasks[1]): imputed}
    return ForwardOutput(predictions, logits, [])


def logits_of(seed=0):
    rng = np.random.default_rng(seed)
    return [tf.constant(2 * rng.normal(size=len(CLICKS)), "float32") for _ in range(3)]


def losses(schema, labels, weights=None):
    """The two tasks' losses, and their gradients by logits of click, buy and imputation."""
    click, buy, imputed = logits_of()
    found = []
    for name in schema.task_names:
        weight = {other: float(other == name) for other in schema.task_names}
        objectives = JointLabels(schema, {}, weight, {})
        with tf.GradientTape() as tape:
            tape.watch([click, buy, imputed])
            one = forward(schema, (click, buy), imputed)
            loss = objectives.loss(completed(schema, labels), weights, one)
        gradients = tape.gradient(loss, [click, buy, imputed], unconnected_gradients="zero")
        found.append((float(loss), [gradient.numpy() for gradient in gradients]))
    return found


def test_what_did_not_happen_for_want_of_a_click_is_0():
    found = completed(schema_of("esmm"), {"click": CLICKS, "buy": BUYS})
    np.testing.assert_array_equal(found["buy"], [1, 0, 0, 0, 1, NAN, NAN, 1])
    np.testing.assert_array_equal(found["click"], CLICKS)
    alone = completed(schema_of("esmm"), {"buy": BUYS})
    np.testing.assert_array_equal(alone["buy"], BUYS)


def test_labels_are_completed_along_a_whole_chain():
    tasks = [
        tfmoe.Binary("refund", given="buy"),
        tfmoe.Binary("click"),
        tfmoe.Binary("buy", given="click"),
    ]
    schema = tfmoe.Schema([tfmoe.Numeric("x")], tasks)
    clicks, buys = np.float32([0, 1, 1]), np.float32([NAN, NAN, 1])
    refunds = np.float32([NAN, NAN, 0])
    found = completed(schema, {"click": clicks, "buy": buys, "refund": refunds})
    np.testing.assert_array_equal(found["buy"], [0, NAN, 1])
    np.testing.assert_array_equal(found["refund"], [0, NAN, 0])


def test_a_task_without_any_label_stays_so():
    nothing = np.float32([NAN, NAN])
    found = completed(schema_of("esmm"), {"click": np.float32([0, 1]), "buy": nothing})
    np.testing.assert_array_equal(found["buy"], nothing)


@pytest.mark.parametrize("link", LINKS)
def test_losses_match_reference(link):
    schema = schema_of(link)
    (_, _), (found, _) = losses(schema, {"click": CLICKS, "buy": BUYS}, WEIGHTS)
    click, buy, imputed = (np.asarray(one, "float64") for one in logits_of())
    p_click, p_buy = funnel.sigmoid(click), funnel.sigmoid(buy)
    if link not in ("aitm", "dbmtl"):
        p_buy = p_click * p_buy
    whole = np.where((CLICKS == 0) & np.isnan(BUYS), 0, BUYS)
    known = ~np.isnan(whole)
    weights = WEIGHTS[known]
    expected = np.average(funnel.log_loss(whole, p_buy)[known], weights=weights)
    if link == "aitm":
        expected += 0.6 * np.average(np.maximum(p_buy - p_click, 0)[known], weights=weights)
    if link.startswith("escm2"):
        chosen = imputed if link == "escm2-dr" else None
        expected += funnel.escm2(CLICKS, BUYS, click, buy, chosen, 0.01, WEIGHTS)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("link", LINKS)
def test_no_label_reaches_a_loss_that_it_is_not_of(link):
    schema = schema_of(link)
    labels = {"click": CLICKS, "buy": BUYS}
    (click_loss, by_click), (_, by_buy) = losses(schema, labels)
    other = {"click": CLICKS, "buy": np.where(np.isnan(BUYS), NAN, 1 - BUYS)}
    (same, unmoved), _ = losses(schema, other)
    # A click's loss knows nothing of purchases, nor of the other towers.
    assert same == click_loss
    np.testing.assert_array_equal(by_click[0], unmoved[0])
    assert not by_click[1].any()
    assert not by_click[2].any()
    # Of a row without either label nothing comes; one with a click alone has no purchase to learn.
    assert not any(gradient[5] for gradient in by_buy)
    assert not any(gradient[6] for gradient in by_buy)
    # The row that was not clicked is learnt from all the same.
    assert by_buy[1][2] != 0
    if link == "esmm":
        p_click, p_buy = (funnel.sigmoid(one[2]) for one in logits_of()[:2])
        whole = p_click * p_buy
        expected = whole / (1 - whole) * (1 - p_buy) / 6
        assert by_buy[1][2] == pytest.approx(expected, rel=1e-4)


def test_an_imputation_is_learnt_where_there_was_a_click_and_propensities_are_not():
    link = tfmoe.ESCM2("dr", whole_weight=0.0)
    _, (_, (by_click, by_buy, by_imputed)) = losses(schema_of(link), {"click": CLICKS, "buy": BUYS})
    assert not by_click.any()
    assert by_imputed[:2].all()
    assert not by_imputed[2:].any()
    assert by_buy[:4].all()
    # Of a row without a click the conditional probability is drawn to the imputed one.
    _, buy, imputed = logits_of()
    expected = (funnel.sigmoid(buy[2]) - funnel.sigmoid(imputed[2])) / 5
    assert by_buy[2] == pytest.approx(expected, rel=1e-4)


def test_a_floor_bounds_the_weight_of_a_click():
    schema = schema_of(tfmoe.ESCM2("ips", whole_weight=0.0, floor=0.5))
    clicks, buys = np.float32([1]), np.float32([1])
    for logit in (-30.0, 0.0):
        one = forward(schema, [tf.constant([logit]), tf.constant([0.3])], None)
        loss = JointLabels(schema, {}, {"click": 0.0}, {}).loss(
            {"click": clicks, "buy": buys}, None, one
        )
        assert float(loss) == pytest.approx(-np.log(funnel.sigmoid(0.3)) / 0.5, rel=1e-5)


def test_metrics_of_the_conditional_probability_are_of_rows_where_that_happened():
    schema = schema_of("esmm")
    objectives = JointLabels(schema, {}, {}, {})
    click, buy, _ = logits_of()
    labels = completed(schema, {"click": CLICKS, "buy": BUYS})
    objectives.update_metrics(labels, None, forward(schema, (click, buy), None))
    values = {metric.name: float(metric.result()) for metric in objectives.metrics}
    expected = [funnel.log_loss(y, funnel.sigmoid(z)) for y, z in zip((1, 0), buy[:2], strict=True)]
    assert values["buy_given_click_log_loss"] == pytest.approx(np.mean(expected), rel=1e-5)
    assert set(values) >= set(schema.tasks[1].reported_names)
