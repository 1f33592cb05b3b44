"""Early stopping over several tasks, and a checkpoint of each."""

import json

import keras
import numpy as np
import pandas as pd
import pytest

import tfmoe

NAN = float("nan")

SCHEMA_OF_TWO = tfmoe.Schema([tfmoe.Numeric("x")], [tfmoe.Binary("a"), tfmoe.Binary("b")])


class Weights:
    """Stands for a model: its weights are the number of the epoch."""

    stop_training = False

    def get_weights(self):
        return self.epoch

    def set_weights(self, weights):
        self.epoch = weights


def trained(callback, modes, epochs):
    """The callback after scripted epochs, the model, and what the logs got."""
    callback.watch(SCHEMA_OF_TWO, modes, validates=True)
    model, gains = Weights(), []
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, (a, b) in enumerate(epochs):
        model.epoch = epoch
        logs = {"val_a_auc": a, "val_b_loss": b}
        callback.on_epoch_end(epoch, logs)
        gains.append(logs.get("improvement"))
        if model.stop_training:
            break
    callback.on_train_end()
    return model, gains


MODES = {"a_auc": "max", "b_loss": "min", "a_loss": "min", "b_rate": None, "loss": "min"}
MONITOR = {"a": "auc", "b": "loss"}


def test_every_task_counts_by_its_relative_gain():
    epochs = [(0.5, 2000.0), (0.6, 1800.0), (0.55, 1500.0), (0.5, 1700.0), (0.4, 1700.0)]
    stopping = tfmoe.MultiTaskEarlyStopping(MONITOR, patience=2)
    model, gains = trained(stopping, MODES, [*epochs, (0.9, 1.0)])
    assert gains == pytest.approx([0, 0.15, 0.175, 0.075, -0.025])
    # The third epoch was best; the one with the high AUC was not reached.
    assert (model.epoch, stopping.best_epoch) == (2, 2)
    weighed = tfmoe.MultiTaskEarlyStopping(MONITOR, weights={"a": 3}, patience=2)
    model, gains = trained(weighed, MODES, epochs)
    assert gains[1] == pytest.approx((3 * 0.2 + 0.1) / 4)
    assert model.epoch == 1


def test_a_task_without_rows_does_not_count():
    epochs = [(NAN, 4.0), (0.5, 3.0), (NAN, NAN), (1.0, 3.0)]
    model, gains = trained(tfmoe.MultiTaskEarlyStopping(MONITOR), MODES, epochs)
    assert gains == [0, pytest.approx(0.125), None, pytest.approx(0.625)]
    assert model.epoch == 3


@pytest.mark.parametrize("kind", [tfmoe.MultiTaskEarlyStopping, tfmoe.TaskCheckpoint])
@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        ("accuracy", r"for task 'a', of which it reports \['auc', 'loss'\]"),
        ({"c": "auc"}, r"of the tasks \['a', 'b'\]. Received monitor="),
        ({"b": "rate"}, "a metric that does not say so"),
        ({}, "Received monitor={}"),
    ],
)
def test_what_is_not_reported_is_told_before_the_first_step(kind, monitor, message, tmp_path):
    given = () if kind is tfmoe.MultiTaskEarlyStopping else (tmp_path / "best",)
    with pytest.raises(ValueError, match=message):
        kind(*given, monitor=monitor).watch(SCHEMA_OF_TWO, MODES, validates=False)


def test_unknown_weights_are_told():
    stopping = tfmoe.MultiTaskEarlyStopping(MONITOR, weights={"c": 1})
    with pytest.raises(ValueError, match=r"weights of \['c'\]"):
        trained(stopping, MODES, [])
    with pytest.raises(ValueError, match=r"weights\['a'\]"):
        tfmoe.MultiTaskEarlyStopping(weights={"a": -1})


def table(num_rows=400):
    random = np.random.default_rng(0)
    rows = pd.DataFrame(random.normal(size=(num_rows, 2)).astype("float32"), columns=["x", "y"])
    rows["click"] = (rows["x"] > 0) * 1.0
    rows["stars"] = rows["y"] + random.normal(size=num_rows)
    return rows


@pytest.fixture
def model():
    columns = [tfmoe.Numeric("x", transform="none"), tfmoe.Numeric("y", transform="none")]
    tasks = [tfmoe.Binary("click"), tfmoe.Regression("stars", standardize=False)]
    mixture = tfmoe.MMoE(num_experts=2, hidden_units=(4,))
    model = tfmoe.MultiTaskModel(tfmoe.Schema(columns, tasks), mixture, tower_units=())
    model.compile(keras.optimizers.Adam(0.02), jit_compile=False)
    return model


@pytest.mark.slow
def test_fit_tells_them_and_each_tasks_best_epoch_is_a_model(model, tmp_path):
    rows = table()
    monitor = {"click": "auc", "stars": "rmse"}
    checkpoint = tfmoe.TaskCheckpoint(tmp_path / "best", monitor)
    stopping = tfmoe.MultiTaskEarlyStopping(monitor, patience=5)
    seen = []
    predicts = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: seen.append(model.predict(rows, verbose=0))
    )
    callbacks = [checkpoint, stopping, predicts]
    options = {"batch_size": 100, "verbose": 0, "validation_data": rows[:150]}
    history = model.fit(rows, epochs=3, callbacks=callbacks, **options).history
    assert history["improvement"][0] == 0
    assert stopping.best == max(history["improvement"])
    told = json.loads((tmp_path / "best" / "best.json").read_text())
    for task, metric, choose in (("click", "auc", np.argmax), ("stars", "rmse", np.argmin)):
        values = history[f"val_{task}_{metric}"]
        best = int(choose(values))
        assert checkpoint.best[task] == (best + 1, values[best])
        assert told[task] == {"epoch": best + 1, f"val_{task}_{metric}": values[best]}
        own = checkpoint.load(task)
        assert own.schema.task_names == (task,)
        np.testing.assert_allclose(
            own.predict(rows, verbose=0)[task], seen[best][task], rtol=1e-5, atol=1e-6
        )
    assert not [path for path in (tmp_path / "best").iterdir() if path.name.startswith(".")]
    with pytest.raises(FileExistsError, match="is there already"):
        model.fit(rows, epochs=1, callbacks=[checkpoint], **options)
    with pytest.raises(ValueError, match="reports"):
        model.fit(rows, epochs=1, callbacks=[tfmoe.MultiTaskEarlyStopping("auc")], **options)


@pytest.mark.slow
def test_what_has_no_parts_is_written_whole(tmp_path):
    columns = [tfmoe.Numeric("x", transform="none")]
    tasks = [tfmoe.Binary("click"), tfmoe.Regression("stars", standardize=False)]

    @keras.saving.register_keras_serializable("test_stopping")
    class Plain(keras.layers.Layer):
        def __init__(self, num_tasks=None, **kwargs):
            super().__init__(**kwargs)
            self.num_tasks = num_tasks

        def call(self, inputs, return_aux=False):
            hidden = keras.ops.repeat(inputs[:, None], self.num_tasks, axis=1)
            return (hidden, []) if return_aux else hidden

        def get_config(self):
            return {**super().get_config(), "num_tasks": self.num_tasks}

    model = tfmoe.MultiTaskModel(tfmoe.Schema(columns, tasks), Plain())
    model.compile(jit_compile=False)
    rows, options = table(), {"epochs": 1, "batch_size": 100, "verbose": 0}
    with pytest.raises(ValueError, match="extract"):
        model.fit(rows, callbacks=[tfmoe.TaskCheckpoint(tmp_path / "a")], **options)
    checkpoint = tfmoe.TaskCheckpoint(tmp_path / "b", whole=True)
    model.fit(rows, callbacks=[checkpoint], **options)
    assert checkpoint.load("stars").schema.task_names == ("click", "stars")
