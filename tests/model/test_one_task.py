"""Models of rows that belong to one task each."""

import keras
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import tfmoe
from tests.oracles import reference
from tfmoe.model.forward import ForwardOutput
from tfmoe.objectives.losses import own_metrics
from tfmoe.objectives.metrics import AUCByTask, exact_auc
from tfmoe.objectives.task_per_row import TaskPerRow

TASKS = (
    tfmoe.Binary("click", source="label"),
    tfmoe.Binary("buy", source="label", weight=2.0),
    tfmoe.Regression("stars", source="label", weight=0.5, standardize=False),
    tfmoe.Regression("hours", source="label", loss="mae", standardize=False),
    tfmoe.Binary("rare", source="label"),
)
COLUMNS = (tfmoe.Numeric("age", transform="none"), tfmoe.Categorical("city", dim=3))
ORACLES = {
    "click": reference.log_losses,
    "buy": reference.log_losses,
    "stars": reference.squared_errors,
    "hours": reference.absolute_errors,
}


def schema(tasks=TASKS):
    return tfmoe.Schema(COLUMNS, tasks, task_column="kind", weight_column="weight")


def table(num_rows=300, tasks=TASKS[:4], seed=0):
    """Rows of all but the last task; some labels are missing."""
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(
        {
            "age": rng.normal(size=num_rows),
            "city": rng.choice(["Rome", "Oslo", "Bonn"], num_rows),
            "kind": rng.choice([task.name for task in tasks], num_rows),
            "weight": rng.uniform(0.5, 2, num_rows),
        }
    )
    rows["label"] = (rng.random(num_rows) < 1 / (1 + np.exp(-rows.age))).astype("float32")
    rows.loc[rng.random(num_rows) < 0.1, "label"] = np.nan
    return rows


def build(mixture=None, tasks=TASKS, **options):
    keras.utils.set_random_seed(0)
    prep = tfmoe.Preprocessor(schema(tasks)).fit(table(tasks=tasks[:4]), progress=False)
    mixture = mixture or tfmoe.MMoE(
        num_experts=8, hidden_units=(4,), gate=tfmoe.TopKGate(kernel_initializer="ones")
    )
    model = tfmoe.MultiTaskModel(prep, mixture, tower_units=(4,))
    # Eagerly, for a step or two are not worth a graph.
    model.compile(**{"optimizer": "adam", "run_eagerly": True, **options})
    return model


def predict(model, rows):
    outputs = model(model.preprocessor.arrays(rows, labels=False))
    return {name: np.array(values) for name, values in outputs.items()}


def row_losses(model, rows):
    """By task: labels, weights and the oracle's losses of its rows."""
    scores = predict(model, rows)["score"].astype("float64")
    found = {}
    for task in TASKS[:4]:
        own = (rows.kind == task.name).to_numpy()
        labels, outputs = rows.label[own].to_numpy(), scores[own]
        if isinstance(task, tfmoe.Binary):
            outputs = np.log(outputs / (1 - outputs))
        found[task.name] = labels, rows.weight[own].to_numpy(), outputs
    return found


def test_losses_and_metrics_match_reference():
    model, rows = build(), table()
    logs = model.evaluate(rows, verbose=0)
    total = weight_sum = 0.0
    for task in TASKS[:4]:
        labels, weights, outputs = row_losses(model, rows)[task.name]
        losses = ORACLES[task.name](np.nan_to_num(labels), outputs)
        mean = reference.weighted_mean(losses, labels, weights)
        assert logs[f"{task.name}_loss"] == pytest.approx(mean, rel=1e-4)
        present = ~np.isnan(labels)
        total += task.weight * (losses * weights)[present].sum()
        weight_sum += weights[present].sum()
        if isinstance(task, tfmoe.Binary):
            auc = roc_auc_score(labels[present], outputs[present], sample_weight=weights[present])
            assert logs[f"{task.name}_auc"] == pytest.approx(auc, abs=1e-7)
    assert logs["loss"] == pytest.approx(total / weight_sum, rel=1e-4)
    names = {f"{t.name}_{own.name}" for t in TASKS for own in own_metrics(t)}
    assert set(logs) == names | {f"{t.name}_loss" for t in TASKS} | {"loss"}
    assert all(np.isnan(value) for name, value in logs.items() if name.startswith("rare"))


@pytest.mark.slow
def test_what_a_user_gives_replaces_a_tasks_own():
    model = build(
        loss={"stars": "mae"},
        loss_weights={"stars": 3.0},
        metrics={"click": ["accuracy"], "hours": []},
    )
    rows = table()
    logs = model.evaluate(rows, verbose=0)
    assert logs["stars_loss"] == pytest.approx(logs["stars_mae"], rel=1e-5)
    labels, weights, outputs = row_losses(model, rows)["click"]
    right = (labels == (outputs > 0)).astype(float)
    expected = reference.weighted_mean(right, labels, weights)
    assert logs["click_accuracy"] == pytest.approx(expected, rel=1e-5)
    assert not {"click_auc", "click_log_loss", "hours_rmse"} & set(logs)


@pytest.mark.parametrize("infinite", [np.inf, -np.inf, 1e30])
def test_a_row_of_another_task_spoils_no_gradient(infinite):
    """Under the loss of its own kind a score may overflow that is harmless under another."""
    import tensorflow as tf

    logits = tf.constant([0.5, infinite, 2.0])
    task, labels = tf.constant([0, 2, 3]), {"score": tf.constant([1.0, np.nan, 1.0])}
    objective = TaskPerRow(schema(), {}, {}, {})
    with tf.GradientTape() as tape:
        tape.watch(logits)
        forward = ForwardOutput({"score": tf.sigmoid(logits)}, {"score": logits}, [])
        loss = objective.loss(labels, None, forward, task=task)
    gradient = tape.gradient(loss, logits).numpy()
    assert np.isfinite(gradient[[0, 2]]).all()
    assert np.all(gradient[[0, 2]] != 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mixture",
    [
        tfmoe.SharedBottom(hidden_units=(4,)),
        tfmoe.OMoE(num_experts=3, hidden_units=(4,)),
        tfmoe.MMoE(num_experts=16, hidden_units=(4,), gate=tfmoe.TaskAwareGate()),
        tfmoe.MMoE(num_experts=4, hidden_units=(4,), gate=tfmoe.DSelectKGate(router="static")),
    ],
    ids=lambda mixture: type(mixture).__name__,
)
def test_a_row_is_scored_as_its_task_would_be_among_all(mixture, tmp_path):
    """The same weights in a model whose rows have all labels give the same numbers."""
    model = build(mixture)
    rows = table()
    model.fit(rows, epochs=1, batch_size=100, verbose=0)
    scores = predict(model, rows)["score"]
    whole = tfmoe.Schema(COLUMNS, [type(task)(task.name) for task in TASKS], weight_column="weight")
    for task in TASKS:
        rows[task.name] = 0.0
    prep = tfmoe.Preprocessor(whole).fit(rows, progress=False)
    every = tfmoe.MultiTaskModel(prep, mixture, tower_units=(4,))
    every.set_weights(model.get_weights())
    everything = predict(every, rows)
    for task in TASKS[:4]:
        own = (rows.kind == task.name).to_numpy()
        np.testing.assert_allclose(scores[own], everything[task.name][own], rtol=1e-4, atol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(predict(again, rows)["score"], scores, rtol=1e-5, atol=1e-6)


def test_tasks_without_rows_are_not_trained():
    model, rows = build(), table()
    before = {w.path: w.numpy() for w in model.towers.weights}
    kernel = model.mixture.gate.head.kernel.numpy()
    model.fit(rows[rows.kind == "click"], epochs=1, batch_size=100, verbose=0)
    for weight in model.towers.weights:
        np.testing.assert_array_equal(weight.numpy()[1:], before[weight.path][1:])
    changed = model.mixture.gate.head.kernel.numpy() != kernel
    assert not changed[:, 8:].any()


def test_multiclass_tasks_share_padded_classes():
    tasks = [
        tfmoe.Multiclass("two", source="label", num_classes=2),
        tfmoe.Multiclass("four", source="label", num_classes=4),
    ]
    rng = np.random.default_rng(0)
    rows = table(tasks=tasks)
    rows["label"] = rng.integers(0, np.where(rows.kind == "two", 2, 4))
    prep = tfmoe.Preprocessor(schema(tasks)).fit(rows, progress=False)
    model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(4,)))
    model.compile(run_eagerly=True)
    logs = model.fit(rows, epochs=1, batch_size=100, verbose=0).history
    scores = predict(model, rows)["score"]
    assert scores.shape == (len(rows), 4)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)
    assert not scores[rows.kind == "two", 2:].any()
    assert np.isfinite(logs["two_loss"] + logs["four_loss"]).all()
    four = (rows.kind == "four").to_numpy()
    expected = -np.log(scores[four, rows.label[four]]).mean()
    logs = model.evaluate(rows, sample_weight=None, verbose=0)
    weighted = reference.weighted_mean(
        -np.log(scores[four, rows.label[four]]), rows.label[four], rows.weight[four]
    )
    assert logs["four_log_loss"] == pytest.approx(weighted, rel=1e-4)
    assert weighted != pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("num_tasks", "error"), [(3, 5e-6), (9, 2e-5), (40, 1e-3)])
def test_auc_by_task_is_the_exact_one(num_tasks, error):
    rng = np.random.default_rng(0)
    task = rng.integers(num_tasks, size=40_000)
    labels = rng.integers(0, 2, 40_000)
    logits = (rng.normal(size=40_000) + labels * task / num_tasks).astype("float32")
    weights = rng.uniform(0, 1, 40_000).astype("float32")
    measured = list(range(1, num_tasks))
    metric = AUCByTask([f"t{t}" for t in measured], measured)
    for part in np.array_split(np.arange(40_000), 3):
        metric.update_state(labels[part], logits[part], weights[part], task[part])
    for t in measured:
        own = task == t
        exact = exact_auc(labels[own], logits[own], weights[own])
        assert float(metric.result()[f"t{t}"]) == pytest.approx(exact, abs=error)
