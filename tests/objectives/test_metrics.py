import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

import tfmoe
from tests.oracles import reference
from tfmoe.objectives.losses import squared_error
from tfmoe.objectives.metrics import MeanByTask, WeightedMean, exact_auc


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


def spread(middle, width, rows=100_000, shift=1.0):
    """Labels and logits of a normal distribution, positives a width further."""
    rng = np.random.default_rng(0)
    labels = (rng.random(rows) < 0.3).astype("float32")
    logits = rng.normal(middle, width, rows) + shift * width * labels
    return labels, logits.astype("float32")


def clusters(*parts):
    """Several such distributions, rows in random order."""
    labels, logits = map(np.concatenate, zip(*parts, strict=True))
    order = np.random.default_rng(1).permutation(len(labels))
    return labels[order], logits[order]


DISTRIBUTIONS = {
    "narrow": spread(-1, 0.03),
    "narrower": spread(-1, 0.001),
    "near zero": spread(0, 1e-6),
    "far": spread(25, 2),
    "farther": spread(-3e4, 2),
    "wide": spread(0, 30),
    "wider": spread(0, 1e6),
    "clusters": clusters(spread(-5, 0.001, 40_000), spread(5, 0.001, 40_000), spread(90, 0.1)),
    "a single score beside": clusters(
        spread(2, 0.1), (np.tile([0.0, 1.0], 30_000), np.zeros(60_000))
    ),
}


@pytest.mark.quick(8)
@pytest.mark.parametrize("first", [32, 4096])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_auc_is_right_wherever_logits_lie(name, first):
    labels, logits = DISTRIBUTIONS[name]
    metric = tfmoe.AUC(from_logits=True)
    for part in (slice(first), slice(first, None)):
        metric.update_state(labels[part], logits[part])
    # Of clusters far apart a small batch has not seen the edges.
    most = 5e-5 if (name, first) == ("clusters", 32) else 5e-6
    assert abs(float(metric.result()) - roc_auc_score(labels, logits)) < most
    near, compared = metric.near_ties()["auc"]
    assert near < 2e-3 * compared


def test_auc_of_probabilities_that_crowd():
    for middle, width in ((0.3, 1e-4), (1e-12, 1e-13)):
        labels, scores = spread(middle, width)
        scores = np.maximum(scores, 1e-30)
        assert abs(binned(labels, scores) - roc_auc_score(labels, scores)) < 1e-5


@pytest.mark.quick(2)
@pytest.mark.parametrize("first", [np.zeros(64), [3.0], np.linspace(-0.01, 0.01, 64)])
def test_auc_is_right_where_a_model_learns_in_an_epoch(first):
    """The first batch of a fit is of scores that all lie together."""
    labels, logits = rare(100_000, base_rate=0.02)
    labels = np.concatenate([np.zeros(len(first)), labels])
    metric = tfmoe.AUC(from_logits=True)
    metric.update_state(np.zeros(len(first)), np.array(first, "float32"))
    metric.update_state(labels[len(first) :], logits)
    exact = roc_auc_score(labels, np.concatenate([first, logits]))
    assert abs(float(metric.result()) - exact) < 5e-5


def test_rows_that_weigh_nothing_set_no_bins():
    labels, logits = DISTRIBUTIONS["narrower"]
    metric = tfmoe.AUC(from_logits=True)
    metric.update_state(np.ones(8), np.full(8, 1e3), np.zeros(8))
    metric.update_state(labels, logits)
    assert abs(float(metric.result()) - roc_auc_score(labels, logits)) < 5e-6


def test_auc_sets_its_bins_anew_after_a_reset():
    metric = tfmoe.AUC(from_logits=True)
    for name in ("far", "narrower", "wide"):
        labels, logits = DISTRIBUTIONS[name]
        metric.reset_state()
        metric.update_state(labels, logits)
        assert abs(float(metric.result()) - roc_auc_score(labels, logits)) < 5e-6


def test_bins_that_are_too_coarse_are_noticed():
    metric = tfmoe.AUC(from_logits=True)
    metric.update_state(*spread(0, 1, 1000))
    assert metric.near_ties()["auc"][0] == 0
    metric.update_state(*spread(6, 3e-4, 10_000))
    near, compared = metric.near_ties()["auc"]
    assert near > 0.1 * compared > 100


def test_true_ties_are_no_near_ties():
    labels, _ = spread(0, 1, 1000)
    scores = np.random.default_rng(2).choice([-1.0, 0.3, 2.0], 1000)
    # Equal rows whose scores differ by the order in which a processor adds up.
    scores = scores * (1 + 1e-7 * np.random.default_rng(3).integers(-3, 4, 1000))
    metric = tfmoe.AUC(from_logits=True)
    metric.update_state(labels, scores)
    near, compared = metric.near_ties()["auc"]
    assert near == 0
    assert compared > 500


def test_auc_of_a_lost_score_is_nan():
    labels, scores = np.array([0.0, 1.0, 1.0]), np.array([0.1, np.nan, 0.4])
    assert np.isnan(binned(labels, scores, from_logits=True))
    assert binned(labels, scores, np.array([1.0, 0.0, 1.0]), from_logits=True) == 1
    assert binned(labels, np.array([-np.inf, np.inf, 0.4]), from_logits=True) == 1


def test_auc_tells_apart_what_lies_far_out():
    labels = np.array([0, 1, 0, 1])
    assert binned(labels, np.array([-99.0, 99.0, -30.0, 25.0]), from_logits=True) == 1
    assert binned(labels, np.array([30.0, 99.0, -30.0, -25.0]), from_logits=True) == 0.75
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


@pytest.mark.slow
def test_auc_says_which_way_is_better():
    labels, logits = rare(300, base_rate=0.2)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, "sigmoid")])
    model.compile(loss="binary_crossentropy", metrics=[tfmoe.AUC()], run_eagerly=True)
    stop = keras.callbacks.EarlyStopping("val_auc")
    valid = (logits[:, None], labels)
    history = model.fit(*valid, validation_data=valid, epochs=2, verbose=0, callbacks=[stop])
    assert stop.best == max(history.history["val_auc"])


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


def test_rows_that_weigh_nothing_may_be_infinite():
    """As a count's prediction may be, of a row without a label."""
    labels, predictions = np.array([1.0, 0.0], "float32"), np.array([3.0, np.inf], "float32")
    weights = np.array([1.0, 0.0], "float32")
    metric = WeightedMean(squared_error, "t_rmse", root=True)
    metric.update_state(labels, predictions, weights)
    assert float(metric.result()) == 2.0
    by_task = MeanByTask(squared_error, ["t_rmse"], [0], root=True)
    by_task.update_state(labels, predictions, weights, np.array([0, 0]))
    assert float(by_task.result()["t_rmse"]) == 2.0
