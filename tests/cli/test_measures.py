"""`tfmoe evaluate` by segment and group, and `tfmoe importance`."""

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import tfmoe
from tests.oracles.consoles import shown
from tfmoe.cli.app import app
from tfmoe.cli.metrics import metrics_table, segments_table
from tfmoe.reports.quality import write_measures

runner = CliRunner()


def run(*arguments):
    return runner.invoke(app, [str(one) for one in arguments], env={"COLUMNS": "80"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table as CSV, and a model of it."""
    folder = tmp_path_factory.mktemp("user")
    random = np.random.default_rng(0)
    rows = pd.DataFrame({"age": random.normal(size=500).round(3)})
    rows["country"] = random.choice(["de", "fr"], 500)
    rows["user_id"] = random.integers(0, 40, 500)
    rows["click"] = (rows["age"] > 0) * 1
    rows["stars"] = rows["age"] * 2
    rows.to_csv(folder / "rows.csv", index=False)
    columns = [tfmoe.Numeric("age", transform="none")]
    schema = tfmoe.Schema(columns, [tfmoe.Binary("click"), tfmoe.Regression("stars")])
    prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(4,)))
    model.save(folder / "model.keras")
    return folder


def test_evaluate_tells_groups_and_segments(folder):
    by = ("--by", "country,age", "--group", "user_id", "--k", 3, "--threshold", 0.4)
    done = run("evaluate", folder / "model.keras", folder / "rows.csv", *by, "--out", folder / "o")
    assert done.exit_code == 0, done.output
    for name in ("gauc", "gauc_share", "ndcg@3", "recall@3", "mrr", "calibration", "loss"):
        assert f"click_{name} " in done.output
    assert "click_precision_above_0.4" in done.output
    assert "By country" in done.output
    assert "By age" in done.output
    lines = done.output.split("Wrote")[0].splitlines()
    assert max(map(len, lines)) <= 80
    found = {path.name for path in (folder / "o").iterdir()}
    pictures = {"reliability.png", "by_country.png", "by_age.png"}
    assert found == {"numbers.csv", "deciles.csv", "segments.csv", *pictures}
    numbers = pd.read_csv(folder / "o" / "numbers.csv", index_col="measure")["value"]
    rows = pd.read_csv(folder / "rows.csv")
    model = tfmoe.load_model(folder / "model.keras")
    expected = tfmoe.measure(model, rows, group="user_id").numbers
    assert numbers["click_gauc"] == pytest.approx(expected["click_gauc"], rel=1e-6)
    again = run("evaluate", folder / "model.keras", folder / "rows.csv", "--out", folder / "o")
    assert again.exit_code == 1
    assert "is there already" in " ".join(again.output.split())


def test_what_is_not_there_is_told(folder):
    given = ("evaluate", folder / "model.keras", folder / "rows.csv")
    done = run(*given, "--by", "nobody")
    assert done.exit_code == 1
    assert "Received ['nobody']" in " ".join(done.output.split())
    done = run(*given, "--k", 3)
    assert done.exit_code == 1
    assert "Received --k 3 without --group" in " ".join(done.output.split())
    done = run(*given, "--threshold", 3)
    assert done.exit_code == 1
    assert "threshold=3" in done.output


def test_importance_shows_columns(folder):
    given = ("importance", folder / "model.keras", folder / "rows.csv", "--repeats", 2)
    done = run(*given, "--rows", 100, "--out", folder / "importance")
    assert done.exit_code == 0, done.output
    assert "worse by" in done.output
    frame = pd.read_csv(folder / "importance" / "importance.csv")
    assert frame["column"].tolist() == ["age", "age"]
    assert (folder / "importance" / "importance.png").stat().st_size > 1000


LONG = "add_to_cart_after_a_search_within_seven_days"


def test_tables_are_whole_at_80_columns():
    names = ["segment", "task", "rows", "label", "metric", "value", "calibration"]
    line = ["a very long name of a country", LONG, 123_456_789, 0.1, "accuracy", 0.5, 1.25]
    frame = pd.DataFrame([line] * 30, columns=names)
    text = shown(segments_table(frame, "country", "see out/segments.csv"))
    assert "…" not in text
    assert "and 6 more lines: see out/segments.csv" in text
    assert text.count("1.250") == 24
    tasks = [tfmoe.Binary(LONG), tfmoe.Binary("a"), tfmoe.Binary("a_log")]
    values = {f"{LONG}_normalized_entropy": 1.0, "a_gauc": 0.5, "a_log_ndcg@10": 0.25}
    text = shown(metrics_table(values, tasks=tasks))
    assert "…" not in text
    assert all(name in "".join(text.split()) for name in values)


def test_tasks_without_probabilities_have_no_reliability(tmp_path):
    columns = [tfmoe.Numeric("age", transform="none")]
    schema = tfmoe.Schema(columns, [tfmoe.Regression("stars", standardize=False)])
    model = tfmoe.MultiTaskModel(schema, tfmoe.SharedBottom(hidden_units=(4,)))
    rows = pd.DataFrame({"age": [1.0, 2.0], "stars": [np.nan, 3.0]})
    found = tfmoe.measure(model, rows)
    write_measures(found, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["numbers.csv"]
    assert list(found.deciles) == [
        "task",
        "decile",
        "rows",
        "weight",
        "prediction",
        "label",
        "calibration",
    ]


ODD = ["[/home]", "[new]", "price_$5_to_$10", "$5-$10", "plain"]


def test_values_with_signs_are_shown_and_drawn_as_they_are(tmp_path):
    """Brackets are rich's markup, and what stands between two dollars is matplotlib's formula."""
    columns = ["a b", "a_b"]
    lines = [
        {
            "task": "click",
            "column": column,
            "segment": name,
            "rows": 9,
            "weight": 9.0,
            "label": 0.5,
            "metric": "auc",
            "value": 0.7,
            "calibration": 1.0,
        }
        for column in columns
        for name in ODD
    ]
    segments = pd.DataFrame(lines)
    text = shown(segments_table(segments[segments["column"] == "a b"], "[b]", "[/out]"))
    assert all(name in text for name in (*ODD, "By [b]"))
    deciles = pd.DataFrame(
        {
            "task": "never",
            "decile": [1, 2],
            "rows": 5,
            "weight": 5.0,
            "prediction": [0.1, 0.2],
            "label": 0.0,
            "calibration": np.inf,
        }
    )
    write_measures(tfmoe.Measures({"click_auc": 0.5}, segments, deciles), tmp_path / "out")
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"by_a_b.png", "by_a_b_2.png", "reliability.png"} < found


def test_errors_are_whole_lines_apart_from_results(folder, tmp_path):
    done = run("predict", tmp_path / ("n" * 90), folder / "rows.csv", "--out", tmp_path / "p.csv")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert f"{'n' * 90}. `tfmoe train` writes one.\n" in done.stderr


def test_what_came_while_a_model_was_trained_stays(folder, tmp_path, monkeypatch):
    columns = [tfmoe.Numeric("age", transform="none")]
    tfmoe.Schema(columns, [tfmoe.Binary("click")]).save(tmp_path / "schema.yaml")
    fit = tfmoe.Run.fit

    def slowly(run, *args, **kwargs):
        (tmp_path / "model.keras").write_text("another's")
        return fit(run, *args, **kwargs)

    monkeypatch.setattr(tfmoe.Run, "fit", slowly)
    given = ("--schema", tmp_path / "schema.yaml", "--epochs", 1, "--mixture", "shared-bottom")
    done = run("train", folder / "rows.csv", *given, "--out", tmp_path / "model.keras")
    assert done.exit_code == 0, done.output
    assert "has come while" in done.stderr
    assert (tmp_path / "model.keras").read_text() == "another's"
    assert tfmoe.load_model(tmp_path / "model_2.keras").schema.task_names == ("click",)


def test_predictions_of_one_name_stand_side_by_side(tmp_path):
    """A class's column may be called as another task."""
    rows = pd.DataFrame({"age": [1.0, 2.0], "rating": ["low", "high"], "rating_high": [0, 1]})
    tasks = [tfmoe.Multiclass("rating", classes=("low", "high")), tfmoe.Binary("rating_high")]
    schema = tfmoe.Schema([tfmoe.Numeric("age", transform="none")], tasks)
    model = tfmoe.MultiTaskModel(schema, tfmoe.SharedBottom(hidden_units=(2,)))
    model.save(tmp_path / "model.keras")
    rows.to_csv(tmp_path / "rows.csv", index=False)
    done = run(
        "predict", tmp_path / "model.keras", tmp_path / "rows.csv", "--out", tmp_path / "p.csv"
    )
    assert done.exit_code == 0, done.output
    found, said = pd.read_csv(tmp_path / "p.csv"), model.predict(rows, verbose=0)
    assert list(found) == ["rating_low", "rating_high_predicted", "rating_high"]
    np.testing.assert_allclose(found["rating_high"], said["rating_high"], rtol=1e-6)
    np.testing.assert_allclose(found["rating_high_predicted"], said["rating"][:, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("demo", "--data-dir", "here"), "Received --data-dir here without one"),
        (
            ("train", "t.csv", "--schema", "s.yaml", "--tower-units", "64x"),
            "Received --tower-units 64x",
        ),
    ],
)
def test_options_that_say_nothing_are_told(given, message, tmp_path):
    done = run(*given, "--out", tmp_path / "out.keras")
    assert done.exit_code != 0
    assert message in done.output
