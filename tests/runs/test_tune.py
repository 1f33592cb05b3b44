"""Whole runs as files, and the search for the best of many."""

import importlib.util
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

import tfmoe
from tfmoe.cli.app import app
from tfmoe.runs import by_name
from tfmoe.runs.run import Run, load_settings
from tfmoe.runs.search import DEFAULT, Choice, Range, alone, check_values, space_of, suggested
from tfmoe.runs.tune import tune

needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="optuna is not installed"
)
SCHEMA = {
    "columns": [
        {"kind": "Numeric", "name": "age", "transform": "none"},
        {"kind": "Categorical", "name": "user", "dim": 3, "hash_buckets": 9},
    ],
    "tasks": [{"kind": "Binary", "name": "watch"}, {"kind": "Regression", "name": "stay"}],
}
SMALL = {
    "mixture": "mmoe",
    "num_experts": 2,
    "hidden_units": "4",
    "tower_units": "",
    "epochs": 2,
    "batch_size": 64,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    generator = np.random.default_rng(0)
    age, user = generator.normal(size=256), generator.integers(0, 9, 256)
    rows = pd.DataFrame({"age": age, "user": user, "watch": (age > 0).astype(int), "stay": age})
    rows[:192].to_csv(folder / "train.csv", index=False)
    rows[192:].to_csv(folder / "valid.csv", index=False)
    return folder


def settings(folder, **more):
    paths = {"data": str(folder / "train.csv"), "valid": str(folder / "valid.csv")}
    return {**paths, "schema": SCHEMA, **SMALL, **more}


def test_a_run_is_plain_data(tmp_path):
    given = {
        "data": "t.csv",
        "schema": "s.yaml",
        "hidden_units": [64, 32],
        "interactions": ["cross", "fm"],
        "optimizer": {"embeddings": "lazy_adam:0.01", "rest": "adam"},
        "learning_rate": "1e-4",
        "task_weight": {"watch": 2},
        "dropout": 0.0,
    }
    run = Run.from_dict(given)
    assert (run.hidden_units, run.interactions) == ("64,32", "cross,fm")
    assert run.optimizer == "embeddings=lazy_adam:0.01,rest=adam"
    assert (run.learning_rate, run.dropout) == (1e-4, 0.0)
    assert Run.from_dict({**given, "interactions": []}).interactions is None
    run.save(tmp_path / "run.yaml")
    assert Run.load(tmp_path / "run.yaml") == run
    assert "patience" not in run.to_dict()
    (tmp_path / "run.json").write_text(json.dumps({**given, "search": {"gate": ["top-k"]}}))
    assert Run.load(tmp_path / "run.json") == run
    assert load_settings(tmp_path / "run.json")[1] == {"gate": ["top-k"]}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"learning_rat": 1}, r"'learning_rat'. Did you mean 'learning_rate'\?"),
        ({"num_experts": 1}, "num_experts=1"),
        ({"dropout": 1.5}, "dropout=1.5"),
        ({"mixture": "momoe"}, "--mixture momoe"),
        ({"interactions": ["fn"]}, "--interactions fn"),
        ({"wide": "no"}, "wide='no'"),
        ({"interactions_alone": True}, "interactions_alone=True without interactions"),
        ({"task_weight": ["watch"]}, r"task_weight=\['watch'\]"),
        ({"optimizer": "adamm"}, "--optimizer adamm"),
        ({"batch_size": "many"}, "batch_size='many'"),
        ({"tower_units": None}, "tower_units=None"),
        ({"hidden_units": []}, r"--hidden-units takes integers .* Received --hidden-units \."),
        ({"mixture": ["mmoe"]}, r"mixture=\['mmoe'\]"),
        ({"data": 5}, "data=5"),
        ({"valid": False}, "valid=False"),
        ({"position": 3}, "position=3"),
        ({"schema": [1]}, r"schema=\[1\]"),
        ({"optimizer": "sgd:nan"}, "--optimizer sgd:nan"),
        ({"optimizer": "sgd:-1"}, "--optimizer sgd:-1"),
        ({"task_weight": {"watch": -1}}, r"task_weight\['watch'\]=-1"),
        ({"from": "a.keras", "from_model": "b.keras"}, "are one key. Received 'a.keras' and"),
    ],
)
def test_what_a_run_does_not_know(more, message):
    with pytest.raises(ValueError, match=message):
        Run.from_dict({"data": "t.csv", "schema": "s.yaml", **more})


def test_files_that_are_no_run(tmp_path):
    with pytest.raises(ValueError, match="with `data` and one of"):
        Run.from_dict({"data": "t.csv"})
    for text, message in (("a: [", "is no YAML"), ("[1]", "holds keys with values")):
        (tmp_path / "run.yaml").write_text(text)
        with pytest.raises(ValueError, match=message):
            Run.load(tmp_path / "run.yaml")
    with pytest.raises(ValueError, match=r"'wach'. Did you mean 'watch'\?"):
        Run("t.csv", SCHEMA, task_weight={"wach": 1.0}).read_schema()


def test_embeddings_have_the_size_that_a_run_says():
    schema = Run("t.csv", SCHEMA, embedding_dim=7).read_schema()
    assert schema.column("user").dim == 7
    assert Run("t.csv", SCHEMA).read_schema().column("user").dim == 3


def test_what_has_no_size_of_its_own_is_left_alone():
    columns = [
        tfmoe.Pretrained("movie", vectors="v.npz"),
        tfmoe.Crossed("both", columns=["user", "country"], hash_buckets=8),
        tfmoe.Text("title", hash_buckets=8),
        tfmoe.Timestamp("when", parts=["hour"], cyclic=False),
        tfmoe.Numeric("age", transform="buckets"),
        tfmoe.Vector("shape"),
        tfmoe.Categorical("user"),
        tfmoe.Categorical("country", share="user"),
    ]
    schema = tfmoe.Schema(columns, [tfmoe.Binary("watch")]).to_dict()
    found = Run("t.csv", schema, embedding_dim=7).read_schema().columns
    sizes = {one.name: getattr(one, "dim", None) for one in found}
    assert {*map(sizes.get, ("both", "title", "when", "age", "user"))} == {7}
    assert found[0] == Run("t.csv", schema).read_schema().columns[0]


def test_numbers_of_numpy_and_of_yaml_are_numbers(tmp_path):
    import yaml

    weights = {"watch": np.float64(2), "stay": "1e-1"}
    run = Run("t.csv", SCHEMA, batch_size=np.int64(64), task_weight=weights, hidden_units=64)
    assert yaml.safe_load(run.to_yaml())["task_weight"] == {"watch": 2.0, "stay": 0.1}
    assert (run.batch_size, run.hidden_units) == (64, "64")
    found = space_of(
        {}, {"batch_size": list(2 ** np.arange(5, 7)), "epochs": {"low": 1, "high": "1e1"}}
    )
    assert json.dumps(found["batch_size"].values) == "[32, 64]"
    assert found["epochs"] == Range(1, 10)


def test_experts_are_normalised_if_a_run_says_so():
    assert by_name.structure_by_name("mmoe", layer_norm=True).get_config()["layer_norm"]
    assert not by_name.structure_by_name("mmoe").get_config()["layer_norm"]
    with pytest.raises(ValueError, match="--mixture mod-squad takes no --layer-norm"):
        by_name.structure_by_name("mod-squad", layer_norm=True)


class Trial:
    """Takes the first of all that may be."""

    def suggest_categorical(self, name, values):
        return values[0]

    def suggest_int(self, name, low, high, log):
        return low

    suggest_float = suggest_int


NOTHING = dict.fromkeys(DEFAULT)


def test_where_a_search_looks():
    space = space_of({"dropout": 0.1}, {"gate": None, "num_experts": {"low": 2, "high": 3}})
    assert {*space} == {*DEFAULT} - {"gate", "dropout"}
    assert space["num_experts"] == Range(2, 3)
    assert space["learning_rate"] == Range(1e-4, 1e-2, log=True)
    searched = space_of(
        {}, {"hidden_units": [[64, 32], "8"], "dropout": {"low": "1e-3", "high": 1}}
    )
    assert searched["hidden_units"] == Choice(("64,32", "8"))
    assert searched["dropout"] == Range(1e-3, 1)
    # What a mixture or a gate does not take is not tried there.
    mixtures = {"mixture": ["shared-bottom"], "gate": ["top-k"], "num_experts": [4]}
    found = suggested(Trial(), {}, space_of({}, mixtures))
    assert {"gate", "num_experts"} & {*found} == set()
    found = suggested(Trial(), {}, space_of({}, {"num_nonzeros": [1], "gate": ["softmax"]}))
    assert "num_nonzeros" not in found
    assert found["gate"] == "softmax"
    # Nor kept there, where the file says so of all.
    given = {"num_experts": 4, "gate": "top-k", "num_nonzeros": 1, "epochs": 3}
    found = suggested(Trial(), given, space_of({}, {"mixture": ["shared-bottom"], **NOTHING}))
    assert found == {"mixture": "shared-bottom", "epochs": 3}
    # Nor what stands before a mixture that reads other than one vector a row.
    space = space_of({}, {"pepnet": ["user_id"]})
    for mixture, tried in (("mod-squad", set()), ("ple", {"interactions", "pepnet"})):
        found = suggested(Trial(), {"mixture": mixture}, space)
        assert {"interactions", "pepnet"} & {*found} == tried
    # Nor how interactions stand where there are none.
    how = {"interactions_stacked": [True]}
    given = {"data": "t.csv", "schema": "s.yaml"}
    for tried, kept in (("cross", True), (None, False)):
        space = space_of(given, {**NOTHING, "interactions": [tried], **how})
        check_values({**given, "interactions_alone": True}, space)
        found = suggested(Trial(), {**given, "interactions_alone": True}, space)
        assert ("interactions_stacked" in found, "interactions_alone" in found) == (kept, kept)
        Run.from_dict(found)
    # They may stand in the file where the interactions are but searched.
    space = space_of(given, {**NOTHING, "interactions": [None, ["cross", "fm"], []], "epochs": [1]})
    assert space["interactions"].values == (None, "cross,fm")
    said = {**given, "interactions_stacked": True}
    check_values(said, space)
    Run.from_dict(alone(said, space))
    # Mappings are text, as in a run.
    both = ["adam", {"gates": "sgd:0.1", "rest": "adam"}]
    space = space_of({}, {**NOTHING, "optimizer": both})
    assert space["optimizer"].values == ("adam", "gates=sgd:0.1,rest=adam")
    for search, message in (
        ({"resume": [True]}, "Received 'resume'"),
        ({"gat": ["top-k"]}, r"'gat'. Did you mean 'gate'\?"),
        ({"data": ["t.csv"]}, "Received 'data'"),
        ({"dropout": 0.1}, "Received dropout=0.1"),
        ({"dropout": {"low": 0, "high": 1, "log": True}}, "above 0"),
        (dict.fromkeys(DEFAULT), "at least one key"),
    ):
        with pytest.raises(ValueError, match=message):
            space_of({}, search)


SEARCH = {
    **NOTHING,
    "learning_rate": {"low": 1e-3, "high": 0.3, "log": True},
    "gate": ["softmax", "top-k"],
}


@pytest.mark.slow
@needs_optuna
def test_a_search_keeps_what_it_has_found(folder, tmp_path):
    told = []
    found = tune(
        settings(folder), SEARCH, tmp_path, trials=1, started=lambda *one: told.append(one)
    )
    assert [number for number, _ in told] == [0]
    assert found.trials[["trial", "state", "epochs"]].to_dict("list") == {
        "trial": [0],
        "state": ["finished"],
        "epochs": [2],
    }
    again = tune(settings(folder), SEARCH, tmp_path, trials=1)
    assert (again.best, again.number, again.importances) == (found.best, found.number, {})
    assert Run.load(tmp_path / "best.yaml") == found.best


@needs_optuna
@pytest.mark.slow
def test_a_search_keeps_the_best_and_goes_on(folder, tmp_path):
    told = []
    found = tune(
        settings(folder), SEARCH, tmp_path, trials=2, started=lambda *one: told.append(one)
    )
    assert [number for number, _ in told] == [0, 1]
    assert {*told[0][1]} == {"learning_rate", "gate"}
    assert found.number == found.trials["number"].min()
    again = tune(settings(folder), SEARCH, tmp_path, trials=3)
    assert again.trials["trial"].tolist() == [0, 1, 2]
    assert again.trials["learning_rate"].nunique() == 3
    assert set(again.importances) <= {"learning_rate", "gate"}
    best = Run.load(tmp_path / "best.yaml")
    assert best == again.best
    # What the file says trains the same model.
    history = best.fit(best.build())
    losses = np.add(history["val_watch_loss"], history["val_stay_loss"])
    np.testing.assert_allclose(losses.min(), again.number, rtol=1e-4)
    assert len(pd.read_csv(tmp_path / "trials.csv")) == 3
    with pytest.raises(ValueError, match="holds the trials of one search"):
        tune(settings(folder, num_experts=3), SEARCH, tmp_path, trials=3)


@needs_optuna
@pytest.mark.slow
def test_a_number_of_which_more_is_better(folder, tmp_path):
    given = settings(folder, embeddings_regularizer=0.1)
    found = tune(given, SEARCH, tmp_path, trials=2, metric="watch_auc")
    assert found.number == found.trials["number"].max()
    assert 0 <= found.number <= 1
    with pytest.raises(ValueError, match=r"'watch_ac'. Did you mean 'watch_auc'\?"):
        tune(given, SEARCH, tmp_path / "other", trials=1, metric="watch_ac")


@needs_optuna
def test_searches_that_cannot_be(folder, tmp_path):
    with pytest.raises(ValueError, match="Received neither"):
        tune(settings(folder), SEARCH, tmp_path, trials=None)
    with pytest.raises(ValueError, match="valid=None with epochs=2"):
        tune(settings(folder, valid=None), SEARCH, tmp_path)
    refused = {**SEARCH, "scenario_towers": [True]}
    with pytest.raises(ValueError, match=r"5 trials .* that were refused: .*scenario"):
        tune(settings(folder), refused, tmp_path, trials=1)
    for slip, message in (
        ({"weighting": ["fixed", "uncertanty"]}, "--weighting uncertanty"),
        ({"batch_size": {"low": 32, "high": 99.5}}, "batch_size=99.5"),
        ({"optimizer": ["sgd:-1"]}, "--optimizer sgd:-1"),
    ):
        with pytest.raises(ValueError, match=message):
            tune(settings(folder), {**SEARCH, **slip}, tmp_path / "slip", trials=1)
    few = pd.read_csv(folder / "train.csv")[:80]
    few.to_csv(tmp_path / "few.csv", index=False)
    given = settings(folder, data=str(tmp_path / "few.csv"), valid=None)
    given.pop("epochs")
    with pytest.raises(ValueError, match=r"Received fewer rows, without a table\. Give `valid`"):
        tune(given, SEARCH, tmp_path / "few", trials=1)


@needs_optuna
@pytest.mark.slow
def test_what_is_refused_is_told_and_does_not_count(folder, tmp_path):
    """Nor does a search that has found nothing: another may begin in its folder."""
    search = {**NOTHING, "scenario_towers": [False, True], "gate": ["softmax"]}
    with pytest.raises(ValueError, match="'watch_ac'"):
        tune(settings(folder), {**search, "gate": ["top-k"]}, tmp_path, 2, metric="watch_ac")
    found = tune(settings(folder), search, tmp_path, trials=2).trials
    assert (found["state"] == "finished").sum() == 2
    refused = found[found["state"] == "refused"]
    assert len(refused)
    assert refused["reason"].str.contains("scenario").all()
    assert found.loc[found["state"] == "finished", "reason"].eq("").all()
    assert tune(settings(folder), search, tmp_path, trials=2).trials.equals(found)


@needs_optuna
@pytest.mark.slow
@pytest.mark.parametrize("gate", ["dselect-k", "softmax"])
def test_a_number_is_that_of_the_weights_that_are_kept(folder, tmp_path, gate):
    """Whichever number decides, and also if a gate has to decide first."""
    given = settings(folder, gate=gate, epochs=6)
    search = {**NOTHING, "learning_rate": [0.3]}
    found = tune(given, search, tmp_path, trials=1, metric="watch_auc")
    model = found.best.build()
    history = found.best.fit(model)
    assert found.number == pytest.approx(history["val_watch_auc"][model.best_epoch], abs=1e-6)
    kept = model.evaluate(given["valid"], verbose=0, exact=False)["watch_auc"]
    assert found.number == pytest.approx(kept, abs=1e-6)


@needs_optuna
def test_a_search_that_cannot_end_well_ends_soon(folder, tmp_path):
    slip = settings(folder, task_weight={"wach": 2.0})
    with pytest.raises(ValueError, match=r"5 trials one after the other that were refused: .*wach"):
        tune(slip, SEARCH, tmp_path / "slip", trials=None, minutes=10)
    rows = pd.read_csv(folder / "valid.csv")
    rows.assign(watch=1.0).to_csv(tmp_path / "ones.csv", index=False)
    given = settings(folder, valid=str(tmp_path / "ones.csv"))
    with pytest.raises(ValueError, match="rows without a watch_auc: none of them has a label, or"):
        tune(given, SEARCH, tmp_path / "ones", trials=3, metric="watch_auc")
    rows.assign(watch=np.nan, stay=np.nan).to_csv(tmp_path / "none.csv", index=False)
    given = settings(folder, valid=str(tmp_path / "none.csv"))
    with pytest.raises(ValueError, match="rows without a loss"):
        tune(given, SEARCH, tmp_path / "none", trials=3)


def test_without_optuna_it_says_what_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"pip install 'tfmoe\[tune\]'"):
        tune(settings(folder), SEARCH, tmp_path)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings(folder)))
    done = CliRunner().invoke(app, ["tune", "--config", str(tmp_path / "run.yaml")])
    assert done.exit_code == 1
    assert "pip install 'tfmoe[tune]'" in " ".join(done.output.split())


@needs_optuna
@pytest.mark.slow
def test_the_commands_take_the_same_file(folder, tmp_path):
    runner = CliRunner()
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**settings(folder), "search": SEARCH}))
    out = tmp_path / "tuned"
    arguments = ["tune", "--config", tmp_path / "run.yaml", "--out", out, "--trials", 3]
    done = runner.invoke(app, [str(one) for one in arguments])
    assert done.exit_code == 0, done.output
    assert "The best of 3 trials, by loss" in done.output
    assert "reason" not in done.output
    assert {"best.yaml", "trials.csv", "trials.db", "importance.svg"} <= {*os.listdir(out)}
    arguments = ["train", "--config", out / "best.yaml", "--out", tmp_path / "m.keras"]
    arguments += ["--epochs", 1, "--write-config", tmp_path / "whole.yaml"]
    done = runner.invoke(app, [str(one) for one in arguments])
    assert done.exit_code == 0, done.output
    whole, best = Run.load(tmp_path / "whole.yaml"), Run.load(out / "best.yaml")
    assert (whole.epochs, whole.num_experts, whole.gate) == (1, 2, best.gate)
    model = tfmoe.load_model(tmp_path / "m.keras")
    assert model.mixture.num_experts == 2
    np.testing.assert_allclose(float(model.optimizer.learning_rate), best.learning_rate, rtol=1e-6)


def test_the_command_says_what_a_file_lacks(tmp_path):
    runner = CliRunner()
    file = tmp_path / "run.yaml"
    for text, arguments, message in (
        ("gate: top-k", [], "A training needs DATA, a table"),
        ("data: t.csv", [], "A training needs --schema"),
        ("gat: top-k", ["t.csv", "--schema", "s.yaml"], "Did you mean 'gate'?"),
        ("{gate: softmax}", ["t.csv", "--schema", "s.yaml", "--gate", "hard"], "--gate hard"),
    ):
        file.write_text(text)
        out = ["--out", str(tmp_path / "m.keras")]
        done = runner.invoke(app, ["train", *arguments, "--config", str(file), *out])
        assert (done.exit_code, message in " ".join(done.output.split())) == (1, True), done.output
    done = runner.invoke(app, ["train", "t.csv", "--out", str(tmp_path / "m.keras")])
    assert "A training needs --schema" in " ".join(done.output.split())


CODE = """
import json, sys
from tfmoe import tune
settings, search, folder = json.loads(sys.argv[1])
tune(settings, search, folder, trials=50, started=lambda number, _: print(number, flush=True))
"""


@needs_optuna
@pytest.mark.slow
def test_a_search_that_was_killed_goes_on(folder, tmp_path):
    import optuna

    given = json.dumps([settings(folder), SEARCH, str(tmp_path)])
    command = [sys.executable, "-c", CODE, given]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **pipes) as process:
        numbers = iter(process.stdout.readline, "")
        # In the middle of the third.
        reached = any(int(number) == 2 for number in numbers)
        process.send_signal(signal.SIGKILL)
    assert reached
    done = len(pd.read_csv(tmp_path / "trials.csv"))
    assert done == 2
    found = tune(settings(folder), SEARCH, tmp_path, trials=done + 1)
    assert len(found.trials) == done + 1
    assert 2 not in found.trials["trial"].tolist()
    study = optuna.load_study(study_name="tfmoe", storage=f"sqlite:///{tmp_path / 'trials.db'}")
    assert study.trials[2].state.name == "FAIL"
