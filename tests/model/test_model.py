import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

import tfmoe
from tests.oracles import tables
from tfmoe.compute import thresholds

TASKS = ("watch", "rating", "mood")


@pytest.fixture(scope="module")
def df():
    return tables.rows()


@pytest.fixture(scope="module")
def prep(df):
    return tables.fitted(df)


@pytest.fixture(scope="module")
def model(prep):
    keras.utils.set_random_seed(1)
    model = tables.small_model(prep)
    model.compile("adam", jit_compile=False)
    return model


@pytest.fixture(scope="module")
def trained(prep, df):
    keras.utils.set_random_seed(1)
    model = tables.small_model(prep)
    model.compile(keras.optimizers.Adam(0.03), jit_compile=False)
    train = prep.dataset(df, batch_size=64, shuffle=True)
    history = model.fit(
        train, validation_data=prep.dataset(df, batch_size=50), epochs=15, verbose=0
    )
    return model, history.history


def gradients(model, features, labels, weights):
    with tf.GradientTape() as tape:
        forward = model.forward_pass(features, training=True)
        loss = model.compute_loss(features, labels, forward, weights)
    values = tape.gradient(loss, model.trainable_weights, unconnected_gradients="zero")
    return float(loss), [value.numpy() for value in values]


def part(arrays, chosen):
    return {name: values[chosen] for name, values in arrays.items()}


def test_compile_and_fit_alone_are_enough(trained):
    _, history = trained
    expected = {"loss", *(f"{task}_loss" for task in TASKS)}
    expected |= {"watch_auc", "watch_log_loss", "rating_rmse", "rating_mae"}
    expected |= {"mood_accuracy", "mood_log_loss"}
    assert set(history) == expected | {f"val_{name}" for name in expected}
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    assert history["val_mood_accuracy"][-1] > 0.5


def test_total_loss_weighs_the_tasks(trained, prep, df):
    model, _ = trained
    logs = model.evaluate(prep.dataset(df, batch_size=len(df)), verbose=0)
    total = logs["watch_loss"] + 0.5 * logs["rating_loss"] + logs["mood_loss"]
    assert logs["loss"] == pytest.approx(total, rel=1e-5)


def test_predict_gives_a_dict_by_task(trained, prep, df):
    model, _ = trained
    raw, data = model.predict(df, verbose=0), model.predict(prep.dataset(df), verbose=0)
    assert {name: values.shape for name, values in raw.items()} == {
        "watch": (300,),
        "rating": (300,),
        "mood": (300, 3),
    }
    for name in TASKS:
        np.testing.assert_allclose(raw[name], data[name], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(raw["mood"].sum(axis=1), 1, rtol=1e-5)
    assert 0 < raw["watch"].min() < raw["watch"].max() < 1


def test_evaluate_agrees_with_numpy(trained, prep, df):
    model, _ = trained
    logs = model.evaluate(df, verbose=0, batch_size=70)
    _, labels, _ = prep.arrays(df)
    predictions = model.predict(df, verbose=0)
    seen = ~np.isnan(labels["watch"])
    y, p = labels["watch"][seen], predictions["watch"][seen].astype("float64")
    # Two scores that are nearly alike may change places with the size of a batch.
    assert logs["watch_auc"] == pytest.approx(roc_auc_score(y, p), abs=2e-3)
    assert logs["watch_log_loss"] == pytest.approx(
        -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)), rel=1e-4
    )
    seen = ~np.isnan(labels["rating"])
    assert seen.sum() == (df["watch"] == 1).sum()
    error = (predictions["rating"] - labels["rating"])[seen]
    assert logs["rating_rmse"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-5)
    assert logs["rating_mae"] == pytest.approx(np.mean(np.abs(error)), rel=1e-5)
    seen = ~np.isnan(labels["mood"])
    hits = predictions["mood"].argmax(axis=1)[seen] == labels["mood"][seen]
    assert logs["mood_accuracy"] == pytest.approx(hits.mean(), rel=1e-6)
    # A tf.data.Dataset goes another way and must say the same.
    again = model.evaluate(prep.dataset(df, batch_size=70), verbose=0)
    assert again == pytest.approx(logs, rel=1e-5)
    as_list = model.evaluate(df, verbose=0, batch_size=70, return_dict=False)
    assert sorted(as_list) == pytest.approx(sorted(logs.values()), rel=1e-5)


@settings(max_examples=settings.default.max_examples // 2)
@given(st.lists(st.booleans(), min_size=20, max_size=20), st.sampled_from(TASKS))
def test_a_missing_label_changes_nothing(model, prep, df, missing, task):
    """The gradient is that of the batch without the rows that lack the label."""
    features, labels, weights = prep.arrays(df[:20])
    missing = np.array(missing)
    only = {name: np.full(20, np.nan, "float32") for name in TASKS}
    only[task] = np.where(missing, np.nan, labels[task]).astype("float32")
    loss, found = gradients(model, features, only, weights)
    kept = ~np.isnan(only[task])
    assert np.isfinite(loss)
    if not kept.any():
        assert loss == 0
        assert all((value == 0).all() for value in found)
        return
    expected_loss, expected = gradients(
        model, part(features, kept), {task: only[task][kept]}, part(weights, kept)
    )
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for value, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-4, atol=1e-6)


def test_metrics_are_those_of_the_rows_with_a_label(model, prep, df):
    features, labels, weights = prep.arrays(df)
    kept = ~np.isnan(labels["rating"])
    everything = model.evaluate((features, labels, weights), verbose=0, batch_size=64)
    rated = model.evaluate(
        part(features, kept), {"rating": labels["rating"][kept]}, verbose=0, batch_size=64
    )
    for name in ("rating_loss", "rating_rmse", "rating_mae"):
        assert everything[name] == pytest.approx(rated[name], rel=1e-5)
    assert np.isnan(rated["watch_log_loss"])  # no label of that task at all


def test_fit_goes_through_batches_without_a_label(prep, df):
    model = tables.small_model(prep)
    model.compile("adam", jit_compile=False)
    unlabelled = df.assign(watch=np.nan, rating=np.nan, mood=None)
    both = pd.concat([unlabelled[:32], df[:32]])
    history = model.fit(prep.dataset(both, batch_size=32), verbose=0).history
    assert np.isfinite(history["loss"][0])
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_one_row_batches_train(prep, df):
    model = tables.small_model(prep)
    model.compile("sgd", jit_compile=False)
    history = model.fit(prep.dataset(df[:3], batch_size=1), verbose=0).history
    assert np.isfinite(history["loss"][0])


def test_row_weights_count_like_repeated_rows(model, prep, df):
    features, labels, weights = prep.arrays(df[:10])
    twice = np.repeat(np.arange(10), [2] * 5 + [1] * 5)
    doubled = {name: np.where(np.arange(10) < 5, 2 * w, w) for name, w in weights.items()}
    loss, found = gradients(model, features, labels, doubled)
    other, expected = gradients(
        model, part(features, twice), part(labels, twice), part(weights, twice)
    )
    assert loss == pytest.approx(other, rel=1e-5)
    for value, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-6)


def test_first_prediction_is_the_mean_label(prep, df):
    keras.utils.set_random_seed(0)
    predictions = tables.small_model(prep).predict(df, verbose=0)
    assert predictions["watch"].mean() == pytest.approx(df["watch"].mean(), abs=0.1)
    assert predictions["rating"].mean() == pytest.approx(df["rating"].mean(), abs=0.6)


@pytest.mark.slow
def test_reloads_whole_where_the_data_were_never_seen(trained, prep, df, tmp_path):
    model, _ = trained
    path = tmp_path / "model.keras"
    model.save(path)
    odd = df[:20].assign(movie_id="never seen", genres=None, age=np.inf)
    odd.to_pickle(tmp_path / "rows.pkl")
    code = """if True:
        import sys, keras, numpy as np, pandas as pd, tfmoe
        model = keras.saving.load_model(sys.argv[1])
        rows = pd.read_pickle(sys.argv[2])
        np.savez(sys.argv[3], **model.predict(rows, verbose=0))
        logs = model.evaluate(rows, verbose=0)
        assert "watch_auc" in logs, logs
        model.fit(rows, epochs=1, verbose=0, batch_size=20)
        assert model.optimizer.iterations == int(sys.argv[4]) + 1
    """
    steps = str(int(model.optimizer.iterations))
    done = subprocess.run(
        [sys.executable, "-c", code, path, tmp_path / "rows.pkl", tmp_path / "out.npz", steps],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    there, here = np.load(tmp_path / "out.npz"), model.predict(odd, verbose=0)
    for name in TASKS:
        np.testing.assert_allclose(there[name], here[name], rtol=1e-6)


@pytest.mark.slow
def test_a_model_keeps_what_it_was_made_with(df, tmp_path):
    prep = tables.fitted(df)
    model = tables.small_model(prep)
    before = model.predict(df, verbose=0)["watch"]
    prep.fit(df[df["user_id"] > df["user_id"].median()].assign(age=df["age"] * 7))
    model.save(tmp_path / "model.keras")
    for one in (model, keras.saving.load_model(tmp_path / "model.keras")):
        np.testing.assert_allclose(one.predict(df, verbose=0)["watch"], before, rtol=1e-6)


@pytest.mark.slow
def test_keras_arguments_override(prep, df, tmp_path):
    model = tables.small_model(prep)
    model.compile(
        "sgd",
        loss={"rating": "mae", "watch": keras.losses.BinaryFocalCrossentropy()},
        loss_weights={"rating": 3.0, "mood": 0.0},
        metrics={"watch": ["accuracy", keras.metrics.Precision(0.3)], "mood": []},
        jit_compile=False,
    )
    logs = model.evaluate(df, verbose=0, batch_size=len(df))
    assert {"watch_accuracy", "watch_precision", "rating_rmse"} <= set(logs)
    assert not {"watch_auc", "mood_accuracy"} & set(logs)
    _, std = prep.label_moments["rating"]
    assert logs["rating_loss"] == pytest.approx(logs["rating_mae"] / std, rel=1e-5)
    assert logs["loss"] == pytest.approx(logs["watch_loss"] + 3 * logs["rating_loss"], rel=1e-5)
    seen = df["watch"].notna()
    hits = (model.predict(df, verbose=0)["watch"] > 0.5) == (df["watch"] == 1)
    assert logs["watch_accuracy"] == pytest.approx(hits[seen].mean(), rel=1e-6)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").evaluate(
        df, verbose=0, batch_size=len(df)
    )
    assert again == pytest.approx(logs, rel=1e-5)


@pytest.mark.parametrize("metric", ["auc", keras.metrics.AUC(name="auc")], ids=["name", "metric"])
def test_one_metric_needs_no_list(prep, metric):
    model = tables.small_model(prep)
    model.compile(metrics={"watch": metric, "mood": None})
    names = [one.name for one in model.metrics]
    assert "watch_auc" in names
    assert "watch_log_loss" not in names
    assert "mood_accuracy" in names
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(model.get_compile_config())
    )
    assert set(again["metrics"]) == {"watch"}


@pytest.mark.slow
def test_keras_losses_and_metrics_from_logits_get_logits(trained, prep, df):
    model, _ = trained
    own = model.evaluate(df, verbose=0)
    twin = tables.small_model(prep)
    twin.set_weights(model.get_weights())
    twin.compile(
        loss={
            "watch": keras.losses.BinaryCrossentropy(from_logits=True),
            "mood": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        },
        metrics={"watch": [keras.metrics.BinaryCrossentropy("bce", from_logits=True)]},
        jit_compile=False,
    )
    logs = twin.evaluate(df, verbose=0)
    assert logs["watch_bce"] == pytest.approx(own["watch_log_loss"], rel=1e-4)
    for name in ("watch_loss", "mood_loss", "loss"):
        assert logs[name] == pytest.approx(own[name], rel=1e-4)


def test_what_would_fail_in_fit_is_refused(trained, prep, df):
    model, _ = trained
    with pytest.raises(ValueError, match="count for all metrics"):
        tables.small_model(prep).compile(weighted_metrics=["mae"])
    features, labels, _ = prep.arrays(df)
    with pytest.raises(ValueError, match=r"self.forward_pass\(x, training=True\)"):
        model.compute_loss(features, labels, model(features))


@pytest.mark.slow
def test_functions_are_metrics(prep, df):
    def gap(labels, predictions):
        return keras.ops.abs(labels - predictions)

    model = tables.small_model(prep)
    model.compile(metrics={"rating": [gap, "mae"]}, jit_compile=False)
    logs = model.evaluate(df, verbose=0)
    assert logs["rating_gap"] == pytest.approx(logs["rating_mean_absolute_error"], rel=1e-5)


def test_a_metric_that_cannot_be_copied_is_refused(prep):
    class Constant(keras.metrics.Metric):
        def __init__(self, value, **kwargs):
            super().__init__(**kwargs)

    with pytest.raises(ValueError, match=r"takes \['value'\] and has no get_config"):
        tables.small_model(prep).compile(metrics={"rating": [Constant(3.0)]})


@pytest.mark.slow
def test_a_list_of_scores_is_in_the_order_of_the_metrics(trained, df):
    model, _ = trained
    scores = model.evaluate(df, return_dict=False, verbose=0)
    named = dict(zip(model.metrics_names, scores, strict=True))
    assert named == pytest.approx(model.evaluate(df, verbose=0))


@pytest.mark.slow
def test_some_steps_have_the_auc_of_their_rows(trained, prep, df):
    model, _ = trained
    x, y, weights = prep.arrays(df)
    some = model.evaluate(x, y, sample_weight=weights, steps=2, batch_size=50, verbose=0)
    first = slice(100)
    expected = model.evaluate(part(x, first), part(y, first), part(weights, first), verbose=0)
    assert some["watch_auc"] == pytest.approx(expected["watch_auc"])


@pytest.mark.slow
def test_fit_takes_what_predict_takes(prep, df):
    model = tables.small_model(prep)
    model.compile("sgd", jit_compile=False)
    x, y, _ = prep.arrays(df)
    column = {name: v[:, None] if v.ndim == 1 else v for name, v in x.items()}
    floats = {name: v.astype("float32") for name, v in x.items()}
    # Not exact: `predict` itself, on TensorFlow, takes one rank or the other, once called.
    expected = model.evaluate(x, y, exact=False, verbose=0)
    for features in (column, floats):
        found = model.evaluate(features, y, exact=False, verbose=0)
        assert found == pytest.approx(expected)
        model.fit(features, y, verbose=0, batch_size=len(df))
        expected = model.evaluate(x, y, exact=False, verbose=0)
    for features in (list(x.values()), {"age": x["age"]}):
        with pytest.raises(ValueError, match="come as a dict by column"):
            model.fit(features, y, verbose=0)
    with pytest.raises(ValueError, match="at least one of the tasks"):
        model.fit(x, {}, verbose=0)


@pytest.mark.slow
def test_a_part_of_the_model_is_a_model(trained, prep, df, tmp_path):
    model, _ = trained
    x = prep.arrays(df, labels=False)
    expected = model.predict(x, verbose=0)["rating"]
    keras.Model(model.input, model.output["rating"]).save(tmp_path / "one.keras")
    one = keras.saving.load_model(tmp_path / "one.keras")
    np.testing.assert_allclose(one.predict(x, verbose=0), expected, rtol=1e-6)
    assert set(keras.models.clone_model(model).output) == set(TASKS)


@pytest.mark.slow
def test_weights_beside_a_table_count(trained, df):
    model, _ = trained
    kept = np.arange(len(df)) % 3 > 0
    logs = model.evaluate(df, sample_weight=kept.astype("float64"), verbose=0, batch_size=300)
    expected = model.evaluate(df[kept], verbose=0, batch_size=300)
    assert logs == pytest.approx(expected, rel=1e-4)
    by_task = model.evaluate(df, sample_weight={"watch": 1.0 * kept}, verbose=0, batch_size=300)
    assert by_task["watch_loss"] == pytest.approx(expected["watch_loss"], rel=1e-4)
    column = model.evaluate(df, sample_weight=1.0 * kept[:, None], verbose=0, batch_size=300)
    assert column == pytest.approx(expected, rel=1e-4)
    for wrong in ({"wacth": kept}, kept[:-1]):
        with pytest.raises(ValueError, match="a number for each row, or a dict of such by"):
            model.fit(df, sample_weight=wrong)
    with pytest.raises(ValueError, match="Received y=Series beside a table"):
        model.fit(df, df["watch"])
    rates = model.optimizer.learning_rate.numpy()
    model.optimizer.learning_rate = 0.0
    how = {"batch_size": 300, "epochs": 1, "verbose": 0}
    found = model.fit(df, validation_data=(df, None, 1.0 * kept), **how).history
    model.optimizer.learning_rate = rates
    assert found["val_loss"][0] == pytest.approx(expected["loss"], rel=1e-4)
    wrong = {
        "Received y=Series beside a table": (df, df["watch"]),
        "Received 4": [df, None, kept, None],
        "of 3 parts, the first of them files": ("a.csv", None, kept),
    }
    for message, data in wrong.items():
        with pytest.raises(ValueError, match=message):
            model.fit(df, validation_data=data)


@pytest.mark.slow
def test_what_is_frozen_stays_frozen(prep, df, tmp_path):
    model = tables.small_model(prep)
    model.encoder.trainable = False
    model.mixture.gate.trainable = False
    model.encoder.tables["movie_id"].trainable = True
    model.compile("adam", jit_compile=False)
    model.fit(df, batch_size=100, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    names = [weight.path for weight in model.trainable_weights]
    assert [weight.path for weight in again.trainable_weights] == names
    tables_left = [w.path for w in model.encoder.weights if w.path in names]
    assert tables_left == [model.encoder.tables["movie_id"].embeddings.path]
    for old, new in zip(model.optimizer.variables, again.optimizer.variables, strict=True):
        np.testing.assert_array_equal(old, new)
    assert model.get_config() == again.get_config()


def test_what_was_given_frozen_may_be_freed(prep, tmp_path):
    layers = [keras.Sequential([keras.layers.Dense(5), keras.layers.Dense(4)]) for _ in range(2)]
    for layer in layers:
        layer.trainable = False
    model = tfmoe.MultiTaskModel(prep, tfmoe.MMoE(experts=layers))
    model.mixture.experts.trainable = True
    for expert in model.mixture.experts.layers:
        expert.layers[1].trainable = True
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    kept, expected = ([len(w.path) for w in m.trainable_weights] for m in (again, model))
    assert kept == expected
    states = [[layer.trainable for layer in m.mixture._flatten_layers()] for m in (again, model)]
    assert states[0] == states[1]
    first, last = again.mixture.experts.layers[0].layers
    assert (first.trainable, last.trainable) == (False, True)


@pytest.mark.slow
def test_replicas_together_take_the_step_of_one():
    code = """if True:
        import keras, numpy as np, tensorflow as tf, tfmoe
        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        columns = [tfmoe.Numeric("age", transform="none")]
        columns.append(tfmoe.Categorical("user", hash_buckets=9))
        tasks = [tfmoe.Binary("y"), tfmoe.Regression("z", standardize=False)]
        schema = tfmoe.Schema(columns, tasks)
        rng = np.random.default_rng(0)
        x = {"age": rng.normal(size=96).astype("float32"), "user": np.arange(96, dtype="int32") % 9}
        y = {"y": (x["age"] > 0).astype("float32"), "z": x["age"]}

        def trained(strategy):
            with strategy.scope():
                keras.utils.set_random_seed(0)
                model = tfmoe.MultiTaskModel(schema, tfmoe.MMoE(num_experts=3, hidden_units=(4,)))
                model.compile(keras.optimizers.SGD(0.5), jit_compile=False)
            data = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)
            options = tf.data.Options()
            policy = tf.data.experimental.AutoShardPolicy.DATA
            options.experimental_distribute.auto_shard_policy = policy
            history = model.fit(data.with_options(options), epochs=2, verbose=0).history
            return history, [np.array(weight) for weight in model.trainable_weights]

        one, expected = trained(tf.distribute.get_strategy())
        two, weights = trained(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
        for name in ("loss", "y_loss", "z_loss"):
            np.testing.assert_allclose(two[name], one[name], rtol=1e-4, err_msg=name)
        for weight, other in zip(weights, expected, strict=True):
            np.testing.assert_allclose(weight, other, rtol=1e-4, atol=1e-6)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_gate_losses_count_in_training_only(prep, df):
    model = tables.small_model(prep, gate=tfmoe.DSelectKGate(num_nonzeros=2, entropy_reg=1.0))
    model.compile("sgd", jit_compile=False)
    features, labels, weights = prep.arrays(df[:16])
    totals = {}
    for training in (True, False):
        forward = model.forward_pass(features, training=training)
        totals[training] = float(model.compute_loss(features, labels, forward, weights))
    # Three tasks with two selectors each, all undecided between three experts.
    undecided = 6 * -np.sum([p * np.log(p) for p in (0.25, 0.5, 0.25)])
    assert totals[True] - totals[False] == pytest.approx(undecided, rel=1e-2)


@pytest.mark.parametrize("gated", [False, True])
def test_towers_read_a_shared_bottom_once(prep, df, gated, monkeypatch):
    model = tfmoe.MultiTaskModel(
        prep,
        tfmoe.SharedBottom(hidden_units=(4,)),
        tower_gate=tfmoe.PPNet("user_id") if gated else None,
    )
    features = prep.arrays(df, labels=False)
    read, call = [], type(model.towers).call

    def recorded(layer, inputs, *args, **kwargs):
        read.append(inputs.shape[1])
        return call(layer, inputs, *args, **kwargs)

    monkeypatch.setattr(type(model.towers), "call", recorded)
    found = model.forward_pass(features).logits
    hidden = model.structure(model.encode(features))
    # A gate of a tower's own multiplies its units, which are not the others'.
    assert read == ([hidden.shape[1]] if gated else [1])
    if not gated:
        expected = model.head(model.towers(hidden))[1]
        assert set(found) == set(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)


def test_columns_may_be_named_like_layers():
    names = ["dense", "encoder", "towers", "gate", "mixture", "inputs", "concatenate", "sigmoid"]
    schema = tfmoe.Schema(
        [tfmoe.Numeric(name, transform="none") for name in names], [tfmoe.Binary("loss")]
    )
    model = tfmoe.MultiTaskModel(schema, tfmoe.SharedBottom(hidden_units=(4,)))
    df = pd.DataFrame({**{name: [0.0, 1.0] for name in names}, "loss": [0, 1]})
    assert model.predict(df, verbose=0)["loss"].shape == (2,)


def test_a_schema_that_needs_no_fit_is_enough(tmp_path):
    schema = tfmoe.Schema(
        [tfmoe.Categorical("page", hash_buckets=50), tfmoe.Numeric("x", transform="none")],
        [tfmoe.Binary("click")],
    )
    model = tfmoe.MultiTaskModel(schema, tfmoe.OMoE(num_experts=2, hidden_units=(4,)))
    df = pd.DataFrame({"page": ["a", None], "x": [1.0, np.nan]})
    before = model.predict(df, verbose=0)["click"]
    model.save(tmp_path / "model.keras")
    after = keras.saving.load_model(tmp_path / "model.keras").predict(df, verbose=0)["click"]
    np.testing.assert_allclose(before, after, rtol=1e-6)


@pytest.mark.quick(1)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_predicts_float32(prep, df, policy, tmp_path):
    keras.config.set_dtype_policy(policy)
    try:
        model = tables.small_model(prep)
    finally:
        keras.config.set_dtype_policy("float32")
    predictions = model.predict(df, verbose=0)
    assert all(values.dtype == "float32" for values in predictions.values())
    assert all(np.isfinite(values).all() for values in predictions.values())
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.mixture.experts.compute_dtype == model.mixture.experts.compute_dtype != "float32"
    np.testing.assert_allclose(again.predict(df, verbose=0)["mood"], predictions["mood"])
    for made in (model, again):
        made.compile("adam")
        assert made.jit_compile is False
        scales = isinstance(made.optimizer, keras.optimizers.LossScaleOptimizer)
        assert scales == (policy == "mixed_float16")


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_models_own_precision_scales_the_loss_where_it_must(prep, policy):
    mixture = tfmoe.SharedBottom(hidden_units=(4,), dtype=policy)
    model = tfmoe.MultiTaskModel(prep, mixture, dtype=policy)
    model.compile("adam")
    scales = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scales == (policy == "mixed_float16")


def test_a_mixture_in_another_precision_is_told(prep):
    with pytest.warns(UserWarning, match="policy float32, the model under mixed_bfloat16"):
        tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(4,)), dtype="mixed_bfloat16")


@pytest.fixture
def _xla_pays():
    with thresholds.use(most_looked_up=256):
        yield


def test_xla_is_not_chosen_by_itself(prep):
    model = tables.small_model(prep)
    model.compile("adam")
    assert model.jit_compile is False


@pytest.mark.usefixtures("_xla_pays")
def test_xla_is_chosen_where_it_pays(prep):
    cases = {False: tfmoe.TopKGate(noisy=True), True: tfmoe.TopKGate()}
    for expected, gate in cases.items():
        model = tables.small_model(prep, gate=gate)
        model.compile("adam")
        assert model.jit_compile is expected
    model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(4,), dropout=0.5))
    model.compile("adam")
    assert model.jit_compile is False


def test_errors_say_what_to_do(prep, model, df):
    with pytest.raises(ValueError, match="Received preprocessor="):
        tfmoe.MultiTaskModel("schema.json", tfmoe.SharedBottom())
    with pytest.raises(ValueError, match="Received mixture='mmoe'"):
        tfmoe.MultiTaskModel(prep, "mmoe")
    with pytest.raises(ValueError, match="user_id"):
        tfmoe.MultiTaskModel(tables.SCHEMA, tfmoe.SharedBottom())
    with pytest.raises(ValueError, match="num_tasks=5 there"):
        tfmoe.MultiTaskModel(prep, tfmoe.MMoE(num_tasks=5))
    other = tables.small_model(prep)
    with pytest.raises(ValueError, match=r"Received loss=\{'click': 'mse'\}"):
        other.compile("adam", loss={"click": "mse"})
    with pytest.raises(ValueError, match="Received metrics=\\['auc'\\]"):
        other.compile("adam", metrics=["auc"])
    features, labels, _ = prep.arrays(df[:4])
    with pytest.raises(ValueError, match=r"Received labels for \['click'\]"):
        model.evaluate(features, {**labels, "click": labels["watch"]}, verbose=0)
    with pytest.raises(ValueError, match="Received labels of type"):
        model.evaluate(features, labels["watch"], verbose=0)
    clone = tfmoe.MultiTaskModel.from_config(model.get_config())
    with pytest.raises(ValueError, match="has no vocabularies"):
        clone.predict(df, verbose=0)
    with pytest.raises(ValueError, match="user_id"):
        model.predict(df.drop(columns="user_id"), verbose=0)


def test_config_is_the_recipe(prep):
    gate = tfmoe.DSelectKGate(num_nonzeros=1)
    mixture = tfmoe.MMoE(num_experts=3, hidden_units=(4,), gate=gate)
    model = tfmoe.MultiTaskModel(prep, mixture)
    assert (gate.num_tasks, gate.num_experts, mixture.num_tasks) == (None, None, None)
    assert (model.mixture.gate.num_tasks, model.mixture.gate.num_experts) == (3, 3)
    assert model.get_config()["mixture"]["config"]["num_tasks"] is None
    twin = tfmoe.MultiTaskModel(prep, mixture)
    assert not np.array_equal(
        *(keras.ops.convert_to_numpy(m.mixture.gate.weights[0]) for m in (model, twin))
    )


def test_a_score_does_not_depend_on_its_batch_mates(trained, df):
    model, _ = trained
    together = model.predict(df, verbose=0)
    for rows in (slice(0, 1), slice(5, 40)):
        alone = model.predict(df[rows], verbose=0)
        for name in TASKS:
            np.testing.assert_allclose(alone[name], together[name][rows], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_files_of_unknown_length_end_without_a_warning(prep, df, tmp_path):
    # Warnings are errors here, and Keras warns at the end of such an epoch.
    flat = df.drop(columns=["tags", "history"])
    flat.to_csv(tmp_path / "rows.csv", index=False)
    columns = [tables.SCHEMA.column(name) for name in ("user_id", "movie_id", "genres", "age")]
    schema = tfmoe.Schema(columns, tables.SCHEMA.tasks)
    rows = tfmoe.Preprocessor(schema).fit(tmp_path / "rows.csv", progress=False)
    rows = rows.dataset(tmp_path / "rows.csv", batch_size=64)
    model = tfmoe.MultiTaskModel(
        tfmoe.Preprocessor(schema).fit(flat), tfmoe.SharedBottom(hidden_units=(4,))
    )
    model.compile("adam", jit_compile=False)
    history = model.fit(rows, validation_data=rows, epochs=2, verbose=0).history
    assert len(history["val_loss"]) == 2
    assert model.evaluate(rows, verbose=0)["loss"] == pytest.approx(history["val_loss"][1])
    assert model.predict(rows, verbose=0)["watch"].shape == (300,)


def test_a_models_own_precision_is_saved(tmp_path):
    """Keras's Functional models forget the policy that they were made with."""
    schema = tfmoe.Schema([tfmoe.Numeric("age", transform="none")], [tfmoe.Binary("click")])
    mixture = tfmoe.MMoE(num_experts=2, hidden_units=(4,), dtype="mixed_bfloat16")
    model = tfmoe.MultiTaskModel(schema, mixture, dtype="mixed_bfloat16")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.encoder.dtype_policy.name == loaded.towers.dtype_policy.name == "mixed_bfloat16"
    features = {"age": np.linspace(-1, 1, 4, dtype="float32")}
    np.testing.assert_array_equal(loaded(features)["click"], model(features)["click"])
