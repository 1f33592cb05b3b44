"""Losses that a task may have in place of its kind's."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import tfmoe
from tests.oracles import funnel
from tfmoe.model.forward import ForwardOutput
from tfmoe.objectives.joint_labels import JointLabels
from tfmoe.objectives.losses import row_losses
from tfmoe.objectives.objective import Objective

LABELS = np.float32([1, 0, 0, 1, 1, 0])
LOGITS = np.float32([0.5, -2, 30, -40, 3, 0])


def losses(task, labels=LABELS, logits=LOGITS):
    return np.asarray(row_losses(task, None, np.float32(labels), np.float32(logits), None))


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, 0.5), (1.5, 0.9)])
def test_focal_loss_matches_reference(gamma, alpha):
    task = tfmoe.Binary("click", loss="focal", gamma=gamma, alpha=alpha)
    logits = np.float32([0.5, -2, 3, -4, 3, 0])
    expected = [funnel.focal(y, z, gamma, alpha) for y, z in zip(LABELS, logits, strict=True)]
    np.testing.assert_allclose(losses(task, logits=logits), expected, rtol=1e-5)
    assert np.isfinite(losses(task)).all()
    theirs = keras.losses.BinaryFocalCrossentropy(True, alpha, gamma, from_logits=True)
    got = theirs.call(LABELS[:, None], logits[:, None])
    np.testing.assert_allclose(losses(task, logits=logits), got, rtol=1e-4)


def test_smoothed_labels_match_keras():
    task = tfmoe.Binary("click", label_smoothing=0.1)
    theirs = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1)
    expected = theirs.call(LABELS[:, None], LOGITS[:, None])
    np.testing.assert_allclose(losses(task), expected, rtol=1e-5)


def test_positive_rows_weigh_more():
    plain, weighed = losses(tfmoe.Binary("a")), losses(tfmoe.Binary("a", positive_weight=3.0))
    np.testing.assert_allclose(weighed, plain * np.where(LABELS == 1, 3, 1), rtol=1e-6)


@given(st.floats(0.05, 0.95), st.integers(0, 50))
def test_the_quantile_loss_is_least_at_the_quantile(quantile, seed):
    labels = np.random.default_rng(seed).normal(size=41)
    task = tfmoe.Regression("price", loss="quantile", quantile=quantile)
    guesses = np.linspace(-3, 3, 121)
    means = [losses(task, labels, np.full(41, guess)).mean() for guess in guesses]
    best = guesses[np.argmin(means)]
    assert np.mean(labels < best - 0.051) <= quantile <= np.mean(labels <= best + 0.051)


def test_poisson_matches_keras():
    task = tfmoe.Regression("visits", loss="poisson")
    labels, logits = np.float32([0, 1, 5]), np.float32([-1, 0.5, 2])
    expected = keras.losses.Poisson().call(labels[:, None], np.exp(logits)[:, None])
    np.testing.assert_allclose(losses(task, labels, logits), expected, rtol=1e-4, atol=1e-5)


def test_zero_inflated_lognormal_matches_reference_and_scipy():
    task = tfmoe.Regression("spend", loss="lognormal")
    labels = np.float32([0, 3, 0, 0.2, 700])
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    got = losses(task, labels, logits)
    expected = [funnel.zero_inflated_lognormal(*row) for row in zip(labels, logits, strict=True)]
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    sigma = np.log1p(np.exp(logits[1, 2]))
    density = stats.lognorm(s=sigma, scale=np.exp(logits[1, 1])).logpdf(3)
    assert got[1] == pytest.approx(-np.log(funnel.sigmoid(logits[1, 0])) - density, rel=1e-5)


@pytest.mark.parametrize("label", [0.0, 1e-6, 1e6])
@pytest.mark.parametrize("scale", [0.0, -40.0, 40.0])
def test_zero_inflated_lognormal_stays_finite(label, scale):
    logits = tf.constant([[scale, 0.0, scale]])
    task = tfmoe.Regression("spend", loss="lognormal")
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = row_losses(task, None, tf.constant([label]), logits, None)
    assert np.isfinite(loss).all()
    assert np.isfinite(tape.gradient(loss, logits)).all()


def test_a_keras_loss_of_a_lognormal_task_gets_its_expected_value():
    task = tfmoe.Regression("spend", loss="lognormal")
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    labels = np.float32([0, 3, 0, 0.2, 7])
    got = Objective(task, loss="mse").compute(labels, None, logits, None)
    sigma = np.log1p(np.exp(logits[:, 2]))
    value = funnel.sigmoid(logits[:, 0]) * np.exp(logits[:, 1] + sigma**2 / 2)
    assert float(got) == pytest.approx(np.mean((value - labels) ** 2), rel=1e-4)


@pytest.mark.parametrize("loss", ["binary_crossentropy", keras.losses.BinaryCrossentropy(True)])
def test_a_keras_loss_is_of_the_rows_as_they_are_sampled(loss):
    task = tfmoe.Binary("click", negatives_kept=0.1)
    logits = np.float32([0.5, -2, 3, -4, 3, 0])
    got = Objective(task, loss=loss).compute(LABELS, None, logits, None)
    expected = [funnel.log_loss(y, funnel.sigmoid(z)) for y, z in zip(LABELS, logits, strict=True)]
    assert float(got) == pytest.approx(np.mean(expected), rel=1e-4)


def test_the_first_prediction_is_the_mean_in_the_whole_table():
    rows = pd.DataFrame({"x": np.zeros(8), "click": [1, 1, 1, 1, 0, 0, 0, 0]})
    task = tfmoe.Binary("click", positive_weight=5.0, negatives_kept=0.25)
    schema = tfmoe.Schema([tfmoe.Numeric("x", transform="none")], [task])
    prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(2,)), tower_units=())
    model.towers.kernel.assign(0 * model.towers.kernel)
    found = model.predict(rows, verbose=0)["click"]
    np.testing.assert_allclose(found, 4 / (4 + 4 / 0.25), rtol=1e-5)


def test_rows_of_a_sampled_task_count_for_the_others_as_often_as_there_were():
    sampled = tfmoe.Binary("click", negatives_kept=0.25)
    schema = tfmoe.Schema([tfmoe.Numeric("x")], [sampled, tfmoe.Binary("like")])
    objectives = JointLabels(schema, {}, {}, {})
    labels = {"click": np.float32([1, 0, np.nan]), "like": np.float32([0, 1, 1])}
    logits = {"click": np.float32([1, 2, 3]), "like": np.float32([0.5, -1, 2])}

    forward = ForwardOutput(dict.fromkeys(logits), logits, [])
    got = float(objectives.loss(labels, None, forward))
    like = [
        funnel.log_loss(y, funnel.sigmoid(z)) for y, z in zip([0, 1, 1], [0.5, -1, 2], strict=True)
    ]
    click = [funnel.log_loss(y, funnel.sigmoid(z)) for y, z in zip([1, 0], [1, 2], strict=True)]
    expected = np.mean(click) + np.average(like, weights=[1, 4, 1])
    assert got == pytest.approx(expected, rel=1e-5)


GROUPS = np.int32([0, 1, 0, 0, 1, -1, 1, -1])
RANKED = np.float32([1, 0, 0, 1, 1, 1, np.nan, 0])
WEIGHTS = np.float32([1, 2, 0.5, 1, 3, 1, 1, 1])


def ranked(logits, labels=RANKED, weights=WEIGHTS, groups=GROUPS):
    objective = Objective(tfmoe.Binary("click", loss="pairwise"))
    return objective.compute(labels, weights, logits, None, groups=groups)


def test_a_pairwise_loss_matches_reference_and_keras_rs():
    import keras_rs

    logits = np.random.default_rng(0).normal(size=len(RANKED)).astype("float32")
    assert float(ranked(logits)) == pytest.approx(
        funnel.pairwise(RANKED, logits, WEIGHTS, GROUPS), rel=1e-5
    )
    ones, lists = np.ones(6, "float32"), np.repeat(np.int32([0, 1]), 3)
    labels = np.float32([1, 0, 0, 0, 1, 0])
    theirs = keras_rs.losses.PairwiseLogisticLoss(reduction="sum")
    summed = theirs(labels.reshape(2, 3), logits[:6].reshape(2, 3))
    # Four pairs; theirs is a sum over them.
    assert float(ranked(logits[:6], labels, ones, lists)) == pytest.approx(
        float(summed) / 4, rel=1e-5
    )


def test_no_pair_is_made_of_two_groups_or_of_a_missing_label():
    logits = tf.constant(np.random.default_rng(0).normal(size=len(RANKED)), "float32")
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = ranked(logits)
    moved = np.asarray(tape.gradient(loss, logits)) != 0
    np.testing.assert_array_equal(moved, [True, True, True, True, True, False, False, False])
    assert float(ranked(logits, groups=np.arange(8, dtype="int32"))) == 0


@pytest.mark.slow
def test_a_pairwise_loss_ranks_within_groups():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"x": rng.normal(size=400), "user": np.repeat(np.arange(40), 10)})
    # A user's own level hides what x does.
    level = np.repeat(5 * rng.normal(size=40), 10)
    rows["level"] = level
    rows["click"] = (rows["x"] > rows.groupby("user")["x"].transform("median")) * 1.0
    schema = tfmoe.Schema(
        [tfmoe.Numeric("x"), tfmoe.Numeric("level")],
        [tfmoe.Binary("click", loss="pairwise")],
        group="user",
    )
    prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    keras.utils.set_random_seed(0)
    model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(4,)), tower_units=())
    model.compile(keras.optimizers.Adam(0.03), jit_compile=False)
    batches = prep.dataset(rows, 50, shuffle=True, keep_groups=True)
    history = model.fit(batches, epochs=4, verbose=0).history
    assert history["click_loss"][-1] < 0.4 < history["click_loss"][0]
    assert model.evaluate(rows, group="user", verbose=0, return_dict=True)["click_gauc"] > 0.95
    with pytest.raises(ValueError, match="which must be in one batch"):
        model.fit(rows, verbose=0)
    x, y, _ = prep.arrays(rows)
    with pytest.warns(UserWarning, match="may be parted"):
        model.fit(x, y, verbose=0)
    with (
        pytest.warns(UserWarning, match="may be parted"),
        pytest.raises(ValueError, match="without the groups' codes"),
    ):
        model.fit({"x": x["x"], "level": x["level"]}, y, verbose=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tfmoe.Binary("a", loss="hinge"), "loss"),
        (lambda: tfmoe.Binary("a", negatives_kept=0), "negatives_kept"),
        (lambda: tfmoe.Binary("a", label_smoothing=1.0), "label_smoothing"),
        (lambda: tfmoe.Regression("a", loss="quantile", quantile=1.0), "quantile"),
        (lambda: tfmoe.Regression("a", quantile=0.9), "knows no `quantile`"),
        (lambda: tfmoe.Binary("a", gamma=1.0), "knows no 'gamma'"),
        (lambda: tfmoe.Binary("a", loss="pairwise", positive_weight=2.0), "knows no 'positive_w"),
        (lambda: tfmoe.Regression("a", parts=True), 'has `parts` with loss="lognormal"'),
        (
            lambda: tfmoe.Schema([tfmoe.Numeric("x")], [tfmoe.Binary("a", loss="pairwise")]),
            "of pairs of rows of one group",
        ),
        (lambda: tfmoe.Binary("a", given="b", loss="pairwise"), "which makes none"),
        (
            lambda: tfmoe.Binary("a", given="b", negatives_kept=0.5),
            "that of the whole chain in the table as it is",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def logs_of(y, p):
    """A loss that no label of 0 has."""
    return keras.ops.mean(keras.ops.square(keras.ops.log(y) - p), axis=-1)


@pytest.mark.parametrize("one_task", [True, False])
def test_a_missing_label_adds_nothing_to_a_loss_of_ones_own(one_task):
    """Neither a value nor a gradient, whatever stands in its place."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"x": rng.normal(size=60), "stars": rng.uniform(1, 5, 60), "click": 1.0})
    rows.loc[::2, "stars"] = np.nan
    tasks = [tfmoe.Regression("stars", standardize=False), tfmoe.Binary("click")]
    if one_task:
        rows["task"] = "stars"
        schema = tfmoe.Schema([tfmoe.Numeric("x")], tasks, task_column="task")
    else:
        schema = tfmoe.Schema([tfmoe.Numeric("x")], tasks)
    prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    found = []
    for part in (rows, rows[1::2]):
        keras.utils.set_random_seed(0)
        model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(4,)), (3,))
        model.compile(
            keras.optimizers.SGD(0.1), loss={"stars": logs_of}, loss_weights={"click": 0.0}
        )
        x, y, weights = prep.arrays(part)
        model.train_on_batch(x, y, weights)
        found.append([*model.get_weights(), model.evaluate(x, y, weights, verbose=0)["stars_loss"]])
    for one, other in zip(*found, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", ["dice", lambda y, p: keras.ops.mean(keras.ops.square(y - p))])
def test_a_loss_of_the_whole_batch_is_refused(loss):
    rows = pd.DataFrame({"x": np.arange(8.0), "click": [0, 1] * 4})
    schema = tfmoe.Schema([tfmoe.Numeric("x", transform="none")], [tfmoe.Binary("click")])
    model = tfmoe.MultiTaskModel(schema, tfmoe.SharedBottom(hidden_units=(2,)), (2,))
    model.compile("adam", loss={"click": loss})
    with pytest.raises(ValueError, match=r"a number for each row.*for task 'click'.*axis=-1"):
        model.evaluate(*model.preprocessor.arrays(rows), verbose=0)


@pytest.mark.parametrize("one_task", [True, False])
@pytest.mark.parametrize(
    "loss",
    [None, "binary_crossentropy", keras.losses.BinaryCrossentropy(from_logits=True)],
    ids=["own", "named", "logits"],
)
def test_weighed_positives_change_no_probability(one_task, loss):
    """Whatever the loss: predictions, log loss and metrics are of the table as it is."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"x": rng.normal(size=2000)})
    rows["click"] = (rng.uniform(size=2000) < 0.2) * 1.0
    tasks = [tfmoe.Binary("click", positive_weight=5.0)]
    if one_task:
        tasks.append(tfmoe.Binary("buy", source="click", positive_weight=2.0))
        rows["task"] = np.where(np.arange(2000) % 2, "click", "buy")
    schema = tfmoe.Schema([tfmoe.Numeric("x")], tasks, task_column="task" if one_task else None)
    prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    keras.utils.set_random_seed(0)
    model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(2,)), ())
    given = {} if loss is None else {"loss": {"click": loss}}
    model.compile(keras.optimizers.Adam(0.02), **given)
    model.fit(prep.dataset(rows, 100), epochs=6, verbose=0)
    found = model.predict(rows, verbose=0)
    predicted = np.asarray(found["score" if one_task else "click"], "float64")
    logs = model.evaluate(rows, verbose=0)
    for task in tasks:
        own = np.ones(2000, bool) if not one_task else (rows["task"] == task.name).to_numpy()
        labels, scores = rows["click"][own], predicted[own]
        assert scores.mean() == pytest.approx(labels.mean(), abs=0.03)
        entropy = -np.mean(labels * np.log(scores) + (1 - labels) * np.log(1 - scores))
        assert logs[f"{task.name}_log_loss"] == pytest.approx(entropy, rel=1e-3)
