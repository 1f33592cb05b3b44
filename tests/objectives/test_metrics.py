import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

import tfmoe
from tests.oracles import reference
from tfmoe.objectives.metrics import WeightedMean, exact_auc


def rare(rows=200_000, base_rate=0.0025):
    """Labels and logits of a well-calibrated model of a rare event."""
    rng = np.random.default_rng(0)
    logits = rng.normal(np.log(base_rate), 1.0, rows).astype("float32")
    return (rng.uniform(size=rows) < 1 / (1 + np.exp(-logits))).astype("float32"), logits


def binned(labels, predictions, weights=None, batches=1, **options):
    metric = tfmoe.AUC(**options)
    for part in np.array_split(np.arange(len(labels)), batches):
        own = None if weights is None else weights[part]
        metric.update_state(labels[part], predictions[part], own)
    return float(metric.result())


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_auc_of_a_rare_class_is_exact(from_logits, weighted):
    labels, logits = rare()
    weights = np.random.default_rng(1).uniform(0, 2, len(labels)).astype("float32")
    weights = weights if weighted else None
    expected = roc_auc_score(labels, logits, sample_weight=weights)
    predictions = logits if from_logits else 1 / (1 + np.exp(-logits))
    got = binned(labels, predictions, weights, from_logits=from_logits)
    assert abs(got - expected) < 5e-6
    assert 0.7 < expected < 0.8


def test_auc_adds_up_over_batches():
    labels, logits = rare(5_000, base_rate=0.1)
    whole = binned(labels, logits, from_logits=True)
    assert binned(labels, logits, batches=7, from_logits=True) == pytest.approx(whole, abs=1e-6)
    assert whole == pytest.approx(roc_auc_score(labels, logits), abs=1e-5)


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1]), st.integers(-3, 3), st.integers(0, 3)),
        min_size=2,
        max_size=12,
    )
)
def test_auc_counts_pairs_and_ties(rows):
    labels, scores, weights = np.array(rows, "float32").T
    expected = reference.auc(labels, scores, weights)
    got = binned(labels, scores, weights, from_logits=True)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_allclose(exact_auc(labels, scores, weights), expected, atol=1e-9)


def test_auc_orders_what_lies_beyond_the_bins_as_ties():
    labels = np.array([0, 1, 0, 1])
    assert binned(labels, np.array([-99.0, 99.0, -30.0, 25.0]), from_logits=True) == 1
    assert binned(labels, np.array([30.0, 99.0, -30.0, -25.0]), from_logits=True) == 0.5
    assert binned(labels, np.array([0.0, 1.0, 0.0, 1.0])) == 1


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_auc_of_one_class_is_nan(label):
    labels, scores = np.full(4, label), np.arange(4.0)
    assert np.isnan(binned(labels, scores, from_logits=True))
    assert np.isnan(exact_auc(labels, scores))
    # A class of which every row weighs nothing was not seen.
    labels, weights = np.array([label, label, 1 - label]), np.array([1.0, 1.0, 0.0])
    assert np.isnan(exact_auc(labels, np.arange(3.0), weights))


def test_auc_takes_columns_and_starts_anew():
    labels, scores = np.array([[0.0], [1.0], [1.0]]), np.array([[0.2], [0.1], [0.9]])
    metric = tfmoe.AUC(name="area")
    metric.update_state(labels, scores, np.ones((3, 1)))
    assert float(metric.result()) == 0.5
    metric.reset_state()
    assert np.isnan(float(metric.result()))
    again = tfmoe.AUC.from_config(tfmoe.AUC(from_logits=True, name="area").get_config())
    assert (again.from_logits, again.name) == (True, "area")


def test_auc_in_a_keras_model():
    labels, logits = rare(1_000, base_rate=0.2)
    symbol = keras.Input(())
    model = keras.Model(symbol, keras.ops.sigmoid(symbol))
    model.compile(loss="binary_crossentropy", metrics=[tfmoe.AUC()])
    logs = model.evaluate(logits, labels, batch_size=300, return_dict=True, verbose=0)
    # A thousand rows have few pairs, so one that shares a bin counts.
    assert logs["auc"] == pytest.approx(roc_auc_score(labels, logits), abs=2e-4)


def test_exact_auc_leaves_out_missing_labels():
    labels = np.array([0, np.nan, 1, 1, 0])
    scores = np.array([0.1, 5.0, 0.1, 0.7, 0.3])
    present = ~np.isnan(labels)
    assert exact_auc(labels, scores) == reference.auc(labels[present], scores[present])


@pytest.mark.parametrize("root", [False, True])
def test_weighted_mean_matches_reference(root):
    rng = np.random.default_rng(0)
    labels, predictions, weights = rng.uniform(size=(3, 20)).astype("float32")
    metric = WeightedMean(lambda y, p: (p - y) ** 2, "m", root=root)
    assert np.isnan(float(metric.result()))
    for part in np.array_split(np.arange(20), 3):
        metric.update_state(labels[part], predictions[part], weights[part])
    errors = reference.squared_errors(labels, predictions)
    mean = reference.weighted_mean(errors, labels, weights)
    assert float(metric.result()) == pytest.approx(np.sqrt(mean) if root else mean, rel=1e-5)
