"""Gradients of tasks against finite differences, and what is made of them."""

import io
import os
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import tfmoe
from tests.oracles.consoles import shown
from tfmoe.model.task_gradients import TaskLosses, cosines, shared
from tfmoe.reports.conflict import conflict_table, pairs


def table(num_rows=120, seed=0):
    random = np.random.default_rng(seed)
    rows = pd.DataFrame({"age": random.normal(size=num_rows).astype("float32")})
    rows["city"] = random.integers(0, 4, num_rows)
    rows["click"] = (rows["age"] > 0) * 1.0
    rows.loc[::3, "click"] = np.nan
    rows["stars"] = rows["age"] * 2 + rows["city"]
    rows["against"] = -rows["stars"]
    rows["market"] = random.choice(["click", "buy"], num_rows)
    rows["weight"] = random.integers(0, 3, num_rows)
    return rows


COLUMNS = [
    tfmoe.Numeric("age", transform="none"),
    tfmoe.Categorical("city", hash_buckets=7, dim=3),
]
TASKS = [
    tfmoe.Binary("click"),
    tfmoe.Regression("stars", standardize=False, weight=0.25),
    tfmoe.Regression("against", standardize=False),
]


def made(tasks=TASKS, mixture=None, **options):
    keras.utils.set_random_seed(0)
    schema = tfmoe.Schema(COLUMNS, tasks, weight_column="weight", **options)
    mixture = mixture or tfmoe.MMoE(num_experts=2, hidden_units=(5,))
    model = tfmoe.MultiTaskModel(schema, mixture, tower_units=(4,))
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    return model


PER_ROW = {
    "tasks": [tfmoe.Binary("click"), tfmoe.Binary("buy", source="click")],
    "task_column": "market",
}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, PER_ROW], ids=["joint", "per row"])
def test_gradients_are_those_of_finite_differences(options):
    model = made(**options)
    arrays = model.preprocessor.arrays(table())
    losses = TaskLosses(model)
    found, _, gradients = losses.jacobian(arrays)
    logs = model.evaluate(*arrays, batch_size=200, verbose=0)
    expected = [logs[f"{name}_loss"] for name in losses.names]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    start = losses.flat()
    np.testing.assert_allclose(losses.at(start, arrays), found, rtol=1e-6)
    # A direction at a time, for a single parameter's change is lost in float32.
    random = np.random.default_rng(0)
    for _ in range(5):
        direction = random.normal(size=start.shape).astype("float32")
        ahead, behind = (losses.at(start + s * 3e-4 * direction, arrays) for s in (1, -1))
        slope = (ahead - behind) / 6e-4
        np.testing.assert_allclose(gradients @ direction, slope, rtol=0.02, atol=0.03)


def test_only_what_two_tasks_depend_on_is_shared():
    model = made()
    losses = TaskLosses(model)
    *_, gradients = losses.jacobian(model.preprocessor.arrays(table()))
    common, start = shared(gradients), 0
    for variable in losses.variables:
        stop = start + int(np.prod(variable.shape))
        own = common[start:stop]
        if "towers" in variable.path or "gate" in variable.path:
            assert not own.any(), variable.path
        elif "experts" in variable.path and "bias" not in variable.path:
            assert own.any(), variable.path
        start = stop
    assert start == len(common)
    tables = TaskLosses(model, tables=False)
    left = {v.path for v in losses.variables} - {v.path for v in tables.variables}
    assert left
    assert all("encoder" in path for path in left)


def test_cosines_are_those_of_a_loop():
    gradients = np.array([[1.0, 2, 0], [-2, -4, 0], [2, -1, 0], [0, 0, 0]])
    found = cosines(gradients)
    for i, one in enumerate(gradients[:3]):
        for j, other in enumerate(gradients[:3]):
            expected = one @ other / np.sqrt((one @ one) * (other @ other))
            assert found[i, j] == pytest.approx(expected)
    assert np.isnan(found[3]).all()


def test_opposite_labels_are_in_conflict_and_nothing_changes():
    model, rows = made(mixture=tfmoe.SharedBottom(hidden_units=(6,))), table()
    # Both towers alike: what pulls one up pushes the other down.
    for weight in model.towers.trainable_variables:
        values = weight.numpy()
        values[2] = values[1]
        weight.assign(values)
    before = [v.numpy() for v in model.variables]
    found = tfmoe.gradient_conflict(model, rows, batch_size=50)
    assert list(found) == list(found.index) == ["click", "stars", "against"]
    np.testing.assert_allclose(np.diag(found), 1, rtol=1e-6)
    assert found.loc["stars", "against"] < -0.9
    np.testing.assert_allclose(found, found.T)
    affinity = tfmoe.task_affinity(model, rows)
    assert affinity.loc["stars", "against"] < 0 < affinity.loc["stars", "stars"]
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy(), err_msg=variable.path)
    whole = tfmoe.gradient_conflict(model, rows)
    pd.testing.assert_frame_equal(whole, found, atol=1e-4)
    # The last rows alone have a label, so that batches have very different shares of them.
    late = rows.assign(click=rows["click"].where(np.arange(len(rows)) > 90))
    found = tfmoe.gradient_conflict(model, late, batch_size=25)
    pd.testing.assert_frame_equal(tfmoe.gradient_conflict(model, late), found, atol=1e-4)
    rows["click"] = np.nan
    found = tfmoe.gradient_conflict(model, rows)
    assert found["click"].isna().all()
    assert found.loc["stars", "against"] < -0.9


def test_affinity_is_that_of_a_step_that_is_taken():
    model, rows = made(), table()
    arrays = model.preprocessor.arrays(rows)
    affinity = tfmoe.task_affinity(model, arrays, step=0.05)
    losses = TaskLosses(model)
    before, _, gradients = losses.jacobian(arrays)
    common, start = shared(gradients), losses.flat()
    gradient = np.where(common, gradients[1], 0)
    length = 0.05 * np.linalg.norm(start[common])
    moved = start - length * gradient / np.linalg.norm(gradient)
    at = 0
    for variable in losses.variables:
        stop = at + int(np.prod(variable.shape))
        variable.assign(moved[at:stop].reshape(variable.shape))
        at = stop
    logs = model.evaluate(*arrays, batch_size=200, verbose=0)
    for j, name in enumerate(losses.names):
        expected = 1 - logs[f"{name}_loss"] / before[j]
        assert affinity.loc["stars", name] == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_a_callback_keeps_the_cosines_of_every_epoch(tmp_path):
    model, rows = made(), table()
    out = io.StringIO()
    report = tfmoe.GradientReport(rows, every=2, console=Console(file=out, width=80))
    options = {"batch_size": 60, "verbose": 0}
    model.fit(rows, epochs=4, callbacks=[report], **options)
    assert list(report.history) == [2, 4]
    assert len(report.frame) == 2 * 3
    expected = tfmoe.gradient_conflict(model, rows, num_rows=1024)
    pd.testing.assert_frame_equal(report.history[4], expected)
    assert out.getvalue() == ""  # as quiet as `fit`
    plain = made()
    plain.fit(rows, epochs=4, **options)
    for one, other in zip(model.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    tfmoe.draw_conflict(report.frame, tmp_path / "conflict.png")
    with pytest.raises(FileExistsError):
        tfmoe.draw_conflict(report.frame, tmp_path / "conflict.png")
    with pytest.raises(ValueError, match="empty frame"):
        tfmoe.draw_conflict(report.frame[:0], tmp_path / "none.png")


def test_the_table_shows_the_worst_pairs():
    names = [f"a_task_of_a_rather_long_name_{i}" for i in range(6)]
    values = np.random.default_rng(0).uniform(-1, 1, (6, 6))
    frame = pd.DataFrame((values + values.T) / 2, index=names, columns=names)
    text = shown(conflict_table(frame, "Gradients after epoch 3"))
    assert "…" not in text
    lowest = sorted(cosine for *_, cosine in pairs(frame))[:8]
    assert all(f"{cosine:+.3f}" in text for cosine in lowest)
    assert "of 15 pairs in conflict" in text


def test_what_cannot_be_is_told():
    model, rows = made(), table()
    with pytest.raises(ValueError, match="above 0"):
        tfmoe.task_affinity(model, rows, step=0)
    bare = tfmoe.extract(model, ["click", "stars"])
    with pytest.raises(ValueError, match=r"Call model.compile\(\)"):
        tfmoe.gradient_conflict(bare, rows)
    with pytest.raises(ValueError, match="no schema"):
        TaskLosses(keras.Sequential())


@pytest.mark.slow
def test_jax_finds_the_same():
    code = (
        "import keras, numpy as np, tests.reports.test_conflict as t, tfmoe\n"
        "model = t.made()\n"
        "for i, v in enumerate(model.weights):\n"
        "    v.assign(np.random.default_rng(i).normal(size=v.shape) * 0.3)\n"
        "found = tfmoe.gradient_conflict(model, t.table())\n"
        "print(*found.to_numpy().ravel())"
    )
    numbers = []
    for backend in ("tensorflow", "jax"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "KERAS_BACKEND": backend},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        numbers.append(np.array(done.stdout.split(), float))
    np.testing.assert_allclose(*numbers, rtol=1e-4, atol=1e-4)
