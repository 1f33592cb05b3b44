"""What the comparisons of gates rest on: the same budget for all, chosen on validation rows."""

import numpy as np
import pytest
from keras import ops

from benchmarks import __main__ as command_line
from benchmarks import census, peers, search, studies
from benchmarks.gate_choices import DSELECT_K, OWN, TOP_K, gate_of, gates
from tfmoe.datasets.synthetic import synthetic_ratings

BUDGET = search.Budget(trials=30, finalists=3, again=2, seeds=4)
RATE = {"learning_rate": search.log_uniform(1e-4, 1e-1)}


@pytest.fixture
def ran():
    """A grid whose error depends on the learning rate and on the seed, and the cells it ran."""
    cells = []

    def function(cell):
        cells.append(cell)
        error = abs(np.log10(cell["learning_rate"]) + 2)
        # The validation error prefers 0.01, in worlds of which some are easier than others; a
        # very large rate fails. The score, of the test rows, prefers what is far from 0.01.
        valid = error + 10 * np.random.default_rng(cell["world"]).random()
        return {"valid": valid if cell["learning_rate"] < 0.05 else np.nan, "score": -error}

    return studies.Grid("fake", function, quick=True), cells


def test_the_winner_is_chosen_on_validation_rows_and_run_on_fresh_seeds(ran):
    grid, cells = ran
    runs, settings = search.winner(grid, {"model": "a"}, RATE, BUDGET)
    tried = [cell["learning_rate"] for cell in cells[:30]]
    assert settings["learning_rate"] == min(tried, key=lambda rate: abs(np.log10(rate) + 2))
    assert len(cells) == 30 + 3 * 2 + 4 == BUDGET.runs
    assert [run["seed"] for run in runs] == [0, 1, 2, 3]
    assert all(run["learning_rate"] == settings["learning_rate"] for run in runs)
    trial_seeds = {cell["seed"] for cell in cells[:36]}
    assert not trial_seeds & {run["seed"] for run in runs}


def test_a_single_trial_wins_without_being_run(ran):
    grid, cells = ran
    runs, settings = search.winner(grid, {"model": "a"}, RATE, search.QUICK)
    assert settings == search.drawn(RATE, trial=0, number=1)
    assert [cell["seed"] for cell in cells] == [run["seed"] for run in runs] == [0, 1]
    assert search.QUICK.runs == 2
    assert search.Budget(trials=4, finalists=1, again=1, seeds=5).runs == 9


def test_all_contestants_see_the_same_trials(ran):
    grid, _ = ran
    alone = search.trials(grid, {"model": "a"}, RATE, BUDGET)
    more = search.trials(grid, {"model": "b"}, RATE | gates(OWN)[DSELECT_K].space, BUDGET)
    both = [{run["seed"]: run["learning_rate"] for run in runs} for runs in (alone, more)]
    assert both[0] == both[1]
    assert len(set(both[0].values())) == 30
    assert len({run["world"] for run in alone + more}) == 1
    valid = [run["valid"] for run in alone]
    numbers = [value for value in valid if np.isfinite(value)]
    assert valid[: len(numbers)] == sorted(numbers)
    assert 0 < len(numbers) < 30


@pytest.mark.parametrize("number", [3, 4, 8, 300])
def test_few_trials_cover_their_ranges_too(number):
    space = RATE | {"kind": search.one_of(1, "a", "b")}
    drawn = [search.drawn(space, trial, number) for trial in range(number)]
    places = np.sort([np.log10(one["learning_rate"]) / 3 + 4 / 3 for one in drawn])
    # One in each part.
    np.testing.assert_array_equal(np.floor(places * number), np.arange(number))
    kinds = [one["kind"] for one in drawn]
    assert {kinds.count(kind) for kind in (1, "a", "b")} <= {number // 3, number // 3 + 1}
    # What meets is drawn, not in the order of both.
    if number == 300:
        first = [kinds[index] for index in np.argsort([one["learning_rate"] for one in drawn])]
        assert set(first[:30]) == set(first[-30:]) == {1, "a", "b"}


@pytest.mark.parametrize("form", ["static", "linear"])
@pytest.mark.parametrize("name", list(gates(OWN)))
def test_gates_are_what_their_settings_say(name, form):
    choices = gates(OWN)
    cell = {"model": name} | search.drawn(choices[name].space, trial=3, number=8)
    gate = gate_of(choices, cell, 2, form, steps=100)
    gate = type(gate).from_config(gate.get_config() | {"num_tasks": 3, "num_experts": 4})
    weights = ops.convert_to_numpy(
        gate(np.random.default_rng(0).normal(size=(5, 6)), training=True)
    )
    assert weights.shape == (1 if form == "static" else 5, 3, 4) or name == "Gumbel"
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    if name == TOP_K:
        assert np.all(np.sum(weights > 0, axis=-1) == 2)
    if name == DSELECT_K:
        assert float(gate.entropy_reg(0)) == 0
        assert float(gate.entropy_reg(100)) == pytest.approx(cell["entropy"])


def test_census_says_what_the_paper_reports():
    runs = [
        {"model": census.MULTI_GATE, "valid_auc": v, "main_auc": a, "marital_auc": 0.5}
        | {"seed": seed, "parameters": 5}
        for seed, (v, a) in enumerate([(0.1, 0.9), (0.3, 0.7), (0.2, 0.8)])
    ]
    row = census._row("income", runs, {"units": 16})
    # The run that is best on validation rows, not on test rows.
    assert (row["best"], row["main_auc"]) == (0.7, pytest.approx(0.8))
    assert (row["paper_best"], row["paper_mean"]) == (0.9410, 0.9359)
    assert census.headline([row]) == "income_auc=0.7000"


def test_rivals_read_ids_of_the_train_part(tmp_path):
    split = synthetic_ratings(num_rows=300)
    test_users = split.test["user_id"].copy()
    train_users = sorted(set(split.train["user_id"]))
    job = peers.write(split, str(tmp_path))
    columns, labels = job.read("train")
    assert job.table_sizes["user_id"] == len(train_users) + 1
    assert set(columns["user_id"]) == set(range(len(train_users)))
    assert np.isnan(labels["rating"]).any()
    found, none = job.read("test")
    assert none == {}
    for user, place in zip(test_users, found["user_id"], strict=True):
        known = user in train_users
        assert place == (train_users.index(user) if known else len(train_users))
    assert peers.Job.from_json(job.to_json()) == job


def test_all_in_their_quick_form(monkeypatch, capsys):
    ran = []

    class Fake:
        OPTIONS = {"trials": (int, 5, "how many")}

        def __init__(self, name):
            self.name = name

        def run(self, quick, trials):
            ran.append((self.name, quick, trials))
            return [{"name": self.name}]

        def headline(self, rows):
            return "rows=1"

    monkeypatch.setattr(command_line.importlib, "import_module", Fake)
    command_line.main(["all", "--quick"])
    assert ran == [(module, True, 5) for module in command_line.BENCHMARKS.values()]
    for wrong, message in (
        (["all"], "many hours"),
        (["all", "--quick", "--trials", "2"], "trials"),
    ):
        with pytest.raises(SystemExit):
            command_line.main(wrong)
        assert message in capsys.readouterr().err
    command_line.main(["census", "--no-save", "--trials", "2"])
    assert ran[-1] == ("benchmarks.census", False, 2)
