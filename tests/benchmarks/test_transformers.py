"""Tokens, contestants and claims of the study of transformers."""

import math

import keras
import numpy as np
import pandas as pd
import pytest
from keras import ops

import tfmoe
from benchmarks import claims, transformers, transformers_tables
from benchmarks import transformers_models as models
from benchmarks.transformers_models import COMPUTE, MOD_SQUAD, PARAMETERS, PLAIN, SINGLE
from benchmarks.worlds import WORLDS

TASKS, COLUMNS = 3, 3
SIZES = {"tasks": TASKS, "steps": 4, "batch_size": 5, "learning_rate": 0.01, "seed": 0}


@pytest.fixture
def table():
    return transformers_tables.made_up(TASKS, 12, 4, 8)


def parts_of(block):
    """Shapes of the weights of a block's experts."""
    return [
        tuple(weight.shape) for layer in (block.attention, block.mlp) for weight in layer.weights
    ]


def built(name):
    structure = models.structure_of(name, TASKS)
    structure.build(((None, 5, models.DIM), (None, 5)))
    return structure.blocks[0]


def test_a_token_costs_the_same_and_a_wide_one_has_as_many_weights():
    mixture, shared, wide = (built(name) for name in (MOD_SQUAD, COMPUTE, PARAMETERS))
    assert parts_of(wide) == parts_of(mixture) == parts_of(built(PLAIN))
    assert mixture.num_chosen == shared.num_experts == models.CHOSEN
    for layer in ("attention", "mlp"):
        sizes = [
            math.prod(getattr(block, layer).weights[0].shape[1:]) for block in (mixture, shared)
        ]
        assert sizes[0] == sizes[1]
    assert parts_of(built(SINGLE)) == parts_of(shared)


def test_every_expert_has_a_weight_of_one():
    gate = models.EveryExpert(num_tasks=2, num_experts=3)
    assert ops.convert_to_numpy(gate(np.ones((4, 5)))).tolist() == np.ones((4, 2, 3)).tolist()


def test_columns_become_tokens(monkeypatch):
    schema = tfmoe.Schema(
        [tfmoe.Categorical("job"), tfmoe.Numeric("age")],
        [tfmoe.Binary("a", source="label"), tfmoe.Binary("b", source="label")],
        task_column="task",
    )

    def frame(jobs, ages):
        task = ["a", "b"] * (len(jobs) // 2)
        return pd.DataFrame({"job": jobs, "age": ages, "task": task, "label": 1.0})

    train = frame(["x", "y", "y", None], [0.0, 1.0, 2.0, 3.0])
    valid = frame(["z", "x", "y", "y"], [np.nan, -5.0, 9.0, 1.2])
    split = tfmoe.data.Split(train, valid, valid, schema)
    made = {}

    def make(seed, rows, num_test_rows):
        made.update(seed=seed, rows=rows, num=num_test_rows)
        return split

    world = WORLDS["census"]._replace(tasks=("a", "b"), make=make)
    monkeypatch.setitem(transformers_tables.WORLDS, "census", world)
    monkeypatch.setattr(transformers_tables, "BINS", 2)
    found = transformers_tables.table(2, 2, 1, 7, seed=3)
    assert made == {"seed": 3, "rows": {"a": 2, "b": 2}, "num": 7}
    # Jobs: 0 for what was not seen, x 1, y 2. Ages: 3, 4 below 1.5, 5 above.
    assert found.tokens == 6
    assert found.train.x.tolist() == [[1, 4], [2, 4], [2, 5], [0, 5]]
    assert found.test.x.tolist() == [[0, 3], [1, 4], [2, 5], [2, 4]]
    assert found.valid.x.tolist() == found.test.x[:2].tolist()
    assert found.train.task.tolist() == [0, 1, 0, 1]
    alone = found.test.of(1)
    assert (alone.x.tolist(), alone.task.tolist()) == ([[1, 4], [2, 4]], [0, 0])


@pytest.mark.parametrize(("tasks", "steps"), [(4, 500), (8, 250), (12, 160)])
def test_single_tasks_share_the_steps(tasks, steps, table):
    cell = SIZES | {"model": SINGLE, "tasks": tasks, "steps": 2000}
    model, _ = models.build(cell, table.tokens, COLUMNS, 1)
    models.learn(model, cell, table.train.of(0), table.valid.of(0))
    assert int(model.optimizer.iterations) == steps


@pytest.mark.parametrize("name", [MOD_SQUAD, SINGLE])
def test_a_run(name, table):
    cell = SIZES | {"model": name} | ({"weight": 0.1} if name == MOD_SQUAD else {})
    found = models.one_run(table, cell)
    assert math.isfinite(found["valid"])
    assert 0 <= found["score"] == found["common"] <= 1
    assert ("information" in found) == (name == MOD_SQUAD)


def test_the_loss_and_the_information_are_of_both_gates(table):
    cell = SIZES | {"model": MOD_SQUAD, "weight": 0.5}
    keras.utils.set_random_seed(0)
    model, squad = models.build(cell, table.tokens, COLUMNS, TASKS)
    inputs = {"x": table.test.x, "task": table.test.task}
    model(inputs, training=True)
    losses = [float(loss) for loss in squad.losses]
    assert len(losses) == 2
    tokens = model.layers[1](inputs["x"])
    _, records = squad.structure(
        (tokens, models.everywhere(tokens)), task=inputs["task"], return_aux=True
    )
    expected = []
    for record in records:
        shares = ops.convert_to_numpy(record.probabilities)[:, 0]
        of_row = shares.reshape(len(inputs["task"]), COLUMNS, -1).sum(axis=1)
        joint = np.stack([of_row[inputs["task"] == task].sum(axis=0) for task in range(TASKS)])
        joint /= joint.sum()
        apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
        expected.append(np.sum(joint * np.log(joint / apart)))
    np.testing.assert_allclose(losses, -0.5 * np.array(expected), rtol=1e-3)
    found = models.information(model, squad, table.test)
    assert found == pytest.approx(np.mean(expected) / np.log(TASKS), rel=1e-3)


def test_single_tasks_start_alike_and_know_nothing_of_each_other(table):
    # Both tasks have the rows of the first: what is learned must be the same.
    first = [part.of(0) for part in table[:3]]
    twice = [
        transformers_tables.Part(
            np.concatenate([part.x] * 2),
            np.repeat(np.arange(2, dtype="int32"), len(part.y)),
            np.concatenate([part.y] * 2),
        )
        for part in first
    ]
    both = transformers_tables.Table(*twice, table.tokens)
    cell = SIZES | {"model": SINGLE, "tasks": 2, "steps": 6}
    keras.utils.set_random_seed(0)
    model, _ = models.build(cell, table.tokens, COLUMNS, 1)
    _, logits = models._each_alone(model, both, cell)
    halves = np.split(logits, 2)
    np.testing.assert_allclose(*halves, atol=1e-5)
    assert np.ptp(halves[0]) > 0


def test_a_whole_study_decides_its_claims(tmp_path, monkeypatch):
    cells = []

    def one_run(quick, cell):
        cells.append(cell)
        rng = np.random.default_rng([cell["seed"], len(cell["model"]), cell["tasks"]])
        scores = {"score": rng.random(), "common": rng.random(), "valid": rng.random()}
        return scores | ({"information": 0.5} if cell["model"] in (MOD_SQUAD, PLAIN) else {})

    monkeypatch.setattr(transformers, "one_run", one_run)
    rows = transformers.run(False)
    assert len(cells) == 2 * 4 * (3 * 10 + 4) + (4 + 10) + 2 * 10
    own = [claim for claim in claims.CLAIMS if claim.study == "transformers"]
    assert len(own) == 6
    assert all(" against " in claim.cases[0].find(rows).ours for claim in own)
    runs = {
        (cell["model"], cell["tasks"], cell["seed"]): one_run(False, cell)["common"]
        for cell in list(cells)
        if cell["rows"] == 600 and cell["seed"] < 10
    }
    gained = [
        runs[MOD_SQUAD, tasks, seed] - runs[COMPUTE, tasks, seed]
        for tasks in (4, 12)
        for seed in range(10)
    ]
    # Both numbers of rows have the same scores here.
    few, many = np.split(np.array(gained), 2)
    name = f"advantage over {COMPUTE}, "
    (row,) = [row for row in rows if row["name"] == f"{name}12 tasks - {name}4 tasks"]
    assert row["score"] == pytest.approx(np.mean(many - few))
    assert row["slope"] == pytest.approx(row["score"] / 8)
    transformers.draw(rows, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000
