"""What the studies of gates on made-up tasks rest on."""

import keras
import numpy as np
import pytest
from keras import ops

from benchmarks import gate_models, gate_study, regions, search, studies, synthetic
from benchmarks.contestants import SHARED, WIDE
from benchmarks.gate_models import ADAM, GATES, SGD, SINGLE
from benchmarks.primary import Primary, corrected
from benchmarks.verdicts import Difference
from tfmoe.data import selection_scores
from tfmoe.heads.towers import Towers

STUDIES = [synthetic.STUDY, regions.STUDY]


def name_of(study):
    return study.name


def cell_of(study, model, optimizer=ADAM, num_tasks=4):
    sizes = {"rows": 80, "epochs": 1, "batch_size": 40, "learning_rate": 0.5, "gate_rate": 0.1}
    cell = {"tasks": num_tasks, "set": optimizer, "model": model, "seed": 0, "world": 0} | sizes
    return cell | search.drawn(GATES[model].space if model in GATES else {}, 0, 1)


def built(study, model, num_tasks=4):
    structure = gate_models.structure_of(study, cell_of(study, model, num_tasks=num_tasks))
    structure.build((None, gate_models.FEATURES))
    return structure


def test_settings_that_keep_to_four_experts_come_first():
    runs = [
        {"valid": valid, "valid_experts": experts}
        for valid, experts in [(0.1, 16.0), (0.3, 4.2), (0.2, 3.0), (np.nan, 0.0), (0.1, 5.0)]
    ]
    ranked = sorted(runs, key=lambda run: gate_study.by_size(run, most=4))
    assert ranked == [runs[2], runs[1], runs[4], runs[0], runs[3]]


def test_a_comparison_has_the_differences_and_their_bounds():
    def runs(score, f1, experts):
        rng = np.random.default_rng(0)
        same = dict.fromkeys(("jaccard", "precision", "recall"), 0.5) | {"experts": experts}
        return [
            {"seed": seed, **same, "score": score + rng.random(), "f1": f1 + rng.normal()}
            for seed in range(20)
        ]

    found = {"ours": runs(1.0, 1.0, 4.0), "theirs": runs(1.1, 1.2, 16.0)}
    found["theirs"][3]["f1"] += 1.0
    row = studies.difference("ours", "theirs", found, gate_study.MEASURES, tasks=16, set=ADAM)
    assert (row["name"], row["tasks"], row["set"]) == ("ours - theirs", 16, "adam")
    assert row["score"] == pytest.approx(-0.1)
    assert row["score_p"] < 1e-5
    assert row["jaccard_p"] == 1.0
    # 2.093 is Student's t of 19 degrees.
    reach = 2.093 * row["f1_error"]
    assert row["f1_low"] == pytest.approx(row["f1"] - reach, rel=1e-3)
    assert row["f1_high"] == pytest.approx(row["f1"] + reach, rel=1e-3)
    headline = gate_study.headline([row])
    assert headline == "ours_theirs_adam_16_error=-0.1000 ours_theirs_adam_16_f1=-0.250"


@pytest.mark.parametrize("study", STUDIES, ids=name_of)
@pytest.mark.parametrize("num_tasks", [3, 32])
def test_a_shared_bottom_has_the_mixtures_parameters(study, num_tasks):
    def parameters(model, units):
        return built(study, model, num_tasks).count_params() + num_tasks * (units + 1)

    width, last = gate_models.bottom_units(study, SHARED, num_tasks)
    # Top-k has one score an expert, and no more.
    within = parameters("Top-k", gate_models.UNITS[-1])
    found = parameters(SHARED, last)
    assert last == width // 2
    assert 0.9 * within < found <= within


@pytest.mark.parametrize("study", STUDIES, ids=name_of)
def test_one_layer_costs_a_row_of_a_task_what_selected_experts_do(study):
    (width,) = gate_models.bottom_units(study, WIDE, 3)
    router = 10 * study.experts if study.router == "linear" else 0
    budget = study.chosen * (10 * 16 + 16 * 8 + 8) + 8 + router
    assert budget - 11 < width * 10 + width <= budget
    kernels = [w.shape for w in built(study, SINGLE, 3).weights if len(w.shape) == 3]
    assert sum(a * b for _, a, b in kernels) == study.chosen * (10 * 16 + 16 * 8)


@pytest.mark.parametrize("model", regions.STUDY.gates)
def test_all_linear_routers_have_a_bias(model):
    gate = built(regions.STUDY, model).gate
    assert gate.router == "linear"
    kernel, bias = (
        next(weight for weight in gate.weights if weight.path.endswith(name))
        for name in ("kernel", "bias")
    )
    assert bias.shape == kernel.shape[1:]
    x = np.random.default_rng(0).normal(size=(5, 10)).astype("float32")
    before = ops.convert_to_numpy(gate(x))
    moved = np.arange(bias.shape[0]) % 3.0
    bias.assign(moved)
    assert not np.allclose(gate(x), before)
    static = built(synthetic.STUDY, model).gate
    assert not any(weight.path.endswith("bias") for weight in static.weights)


@pytest.mark.parametrize(
    ("optimizer", "model", "rates"),
    [
        (ADAM, "Top-k", {"gates": 0.05, "towers": 0.5, "experts": 0.5}),
        (SGD, "Top-k", {"gates": 0.05, "towers": 0.5, "experts": 0.125}),
        # A network of one task goes down that task's loss.
        (SGD, SINGLE, {"gates": 0.5, "towers": 0.5, "experts": 0.5}),
        (SGD, SHARED, {"gates": 0.5, "towers": 0.5, "experts": 0.125}),
    ],
)
def test_parts_learn_at_rates_of_their_own(optimizer, model, rates):
    cell = cell_of(synthetic.STUDY, model, optimizer)
    if model not in GATES:
        del cell["gate_rate"]
    structure = built(synthetic.STUDY, model)
    towers = Towers((1,) * 4, hidden_units=())
    towers.build((None, 4, 8))
    made = gate_models.optimizer_of(cell, structure, towers)
    found = {name: float(one.learning_rate) for name, one in made.parts.items()}
    assert found == pytest.approx(rates)
    groups = made.grouped([*structure.trainable_variables, *towers.trainable_variables])
    assert len(groups["towers"]) == len(towers.trainable_variables)
    assert bool(groups["gates"]) == (model in GATES)
    kind = keras.optimizers.SGD if optimizer == SGD else keras.optimizers.Adam
    assert all(isinstance(one, kind) for one in made.parts.values())


def test_a_selection_is_of_the_majority_of_a_regions_rows():
    world = regions.STUDY.world(3, 80, seed=0)
    x = world.train[0]
    true = (world.weights > 0)[:, world.regions(x)]  # (t, b, e)
    weights = np.moveaxis(true / true.sum(axis=2, keepdims=True), 1, 0).copy()
    wrong = np.flatnonzero(world.regions(x) == 2)[:3]
    weights[wrong] = 1 / 8  # near a boundary, perhaps
    selected = regions.STUDY.selected(world, weights, x)
    assert selected.shape == (3, 4, 8)
    assert selection_scores(selected, world).f1 == 1
    assert not regions.STUDY.selected(world, weights[wrong], x[wrong])[:, 0].any()
    static = np.full((1, 3, 16), 0.005)
    static[0, :, :2] = 0.4
    assert synthetic.STUDY.selected(None, static, x).sum() == 6


def test_a_run_that_diverged_counts_as_the_mean_label(monkeypatch):
    study = synthetic.STUDY

    def diverged(cell, world, structure):
        inputs = keras.Input((10,))
        outputs = ops.max(structure(inputs), axis=-1)
        model = keras.Model(inputs, outputs)
        model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
        return model

    monkeypatch.setattr(gate_study, "trained", diverged)
    found = gate_study.one_run(study, cell_of(study, "Softmax"))
    y = study.world(4, 80, 0).test[1]
    assert found["score"] == pytest.approx(np.mean((y - y.mean(axis=0)) ** 2), rel=1e-5)
    assert np.isnan(found["valid"])
    assert (found["experts"], found["f1"]) == (0, 0)


def test_p_values_are_corrected_together():
    assert corrected([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert corrected([0.5, 0.9]) == [1.0, 1.0]
    assert corrected([]) == []


def test_a_primary_claim_is_judged_with_the_others_of_its_family():
    family = [Difference(name, "a", name, {}, "x") for name in "bcd"]
    values = {"a": 1.0, "b": 3.0, "c": 0.5, "d": 1.1}
    rows = [{"name": name, "x": value} for name, value in values.items()]
    cases = [Primary(number, family) for number in range(3)]
    assert [case.find(rows).ours for case in cases] == ["not run yet"] * 3

    def test(name, p):
        difference = values["a"] - values[name]
        bounds = {"x_low": difference - 0.2, "x_high": difference + 0.2}
        row = {"name": f"a - {name}", "x": difference, "x_error": 0.1, "x_p": p}
        return row | {"x_median": difference} | bounds

    rows += [test("b", 0.001), test("c", 0.02)]
    found = [case.find(rows) for case in cases]
    # Of three tests, though one was not run: 0.003 and 0.04.
    assert [finding.verdict for finding in found] == [1, -1, 0]
    assert found[0].ours == "1.00 against 3.00"
    assert found[0].certainty == "2, p 0.001, corrected p 0.003, 95 % from 1.8 to 2.2"
    assert "95 % from -0.7 to -0.3" in found[1].certainty
    rows.append(test("d", 0.03))
    assert [case.find(rows).verdict for case in cases] == [1, -1, 1]
    assert cases[2].find(rows).case == "d"
    # One run that failed may turn the mean.
    rows[-1]["x_median"] = 0.05
    assert cases[2].find(rows).verdict == 0
