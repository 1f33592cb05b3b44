"""`loss` and `val_loss`: the tasks' losses over all rows, however these are cut into batches."""

import dataclasses

import keras
import numpy as np
import pandas as pd
import pytest

import tfmoe

WEIGHT = 2.0
TASKS = [tfmoe.Binary("click"), tfmoe.Regression("stars", weight=WEIGHT), tfmoe.Binary("late")]
BOTTOM = tfmoe.SharedBottom(hidden_units=(4,))
# Of its gradients those of parameters are combined.
CGC = tfmoe.CGC(num_task_experts=1, num_shared_experts=1, hidden_units=(4,))
EACH = [(BOTTOM, None), (BOTTOM, "uncertainty"), (CGC, "mgda"), (CGC, "famo")]


def table(num=90):
    """Few rows have stars, and of `late` the first ones alone have a label."""
    rng = np.random.default_rng(0)
    stars = np.where(rng.random(num) < 0.9, np.nan, 3 + rng.normal(size=num))
    stars[:2] = 1.0, 5.0
    late = np.where(np.arange(num) < 20, rng.integers(0, 2, num), np.nan)
    click = rng.integers(0, 2, num)
    x = rng.normal(size=num)
    return pd.DataFrame({"x": x, "click": click, "stars": stars, "late": late})


def compiled(structure, weighting, rows, schema=None):
    schema = schema or tfmoe.Schema([tfmoe.Numeric("x")], TASKS)
    keras.utils.set_random_seed(0)
    prep = tfmoe.Preprocessor(schema).fit(rows)
    model = tfmoe.MultiTaskModel(prep, structure, kernel_regularizer=keras.regularizers.L2(0.1))
    # Nothing is learnt, so that each batch of an epoch is of the same model.
    model.compile(keras.optimizers.SGD(0.0), weighting=weighting, jit_compile=False)
    return model


def log_loss(label, chance):
    return np.mean(-np.where(label == 1, np.log(chance), np.log1p(-chance)))


@pytest.mark.parametrize(("structure", "weighting"), EACH)
def test_loss_does_not_depend_on_the_batches(structure, weighting):
    rows = table()
    model = compiled(structure, weighting, rows)
    found = model.predict(rows, verbose=0)
    std = np.nanstd(rows["stars"])
    expected = sum(float(loss) for loss in model.losses)
    for name in ("click", "late"):
        there = rows[name].notna().to_numpy()
        expected += log_loss(rows[name][there], found[name][there].astype("float64"))
    expected += WEIGHT * np.nanmean(((found["stars"] - rows["stars"]) / std) ** 2)
    for size in (7, 90):
        history = model.fit(
            rows, batch_size=size, epochs=1, validation_data=rows, shuffle=False, verbose=0
        ).history
        assert history["loss"] == pytest.approx([expected], rel=1e-4)
        assert history["val_loss"] == pytest.approx([expected], rel=1e-4)
        logs = model.evaluate(rows, batch_size=size, verbose=0)
        assert logs["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("weighting", [None, "uncertainty"])
def test_rows_of_one_task_count_by_their_number(weighting):
    rows = table()
    names = [task.name for task in TASKS]
    rows = rows.melt(["x"], names, "task", "label")
    rows = rows.sort_values("task", kind="stable")  # batches differ in which tasks they have
    tasks = [dataclasses.replace(task, source="label") for task in TASKS]
    schema = tfmoe.Schema([tfmoe.Numeric("x")], tasks, task_column="task")
    model = compiled(BOTTOM, weighting, rows, schema)
    sizes = rows.dropna().groupby("task").size()
    for size in (7, 270):
        logs = model.evaluate(rows, batch_size=size, verbose=0)
        own = sum(
            task.weight * sizes[task.name] * logs[f"{task.name}_loss"] for task in TASKS
        ) / sum(sizes[name] for name in names)
        expected = own + sum(float(loss) for loss in model.losses)
        assert logs["loss"] == pytest.approx(expected, rel=1e-5)
        trained = model.fit(rows, batch_size=size, epochs=1, verbose=0, validation_data=rows)
        assert trained.history["loss"] == pytest.approx([expected], rel=1e-4)


def test_losses_of_gates_are_means_of_batches():
    rows = table()
    gate = tfmoe.DSelectKGate(num_nonzeros=1, entropy_reg=0.5)
    structure = tfmoe.MMoE(num_experts=3, hidden_units=(4,), gate=gate)
    model = compiled(structure, None, rows)
    others = []
    for start in range(0, 90, 40):
        features = model.preprocessor.arrays(rows[start : start + 40], labels=False)
        model.forward_pass(features, training=True)
        others.append(sum(float(loss) for loss in model.losses))
    history = model.fit(
        rows, batch_size=40, epochs=1, validation_data=rows, shuffle=False, verbose=0
    ).history
    tasks = sum(task.weight * history[f"{task.name}_loss"][0] for task in TASKS)
    expected = tasks + np.average(others, weights=[40, 40, 10])
    assert history["loss"] == pytest.approx([expected], rel=1e-4)
