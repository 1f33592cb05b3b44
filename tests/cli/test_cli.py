import functools
import importlib
import inspect
import json
import re

import keras
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import tfmoe
from tests.oracles import tables
from tfmoe.cli import demo, markets
from tfmoe.cli.app import app
from tfmoe.datasets.markets import synthetic_markets
from tfmoe.objectives.weighting import by_name
from tfmoe.runs import by_name as words
from tfmoe.runs.by_name import GATES, STRUCTURES, WEIGHTINGS, structure_by_name

runner = CliRunner()


def run(*arguments):
    return runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder: a table, as CSV, and the schema that was proposed and edited."""
    folder = tmp_path_factory.mktemp("user")
    df = tables.rows()[["user_id", "movie_id", "genres", "age", "watch", "rating", "mood"]]
    df.to_csv(folder / "rows.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    """What `schema` and `train` leave behind."""
    labels = ("--label", "watch", "--label", "rating", "--label", "mood")
    proposed = run("schema", folder / "rows.csv", *labels, "--out", folder / "schema.yaml")
    assert proposed.exit_code == 0, proposed.output
    done = run(
        *("train", folder / "rows.csv", "--schema", folder / "schema.yaml"),
        *("--valid", folder / "rows.csv", "--out", folder / "model.keras", "--epochs", 2),
        *("--gate", "dselect-k", "--num-experts", 3, "--hidden-units", "8,4"),
        *("--history", folder / "gates.csv"),
    )
    assert done.exit_code == 0, done.output
    assert "on the validation table" in done.output
    assert "watch_auc" in done.output
    return folder / "model.keras"


def test_schema_proposes_a_file_that_a_person_can_edit(folder, model):
    schema = tfmoe.Schema.load(folder / "schema.yaml")
    assert schema.task_names == ("watch", "rating", "mood")
    assert isinstance(schema.column("genres"), tfmoe.MultiCategorical)


def test_a_schema_is_proposed_from_thousands_of_wide_rows(tmp_path):
    wide = pd.DataFrame({f"c{i}": ["x" * 40] * 3000 for i in range(30)})
    wide["market"], wide["y"] = ["de"] * 2500 + ["fr"] * 500, [0, 1] * 1500
    text = wide.to_csv(index=False).replace("y\n", "y,,\n", 1).replace("0\n", "0,,\n")
    (tmp_path / "rows.csv").write_text(text.replace("1\n", "1,,\n"))
    out = tmp_path / "schema.yaml"
    done = run(
        "schema", tmp_path / "rows.csv", "--label", "y", "--task-column", "market", "--out", out
    )
    assert done.exit_code == 0, done.output
    assert tfmoe.Schema.load(out).task_names == ("de", "fr")


def test_a_schema_says_what_to_look_at(tmp_path):
    rows = pd.DataFrame({"n": range(90), "zip": "02139", "v": ["NA", "1,5", "7"] * 30})
    rows["y"] = ["yes", "no"] * 45
    rows["status"] = rows["y"].map({"yes": "done", "no": "open"})
    rows.to_csv(tmp_path / "rows.csv", index=False, sep=";", encoding="latin-1")
    out, data = tmp_path / "schema.yaml", tmp_path / "rows.csv"
    assert "rows.csv?delimiter=;" in "".join(run("schema", data, "--label", "y").output.split())
    done = run("schema", f"{data}?delimiter=;&encoding=latin-1", "--label", "y", "--out", out)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "['n'] count the rows" in said
    assert "'status' tells 'y'" in said
    assert "'yes' counts as 1" in said
    schema = tfmoe.Schema.load(out)
    assert schema.tasks == (tfmoe.Binary("y", positive="yes"),)
    assert schema.column("zip") == tfmoe.Categorical("zip", dtype="string")


def test_evaluate_prints_metrics(folder, model):
    done = run("evaluate", model, folder / "rows.csv")
    assert done.exit_code == 0, done.output
    assert all(name in done.output for name in ("watch_auc", "rating_rmse", "mood_accuracy"))
    assert run("evaluate", model, folder / "rows.csv", "--all").output == done.output


def test_predict_writes_a_row_for_each_input_row(folder, model):
    done = run("predict", model, folder / "rows.csv", "--out", folder / "predictions.csv")
    assert done.exit_code == 0, done.output
    predictions = pd.read_csv(folder / "predictions.csv")
    assert set(predictions) == {"mood_bad", "mood_good", "mood_so-so", "rating", "watch"}
    assert len(predictions) == 300
    again = run("predict", model, folder / "rows.csv", "--out", folder / "predictions.csv")
    assert again.exit_code == 1
    assert "is there already" in " ".join(again.output.split())


def test_predictions_of_a_table_without_rows(folder, model, tmp_path):
    pd.read_csv(folder / "rows.csv", dtype=str).head(0).to_csv(tmp_path / "none.csv", index=False)
    for name, keep in (("alone.csv", []), ("beside.parquet", ["--keep", "user_id"])):
        done = run("predict", model, tmp_path / "none.csv", *keep, "--out", tmp_path / name)
        assert done.exit_code == 0, done.output
        assert "Wrote 0 rows" in done.output
    assert len(pd.read_csv(tmp_path / "alone.csv")) == 0
    assert set(pd.read_csv(tmp_path / "alone.csv")) >= {"mood_bad", "rating", "watch"}
    kept = pd.read_parquet(tmp_path / "beside.parquet")
    assert (len(kept), kept.columns[0]) == (0, "user_id")


def test_export_writes_a_version(folder, model):
    done = run("export", model, folder / "serving")
    assert done.exit_code == 0, done.output
    assert (folder / "serving" / "1" / "saved_model.pb").exists()


@pytest.mark.filterwarnings("ignore:.*Undecided")  # two epochs, few rows: that is right
def test_extract_writes_a_model_of_one_task(folder, model):
    out = folder / "rating.keras"
    arguments = ("extract", model, "--task", "rating", "--data", folder / "rows.csv")
    done = run(*arguments, "--out", out)
    assert done.exit_code == 0, done.output
    assert re.search(r"Parameters: [\d,]+ of [\d,]+", done.output)
    df = pd.read_csv(folder / "rows.csv")
    whole, extracted = (
        keras.saving.load_model(path).predict(df, verbose=0) for path in (model, out)
    )
    assert list(extracted) == ["rating"]
    assert "rating_rmse" in run("evaluate", out, folder / "rows.csv").output
    np.testing.assert_allclose(extracted["rating"], whole["rating"], rtol=1e-5)
    again = run(*arguments, "--out", out)
    assert again.exit_code == 1
    assert "is there already" in " ".join(again.output.split())


def test_report_writes_pictures_and_numbers(folder, model):
    arguments = ("report", model, folder / "rows.csv", "--out", folder / "report")
    done = run(*arguments, "--history", folder / "gates.csv")
    assert done.exit_code == 0, done.output
    assert "experts used" in done.output
    found = {path.name for path in (folder / "report").iterdir()}
    assert found == {"gate.png", "gate_curves.png", "gate_history.png", "gates.csv"}
    history = pd.read_csv(folder / "gates.csv")
    assert set(history["epoch"]) == {1, 2}
    again = run(*arguments)
    assert again.exit_code == 1
    assert "is there already" in " ".join(again.output.split())


@pytest.mark.slow
def test_predictions_stand_beside_columns_of_the_table(folder, model, tmp_path):
    rows = pd.read_csv(folder / "rows.csv", dtype=str, keep_default_na=False)
    both = ["user_id", "watch"]
    for keep, names in ((["user_id,watch"], both), (both, both), (["all"], list(rows))):
        out = tmp_path / f"{'-'.join(keep)}.csv"
        kept = [part for name in keep for part in ("--keep", name)]
        done = run("predict", model, folder / "rows.csv", *kept, "--out", out)
        assert done.exit_code == 0, done.output
        got = pd.read_csv(out, dtype=str, keep_default_na=False)
        assert list(got)[: len(names)] == names
        pd.testing.assert_frame_equal(got[names], rows[names])
        assert got["watch_predicted"].astype(float).between(0, 1).all()
    # Predictions that stand there already stay.
    rows["watch_predicted"] = "0.5"
    rows.to_csv(tmp_path / "twice.csv", index=False)
    out = tmp_path / "beside.csv"
    done = run("predict", model, tmp_path / "twice.csv", "--keep", "all", "--out", out)
    assert done.exit_code == 0, done.output
    got = pd.read_csv(out, dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(got[list(rows)], rows)
    assert got["watch_predicted_2"].astype(float).between(0, 1).all()
    done = run("predict", model, folder / "rows.csv", "--keep", "who", "--out", tmp_path / "p.csv")
    assert done.exit_code == 1
    assert "of which ['who'] are not there" in " ".join(done.output.split())


@pytest.mark.parametrize("gate", GATES)
def test_every_gate_has_a_name(gate):
    numbered = "num_nonzeros" in inspect.signature(getattr(tfmoe, GATES[gate]).__init__).parameters
    mixture = structure_by_name("mmoe", gate, 4, 3 if numbered else None, "8")
    mixture.num_tasks = 2
    assert mixture(np.ones((1, 5))).shape == (1, 2, 8)
    assert getattr(mixture.gate, "num_nonzeros", None) in (3, None)


def test_every_public_gate_and_structure_has_a_name():
    public = {name: getattr(tfmoe, name) for name in tfmoe.__all__}
    gates = {
        name for name, it in public.items() if isinstance(it, type) and issubclass(it, tfmoe.Gate)
    }
    # A hash gate reads a column, which has no option.
    assert set(GATES.values()) == gates - {"Gate", "HashGate"}
    assert STRUCTURES == {
        "adatt": "AdaTT",
        "cgc": "CGC",
        "cross-stitch": "CrossStitch",
        "home": "HoME",
        "mtan": "MTAN",
        "ple": "PLE",
        "snr": "SNR",
        "stem": "STEM",
        "mmoe": "MMoE",
        "omoe": "OMoE",
        "mod-squad": "ModSquad",
        "shared-bottom": "SharedBottom",
        "star": "STAR",
    }
    assert {"top-k", "dselect-k", "relu", "balanced-top-k"} < set(GATES)


@pytest.mark.parametrize("mixture", STRUCTURES)
def test_every_mixture_has_a_name(mixture):
    made = structure_by_name(mixture, hidden_units="16,8")
    assert type(made).__name__ == STRUCTURES[mixture]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"structure": "shared-bottom", "gate": "top-k"}, "shared-bottom takes no --gate"),
        ({"structure": "shared-bottom", "num_experts": 16}, "takes no --num-experts"),
        ({"structure": "mmoe", "gate": "softmax", "num_nonzeros": 2}, "takes no --num-nonzeros"),
        ({"structure": "mmoe", "gate": "top-k", "entropy_reg": 0.1}, "takes no --entropy-reg"),
        ({"structure": "mmoe", "entropy_reg": 0.1}, "--mixture mmoe takes no --entropy-reg"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        structure_by_name(**given)


def test_weightings_have_the_names_that_compile_takes():
    assert set(WEIGHTINGS) == {"fixed", *by_name.WEIGHTINGS}


def test_optimizers_are_named_by_part():
    parts = words.optimizer_parts("embeddings/user_id=lazy_adam:0.01, rest=sgd")
    assert parts == {"embeddings/user_id": ("lazy_adam", 0.01), "rest": ("sgd", None)}
    made = words.optimizer("gates=ftrl:0.5,rest=adam", 0.25)
    assert {part: float(one.learning_rate) for part, one in made.parts.items()} == {
        "gates": 0.5,
        "rest": 0.25,
    }
    assert type(made.parts["rest"]) is tfmoe.optimizers.Adam
    assert type(words.optimizer("sgd:0.1", 1.0)) is keras.optimizers.SGD
    for wrong in ("sgd:fast", "gates=sgd,adam", "gates=adam,gates=sgd"):
        with pytest.raises(ValueError, match=f"Received --optimizer {wrong}"):
            words.optimizer_parts(wrong)
    with pytest.raises(ValueError, match="Received --optimizer adamm"):
        words.optimizer_parts("adamm")
    for name in words.OPTIMIZERS:
        assert float(words.optimizer(name, 0.5).learning_rate) == 0.5


def test_an_unknown_weighting_is_told_first(tmp_path, folder):
    arguments = ("train", tmp_path / "none.csv", "--schema", folder / "schema.yaml")
    done = run(*arguments, "--weighting", "pcgrd")
    assert "Received --weighting pcgrd" in " ".join(done.output.split())


@pytest.mark.slow
def test_train_takes_what_a_training_needs(folder, model, tmp_path):
    arguments = ("train", folder / "rows.csv", "--schema", folder / "schema.yaml")
    arguments += ("--out", tmp_path / "m.keras", "--num-experts", 2, "--hidden-units", "4")
    options = ("--epochs", 1, "--batch-size", 100, "--dropout", 0.1, "--tower-units", "3,2")
    options += (
        "--interactions",
        "cross,fm,dot",
        "--interactions-alone",
        "--optimizer",
        "gates=sgd:0.5,rest=adam",
    )
    options += ("--embeddings-regularizer", 1e-4, "--kernel-regularizer", 1e-5)
    options += ("--column-dropout", 0.2)
    wrong = run(*arguments, "--interactions", "cross,fn")
    assert "Received --interactions fn" in " ".join(wrong.output.split())
    wrong = run(*arguments, "--task-weight", "watch=much")
    assert "Received --task-weight watch=much" in " ".join(wrong.output.split())
    done = run(*arguments, *options, "--task-weight", "watch=0.5", "--weighting", "upgrad")
    assert done.exit_code == 0, done.output
    model = keras.saving.load_model(tmp_path / "m.keras")
    assert (model.tower_units, model.tower_dropout) == ((3, 2), 0.1)
    assert model.get_compile_config()["loss_weights"] == {"watch": 0.5}
    assert isinstance(model.weighting_state.weighting, tfmoe.UPGrad)
    assert [*model.optimizer.parts] == ["gates", "rest"]
    assert model.encoder.embeddings_regularizer == 1e-4
    assert (model.kernel_regularizer.l2, model.column_dropout.rate) == (1e-5, 0.2)
    parts = [type(layer).__name__ for layer in model.interactions.parts]
    assert parts == ["Cross", "FM", "DotInteraction"]
    assert (model.interactions.stacked, model.interactions.keep_input) == (False, False)


@pytest.mark.slow
def test_a_model_is_trained_on_and_grows(folder, model, tmp_path):
    later = pd.read_csv(folder / "rows.csv")
    before = tfmoe.load_model(model).preprocessor
    later["movie_id"] = "new " + later["movie_id"].astype(str)
    later.to_csv(tmp_path / "later.csv", index=False)
    out, config = tmp_path / "grown.keras", tmp_path / "run.yaml"
    start = ("train", tmp_path / "later.csv", "--from", model, "--out", out, "--epochs", 1)
    for more, message in (
        (("--mixture", "ple"), "with ['mixture']. Leave these out"),
        (("--evict-after", 2), "Received ['evict_after'] without grow"),
        (("--grow", "--new-rows", "zeros"), "Received new_rows='zeros'"),
    ):
        assert message in " ".join(run(*start, *more).output.split())
    without = ("train", tmp_path / "later.csv", "--schema", folder / "schema.yaml", "--grow")
    assert "without a model. Give --schema; or --from" in " ".join(run(*without).output.split())
    done = run(*start, "--grow", "--new-rows", "unknown", "--write-config", config)
    assert done.exit_code == 0, done.output
    assert re.search(r"movie_id: \d+ new values, 0 of them", " ".join(done.output.split()))
    grown = tfmoe.load_model(out)
    assert grown.preprocessor.grown_from(before)
    assert grown.preprocessor.table_sizes["movie_id"] > before.table_sizes["movie_id"]
    assert int(grown.optimizer.iterations) > int(tfmoe.load_model(model).optimizer.iterations)
    saved = tfmoe.Run.load(config)
    assert (saved.from_model, saved.grow, saved.new_rows) == (str(model), True, "unknown")
    text = config.read_text().replace("from_model:", "from:")
    config.write_text(text)
    assert tfmoe.Run.load(config) == saved
    with pytest.raises(ValueError, match="has the model's schema"):
        saved.read_schema()


@pytest.mark.slow
def test_train_chooses_by_itself_and_says_so(folder, model, tmp_path):
    arguments = ("train", folder / "rows.csv", "--schema", folder / "schema.yaml")
    arguments += ("--out", tmp_path / "m.keras", "--num-experts", 2, "--hidden-units", "4")
    done = run(*arguments, "--patience", 0)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "in batches of 32; a tenth of them, drawn by seed 0, is for validation" in said
    assert re.search(r"on the rows held out, of epoch \d+, which is kept", said)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "none.keras", "x.csv"], "There is no model at none.keras"),
        (["schema", "none.csv", "--label", "y"], "No file matches. Received source='none.csv'"),
        (["demo", "--data", "ml-9m"], "ml-9m"),
    ],
)
def test_errors_come_without_a_traceback(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code == 1
    assert message in done.output
    assert "Traceback" not in done.output


def test_names_of_results_are_checked_before_the_work(folder, model):
    arguments = ("train", folder / "rows.csv", "--schema", folder / "schema.yaml")
    for name, message in {"model": "ends in .keras", "model.keras": "is there already"}.items():
        done = run(*arguments, "--out", folder / name)
        assert (done.exit_code, message in " ".join(done.output.split())) == (1, True)
    done = run("predict", model, folder / "rows.csv", "--out", folder / "new" / "rows.csv")
    assert done.exit_code == 0, done.output
    assert len(pd.read_csv(folder / "new" / "rows.csv")) == 300


def test_a_bad_cell_is_told_without_a_traceback(folder, model, tmp_path):
    bad = pd.read_csv(folder / "rows.csv").assign(watch=7)
    bad.to_csv(tmp_path / "bad.csv", index=False)
    arguments = ("train", folder / "rows.csv", "--schema", folder / "schema.yaml")
    trained = run(*arguments, "--out", tmp_path / "m.keras", "--valid", tmp_path / "bad.csv")
    for done in (run("evaluate", model, tmp_path / "bad.csv"), trained):
        assert done.exit_code == 1
        assert done.output.splitlines()[-1].startswith("Error:") or "Error:" in done.output
        assert "'watch'" in done.output
        assert "Traceback" not in done.output
    (tmp_path / "bad.yaml").write_text("columns: [")
    done = run(*arguments[:2], "--schema", tmp_path / "bad.yaml", "--out", tmp_path / "m.keras")
    assert "is no YAML" in " ".join(done.output.split())


def test_train_rejects_what_it_does_not_know(folder, model):
    arguments = ("train", folder / "rows.csv", "--schema", folder / "schema.yaml")
    done = run(*arguments, "--patience", 2, "--epochs", 1, "--out", folder / "other.keras")
    assert done.exit_code == 1
    assert "--patience 2 with --epochs 1 and without --valid" in " ".join(done.output.split())
    done = run(*arguments, "--gate", "hard", "--out", folder / "other.keras")
    assert done.exit_code == 1
    assert "--gate hard" in done.output
    done = run(*arguments, "--hidden-units", "8-4", "--out", folder / "other.keras")
    assert "--hidden-units 8-4" in done.output
    assert not (folder / "other.keras").exists()


@pytest.mark.slow
def test_train_in_half_precision(folder, model):
    arguments = ("train", folder / "rows.csv", "--schema", folder / "schema.yaml")
    arguments += ("--out", folder / "half.keras", "--epochs", 1, "--hidden-units", "4")
    assert "--dtype bfloat16." in run(*arguments, "--dtype", "bfloat16").output
    done = run(*arguments, "--dtype", "mixed_bfloat16")
    assert done.exit_code == 0, done.output
    assert keras.config.dtype_policy().name == "float32"
    half = keras.saving.load_model(folder / "half.keras")
    assert half.mixture.compute_dtype == half.encoder.compute_dtype == "bfloat16"
    assert run("evaluate", folder / "half.keras", folder / "rows.csv").exit_code == 0


@pytest.mark.slow
def test_rows_of_one_task_each_all_the_way(tmp_path):
    df = tables.rows()[["user_id", "age", "device", "watch"]]
    df["market"] = np.where(df["user_id"] % 3 == 0, "NA", "7")
    df.to_csv(tmp_path / "rows.csv", index=False)
    rows, schema, model = (tmp_path / name for name in ("rows.csv", "schema.yaml", "m.keras"))
    proposed = ("schema", rows, "--label", "watch", "--task-column", "market", "--out", schema)
    two_labels = (*proposed[:-1], tmp_path / "other.yaml", "--label", "age")
    done = run(*proposed)
    assert done.exit_code == 0, done.output
    read = tfmoe.Schema.load(schema)
    assert (read.task_names, read.task_keys) == (("market_7", "NA"), ("7", "NA"))
    assert {task.raw_name for task in read.tasks} == {"watch"}
    assert "--task-column market with 2 labels" in run(*two_labels).output
    options = ("--gate", "task-aware", "--num-experts", 4, "--hidden-units", "4", "--epochs", 1)
    history = ("--history", tmp_path / "gates.csv")
    done = run("train", rows, "--schema", schema, "--out", model, *options, *history)
    assert done.exit_code == 0, done.output
    assert "market_7_auc" in done.output
    # Not a missing value, wherever a table is read.
    done = run("report", model, rows, "--out", tmp_path / "report", *history)
    assert done.exit_code == 0, done.output
    assert "NA" in done.output
    out = ("--task", "NA", "--by", "usage", "--threshold", 0.1, "--out", tmp_path / "de.keras")
    done = run("extract", model, *out)
    assert done.exit_code == 0, done.output
    assert re.search(r"Experts kept: \d", done.output)
    df[df["market"] == "NA"].to_csv(tmp_path / "de.csv", index=False)
    done = run("predict", tmp_path / "de.keras", tmp_path / "de.csv", "--out", tmp_path / "p.csv")
    assert done.exit_code == 0, done.output
    assert list(pd.read_csv(tmp_path / "p.csv")) == ["score"]


@pytest.mark.slow
def test_rows_of_scenarios_all_the_way(tmp_path):
    df = tables.rows()[["user_id", "age", "device", "watch", "rating"]]
    df.to_csv(tmp_path / "rows.csv", index=False)
    rows, schema = tmp_path / "rows.csv", tmp_path / "schema.yaml"
    labels = ("--label", "watch", "--label", "rating")
    assert run("schema", rows, *labels, "--out", schema).exit_code == 0
    some = ("--epochs", 1, "--hidden-units", "8,4", "--tower-units", "4", "--schema", schema)
    refused = {
        "--mixture star": ("--mixture", "star"),
        "--pepnet": ("--pepnet", "user_id"),
        "--scenario-towers": ("--scenario-towers",),
    }
    for option, options in refused.items():
        # Before a row is read: there is no such table.
        done = run("train", tmp_path / "none.csv", *some, *options, "--out", tmp_path / "no.keras")
        told = f"{option} is conditioned on the scenario" in " ".join(done.output.split())
        assert (done.exit_code, told) == (1, True), done.output
    schema.write_text(f"{schema.read_text()}scenario: device\n")
    ways = {
        "star": ("--mixture", "star", "--scenario-towers"),
        "pepnet": ("--pepnet", "user_id"),
    }
    for name, options in ways.items():
        model = tmp_path / f"{name}.keras"
        done = run("train", rows, *some, *options, "--out", model)
        assert done.exit_code == 0, done.output
        done = run("evaluate", model, rows)
        assert done.exit_code == 0, done.output
        for device in df["device"].dropna().unique():
            assert f"watch_auc_{device}" in done.output.partition("by scenario")[2]
    model = tfmoe.load_model(tmp_path / "pepnet.keras")
    assert model.tower_gate.columns == ("user_id",)
    assert tfmoe.load_model(tmp_path / "star.keras").scenario_towers


@pytest.mark.parametrize(
    ("cells", "names", "keys"),
    [
        ([True, False], ("False", "True"), ("False", "True")),
        (["2020-01-01", "2020-02-01"], ("m_2020_01_01", "m_2020_02_01"), None),
        ([2.0, 10.0], ("m_2", "m_10"), ("2", "10")),
        (["fr FR", "fr-FR"], ("m_fr_FR", "m_fr_FR_2"), ("fr FR", "fr-FR")),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_keys_of_tasks_are_text(tmp_path, cells, names, keys, kind):
    df = pd.DataFrame({"m": cells, "n": [1.5, 2.5], "y": [0, 1]})
    rows, out = tmp_path / f"rows.{kind}", tmp_path / "schema.yaml"
    df.to_csv(rows, index=False) if kind == "csv" else df.to_parquet(rows)
    done = run("schema", rows, "--label", "y", "--task-column", "m", "--out", out)
    if isinstance(cells[0], float) and kind == "csv":
        names, keys = ("m_2_0", "m_10_0"), ("2.0", "10.0")  # as training reads them
    assert done.exit_code == 0, done.output
    schema = tfmoe.Schema.load(out)
    assert (schema.task_names, schema.task_keys) == (names, keys or tuple(cells))
    tfmoe.Preprocessor(schema).fit(rows)


def test_what_is_left_out_of_a_schema_is_told(tmp_path):
    rows = pd.DataFrame({"n": [1.5], "y": [1], "more": [{"a": 1}]})
    rows.to_parquet(tmp_path / "rows.parquet")
    out = tmp_path / "a[best].yaml"
    done = run("schema", tmp_path / "rows.parquet", "--label", "y", "--out", out)
    assert done.exit_code == 0, done.output
    output = "".join(done.output.split())
    assert "Leftout['more']" in output
    assert "a[best].yaml" in output


def test_other_models_are_refused(tmp_path):
    keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]).save(tmp_path / "plain.keras")
    (tmp_path / "file").touch()
    done = run("evaluate", tmp_path / "plain.keras", "rows.csv")
    assert (done.exit_code, "a Sequential" in " ".join(done.output.split())) == (1, True)
    done = run("export", tmp_path / "plain.keras", tmp_path / "file")
    assert (done.exit_code, "which is a file" in " ".join(done.output.split())) == (1, True)


def test_mod_squad_has_a_name():
    mixture = structure_by_name("mod-squad", None, 4, 3, "16,8")
    assert (mixture.dim, mixture.blocks[0].num_experts) == (8, 4)
    assert mixture.blocks[0].num_chosen == 3


@pytest.mark.slow
def test_demo_leaves_everything_behind(tmp_path, monkeypatch):
    world = synthetic_markets(1, num_rows=40, num_test_rows=60, num_products=10)
    monkeypatch.setattr("tfmoe.datasets.markets.synthetic_markets", lambda seed: world)
    sizes = functools.partial(markets.Sizes, num_experts=4, units=(6, 4), batch_size=32)
    monkeypatch.setattr(markets, "Sizes", sizes)
    (tmp_path / "1").mkdir()  # an earlier run
    done = run("demo", "--out", tmp_path, "--epochs", 1)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "2"
    found = {path.name for path in folder.iterdir()}
    left = {"demo.png", "model.keras", "predictions.csv", "results.json", "serving"}
    assert found == left | {"north_1.keras"}
    rows = json.loads((folder / "results.json").read_text())
    assert [row["model"] for row in rows] == list(markets.SETTINGS)
    assert all(0 < row["auc"] < 1 and len(row["auc_of"]) == 8 for row in rows)
    predictions = pd.read_csv(folder / "predictions.csv")
    assert len(predictions) == 10
    assert predictions["score"].between(0, 1).all()
    assert (folder / "demo.png").stat().st_size > 20_000
    said = " ".join(done.output.split())
    for word in ("Quality", "Compute", "Size", "Not gained", "four trials on other shops"):
        assert word in said
    whole, alone = (keras.saving.load_model(folder / f"{n}.keras") for n in ("model", "north_1"))
    own = world.split.test[world.split.test["market"] == "north_1"]
    expected = whole.predict(own, verbose=0)["score"]
    np.testing.assert_allclose(alone.predict(own, verbose=0)["score"], expected, atol=1e-6)


@pytest.mark.slow
def test_demo_on_movielens_leaves_everything_behind(tmp_path, monkeypatch):
    split = tfmoe.data.synthetic_ratings(num_rows=3000, num_users=100, num_movies=80)
    module = importlib.import_module("tfmoe.datasets.movielens")  # the function has its name
    monkeypatch.setattr(module, "movielens", lambda data, seed: split)
    monkeypatch.setattr(demo, "MOVIELENS", demo.Settings(units=4, batch_size=256, epochs=1))
    done = run("demo", "--data", "ml-1m", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "1"
    found = {path.name for path in folder.iterdir()}
    assert found == {"gates.png", "model.keras", "predictions.csv", "results.json", "serving"}
    rows = json.loads((folder / "results.json").read_text())
    assert [row["model"] for row in rows] == ["SharedBottom", "MMoE", "DSelect-k"]
    assert all(0 < row["watch_auc"] < 1 and row["rows_per_s"] > 0 for row in rows)
    predictions = pd.read_csv(folder / "predictions.csv")
    assert len(predictions) == 10
    assert np.isfinite(predictions[["watch_predicted", "rating_predicted"]]).all(axis=None)
    assert (folder / "gates.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Columns may give")
def test_vectors_times_and_text_all_the_way(tmp_path):
    rng, num = np.random.default_rng(0), 200
    words = np.array(
        ["red", "blue", "old", "new", "coat", "book", "lamp", "chair", "with", "without"]
    )
    at = pd.to_datetime("2024-03-01") + pd.to_timedelta(rng.integers(0, 10**6, num), unit="s")
    frame = pd.DataFrame(
        {
            "emb": list(rng.normal(size=(num, 3))),
            "at": at,
            "title": [" ".join(rng.choice(words, 6)) for _ in range(num)],
            "click": rng.integers(0, 2, num),
        }
    )
    table, schema = tmp_path / "rows.parquet", tmp_path / "schema.yaml"
    frame.to_parquet(table)
    proposed = run("schema", table, "--label", "click", "--out", schema)
    assert proposed.exit_code == 0, proposed.output
    said = " ".join(proposed.output.split())
    assert "vectors: ['emb']" in said
    assert "weekday" in said
    assert "free text: ['title']" in said
    kinds = [type(column) for column in tfmoe.Schema.load(schema).columns]
    assert kinds == [tfmoe.Vector, tfmoe.Timestamp, tfmoe.Text]
    model = tmp_path / "model.keras"
    for step in (
        *[("train", table, "--schema", schema, "--out", model, "--epochs", 1)],
        *[("predict", model, table, "--out", tmp_path / "out.csv")],
        *[("export", model, tmp_path / "served")],
    ):
        done = run(*step)
        assert done.exit_code == 0, done.output
    assert len(pd.read_csv(tmp_path / "out.csv")) == num
    # A text file has no lists, and the rest means the same there.
    rest = tfmoe.Schema.load(schema)
    rest = tfmoe.Schema(rest.columns[1:], rest.tasks)
    frame.drop(columns="emb").to_csv(tmp_path / "rows.csv", index=False)
    prep = tfmoe.Preprocessor(rest).fit(table, progress=False)
    expected = prep.arrays(table)[0]
    for name, values in prep.arrays(tmp_path / "rows.csv")[0].items():
        np.testing.assert_array_equal(values, expected[name])
