"""The same rows give the same model, wherever they come from."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import tfmoe

ROWS, BATCH, EPOCHS = 30, 8, 3
STEPS = EPOCHS * 4


@pytest.fixture(scope="module")
def df():
    return pd.DataFrame({"x": np.arange(float(ROWS)), "click": [0, 1] * (ROWS // 2)})


@pytest.fixture(scope="module")
def prep(df):
    return tfmoe.Preprocessor(tfmoe.Schema([tfmoe.Numeric("x")], [tfmoe.Binary("click")])).fit(
        df, progress=False
    )


def compiled(prep):
    """A model in which much moves without a batch: counters, decay, averages, random numbers."""
    keras.utils.set_random_seed(0)
    schedule = keras.optimizers.schedules.ExponentialDecay(1.0, 3, 0.5)
    gate = tfmoe.GumbelGate(temperature=schedule, usage_decay=0.9)
    mixture = tfmoe.MMoE(num_experts=2, hidden_units=(3,), gate=gate)
    model = tfmoe.MultiTaskModel(prep, mixture, tower_units=(3,), tower_dropout=0.5)
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 4, 0.5)
    optimizer = keras.optimizers.SGD(rate, weight_decay=0.5, use_ema=True, ema_momentum=0.9)
    model.compile(optimizer, jit_compile=False)
    return model


def generated(prep, df):
    """A dataset whose batches nobody has counted."""
    batches = list(prep.batches(df, batch_size=BATCH))
    signature = tf.nest.map_structure(
        lambda x: tf.TensorSpec([None, *x.shape[1:]], x.dtype), batches[0]
    )
    return tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)


def files(prep, df, tmp_path):
    df.to_csv(tmp_path / "rows.csv", index=False)
    return prep.dataset(tmp_path / "rows.csv", batch_size=BATCH)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["file", "generated", "filtered"])
def test_an_epoch_has_as_many_steps_from_any_source(prep, df, tmp_path, source):
    table = prep.dataset(df, batch_size=BATCH)
    others = {
        "file": lambda: files(prep, df, tmp_path),
        "generated": lambda: generated(prep, df),
        "filtered": lambda: table.filter(lambda *_: True),
    }
    found = []
    for rows in (table, others[source]()):
        model = compiled(prep)
        history = model.fit(rows, validation_data=rows, epochs=EPOCHS, verbose=0).history
        assert int(model.optimizer.iterations) == STEPS
        state = [*model.variables, *model.optimizer.variables]
        assert any("seed" in variable.path for variable in state)
        state = [variable.numpy() for variable in state]
        found.append((state, history, model.evaluate(rows, verbose=0)))
    (expected, history, logs), (state, other, other_logs) = found
    for value, wanted in zip(state, expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-6)
    for name, values in history.items():
        np.testing.assert_allclose(other[name], values, rtol=1e-5)
    assert other_logs == pytest.approx(logs, rel=1e-5)


def test_a_generator_that_ends_takes_no_step_more(prep, df):
    batches = [
        tuple(tf.nest.map_structure(tf.constant, part) for part in batch)
        for batch in prep.batches(df, batch_size=BATCH)
    ]
    model = compiled(prep)
    with pytest.warns(UserWarning, match="ran out of data"):
        model.fit((batch for batch in batches), shuffle=False, verbose=0)
    assert int(model.optimizer.iterations) == len(batches)
