"""What the studies rest on: grids, paired tests, equal compute, tasks of the census."""

import json
import re
from collections import defaultdict

import keras
import numpy as np
import pandas as pd
import pytest

import tfmoe
from benchmarks import added, contestants, results, squad, studies, worlds
from benchmarks.contestants import DENSE, MOD_SQUAD, SHARED, TASK_AWARE, WIDE
from tests.datasets.test_census import write
from tfmoe.model.forward import ForwardOutput


def test_a_grid_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(results, "RUN_COMMITS", defaultdict(set))
    monkeypatch.setattr(results, "commit", lambda: "abc")
    monkeypatch.setattr(results, "environment", lambda: "a processor")
    made = []

    def function(cell):
        if cell["seed"] == 2:
            raise KeyboardInterrupt
        made.append(cell["seed"])
        return {"score": np.float64(cell["seed"]) / 2}

    cells = [{"set": "a", "seed": seed} for seed in range(3)]
    with pytest.raises(KeyboardInterrupt):
        studies.Grid("fake", function).run(cells)
    lines = (tmp_path / "runs" / "fake.jsonl").read_text().splitlines()
    assert json.loads(lines[1]) == {
        "cell": cells[1],
        "scores": {"score": 0.5},
        "commit": "abc",
        "environment": "a processor",
    }
    # Another order of the keys is the same cell; another value is not.
    cells = [{"seed": 1, "set": "a"}, {"seed": 1, "set": "b"}]
    runs = studies.Grid("fake", function).run(cells)
    assert made == [0, 1, 1]
    assert results.RUN_COMMITS["fake"] == {"abc"}
    assert runs == [{**cell, "score": 0.5} for cell in cells]
    studies.Grid("fake", function, quick=True).run(cells)
    assert made == [0, 1, 1, 1, 1]
    assert len((tmp_path / "runs" / "fake.jsonl").read_text().splitlines()) == 3


def test_a_study_that_was_stopped_goes_on_from_what_was_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(studies, "UNFINISHED", tmp_path)
    monkeypatch.setattr(results, "RUN_COMMITS", defaultdict(set))
    monkeypatch.setattr(results, "commit", lambda: "new")
    kept = {"cell": {"seed": 0}, "scores": {"score": 7}, "commit": "old"}
    (tmp_path / "fake.jsonl").write_text(json.dumps(kept) + "\n")
    cells = [{"seed": 0}, {"seed": 1}]
    runs = studies.Grid("fake", lambda cell: {"score": 8}).run(cells)
    assert runs == [{"seed": 0, "score": 7}, {"seed": 1, "score": 8}]
    assert results.RUN_COMMITS["fake"] == {"old", "new"}
    assert results.RUN_ENVIRONMENTS["fake"] == {"not noted", results.environment()}
    assert len((tmp_path / "runs" / "fake.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("total", "runs"), [(None, 2), (9, 8)], ids=["of this call", "of the study"]
)
def test_a_grid_says_how_long_it_will_take(tmp_path, monkeypatch, capsys, total, runs):
    monkeypatch.setattr(studies, "RUNS", tmp_path)
    monkeypatch.setattr(results, "RUN_COMMITS", defaultdict(set))
    cells = [{"seed": seed} for seed in range(3)]
    studies.Grid("fake", lambda cell: {}).run(cells[:1])
    capsys.readouterr()
    grid = studies.Grid("fake", lambda cell: {}, total=total)
    grid.run(cells)
    grid.run([{"seed": 3}])
    said = capsys.readouterr()
    told = re.findall(r"fake: about (\d+) runs of \S+ s: \S+ h(, and perhaps more)?", said.err)
    assert told == [(str(runs), "" if total else ", and perhaps more")]
    assert said.out == ""
    # Of what is there nothing is said, and neither of a quick form.
    studies.Grid("fake", lambda cell: {}, total=total).run(cells)
    studies.Grid("fake", lambda cell: {}, quick=True).run(cells)
    assert "about" not in capsys.readouterr().err


def test_paired_tests():
    others = np.arange(10.0)
    better = others + np.linspace(0.5, 1.5, 10)
    tested = studies.paired(better, others)
    assert tested["effect"] == pytest.approx(1)
    assert tested["effect_error"] == pytest.approx(np.std(better - others, ddof=1) / 10**0.5)
    assert tested["p"] == 2 / 2**10  # all ten of one sign
    assert studies.paired(others, others)["p"] == 1
    mixed = others + np.tile([1.0, -1.1], 5)
    assert studies.paired(mixed, others)["p"] > 0.1


@pytest.mark.parametrize(("metric", "holds"), [("auc", "yes"), ("mse", "no"), ("loss", "no")])
def test_claims_know_which_way_is_better(metric, holds):
    others = np.arange(10.0)
    row = studies.claim("more", others + 0.1 + 0.01 * others, others, metric, set="a")
    assert (row["name"], row["set"], row["holds"]) == ("more", "a", holds)
    assert np.sign(row["effect"]) == (1 if holds == "yes" else -1)
    # One run that failed makes the mean difference, not the claim.
    others = np.where(np.arange(30) == 7, 100.0 if metric != "auc" else -100.0, 0.0)
    values = np.full(30, 0.5 if metric != "auc" else -0.5)
    row = studies.claim("more", values, others, metric)
    assert (row["effect"] > 0, row["p"] < 0.001, row["holds"]) == (True, True, "no")
    # Five seeds of one sign may be chance.
    others = np.arange(10.0)
    assert studies.claim("more", others[:5] + 1, others[:5], metric)["holds"] == "no"


def test_rows_are_means_over_seeds_and_pairs_are_by_seed():
    runs = [
        {"set": "a", "model": model, "seed": seed, "score": score}
        for model, scores in {"x": (1.0, 2.0, 6.0), "y": (5.0, 5.0, 5.0)}.items()
        for seed, score in enumerate(scores)
    ]
    assert studies.by_seed(runs[::-1], "score", set="a", model="x").tolist() == [1, 2, 6]
    first, second = studies.score_rows(runs, "score", "set")
    assert (first["name"], first["set"], first["score"], first["seeds"]) == ("x", "a", 3, 3)
    assert first["standard_error"] == pytest.approx(7**0.5 / 3**0.5)
    assert second["standard_error"] == 0
    rows = [{"name": "beats y", "set": s, "holds": h} for s, h in ("ay", "an", "by")]
    rows = [row | {"holds": {"y": "yes", "n": "no"}[row["holds"]]} for row in rows]
    assert studies.headline([*rows, first]) == "beats_y_a=1/2 beats_y_b=1/1"


@pytest.mark.parametrize("num_features", [10, 90])
@pytest.mark.parametrize("name", [SHARED, WIDE, DENSE, TASK_AWARE, MOD_SQUAD])
def test_models_cost_what_is_said(name, num_features):
    """The sizes of all kernels, of which a row meets those of its experts and its task."""
    num_experts, tasks = 8, 3
    schema = tfmoe.Schema(
        [tfmoe.Numeric(f"x_{i}", transform="none") for i in range(num_features - 4)]
        + [tfmoe.Categorical("c", dim=4, hash_buckets=9)],
        [tfmoe.Binary(f"t_{i}") for i in range(tasks)],
        task_column="task",
    )
    mixture = contestants.mixture_of(name, schema, num_experts)
    model = tfmoe.MultiTaskModel(schema, mixture, tower_units=())
    used = {SHARED: 1, WIDE: 1, DENSE: num_experts}.get(name, contestants.CHOSEN)
    experts = model.mixture.bottom if name in (SHARED, WIDE) else model.mixture.experts
    width = experts.hidden_units[0]
    assert experts.hidden_units == ((width,) if name == WIDE else (width, width // 2))
    counted = used * sum(int(np.prod(kernel.shape[1:])) for kernel in experts.kernels)
    counted += used * experts.hidden_units[-1] + int(np.prod(model.towers.kernel.shape[1:]))
    if name == TASK_AWARE:
        # All but the embeddings, which are looked up, and biases.
        kernels = [w for w in model.mixture.gate.trainable_weights if "kernel" in w.name]
        counted += sum(int(np.prod(kernel.shape)) for kernel in kernels)
    elif name not in (SHARED, WIDE):
        gate = model.mixture.gate
        counted += int(np.prod(gate.head.kernel.shape)) // tasks
        if name == MOD_SQUAD:
            counted += int(np.prod(gate.router.layers[0].kernel.shape))
    assert contestants.multiply_adds(name, num_features, width, num_experts) == counted
    budget = contestants.multiply_adds(
        TASK_AWARE, num_features, contestants.WIDTH, contestants.BUDGET_EXPERTS
    )
    wider = contestants.multiply_adds(name, num_features, width + 2, num_experts)
    assert counted <= budget < wider


@pytest.fixture
def census(tmp_path, monkeypatch):
    (tmp_path / "census-income-kdd").mkdir()
    write(tmp_path / "census-income-kdd", num_train=40, num_test=60)
    monkeypatch.setenv("TFMOE_DATA", str(tmp_path))
    worlds._people.cache_clear()
    yield worlds.WORLDS["census"]
    worlds._people.cache_clear()


def test_census_as_rows_of_one_task(census):
    rows = dict.fromkeys(census.tasks, 10) | {"income": 3}
    split = census.make(0, rows, unrelated=2, num_test_rows=20)
    names = [*census.tasks, "unrelated_0", "unrelated_1"]
    assert list(split.schema.task_names) == names
    counts = [part["task"].value_counts() for part in (split.train, split.valid, split.test)]
    assert counts[0].to_dict() == dict.fromkeys(names, 10) | {"income": 3}
    assert counts[2].to_dict() == dict.fromkeys(names, 20)
    inputs = {column.raw_name for column in split.schema.columns}
    assert not inputs & {"income", "college", "education", "never_married", "marital_stat", "sex"}
    answers = split.train.groupby("task")["label"]
    # Of the lines that `write` makes.
    assert answers.mean()[["male", "white", "householder", "whole_year"]].tolist() == [1] * 4
    assert answers.mean()[["dividends", "capital_gains", "self_employed"]].tolist() == [0] * 3
    married = split.train[split.train["task"] == "never_married"]
    assert married["label"].tolist() == (married["age"] % 3 == 0).astype(float).tolist()
    # What a task's rows are does not depend on the others.
    fewer = census.make(0, {"college": 10}, num_test_rows=20)
    own = split.test[split.test["task"] == "college"].reset_index(drop=True)
    assert fewer.test.equals(own)
    assert worlds.only(split, ["college"]).test.equals(own)
    assert worlds.only(split, ["college"]).schema.task_names == ("college",)


def test_unrelated_questions_differ(monkeypatch):
    rng = np.random.default_rng(0)
    columns = ("detailed_occupation_recode", "major_industry_code", "tax_filer_stat")
    columns += ("family_members_under_18",)
    people = pd.DataFrame({name: rng.choice(list("abcdef"), 3000) for name in columns})
    monkeypatch.setattr(worlds, "_people", lambda: worlds.Split(people, people, people, None))
    answers = [worlds._answers(f"unrelated_{i}", people, seed=0) for i in range(8)]
    assert set(answers[0]) == {0.0, 1.0}
    assert all(0.3 < answer.mean() < 0.7 for answer in answers)
    assert np.median(np.abs(np.corrcoef(answers) - np.eye(8))) < 0.1


@pytest.fixture(scope="module")
def trained():
    """Tasks of two groups, and a task-aware model that has learned all but the first."""
    keras.utils.set_random_seed(0)
    world = worlds.QUICK["grouped"]._replace(rows=500)
    split = world.make(3, dict.fromkeys(world.tasks, world.rows), num_test_rows=100)
    others = worlds.only(split, world.tasks[1:])
    cell = {"seed": 0, "learning_rate": 1e-2, "epochs": 8, "batch_size": 512, "least_steps": 20}
    mixture = contestants.mixture_of(TASK_AWARE, split.schema, 8)
    return world, split, contestants.train(others, mixture, cell)


@pytest.mark.slow
def test_tasks_of_the_same_group_are_found_alike(trained):
    world, split, model = trained
    own = worlds.only(split, world.tasks[:1])
    assert set(added.most_alike(model, own.train)[:3]) <= set(world.related)


@pytest.mark.slow
def test_the_best_epoch_is_kept(trained):
    world, split, model = trained
    found = contestants.scores(model, split.valid[split.valid["task"] != "task_0"], "mse")
    assert set(found) == set(world.tasks[1:])
    assert np.mean([*found.values()]) < 0.3


def test_silenced_experts_are_those_an_extract_does_without():
    schema = tfmoe.Schema(
        [tfmoe.Numeric(f"x_{i}", transform="none") for i in range(3)],
        [tfmoe.Regression(name, source="label", standardize=False) for name in ("a", "b")],
        task_column="task",
    )
    rng = np.random.default_rng(0)
    features = {f"x_{i}": rng.normal(size=30).astype("float32") for i in range(3)}
    for form in (squad.PERCEPTRONS, squad.TRANSFORMER):
        mixture = squad._mixture({"form": form, "num_experts": 6})
        model = tfmoe.MultiTaskModel(schema, mixture, tower_units=())
        rows = features | {"task": np.zeros(30, "int32")}
        model.compile(keras.optimizers.SGD(0.0), jit_compile=False, run_eagerly=True)
        model.fit(rows, {"score": np.zeros(30, "float32")}, verbose=0)
        for weights in squad._silencing_weights(model.mixture):
            for weight in weights:
                weight.assign(rng.normal(size=weight.shape))  # biases start at 0
        gates = model.mixture.gates
        alone = squad.extract(model, ["a"], threshold=0.7, by="usage")
        dropped = 0
        for gate, weights in zip(gates, squad._silencing_weights(model.mixture), strict=True):
            stays = gate.usage[0] > 0.7
            stays[np.argsort(-gate.usage[0], kind="stable")[: contestants.CHOSEN]] = True
            dropped += np.sum(~stays)
            for weight in weights:
                value = weight.numpy()
                value[~stays] = 0
                weight.assign(value)
        assert dropped > 0
        np.testing.assert_allclose(
            contestants.predict(model, rows), contestants.predict(alone, rows), atol=1e-5
        )


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [(np.eye(4), 1.0), (np.full((4, 3), 1 / 3), 0.0), (np.repeat(np.eye(2), 2, 0), 0.5)],
)
def test_information_is_a_share_of_its_bound(matrix, expected):
    tasks = np.repeat(np.arange(4), 5)

    class Model:
        schema = tfmoe.Schema(
            [tfmoe.Numeric("x")], [tfmoe.Binary(f"t_{i}") for i in range(4)], task_column="task"
        )

        class preprocessor:
            arrays = staticmethod(lambda rows, labels: {})

        def forward_pass(self, features):
            record = tfmoe.GateOutput(probabilities=matrix[tasks][:, None], task=tasks)
            return ForwardOutput({}, {}, [record, record])

    rows = pd.DataFrame({"task": tasks})
    assert squad.information(Model(), rows) == pytest.approx(expected, abs=1e-9)
