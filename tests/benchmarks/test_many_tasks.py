"""The models of `many_tasks` cost what is said, and are what their settings say."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from benchmarks import claims, many_tasks, search
from benchmarks import many_tasks_models as models
from benchmarks.gate_choices import DSELECT_K, NOISY_TOP_K, TOP_K
from benchmarks.many_tasks_tables import table as table_of
from tfmoe.optimizers import ByPart

EXPERTS, UNITS, CHOSEN = 6, 8, 2
BOTTOMS = (models.SINGLE, models.SHARED, models.WIDE, models.JOINED)
TABLES = ("delicious", "school")


def build(name, where, **more):
    """A model, its table, and the cell that it is of."""
    table = table_of(True, where)
    cell = {"model": name, "experts": EXPERTS, "units": UNITS, "chosen": CHOSEN}
    cell |= search.drawn(many_tasks.space_of(name), trial=1, number=16) | more
    return models.build(models.structure_of(cell, table, 10), table), table, cell


def experts_and_towers(where):
    built, _, _ = build(models.DENSE, where)
    return built.structure.experts.count_params() + built.towers.count_params()


@pytest.mark.parametrize("where", TABLES)
@pytest.mark.parametrize("name", [models.SINGLE, models.SHARED])
def test_bottoms_have_the_parameters_of_experts_and_towers(name, where):
    within = experts_and_towers(where)
    built, table, _ = build(name, where)
    assert built.model.count_params() <= within
    # One unit more, of each task's network or of the one of all, would be too much.
    units = table.tasks if name == models.SINGLE else 1
    networks = 1 if name == models.SINGLE else table.tasks
    wider = built.model.count_params() + units * (table.size + 1 + networks)
    assert wider > within


@pytest.mark.parametrize("where", TABLES)
def test_the_wide_bottom_costs_what_an_mmoe_costs(where):
    dense, table, _ = build(models.DENSE, where)
    most, _ = models.multiplications(dense, table, 1, 1)  # all experts, whatever their weight
    wide, _, _ = build(models.WIDE, where)
    cost, _ = models.multiplications(wide, table, 1, 1)
    told = 1 if where == "school" else table.tasks
    assert cost <= most < cost + table.size + told


def test_the_joined_network_costs_what_the_experts_do():
    joined, table, _ = build(models.JOINED, "delicious")
    cost, _ = models.multiplications(joined, table, 1, 1)
    assert cost == EXPERTS * UNITS * (table.size + table.tasks)


@pytest.mark.parametrize("where", TABLES)
@pytest.mark.parametrize("router", ["static", "linear"])
def test_multiplications_are_the_kernels_that_a_row_meets(router, where):
    built, table, _ = build(TOP_K, where, router=router)
    told = 1 if where == "school" else table.tasks
    expert = sum(math.prod(kernel.shape[1:]) for kernel in built.structure.experts.kernels)
    gate = 0
    if router == "linear":
        gate = math.prod(built.structure.gate.head.kernel.shape) // table.tasks
    whole, one = models.multiplications(built, table, CHOSEN, 3.5)
    assert whole == 3.5 * expert + told * (gate + CHOSEN * UNITS + UNITS)
    assert one == CHOSEN * expert + gate + CHOSEN * UNITS + UNITS


def test_one_gate_for_all_tasks_is_counted_once():
    built, table, _ = build(models.ONE_TOP_K, "delicious")
    whole, one = models.multiplications(built, table, CHOSEN, CHOSEN)
    shared = CHOSEN * table.size * UNITS + table.size * EXPERTS + CHOSEN * UNITS
    assert (whole, one) == (shared + table.tasks * UNITS, shared + UNITS)
    assert built.structure.dispatch == "sparse"


@pytest.mark.parametrize("where", TABLES)
@pytest.mark.parametrize("router", ["static", "linear"])
def test_used_experts_are_those_with_weight(router, where):
    built, table, _ = build(TOP_K, where, router=router)
    of_task, of_row = models.use_of(built, table)
    assert of_task == CHOSEN
    assert CHOSEN <= of_row <= (CHOSEN if where == "school" else EXPERTS)
    assert models.use_of(build(models.SHARED, where)[0], table) == (1, 1)
    dense, _, _ = build(models.DENSE, where, temperature=1.0)
    assert models.use_of(dense, table) == (EXPERTS, EXPERTS)


@pytest.mark.parametrize("where", TABLES)
@pytest.mark.parametrize("name", [*BOTTOMS, models.DENSE, models.ONE_TOP_K])
def test_towers_read_what_a_loop_would(name, where):
    built, table, _ = build(name, where)
    inputs = {key: values[:9] for key, values in table.test[0].items()}
    task = inputs.get("task")
    if isinstance(built.structure, models.Experts):
        hidden = ops.convert_to_numpy(built.structure(inputs["x"]))
        hidden = np.broadcast_to(hidden, (9, table.tasks, hidden.shape[-1]))
    else:
        per_task = built.structure(inputs["x"])
        hidden = ops.convert_to_numpy(per_task)
    kernel, bias = (ops.convert_to_numpy(w) for w in (built.towers.kernel, built.towers.bias))
    tasks = [range(table.tasks) if task is None else [task[i]] for i in range(9)]
    expected = [
        [hidden[i, t] @ kernel[t] + bias[t] for t in of_row] for i, of_row in enumerate(tasks)
    ]
    np.testing.assert_allclose(built.model(inputs), expected, atol=1e-5)


def test_the_gate_of_dselect_k_has_a_rate_of_its_own():
    built, table, cell = build(DSELECT_K, "delicious")
    optimizer = models.compiled(built, cell, table).optimizer
    assert isinstance(optimizer, ByPart)
    assert float(optimizer.parts["rest"].learning_rate) == pytest.approx(cell["learning_rate"])
    own = cell["learning_rate"] * cell["gate_rate"]
    assert float(optimizer.parts["gates"].learning_rate) == pytest.approx(own)
    gates = {id(one) for one in built.structure.gate.trainable_variables}
    groups = optimizer.grouped(built.model.trainable_variables)
    assert {id(one) for one in groups["gates"]} == gates != set()
    built, table, cell = build(NOISY_TOP_K, "delicious")
    assert "gate_rate" not in cell
    assert not isinstance(models.compiled(built, cell, table).optimizer, ByPart)


@pytest.mark.parametrize("where", TABLES)
def test_scores_are_those_of_a_loop(where, monkeypatch):
    from sklearn.metrics import roc_auc_score

    built, table, _ = build(models.SHARED, where)
    found = models.scores_of(built, table)
    said = ops.convert_to_numpy(built.model(table.test[0])).astype("float64")
    labels = table.test[1].astype("float64")
    if where == "school":
        left = np.sum((said - labels) ** 2) / np.sum((labels - labels.mean()) ** 2)
        assert found["score"] == pytest.approx(1 - left)
        assert found["rmse"] == pytest.approx(np.sqrt(np.mean((said - labels) ** 2)))
    else:
        aucs = [roc_auc_score(labels[:, t], said[:, t]) for t in range(table.tasks)]
        assert found["score"] == pytest.approx(np.mean(aucs))
        logits = built.model(table.valid[0])
        loss = keras.losses.BinaryCrossentropy(from_logits=True)(table.valid[1], logits)
        assert found["valid"] == pytest.approx(float(loss), rel=1e-5)
    built.towers.bias.assign(built.towers.bias * np.nan)
    assert models.scores_of(built, table) == {"valid": math.inf, "score": 0.0}


def test_rows_say_what_was_run():
    assert many_tasks._runs("school", (4,)) == 7 * (16 + 4 + 20)
    assert many_tasks._runs(many_tasks.COMPUTE, (4, 8)) == 4 * 2 * (8 + 5)
    own = [claim for claim in claims.CLAIMS if claim.study == "many_tasks"]
    tests = [test for claim in own for test in claim.cases[0].family]
    assert len({(test.rival, test.where["set"]) for test in tests}) == 6
    assert {test.rival for test in tests} <= set(many_tasks.MODELS)
    assert {test.where["set"] for test in tests} == set(many_tasks.TABLES)


def test_floors_are_what_their_names_say():
    (_, bayes), *more = many_tasks.floors(True, "delicious")
    assert not more
    # Each of the made-up tags is whether a number is positive.
    assert bayes == 1
    table = table_of(True, "school")
    found = dict(many_tasks.floors(True, "school"))
    (train, labels), (test, expected) = table.train, table.test
    means = [labels[train["task"] == task].mean() for task in test["task"]]
    left = np.mean((np.array(means) - expected[:, 0]) ** 2) / np.var(expected)
    assert found["school means"] == pytest.approx(1 - left, abs=1e-5)
    assert 0.9 < found["linear"] < 1
