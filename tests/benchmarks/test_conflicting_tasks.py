"""The worlds of `conflicting_tasks` conflict as said; its models cost, share and come as said."""

import functools
import itertools
import math

import keras
import numpy as np
import pytest
from keras import ops

from benchmarks import claims
from benchmarks import conflicting_added as added
from benchmarks import conflicting_models as models
from benchmarks import conflicting_tasks as study
from benchmarks import conflicting_worlds as worlds
from benchmarks.conflicting_models import BY_ROW, COMPUTE, PARAMETERS, SINGLE, TASK_AWARE
from benchmarks.conflicting_worlds import PERMUTED, ROTATED
from tfmoe.data import add_unrelated, grouped_tasks
from tfmoe.objectives.mutual_information import mutual_information

STAGES = (PERMUTED, ROTATED)
WORLD = functools.partial(worlds.world, sizes=(24, 10, 10), digits=3, quick=True)
CELL = {"experts": 6, "units": 4, "information": 0.5, "balance": 0.5, "rows": 24, "few": 6}
CELL |= {"learning_rate": 0.1, "own_rate": 0.1, "epochs": 1, "own_epochs": 1, "world": 0}
CELL |= {"seed": 1, "batch_size": 64, "own_batch_size": 8}


def build(name, world, stage=PERMUTED, tasks=None):
    cell = CELL | {"model": name, "set": stage}
    keras.utils.set_random_seed(0)
    return models.build(cell, world.features, tasks or world.tasks), cell


@pytest.mark.parametrize("stage", STAGES)
def test_unrelated_tasks_leave_the_others_as_they_are(stage):
    alone, beside = WORLD(stage, 3), WORLD(stage, 3, unrelated=2)
    assert (alone.tasks, beside.tasks) == (12, 14)
    assert sorted(target // 3 for target in alone.targets) == [0, 1, 2, 3]
    assert sorted((*alone.old, *alone.targets)) == list(range(12))
    assert (beside.old, beside.targets, beside.unrelated) == (alone.old, alone.targets, (12, 13))
    for part, other in zip(alone[:3], beside[:3], strict=True):
        np.testing.assert_array_equal(part.x, other.x[:12])
        np.testing.assert_array_equal(part.y, other.y[:12])
    assert not np.array_equal(WORLD(stage, 4).train.x, alone.train.x)


def test_a_group_has_an_order_of_pixels_of_its_own():
    pictures, digits = worlds._pictures(True)[0]
    world = WORLD(PERMUTED, 5, unrelated=1)
    orders = []
    for task in range(world.tasks):
        x, y = world.train.x[task], world.train.y[task]
        assert y.mean() == 0.5
        # Pictures are told by what they have of each brightness.
        known = {tuple(np.sort(picture)): number for number, picture in enumerate(pictures)}
        found = [known[tuple(np.sort(row))] for row in x]
        if task < 12:
            np.testing.assert_array_equal(digits[found] == task % 3, y == 1)
        else:
            assert not set(digits[found][y == 1]) & set(digits[found][y == 0])
        orders.append(tuple(np.flatnonzero(x[0] == value)[0] for value in pictures[found[0]]))
    assert [orders.index(order) // 3 for order in orders] == [*np.repeat(range(4), 3), 4]


def test_a_group_sees_the_same_functions_turned():
    world = WORLD(ROTATED, 6, unrelated=1)
    made = add_unrelated(grouped_tasks(12, 4, 4, 10, num_rows=240, seed=6), 1, seed=6)
    x, y = made.train
    norms = np.sum(x**2, axis=1)
    turns = []
    for task in range(world.tasks):
        seen = world.train.x[task]
        found = [int(np.argmin(np.abs(norms - norm))) for norm in np.sum(seen**2, axis=1)]
        np.testing.assert_allclose(world.train.y[task], y[found, task], atol=1e-6)
        turns.append(np.linalg.pinv(x[found]) @ seen)
    for turn, other in itertools.pairwise(turns[:3]):
        np.testing.assert_allclose(turn, other, atol=1e-3)
    np.testing.assert_allclose(turns[0] @ turns[0].T, np.eye(10), atol=1e-3)
    assert not np.allclose(turns[0], turns[3], atol=0.1)
    assert not np.allclose(turns[11], turns[12], atol=0.1)


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", [*study.TOGETHER, SINGLE])
def test_models_cost_what_is_said(name):
    world = WORLD(PERMUTED, 0)
    built, cell = build(name, world)
    width = models.width_of(name, world.features, cell["units"], cell["experts"])
    tasks, chosen = world.tasks, models.CHOSEN
    kernels = [weight for weight in built.model.trainable_variables if "kernel" in weight.path]
    gate = sum(math.prod(kernel.shape) for kernel in kernels if "gate" in kernel.path)
    networks = [kernel for kernel in kernels if "gate" not in kernel.path]
    # Of each network or tower what is a task's or an expert's.
    products = sum(math.prod(kernel.shape[1:]) for kernel in networks)
    if name in (TASK_AWARE, BY_ROW):
        own = products - width // 2
        products = gate + chosen * (own + width // 2) + width // 2
    size = (world.features, width, cell["experts"])
    assert models.multiplications(name, *size) == products
    if name in (COMPUTE, SINGLE):
        within = models.multiplications(TASK_AWARE, world.features, 4, 6)
        wider = models.multiplications(name, world.features, width + 2, 6)
        assert products <= within < wider
    if name == PARAMETERS:
        mixture, _ = build(TASK_AWARE, world)
        # All but the embeddings, which are looked up.
        within = mixture.structure.mixture.count_params() - tasks * models.DIM
        wider = models.bottom(world.features, width + 2)[1]
        assert built.structure.count_params() <= within < wider


def test_information_is_asked_for_in_training_alone():
    world = WORLD(PERMUTED, 0)
    built, _ = build(TASK_AWARE, world)
    (inputs, _), structure = world.train.rows(world.old), built.structure
    structure(inputs["x"], task=inputs["task"], training=False)
    assert structure.losses == []
    structure(inputs["x"], task=inputs["task"], training=True)
    _, (record,) = structure.mixture(inputs["x"], task=inputs["task"], return_aux=True)
    joint = np.zeros((world.tasks, 6))
    np.add.at(joint, inputs["task"], ops.convert_to_numpy(record.probabilities)[:, 0])
    (loss,) = structure.losses
    assert float(loss) == pytest.approx(-0.5 * float(mutual_information(joint)), rel=1e-4)
    np.testing.assert_allclose(structure.joint, 0.1 * joint, atol=1e-5)


@pytest.mark.quick(1)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", [COMPUTE, SINGLE])
def test_scores_are_those_of_a_loop(name, stage):
    from sklearn.metrics import roc_auc_score

    world = WORLD(stage, 0)
    tasks = world.targets
    built, _ = build(name, world, stage, len(tasks) if name == SINGLE else None)
    found = models.scores(built, stage, world.test, tasks)
    expected = []
    for place, task in enumerate(tasks):
        x, labels = world.test.x[task], world.test.y[task]
        if name == SINGLE:
            hidden = x
            layers = zip(built.structure.kernels, built.structure.biases, strict=True)
            for kernel, bias in layers:
                kernel, bias = (ops.convert_to_numpy(w)[place] for w in (kernel, bias))
                hidden = np.maximum(hidden @ kernel + bias, 0)
            logits = hidden @ ops.convert_to_numpy(built.towers.kernel)[place]
        else:
            own = np.full(len(x), task, "int32")
            logits = ops.convert_to_numpy(built.model({"x": x, "task": own}))[:, 0]
        error = np.mean((logits - labels) ** 2)
        expected.append(roc_auc_score(labels, logits) if stage == PERMUTED else error)
    assert found["score"] == pytest.approx(np.mean(expected), rel=1e-5)
    built.model.set_weights([np.full_like(w, np.nan) for w in built.model.get_weights()])
    assert models.scores(built, stage, world.test, tasks)["loss"] == math.inf


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", [TASK_AWARE, BY_ROW, COMPUTE])
@pytest.mark.parametrize("way", study.WAYS)
def test_a_task_that_comes_later(name, way):
    world = WORLD(PERMUTED, 0)
    built, cell = build(name, world)
    before = [np.array(weight) for weight in built.model.weights]
    old, _ = world.test.rows(world.old)
    was = models.said(built, old)
    added.add(built, cell | {"way": way}, world)
    changed = {
        weight.path
        for weight, values in zip(built.model.weights, before, strict=True)
        if not np.array_equal(weight, values)
    }
    own = {built.towers.kernel.path, built.towers.bias.path}
    if name == TASK_AWARE:
        own.add(models.embeddings_of(built).path)
    assert not any("joint" in path for path in changed)
    if way == added.FROZEN:
        assert changed <= own
        np.testing.assert_allclose(models.said(built, old), was, atol=1e-6)
    else:
        assert changed > own - {built.towers.bias.path}


def test_a_new_task_starts_like_the_one_that_fits_it():
    world = WORLD(PERMUTED, 0)
    built, cell = build(TASK_AWARE, world)
    target, rows = world.targets[0], cell["few"]
    fits = []
    for task in world.old:
        inputs = {"x": world.train.x[target, :rows], "task": np.full(rows, task, "int32")}
        logits = models.said(built, inputs)[:, 0]
        fits.append(np.corrcoef(logits, world.train.y[target, :rows])[0, 1])
    expected = world.old[int(np.argmax(fits))]
    assert added.most_alike(built, cell, world, target) == expected
    added.add(built, cell | {"way": added.FROZEN, "own_rate": 0.0}, world)
    for values in (built.towers.kernel, models.embeddings_of(built)):
        np.testing.assert_array_equal(values[target], values[expected])


def test_few_rows_are_repeated(monkeypatch):
    seen = {}

    def train(built, stage, rows, valid, *sizes):
        seen.update(rows=rows, valid=valid)

    monkeypatch.setattr(models, "train", train)
    world = WORLD(PERMUTED, 0)
    built, cell = build(COMPUTE, world)
    study._learn(built, cell | {"question": study.TRANSFER}, world)
    counts = np.bincount(seen["rows"][0]["task"], minlength=12)
    # 24 rows of the old ones; of 6 twice as many, the root of 24 / 6.
    assert counts[list(world.old)].tolist() == [24] * 8
    assert counts[list(world.targets)].tolist() == [12] * 4
    first = seen["rows"][0]["x"][seen["rows"][0]["task"] == world.targets[0]]
    assert len(np.unique(first, axis=0)) == 6
    assert set(seen["valid"][0]["task"]) == set(world.targets)


def test_a_model_of_the_others_is_trained_once(monkeypatch):
    learned = []
    monkeypatch.setattr(added, "learn", lambda *a: learned.append(a[1]["world"]))
    world, others = WORLD(PERMUTED, 0), added.Others()
    cell = CELL | {"model": COMPUTE, "set": PERMUTED, "way": added.FROZEN, "question": "unseen"}
    first = others.of(cell, world)
    others.keep(first, cell)
    again = others.of(cell | {"seed": 5, "own_rate": 0.3, "way": added.TUNED}, world)
    assert learned == [0]
    for one, other in zip(first.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    others.of(cell | {"learning_rate": 0.3}, world)
    assert learned == [0, 0]


def test_losses_of_mixtures_that_came_to_new_tasks_are_gone():
    world = WORLD(PERMUTED, 0)
    inputs, _ = world.train.rows(world.old)
    for name in (TASK_AWARE, BY_ROW):
        built, _ = build(name, world)
        built.structure(inputs["x"], task=inputs["task"], training=True)
        assert len(built.structure.losses) == 1
        models.leave_experts_free(built.structure)
        built.structure(inputs["x"], task=inputs["task"], training=True)
        assert built.structure.losses == []


def test_change_is_a_loss():
    before = [{"seed": seed, "score": 0.8} for seed in range(2)]
    for stage, sign in ((PERMUTED, 1), (ROTATED, -1)):
        runs = [{"seed": 1, "score": 0.7}, {"seed": 0, "score": 0.9}]
        study._tell_change(stage, runs, before)
        assert [run["change"] for run in runs] == pytest.approx([sign * 0.1, -sign * 0.1])


def test_claims_are_of_rows_that_are_made():
    own = [claim for claim in claims.CLAIMS if claim.study == "conflicting_tasks"]
    assert len(own) == 6
    family = own[0].cases[0].family
    assert [claim.cases[0].number for claim in own] == list(range(6))
    assert {test.where["set"] for test in family} == set(STAGES)
    for test in family:
        question, more = test.where["question"], ""
        if question == study.UNSEEN:
            more = f", {added.FROZEN}"
        assert (test.ours, test.rival) == (TASK_AWARE + more, COMPUTE + more)
        # More AUC is better; less error, and less of a loss.
        assert test.less == (question == study.ROBUST or test.where["set"] == ROTATED)


def test_a_whole_study_decides_its_claims(tmp_path, monkeypatch):
    cells = []

    def one_run(quick, others, cell):
        cells.append(cell)
        rng = np.random.default_rng([cell["seed"], len(cell["model"])])
        return {"score": rng.random(), "valid": 1.0, "parameters": 2, "multiplications": 3}

    monkeypatch.setattr(study, "one_run", one_run)
    rows = study.run(False)
    # Each stage: searches of five models, of two ways for four of them and of 64 rows alone.
    assert len(cells) == 2 * ((5 + 8 + 1) * (8 + 2 + 20) + 2 * 4 * 20)
    own = [claim for claim in claims.CLAIMS if claim.study == "conflicting_tasks"]
    assert all(" against " in claim.cases[0].find(rows).ours for claim in own)
    study.draw(rows, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000
