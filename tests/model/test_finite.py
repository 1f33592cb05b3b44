"""Numbers that are not finite are told, and spoil nothing."""

import gc
import weakref

import keras
import numpy as np
import pandas as pd
import pytest

import tfmoe
from tfmoe.model import finite


def table(num_rows=400):
    random = np.random.default_rng(0)
    rows = pd.DataFrame(random.normal(size=(num_rows, 3)), columns=["a", "b", "amount"])
    rows["click"] = (rows["b"] > 0) * 1
    return rows


def model_of(rows, **options):
    columns = [tfmoe.Numeric("a", transform="none"), tfmoe.Numeric("b")]
    tasks = [tfmoe.Binary("click"), tfmoe.Regression("amount")]
    prep = tfmoe.Preprocessor(tfmoe.Schema(columns, tasks)).fit(rows, progress=False)
    keras.utils.set_random_seed(0)
    model = tfmoe.MultiTaskModel(prep, tfmoe.MMoE(num_experts=2, hidden_units=(8,)))
    model.compile(options.pop("optimizer", "adam"), **{"jit_compile": False, **options})
    return model


def huge(rows):
    return rows.assign(a=rows["a"].where(rows.index != 277, 1e38))


@pytest.mark.slow
def test_a_huge_cell_ends_the_training_before_it_is_learnt_from():
    rows = table()
    model, good = model_of(rows), model_of(rows)
    dataset = model.preprocessor.dataset(huge(rows), batch_size=100)
    message = (
        r"predictions of \['click', 'amount'\] that are NaN, infinite or huge, in batch 3 of "
        r"epoch 1; columns with such numbers: a \(up to 1e\+38\)"
    )
    with pytest.raises(FloatingPointError, match=message):
        model.fit(dataset, epochs=2, verbose=0)
    good.fit(good.preprocessor.dataset(rows[:200], batch_size=100), verbose=0)
    for weight, expected in zip(model.get_weights(), good.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-6)


@pytest.mark.slow
def test_under_xla_the_epoch_tells_and_the_weights_are_those_before():
    rows = table()
    model = model_of(rows, jit_compile=True)
    before = model.get_weights()
    with pytest.raises(FloatingPointError, match="loss=nan in epoch 1"):
        model.fit(model.preprocessor.dataset(huge(rows), batch_size=100), verbose=0)
    for weight, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_a_later_training_of_the_same_graph_is_told_of_its_own():
    rows = table()
    model = model_of(rows)
    prep = model.preprocessor
    model.fit(prep.dataset(rows[:200], batch_size=100), epochs=2, verbose=0)
    bad = prep.dataset(huge(rows), batch_size=100)
    with pytest.raises(FloatingPointError, match=r"in batch 3 of epoch 1; columns .* a \(up to"):
        model.fit(bad, epochs=2, verbose=0)
    history = model.fit(bad, verbose=0, check_finite=False).history
    assert not np.isfinite(history["loss"][0])


def test_a_later_training_is_told_though_the_first_did_not_want_to_know():
    rows = table()
    model = model_of(rows)
    prep = model.preprocessor
    model.fit(prep.dataset(rows[:200], batch_size=100), epochs=2, verbose=0, check_finite=False)
    before = model.get_weights()
    with pytest.raises(FloatingPointError, match="batch 1 of epoch 1"):
        model.fit(prep.dataset(huge(rows)[250:], batch_size=100), epochs=2, verbose=0)
    for weight, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.slow
@pytest.mark.parametrize("trained", [True, False])
def test_after_an_error_a_model_trains_on(trained):
    """Also the optimizer's averages are finite again."""
    rows = table()
    model = model_of(rows, jit_compile=True)
    prep = model.preprocessor
    if trained:
        model.fit(prep.dataset(rows, batch_size=100), epochs=1, verbose=0)
    with pytest.raises(FloatingPointError, match="loss=nan in epoch 1"):
        model.fit(prep.dataset(huge(rows), batch_size=100), verbose=0)
    assert all(np.isfinite(np.asarray(one)).all() for one in model.optimizer.variables)
    assert int(model.optimizer.iterations) == (4 if trained else 0)
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)
    history = model.fit(prep.dataset(rows, batch_size=100), epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize("most", [2**28, 2000])
def test_averages_that_were_not_kept_begin_anew(most, monkeypatch):
    """Of an optimizer that was not built yet, or is too large; its rate stays what it was."""
    monkeypatch.setattr(finite, "_MOST_KEPT", most)
    model = model_of(table())
    assert model.count_params() < 2000 < 2 * model.count_params()
    guard = finite.FiniteLoss()
    guard.set_model(model)
    if most == 2000:
        model.optimizer.build(model.trainable_variables)
    guard._keep()
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    model.optimizer.learning_rate = 0.5
    before = model.get_weights()
    for variable in (*model.weights, *model.optimizer.variables):
        if len(variable.shape):
            variable.assign(np.full(variable.shape, np.nan))
    assert guard.restore() == "The weights are those of the end of the epoch before."
    for weight, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)
    slots = [np.asarray(one) for one in model.optimizer.variables if len(one.shape)]
    assert slots
    assert not any(one.any() for one in slots)


def test_a_model_that_was_trained_can_be_forgotten():
    rows = table()
    model = model_of(rows)
    model.fit(model.preprocessor.dataset(rows, batch_size=200), verbose=0)
    forgotten = weakref.ref(model)
    del model
    gc.collect()
    assert forgotten() is None


def test_weights_that_explode_are_told():
    rows = table()
    model = model_of(rows, optimizer=keras.optimizers.SGD(1e20))
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        model.fit(model.preprocessor.dataset(rows, batch_size=100), epochs=5, verbose=0)


@pytest.mark.slow
def test_who_wants_to_go_on_may():
    rows = table()
    model = model_of(rows)
    dataset = model.preprocessor.dataset(huge(rows), batch_size=100)
    history = model.fit(dataset, verbose=0, check_finite=False).history
    assert not np.isfinite(history["loss"][0])


@pytest.mark.slow
def test_validation_that_breaks_tells_and_leaves_good_weights():
    rows = table()
    model = model_of(rows)
    valid = model.preprocessor.dataset(huge(rows), batch_size=100)
    train = model.preprocessor.dataset(rows, batch_size=100)
    with pytest.raises(FloatingPointError, match="Losses must be finite numbers"):
        model.fit(train, validation_data=valid, verbose=0)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    history = model.fit(train, validation_data=valid, verbose=0, check_finite=False).history
    assert not np.isfinite(history["val_loss"][0])


def test_evaluate_and_predict_tell():
    rows = table()
    model = model_of(rows)
    model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
    with pytest.raises(FloatingPointError, match="Losses must be finite numbers"):
        model.evaluate(rows, verbose=0)
    with pytest.warns(UserWarning, match="400 of 400 predictions of '(click|amount)' are no"):
        model.predict(rows, verbose=0)


def test_nothing_bad_is_saved_or_exported(tmp_path):
    rows = table()
    model = model_of(rows)
    model.save(tmp_path / "m.keras")
    saved = (tmp_path / "m.keras").read_bytes()
    model.set_weights([np.full_like(weight, np.inf) for weight in model.get_weights()])
    for write in (model.save, lambda path: tfmoe.export(model, path)):
        with pytest.raises(FloatingPointError, match="Only a model of finite weights is"):
            write(tmp_path / "m.keras")
    assert (tmp_path / "m.keras").read_bytes() == saved
