import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import tfmoe
from tests.oracles import reference
from tfmoe.objectives.joint_labels import Objective

ROWS, CLASSES = 12, 4
CLICK = tfmoe.Binary("click")
KIND = tfmoe.Multiclass("kind", num_classes=CLASSES)
TASKS = [CLICK, KIND, *(tfmoe.Regression(loss, loss=loss) for loss in ("mse", "mae", "huber"))]
each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)

ORACLES = {
    "click": reference.log_losses,
    "kind": reference.class_losses,
    "mse": reference.squared_errors,
    "mae": reference.absolute_errors,
    "huber": reference.huber_losses,
}


def rows_of(task, missing=(), seed=0):
    """Labels, with some missing, row weights and raw outputs."""
    rng = np.random.default_rng(seed)
    if task is KIND:
        labels, logits = rng.integers(0, CLASSES, ROWS), 2 * rng.normal(size=(ROWS, CLASSES))
    elif task is CLICK:
        labels, logits = rng.integers(0, 2, ROWS), 3 * rng.normal(size=ROWS)
    else:
        labels, logits = 2 * rng.normal(size=ROWS), 2 * rng.normal(size=ROWS)
    labels = labels.astype("float32")
    labels[list(missing)] = np.nan
    return labels, rng.uniform(0.5, 2, ROWS).astype("float32"), logits.astype("float32")


def outputs(task, logits):
    """What the model hands over: logits and predictions, as tensors."""
    logits = tf.convert_to_tensor(logits)
    activations = {CLICK: keras.ops.sigmoid, KIND: keras.ops.softmax}
    return logits, activations.get(task, lambda x: x)(logits)


@each_task
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("missing", [(), (0, 3, 4), tuple(range(ROWS))])
def test_loss_and_metrics_match_reference(task, missing, weighted):
    labels, weights, logits = rows_of(task, missing)
    weights = weights if weighted else None
    objective = Objective(task)
    loss = float(objective.compute(labels, weights, *outputs(task, logits)))
    objective.update_metrics(labels, weights, *outputs(task, logits))
    values = {metric.name: float(metric.result()) for metric in objective.metrics}

    def mean(rows):
        return reference.weighted_mean(rows, labels, weights)

    expected = mean(ORACLES[task.name](labels, logits))
    if len(missing) == ROWS:
        assert loss == 0
        assert np.isnan(list(values.values())).all()
        assert np.isnan(float(objective.tracker.result()))
        return
    assert loss == pytest.approx(expected, rel=1e-5)
    assert float(objective.tracker.result()) == pytest.approx(expected, rel=1e-5)
    if task is CLICK:
        there = ~np.isnan(labels)
        own = weights[there] if weighted else None
        auc = reference.auc(labels[there], logits[there], own)
        wanted = {"click_auc": auc, "click_log_loss": expected}
    elif task is KIND:
        hits = [float(np.argmax(row) == y) for row, y in zip(logits, labels, strict=True)]
        wanted = {"kind_accuracy": mean(hits), "kind_log_loss": expected}
    else:
        rmse = np.sqrt(mean(reference.squared_errors(labels, logits)))
        mae = mean(reference.absolute_errors(labels, logits))
        wanted = {f"{task.name}_rmse": rmse, f"{task.name}_mae": mae}
    assert values == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def gradient(task, labels, weights, logits):
    logits = tf.convert_to_tensor(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = Objective(task).compute(labels, weights, *outputs(task, logits))
    return tape.gradient(loss, logits).numpy()


@each_task
@given(missing=st.sets(st.integers(0, ROWS - 1)), seed=st.integers(0, 100))
def test_a_missing_label_changes_nothing(task, missing, seed):
    labels, weights, logits = rows_of(task, missing, seed)
    there = ~np.isnan(labels)
    # What the model says of such a row, however wild, must not matter either.
    logits[~there] *= 1e4
    got = gradient(task, labels, weights, logits)
    assert np.all(got[~there] == 0)
    if there.any():
        alone = gradient(task, labels[there], weights[there], logits[there])
        np.testing.assert_allclose(got[there], alone, rtol=1e-4, atol=1e-7)
        assert np.any(got[there] != 0)


def test_weights_may_be_columns_and_a_row_of_weight_0_counts_for_nothing():
    labels, weights, logits = rows_of(CLICK)
    weights[2] = 0
    without = np.delete(np.arange(ROWS), 2)
    loss = Objective(CLICK).compute(labels[:, None], weights[:, None], *outputs(CLICK, logits))
    alone = Objective(CLICK).compute(
        labels[without], weights[without], *outputs(CLICK, logits[without])
    )
    assert float(loss) == pytest.approx(float(alone), rel=1e-5)


@pytest.mark.parametrize("logit", [-1e4, -50.0, 50.0, 1e4])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_log_loss_does_not_overflow(logit, label):
    labels, logits = np.array([label], "float32"), np.array([logit], "float32")
    loss = Objective(CLICK).compute(labels, None, *outputs(CLICK, logits))
    assert float(loss) == pytest.approx(max(logits[0] * (1 - 2 * label), 0), abs=1e-6)
    assert np.isfinite(gradient(CLICK, labels, None, logits)).all()


@pytest.mark.parametrize(
    ("task", "loss", "oracle"),
    [
        (CLICK, "binary_crossentropy", reference.log_losses),
        (CLICK, keras.losses.BinaryCrossentropy(), reference.log_losses),
        (KIND, "sparse_categorical_crossentropy", reference.class_losses),
        (TASKS[2], "mean_absolute_error", reference.absolute_errors),
        (TASKS[2], keras.losses.Huber(delta=1.0), reference.huber_losses),
    ],
)
def test_a_keras_loss_is_masked_like_our_own(task, loss, oracle):
    labels, weights, logits = rows_of(task, missing=(1, 5))
    got = Objective(task, loss=loss).compute(labels, weights, *outputs(task, logits))
    expected = reference.weighted_mean(oracle(labels, logits), labels, weights)
    assert float(got) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("task", "metric", "name"),
    [
        (CLICK, "accuracy", "click_accuracy"),
        (CLICK, keras.metrics.BinaryAccuracy(name="right"), "click_right"),
        (KIND, "accuracy", "kind_accuracy"),
        (TASKS[2], "mae", "mse_mean_absolute_error"),
    ],
)
def test_a_keras_metric_is_masked_and_named_by_the_task(task, metric, name):
    labels, weights, logits = rows_of(task, missing=(1, 5))
    objective = Objective(task, metrics=[metric])
    objective.update_metrics(labels, weights, *outputs(task, logits))
    if task is CLICK:
        values = [float((logit > 0) == y) for logit, y in zip(logits, labels, strict=True)]
    elif task is KIND:
        values = [float(np.argmax(row) == y) for row, y in zip(logits, labels, strict=True)]
    else:
        values = reference.absolute_errors(labels, logits)
    (own,) = objective.metrics
    assert own.name == name
    assert own is not metric
    expected = reference.weighted_mean(values, labels, weights)
    assert float(own.result()) == pytest.approx(expected, rel=1e-5)
