"""Exact measures of scores, against scikit-learn, Keras RS and loops."""

import itertools

import keras_rs
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn import metrics as sk

import tfmoe
from tfmoe.objectives import calibration as cal
from tfmoe.objectives import grouped
from tfmoe.objectives.measures import deciles_of

# Label (2: missing), score, group (-1: none), weight.
ROW = st.tuples(
    st.sampled_from([0, 1, 2]), st.integers(0, 4), st.integers(-1, 3), st.integers(0, 3)
)
ROWS = st.lists(ROW, min_size=1, max_size=25)


def columns(rows):
    labels, scores, groups, weights = (np.array(one, float) for one in zip(*rows, strict=True))
    return np.where(labels == 2, np.nan, labels), scores / 4, groups.astype(int), weights


def counted(rows):
    """The rows that count, group by group."""
    labels, scores, groups, weights = columns(rows)
    for group in range(4):
        own = (groups == group) & ~np.isnan(labels) & (weights > 0)
        if own.any():
            yield labels[own], scores[own], weights[own]


def many(seed=0):
    """Many rows with ties, for few examples of hypothesis have all at once."""
    random = np.random.default_rng(seed)
    shape = (300, 1)
    parts = [random.integers(low, high, shape) for low, high in ((0, 3), (0, 5), (-1, 4), (0, 4))]
    return list(map(tuple, np.hstack(parts).tolist()))


@given(ROWS)
@example(many())
def test_gauc_is_the_mean_of_scikit_learns_aucs(rows):
    areas, sizes = [], []
    for labels, scores, weights in counted(rows):
        if len(set(labels)) == 2:
            areas.append(sk.roc_auc_score(labels, scores, sample_weight=weights))
            sizes.append(weights.sum())
    labels, scores, groups, weights = columns(rows)
    found = grouped.grouped_auc(labels, scores, groups, weights)
    assert found.num_groups == len(areas)
    with_label = weights[~np.isnan(labels) & (weights > 0)].sum()
    if areas:
        assert found.value == pytest.approx(np.average(areas, weights=sizes), abs=1e-12)
        assert found.share == pytest.approx(sum(sizes) / with_label)
    else:
        assert np.isnan(found.value)
        assert found.share == 0 if with_label else np.isnan(found.share)


def orders(labels, scores):
    """The labels by falling score, in each order of those with equal scores."""
    levels = [labels[scores == one] for one in sorted(set(scores), reverse=True)]
    for parts in itertools.product(*(itertools.permutations(level) for level in levels)):
        yield [label for part in parts for label in part]


@given(st.lists(ROW, min_size=1, max_size=7), st.integers(1, 4))
def test_ranking_is_the_mean_over_orders_of_equal_scores(rows, k):
    values, sizes = [], []
    for labels, scores, weights in counted(rows):
        if not labels.any():
            continue
        discounts = [1 / np.log2(r + 2) if r < k else 0.0 for r in range(len(labels))]
        ideal = sum(d * y for d, y in zip(discounts, sorted(labels, reverse=True), strict=True))
        one = [
            (
                sum(d * y for d, y in zip(discounts, order, strict=True)) / ideal,
                1 / (1 + order.index(1)),
                sum(order[:k]) / sum(order),
            )
            for order in orders(labels, scores)
        ]
        values.append(np.mean(one, axis=0))
        sizes.append(weights.mean())
    labels, scores, groups, weights = columns(rows)
    found = grouped.ranking(labels, scores, groups, k, weights)
    if not values:
        assert np.isnan(list(found.values())).all()
        return
    expected = np.average(values, axis=0, weights=sizes)
    got = [found[name] for name in ("ndcg", "mrr", "recall")]
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_ranking_is_that_of_scikit_learn_and_of_keras_rs():
    random = np.random.default_rng(0)
    labels = (random.random((40, 12)) < 0.3).astype("float32")
    labels[:, 0] = 1
    scores = random.integers(0, 6, labels.shape).astype("float32")
    groups = np.repeat(np.arange(40) * 10**9, 12)
    found = grouped.ranking(labels.ravel(), scores.ravel(), groups, k=5)
    assert found["ndcg"] == pytest.approx(sk.ndcg_score(labels, scores, k=5))
    scores += random.random(labels.shape)  # Keras RS breaks ties by chance
    found = grouped.ranking(labels.ravel(), scores.ravel(), groups, k=5)
    for name, metric in (
        ("ndcg", keras_rs.metrics.NDCG(k=5)),
        ("recall", keras_rs.metrics.RecallAtK(k=5)),
        ("mrr", keras_rs.metrics.MeanReciprocalRank()),
    ):
        metric.update_state(labels, scores)
        recall = (np.take_along_axis(labels, np.argsort(-scores, 1), 1)[:, :5]).sum(1)
        expected = float(metric.result())
        if name == "recall":
            # Keras RS divides by the smaller of k and the positives.
            expected = np.mean(recall / labels.sum(1))
        assert found[name] == pytest.approx(expected, rel=1e-5), name


def test_no_rows_have_no_order():
    assert np.isnan(grouped.grouped_auc([], [], []).share)
    assert np.isnan(grouped.ranking([np.nan], [0.5], [3])["mrr"])
    assert grouped.grouped_auc([0, 1], [0, 1], [-1, -1])[1:] == (0.0, 0)


def test_a_large_group_of_equal_scores_is_quick():
    labels = np.arange(200_000) % 1000 == 0
    found = grouped.ranking(labels, np.zeros(len(labels)), np.zeros(len(labels), int))
    assert found["recall"] == pytest.approx(10 / 200_000)
    assert found["mrr"] == pytest.approx(0.0069, rel=0.01)


@given(ROWS, st.floats(0, 1))
@example(many(), 0.5)
def test_probabilities_are_measured_as_scikit_learn_does(rows, threshold):
    labels, scores, _, weights = columns(rows)
    use = ~np.isnan(labels) & (weights > 0)
    y, p, w = labels[use], np.clip(scores[use], 1e-7, 1 - 1e-7), weights[use]
    entropy = cal.normalized_entropy(labels, scores, weights)
    if len(set(y)) == 2:
        rate = np.full_like(y, np.average(y, weights=w))
        expected = sk.log_loss(y, p, sample_weight=w) / sk.log_loss(y, rate, sample_weight=w)
        assert entropy == pytest.approx(expected)
    else:
        assert np.isnan(entropy)
    ratio = cal.calibration(labels, scores, weights)
    positives = sum(a * b for a, b in zip(w, y, strict=True))
    expected = sum(w * scores[use]) / positives if positives else np.nan
    assert ratio == pytest.approx(expected, nan_ok=True)
    chosen = scores[use] > threshold
    precision, recall = cal.precision_and_recall(labels, scores, threshold, weights)
    if chosen.any():
        assert precision == pytest.approx(
            sk.precision_score(y, chosen, sample_weight=w, zero_division=0)
        )
    if y.any():
        assert recall == pytest.approx(sk.recall_score(y, chosen, sample_weight=w, zero_division=0))
    assert np.isnan(precision) == (not chosen.any())
    assert np.isnan(recall) == (not y.any())


@given(ROWS)
@example(many())
def test_deciles_part_no_equal_predictions(rows):
    labels, scores, _, weights = columns(rows)
    use = ~np.isnan(labels) & (weights > 0)
    found = cal.reliability(labels, scores, weights)
    assert found.rows.sum() == use.sum()
    assert found.weight.sum() == pytest.approx(weights[use].sum())
    assert (found.weight * found.label).sum() == pytest.approx((weights * labels)[use].sum())
    assert np.all(np.diff(found.prediction) > 0)
    # The mean of some neighbouring predictions is between them: bins do not overlap.
    ends = np.cumsum(found.rows)
    ordered = np.sort(scores[use])
    assert all(ordered[end - 1] < ordered[end] for end in ends[:-1])


def test_a_decile_has_its_own_number():
    """Equal predictions lie in one, and others are left out."""
    p = np.r_[np.full(60, 0.1), np.linspace(0.2, 0.9, 40)]
    y = np.arange(100) % 2
    rows = deciles_of(tfmoe.Binary("click"), y, p, np.ones(100))
    assert [row["decile"] for row in rows] == [4, 7, 8, 9, 10]


def test_deciles_have_equal_weight():
    random = np.random.default_rng(0)
    p = random.random(5000)
    y = random.random(5000) < p
    found = cal.reliability(y, p)
    assert found.rows.tolist() == [500] * 10
    np.testing.assert_allclose(found.prediction, np.sort(p).reshape(10, 500).mean(1))
    np.testing.assert_allclose(found.label, found.prediction, atol=0.08)
    assert cal.calibration(y, 2 * p) == pytest.approx(2, rel=0.05)
    halves = cal.reliability(y, p, np.where(p < 0.5, 3.0, 1.0))
    assert halves.weight == pytest.approx(halves.weight[0], rel=0.02)
