"""What `fit` chooses where raw rows come without a batch size, epochs or validation rows."""

import keras
import numpy as np
import pandas as pd
import pytest

import tfmoe
from tfmoe.model.plan import batch_size_for, best_kept
from tfmoe.model.progress import metrics_line

TASKS = [tfmoe.Binary("click"), tfmoe.Regression("amount")]


class OneEpoch(keras.callbacks.EarlyStopping):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


def table(num_rows=600):
    random = np.random.default_rng(0)
    rows = pd.DataFrame(random.normal(size=(num_rows, 2)), columns=["x", "z"])
    rows["click"] = (rows["x"] > 0) * 1
    rows["amount"] = rows["z"] + 0.1 * random.normal(size=num_rows)
    return rows


def model_of(rows):
    schema = tfmoe.Schema([tfmoe.Numeric("x"), tfmoe.Numeric("z")], TASKS)
    keras.utils.set_random_seed(0)
    prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    model = tfmoe.MultiTaskModel(prep, tfmoe.MMoE(num_experts=2, hidden_units=(16,)))
    model.compile(keras.optimizers.Adam(0.03), jit_compile=False)
    return model


@pytest.mark.parametrize(
    ("num_rows", "expected"),
    [(1, 32), (6_000, 32), (12_000, 64), (100_000, 512), (400_000, 2048), (10**9, 4096)],
)
def test_a_batch_follows_from_the_number_of_rows(num_rows, expected):
    assert batch_size_for(num_rows) == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "frame"])
def test_raw_rows_train_until_validation_stops_improving(kind, tmp_path, capsys):
    rows = table()
    model = model_of(rows)
    source = rows
    if kind == "csv":
        source = tmp_path / "rows.csv"
        rows.to_csv(source, index=False)
    history = model.fit(source, verbose=2).history
    epochs, best = len(history["val_loss"]), int(np.argmin(history["val_loss"]))
    assert 5 < epochs <= 100
    assert best == epochs - 4 or epochs == 100
    assert model.best_epoch == best
    said = capsys.readouterr().out
    assert "600 rows in batches of 32; a tenth of them, drawn by seed 0, is for validation" in said
    assert "ends after 3 epochs without a better val_loss" in said
    logs = model.evaluate(rows, verbose=0)
    assert logs["click_auc"] > 0.98
    assert logs["amount_rmse"] < 0.4


@pytest.mark.parametrize(
    ("decay", "epochs", "parted", "expected"),
    [
        (keras.optimizers.schedules.PolynomialDecay(0.0, 31, 0.3), 100, False, 1),  # 19 a epoch
        (keras.optimizers.schedules.PolynomialDecay(0.0, 31, 0.3), 100, True, 1),  # 17
        (keras.optimizers.schedules.PolynomialDecay(0.0, 35, 0.3), 100, False, 1),
        (keras.optimizers.schedules.PolynomialDecay(0.0, 35, 0.3), 100, True, 2),
        # The last epoch is kept, where none is one of a gate that has decided.
        (keras.optimizers.schedules.PolynomialDecay(0.0, 9000, 0.3), 7, False, 6),
        (keras.optimizers.schedules.ExponentialDecay(0.3, 9000, 0.9), 7, False, 0),
        (0.3, 7, False, 0),
    ],
)
def test_epochs_count_from_the_one_in_which_gates_have_decided(decay, epochs, parted, expected):
    rows = table()
    schema = tfmoe.Schema([tfmoe.Numeric("x")], TASKS)
    gate = tfmoe.DSelectKGate(num_nonzeros=1, entropy_reg=decay)
    prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    model = tfmoe.MultiTaskModel(prep, tfmoe.MMoE(2, 4, (4,), gate))
    stopping = best_kept(model, rows, 32, 3, epochs, parted)
    assert stopping.start_from_epoch == expected
    assert best_kept(model, rows, 32, 3, epochs, parted, num_rows=0).start_from_epoch == 0


@pytest.mark.slow
def test_an_undecided_gate_ends_with_the_weights_that_fit_tells():
    rows = table(200)
    schema = tfmoe.Schema([tfmoe.Numeric("x")], TASKS)
    gate = tfmoe.DSelectKGate(
        num_nonzeros=1, entropy_reg=keras.optimizers.schedules.PolynomialDecay(0.0, 12, 0.3)
    )
    prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    model = tfmoe.MultiTaskModel(prep, tfmoe.MMoE(num_experts=4, hidden_units=(4,), gate=gate))
    model.compile(keras.optimizers.Adam(0.03), jit_compile=False)
    for first in (1, 0):  # 12 steps are two epochs of six; the second training goes on decided
        losses = model.fit(rows, verbose=0).history["val_loss"]
        assert ("count from 2 on" in model.plan) == bool(first)
        assert model.best_epoch == first + int(np.argmin(losses[first:]))


@pytest.mark.slow
def test_what_is_given_is_kept():
    rows = table()
    model = model_of(rows)
    history = model.fit(rows, epochs=2, batch_size=100, verbose=0).history
    assert len(history["loss"]) == 2
    assert "val_loss" not in history
    assert int(model.optimizer.iterations) == 12
    history = model.fit(rows[:500], validation_data=rows[500:], patience=0, verbose=0).history
    assert len(history["val_loss"]) > 1
    assert model.best_epoch == int(np.argmin(history["val_loss"]))
    own = OneEpoch("val_loss")
    assert len(model.fit(rows, callbacks=[own], verbose=0).history["loss"]) == 1
    assert model.best_epoch is None


@pytest.mark.slow
def test_arrays_datasets_and_few_rows_have_the_defaults_of_keras():
    rows = table()
    model = model_of(rows)
    for given in (model.preprocessor.arrays(rows), model.preprocessor.dataset(rows), rows[:50]):
        history = model.fit(given, verbose=0).history
        assert len(history["loss"]) == 1
        assert "val_loss" not in history


@pytest.mark.slow
def test_the_part_held_out_follows_from_the_seed():
    rows = table(120)
    first, same, other = (
        model_of(rows).fit(rows, patience=0, verbose=0, seed=seed).history["val_loss"][0]
        for seed in (0, 0, 1)
    )
    assert first == pytest.approx(same, rel=1e-5)
    assert abs(first - other) > 1e-4


@pytest.mark.slow
def test_a_training_of_few_steps_is_told():
    rows = table()
    model = model_of(rows)
    with pytest.warns(UserWarning, match="trained for 6 steps, and rarely learns much"):
        model.fit(model.preprocessor.dataset(rows, batch_size=100), verbose=0)


@pytest.mark.slow
def test_rows_may_be_files_dicts_and_lists_of_dicts(tmp_path):
    rows = table()
    model = model_of(rows)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    expected = model.predict(rows, verbose=0)["amount"]
    from_file = model.predict(tmp_path / "rows.csv", verbose=0)["amount"]
    np.testing.assert_allclose(from_file, expected, rtol=1e-5)
    one = model.predict({"x": rows["x"][3], "z": rows["z"][3]}, verbose=0)["amount"]
    some = model.predict(rows[["x", "z"]][3:5].to_dict("records"), verbose=0)["amount"]
    np.testing.assert_allclose(one, expected[3:4], rtol=1e-5)
    np.testing.assert_allclose(some, expected[3:5], rtol=1e-5)
    logs = model.evaluate(str(tmp_path / "rows.csv"), verbose=0)
    assert logs["click_auc"] == pytest.approx(model.evaluate(rows, verbose=0)["click_auc"])


@pytest.mark.slow
def test_progress_is_a_bar_with_losses_and_a_line_of_metrics(capsys):
    rows = table()
    model = model_of(rows)
    model.fit(rows, epochs=1, validation_data=rows, verbose=2)
    said = capsys.readouterr().out
    assert "click_log_loss" not in said
    assert "val_loss" in said
    assert "val_click_auc" in said
    assert max(map(len, said.splitlines())) <= 120


def logs_of(num_tasks, kind="auc"):
    return {f"task{i}_{kind}": 0.5 + i / 1000 for i in range(num_tasks)}


def test_a_line_has_each_of_few_tasks_and_the_means_of_many():
    tasks = [tfmoe.Binary(f"task{i}") for i in range(139)]
    few = metrics_line(tasks[:2], logs_of(2), 80)
    assert few == "task0_auc 0.5  task1_auc 0.501"
    many = metrics_line(tasks, logs_of(139), 80)
    assert many == "auc 0.569, mean of 139, worst task0 0.5, task1 0.501"
    for width in (20, 40, 60, 80):
        assert len(metrics_line(tasks, logs_of(139), width)) <= width
    errors = [tfmoe.Regression(f"task{i}") for i in range(9)]
    line = metrics_line(errors, {f"val_{n}": v for n, v in logs_of(9, "rmse").items()}, 80)
    assert line == "val_rmse 0.504, mean of 9, worst task8 0.508, task7 0.507"
