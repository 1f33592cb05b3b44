"""What `fit` tells of metrics: before the first step, and after an epoch."""

import warnings

import keras
import numpy as np
import pandas as pd
import pytest

import tfmoe
from tfmoe.model.watched import reported, warn_of_near_ties

COLUMNS = [tfmoe.Numeric("x")]
TASKS = (
    tfmoe.Binary("click"),
    tfmoe.Regression("stars"),
    tfmoe.Multiclass("mood", num_classes=3),
)


@pytest.fixture(scope="module")
def df():
    rng = np.random.default_rng(0)
    x = rng.normal(size=60)
    return pd.DataFrame(
        {
            "x": x,
            "click": (x + rng.normal(size=60) > 0) * 1,
            "stars": x + rng.normal(size=60),
            "mood": np.arange(60) % 3,
        }
    )


def made(df, schema=None, **options):
    schema = schema or tfmoe.Schema(COLUMNS, TASKS)
    prep = tfmoe.Preprocessor(schema).fit(df, progress=False)
    model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(3,)), tower_units=())
    model.compile(jit_compile=False, run_eagerly=True, **options)
    return model


def by_task(df):
    """Rows of one task each, and their model."""
    tasks = [tfmoe.Binary(name, source="click") for name in ("de", "fr")]
    rows = df.assign(market=np.resize(["de", "fr"], len(df)))
    return rows, made(rows, tfmoe.Schema(COLUMNS, tasks, task_column="market"))


BETTER = {
    "loss": "min",
    "click_loss": "min",
    "click_auc": "max",
    "click_log_loss": "min",
    "stars_loss": "min",
    "stars_rmse": "min",
    "stars_mae": "min",
    "mood_loss": "min",
    "mood_accuracy": "max",
    "mood_log_loss": "min",
}


def test_metrics_say_which_way_is_better(df):
    assert reported(made(df)) == BETTER
    expected = {f"{name}_{what}": BETTER[f"click_{what}"] for name in ("de", "fr") for what in
                ("loss", "auc", "log_loss")}  # fmt: skip
    assert reported(by_task(df)[1]) == expected | {"loss": "min"}


@pytest.mark.quick(1)
@pytest.mark.parametrize("kind", ["EarlyStopping", "ModelCheckpoint", "ReduceLROnPlateau"])
@pytest.mark.parametrize("name", ["val_click_auc", "stars_rmse", "val_loss"])
def test_callbacks_know_which_way_is_better(df, tmp_path, kind, name):
    options = {"monitor": name}
    if kind == "ModelCheckpoint":
        options |= {"filepath": tmp_path / "best.keras", "save_best_only": True}
    callback = getattr(keras.callbacks, kind)(**options)
    history = made(df).fit(df, validation_data=df, epochs=2, verbose=0, callbacks=[callback])
    best = max if BETTER[name.removeprefix("val_")] == "max" else min
    assert callback.best == pytest.approx(best(history.history[name]))


@pytest.mark.slow
def test_callbacks_know_it_where_rows_have_one_task_each(df):
    rows, model = by_task(df)
    stop = keras.callbacks.EarlyStopping("val_fr_auc")
    history = model.fit(rows, validation_data=rows, epochs=2, verbose=0, callbacks=stop).history
    assert stop.best == max(history["val_fr_auc"])


@pytest.mark.parametrize(
    ("name", "validation", "message"),
    [
        ("val_click_acu", True, r"'val_mood_log_loss'\]. Received monitor='val_click_acu'"),
        ("val_click_acu", True, "Did you mean 'val_click_auc'"),
        ("auc", True, "EarlyStopping watches something that this fit reports"),
        ("val_click_auc", False, "Pass `validation_data` or `validation_split`"),
    ],
)
def test_what_is_not_reported_is_told_before_the_first_step(df, name, validation, message):
    model = made(df)
    with pytest.raises(ValueError, match=message):
        model.fit(
            df,
            validation_data=df if validation else None,
            verbose=0,
            callbacks=[keras.callbacks.EarlyStopping(name, mode="max")],
        )
    assert int(model.optimizer.iterations) == 0


def test_a_metric_without_a_better_way_is_told_before_the_first_step(df):
    def gap(labels, predictions):
        return keras.ops.abs(labels - predictions)

    model = made(df, metrics={"stars": [gap]})
    stop = keras.callbacks.EarlyStopping("stars_gap")
    with pytest.raises(ValueError, match=r"Received monitor='stars_gap'.*Pass mode=\"max\""):
        model.fit(df, verbose=0, callbacks=[stop])
    assert int(model.optimizer.iterations) == 0
    model.fit(
        df, epochs=1, verbose=0, callbacks=[keras.callbacks.EarlyStopping("stars_gap", mode="min")]
    )


@pytest.mark.slow
def test_what_other_callbacks_report_may_be_watched(df, tmp_path):
    class Mine(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["mine"] = 1.0

    plain = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    rate = keras.callbacks.EarlyStopping("learning_rate", mode="min")
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)
    mine = keras.callbacks.EarlyStopping("mine", mode="max")
    # A list of Keras's own, in which there may be None.
    model = made(df)
    model.fit(df, epochs=1, verbose=0, callbacks=[plain, schedule, rate, None][:3])
    model.fit(df, epochs=1, verbose=0, callbacks=[Mine(), mine])
    assert (rate.best, mine.best) == (pytest.approx(0.1), 1.0)


def test_two_metrics_of_one_name_are_refused(df):
    for metrics in (
        {"click": [keras.metrics.AUC(name="auc"), tfmoe.AUC()]},
        {"click": [keras.metrics.MeanSquaredError(name="loss")]},
    ):
        with pytest.raises(ValueError, match=r"Received \['click_(auc|loss)'\] twice"):
            made(df, metrics=metrics)


@pytest.mark.slow
def test_fit_warns_of_bins_that_are_too_coarse(df):
    """The first rows are unlike all others."""
    later = np.random.default_rng(0).uniform(5.9999, 6.0001, 400)
    rows = pd.DataFrame({"x": np.r_[np.linspace(-1, 1, 64), later]})
    rows["click"] = np.arange(len(rows)) % 2
    schema = tfmoe.Schema([tfmoe.Numeric("x", transform="none")], [tfmoe.Binary("click")])
    model = made(rows, schema, optimizer=keras.optimizers.SGD(0.0))
    for layer in model.layers:
        for weight in layer.trainable_weights:
            weight.assign(np.full(weight.shape, 1.0 if "kernel" in weight.name else 0.0))
    data = model.preprocessor.dataset(rows, batch_size=64)
    for options, name in (({}, "click_auc"), ({"validation_data": data}, "val_click_auc")):
        with pytest.warns(
            UserWarning, match="pairs compared share a bin.*`evaluate` is exact"
        ) as told:
            model.fit(data, epochs=2, verbose=0, **options)
        told = [str(one.message) for one in told if "pairs compared" in str(one.message)]
        names = [message.split("Received ")[1].split(" ")[0] for message in told]
        assert names.count(name) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warn_of_near_ties(model, {"click_auc", "val_click_auc"}, "val_")
