import io
import re
import sys

import keras
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import tfmoe
from tests.oracles import tables
from tfmoe.reports.gate_use import gate_use, sample

FEATURES = 5


def rows(num_rows=64):
    return np.random.default_rng(0).normal(size=(num_rows, FEATURES)).astype("float32")


def fit(report, epochs, gate=None, verbose=0):
    """Trains a user's own model, of nothing but a mixture."""
    symbol = keras.Input((FEATURES,))
    mixed = tfmoe.MMoE(2, 4, (8, 1), gate or tfmoe.DSelectKGate(gamma=0.5))(symbol)
    model = keras.Model(symbol, mixed)
    model.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=False)
    y = np.stack([rows()[:, :1], rows()[:, 1:2]], axis=1)
    model.fit(rows(), y, epochs=epochs, verbose=verbose, callbacks=[report])
    return model


def fit_table(report, epochs=2, **options):
    """Trains a model with dropout and noise: a random number drawn too many would show."""
    keras.utils.set_random_seed(0)
    gate = tfmoe.TopKGate(num_nonzeros=2, noisy=True, seed=3)
    model = tables.small_model(tables.fitted(), gate=gate, tower_dropout=0.2)
    model.compile("adam", jit_compile=False)
    options = {"batch_size": 64, "verbose": 0, **options}
    logs = model.fit(tables.rows(), epochs=epochs, callbacks=report, **options).history
    return model, logs


def silent(data=None, **options):
    return tfmoe.GateReport(rows() if data is None else data, console=False, **options)


@pytest.mark.slow
def test_training_goes_on_as_if_it_were_not_there():
    with_report, logs = fit_table([silent(tables.rows())])
    without, expected = fit_table([])
    for name, values in expected.items():
        np.testing.assert_allclose(logs[name], values, rtol=1e-4, err_msg=name)
    for weight, other in zip(with_report.weights, without.weights, strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-4, atol=1e-5, err_msg=weight.path)


def test_history_and_frame_hold_every_epoch():
    report = silent()
    model = fit(report, epochs=3)
    assert list(report.history) == [1, 2, 3]
    expected = gate_use(model, rows())[0].frame()
    frame = report.frame
    assert list(frame)[:5] == ["epoch", "gate", "task", "expert", "mean_weight"]
    assert frame["task"].unique().tolist() == ["task 0", "task 1"]
    last = frame[frame["epoch"] == 3].drop(columns="epoch").reset_index(drop=True)
    # Rows are those of the sample, in another order.
    pd.testing.assert_frame_equal(last, expected, rtol=1e-5)
    first = frame[frame["epoch"] == 1]["mean_weight"].to_numpy()
    assert np.abs(first - last["mean_weight"]).max() > 1e-3


@pytest.mark.slow
def test_every_second_epoch_and_afresh_in_each_fit():
    report = silent(every=2)
    fit(report, epochs=5)
    assert list(report.history) == [2, 4]
    fit(report, epochs=2)
    assert list(report.history) == [2]


@pytest.mark.parametrize("kind", ["table", "arrays", "dataset"])
def test_rows_are_a_fixed_sample(kind):
    prep, df = tables.fitted(), tables.rows()
    model = tables.small_model(prep)
    source = {"table": df, "arrays": prep.arrays(df), "dataset": prep.dataset(df, batch_size=64)}
    first, again = (sample(model, source[kind], 100) for _ in range(2))
    assert {len(values) for values in first.values()} == {100}
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name])
    everything = prep.arrays(df, labels=False)
    known = set(zip(everything["age"], everything["plays"], strict=True))
    found = set(zip(first["age"], first["plays"], strict=True))
    assert len(found) == 100
    assert found <= known
    assert len(next(iter(sample(model, source[kind], 1000).values()))) == 300


def test_the_sample_is_what_is_measured():
    report = silent(rows(1000), num_rows=50)
    model = fit(report, epochs=1)
    expected = gate_use(model, sample(model, rows(1000), 50))[0]
    np.testing.assert_allclose(report.history[1][0].mean_weight, expected.mean_weight, rtol=1e-5)


@pytest.mark.quick(1)
@pytest.mark.parametrize("verbose", [0, 1])
def test_console_shows_a_table_and_warnings(verbose):
    console = Console(width=100, file=io.StringIO())
    gate = tfmoe.TopKGate(num_nonzeros=1, router="static", kernel_initializer="zeros")
    fit(tfmoe.GateReport(rows(), console=console), epochs=1, gate=gate, verbose=verbose)
    text = console.file.getvalue()
    assert "gate after epoch 1: experts used" in text
    assert re.search(r"task 1 +1\.0 +1\.0 +0\.00 +\d:1\.00", text)
    assert "Dead experts: on these rows no task uses" in text
    assert text.startswith("\n") == bool(verbose)  # below Keras's bar, not behind it


def events(folder):
    """Summaries in TensorBoard's files: tag to `[(step, plugin, value)]`."""
    import tensorflow as tf

    found = {}
    for path in folder.rglob("events*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                plugin = value.metadata.plugin_data.plugin_name
                array = tf.make_ndarray(value.tensor)
                found.setdefault(value.tag, []).append((event.step, plugin, array))
    return found


def test_tensorboard_gets_scalars_and_a_heat_map(tmp_path):
    import tensorflow as tf

    report = silent(log_dir=tmp_path)
    fit(report, epochs=2)
    found = events(tmp_path)
    steps, plugins, values = zip(*found["gate entropy/task 1"], strict=True)
    # The first of a tag's events names its plugin.
    assert (steps, plugins[0]) == ((0, 1), "scalars")
    expected = [report.history[epoch][0].entropy[1] for epoch in (1, 2)]
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert {"gate converged/task 0", "gate experts a row/task 1"} <= set(found)
    (_, plugin, (width, height, png)), _ = found["gate weights"]
    assert plugin == "images"
    image = tf.io.decode_png(png)
    assert image.shape[:2] == (int(height), int(width))
    assert len(np.unique(image)) > 20


def test_a_model_without_a_gate_is_refused():
    model = tfmoe.MultiTaskModel(tables.fitted(), tfmoe.SharedBottom(hidden_units=(4,)))
    model.compile()
    with pytest.raises(ValueError, match=r"needs a model with a gate.*leave GateReport out"):
        model.fit(tables.rows(), epochs=1, verbose=0, callbacks=[silent(tables.rows())])


@pytest.mark.parametrize("argument", [{"every": 0}, {"num_rows": 0}])
def test_arguments_are_checked(argument):
    (name,) = argument
    with pytest.raises(ValueError, match=f"GateReport needs `{name}`.*Received {name}=0"):
        silent(**argument)


def test_tensorboard_needs_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    silent()
    with pytest.raises(ImportError, match=r"pip install 'tfmoe\[plot\]'"):
        silent(log_dir=tmp_path)
