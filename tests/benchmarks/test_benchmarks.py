"""The benchmarks run, and their rows and tables are what they say. No test asserts a time."""

import importlib
import json
import re
import sys
import types

import numpy as np
import pytest
from PIL import Image

from benchmarks import __main__ as command_line
from benchmarks import results, rivals, step, studies
from benchmarks.rivals import local, process
from benchmarks.rivals.dense_list import mmoe
from benchmarks.rivals.worker import Sizes, make_batches


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder in place of benchmarks/results."""
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    return tmp_path


@pytest.fixture
def fake(monkeypatch):
    """A benchmark that is done at once."""
    module = types.ModuleType("fake_benchmark")
    module.run = lambda quick: [{"name": "a", "rows_per_s": 12345}, {"name": "b", "ratio": 0.5}]
    module.headline = lambda rows: f"rows={len(rows)}"
    monkeypatch.setitem(sys.modules, "fake_benchmark", module)
    monkeypatch.setitem(command_line.BENCHMARKS, "fake", "fake_benchmark")


# `make test` runs these, `make check` all.
SECONDS = {"correlation", "extract"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in SECONDS else pytest.mark.slow)
        for name in command_line.BENCHMARKS
    ],
)
def test_quick_form_runs(name, folder, tmp_path_factory, monkeypatch, capsys):
    tables, runs = [], tmp_path_factory.mktemp("runs")
    monkeypatch.setattr(results, "print_table", tables.append)
    monkeypatch.setattr(studies, "RUNS", runs)
    command_line.main([name, "--quick"])
    headline = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"\w+=\S+( \w+=\S+)*", headline)
    assert list(folder.iterdir()) == list(runs.iterdir()) == []
    (shown,) = tables
    assert shown
    assert all(isinstance(row["name"], str) for row in shown)
    assert all(row["rows_per_s"] > 0 for row in shown if "rows_per_s" in row)
    # What is drawn is drawn from rows as they are saved.
    draw = getattr(importlib.import_module(command_line.BENCHMARKS[name]), "draw", None)
    if draw is not None:
        draw(json.loads(json.dumps(shown)), runs / "picture.png")
        assert (runs / "picture.png").stat().st_size > 5000


def test_command_line_keeps_rows_with_their_provenance(folder, fake, capsys):
    command_line.main(["fake"])
    command_line.main(["fake", "--no-save"])
    command_line.main(["fake", "--quick"])
    lines = (folder / "fake.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert {key: first[key] for key in first if key != "run"} == {"name": "a", "rows_per_s": 12345}
    run = first["run"]
    assert run == second["run"]
    expected = ["commit", "dirty", "date", "versions", "processor", "cores", "command"]
    assert list(run) == expected
    assert run["command"] == "python -m benchmarks fake"
    assert list(run["versions"]) == ["python", "tfmoe", "keras", "tensorflow", "numpy"]
    assert run["processor"]
    out = capsys.readouterr().out
    assert "12,345" in out
    assert out.endswith("rows=2\n")


def test_a_saved_run_is_drawn(folder, fake, monkeypatch):
    drawn = []

    def draw(rows, path):
        drawn.append((rows, path))
        path.parent.mkdir()
        Image.new("RGB", (2, 2)).save(path)

    sys.modules["fake_benchmark"].draw = draw
    monkeypatch.setattr(results, "PICTURES", folder / "pictures")
    command_line.main(["fake", "--no-save"])
    assert drawn == []
    command_line.main(["fake"])
    rows = [{"name": "a", "rows_per_s": 12345}, {"name": "b", "ratio": 0.5}]
    path = folder / "pictures" / "fake.png"
    assert drawn == [(rows, path)]
    assert results.stamped(path) == results.dates(results.newest("fake")[1])


@pytest.mark.parametrize("arguments", [["--help"], ["step", "--help"]])
def test_help_names_the_benchmarks(arguments, capsys):
    with pytest.raises(SystemExit, match="0"):
        command_line.main(arguments)
    out = capsys.readouterr().out
    assert all(name in out for name in [*command_line.BENCHMARKS, "tables", "--quick"])


def test_tables_show_the_newest_run_only(folder, monkeypatch):
    run = {
        "commit": "abc",
        "dirty": True,
        "versions": {"keras": "3.15"},
        "processor": "a chip",
        "cores": 2,
        "command": "python -m benchmarks fake",
    }
    results.save("fake", [{"name": "old", "ratio": 1.0}], run | {"date": "2026-01-01T00:00:00"})
    rows = [{"name": "é", "rows_per_s": 12345, "points": [1, 2]}, {"name": "b", "ratio": 0.25}]
    rows[1] |= {"ratio_error": 0.012, "ratio_p": 0.0004}
    monkeypatch.setattr(results, "RUN_COMMITS", {"fake": {"abc", "abb"}})
    results.save("fake", rows, run | {"date": "2026-02-02T00:00:00"})
    text = "before\n<!-- results:fake -->\nstale\n<!-- end -->\nafter <!-- end -->"
    filled = results.fill(text)
    assert filled == (
        "before\n<!-- results:fake -->\n\n"
        "| name | rows_per_s | ratio |\n| --- | --- | --- |\n| é | 12,345 |  |\n"
        "| b |  | 0.25 ± 0.012 (p 0.0004) |\n\n"
        "`python -m benchmarks fake` on 2026-02-02, commit abc, changed files (its runs: "
        "abb, abc); a chip, 2 cores; "
        "keras 3.15.\n\n<!-- end -->\nafter <!-- end -->"
    )
    assert results.fill(filled) == filled


def test_a_benchmark_run_in_parts_shows_the_newest_of_each(folder, monkeypatch):
    monkeypatch.setattr(results, "PARTS", {"fake": ("size",)})
    runs = [
        {"commit": "abc", "dirty": False, "versions": {}, "processor": "a chip", "cores": 2}
        | {"command": f"python -m benchmarks fake {day}", "date": f"2026-01-0{day}T00:00:00"}
        for day in (1, 2, 3)
    ]
    results.save("fake", [{"name": "gone", "size": 4}, {"name": "a", "size": 1}], runs[0])
    results.save("fake", [{"name": "c", "size": 4}, {"name": "d", "size": 4}], runs[1])
    results.save("fake", [{"name": "b", "size": 2}], runs[2])
    sizes = {"a": 1, "b": 2, "c": 4, "d": 4}
    expected = [{"name": name, "size": size} for name, size in sizes.items()]
    assert results.newest("fake") == (expected, runs)
    filled = results.fill("<!-- results:fake -->\n<!-- end -->")
    assert re.findall("fake (.)` on 2026-01-0(.)", filled) == [("1", "1"), ("2", "2"), ("3", "3")]
    results.save("fake", [{"name": "e", "size": 1}], runs[2] | {"date": "2026-01-04T00:00:00"})
    rows, newest = results.newest("fake")
    assert [row["name"] for row in rows] == list("ebcd")
    assert [run["date"][9] for run in newest] == ["2", "3", "4"]


@pytest.mark.parametrize("path", results.READMES, ids=lambda path: path.parent.name)
def test_readme_tables_are_those_of_the_saved_rows(path):
    text = path.read_text(encoding="utf-8")
    assert results.fill(text) == text, "Run `python -m benchmarks tables`."


@pytest.mark.parametrize("name", list(command_line.BENCHMARKS))
def test_pictures_are_of_the_saved_rows(name):
    rows, runs = results.newest(name)
    draws = hasattr(importlib.import_module(command_line.BENCHMARKS[name]), "draw")
    path = results.PICTURES / f"{name}.png"
    assert path.exists() == bool(rows and draws)
    if path.exists():
        assert results.stamped(path) == results.dates(runs), "Run `python -m benchmarks tables`."
        assert f"](pictures/{name}.png)" in results.READMES[1].read_text(encoding="utf-8")


def test_step_trains_the_same_model_in_tfmoe_and_by_hand():
    ours, by_hand = local.tfmoe_model(step.QUICK), mmoe(step.QUICK)
    assert ours.count_params() == by_hand.count_params()
    features, labels = make_batches(step.QUICK)
    batch = {name: column[0] for name, column in features.items()}
    for model in (ours, by_hand):
        assert set(model.predict(batch, verbose=0)) == set(labels)


@pytest.mark.parametrize(
    "sizes", [step.QUICK, Sizes(num_values=10, expert_units=(8,), num_tasks=3)]
)
def test_step_counts_operations_of_every_kernel(sizes):
    weights = mmoe(sizes).trainable_weights
    kernels = [weight.shape for weight in weights if weight.path.endswith("kernel")]
    assert step.flops_per_row(sizes) == 6 * sum(np.prod(shape) for shape in kernels)


def test_step_takes_ratios_within_a_round():
    sizes = Sizes(batch_size=10, num_batches=10)
    # The machine is slower from round to round, and slows all contestants alike.
    seconds = {"tfmoe": [1.0, 2.0, 8.0], "dense list": [2.0, 6.0, 16.0]}
    gflops = np.array([400, 200, 50]) * step.flops_per_row(sizes) / 1e9
    what = dict.fromkeys([*seconds, "matmul"], "fit")
    ours, by_hand, peak = step.summarise({"matmul": list(gflops), **seconds}, what, sizes)
    assert (ours["rows_per_s"], ours["of_peak"], ours["tfmoe_ratio"]) == (50, 0.25, 1)
    assert (by_hand["tfmoe_ratio"], by_hand["ratio_q1"], by_hand["ratio_q3"]) == (2, 2, 2.5)
    assert (peak["name"], peak["rows_per_s"], peak["of_peak"]) == ("matmul", 200, 1)
    assert [row["what"][:5] for row in (ours, by_hand, peak)] == ["fit", "fit", "fit: "]
    assert step.headline([ours, by_hand, peak]) == (
        "vs_deepctr=left_out vs_rechub=left_out vs_dense_list=2.0 of_peak=0.25"
    )


def test_step_says_why_a_worker_ended(monkeypatch):
    monkeypatch.setattr(process, "interpreter", lambda name: sys.executable)
    with (
        process.Process("nobody", "nobody", step.QUICK.to_json()) as worker,
        pytest.raises(RuntimeError, match=r"(?s)of 'nobody' must run.*No module named"),
    ):
        worker.ready()


def test_rivals_count_as_installed_once_their_pins_are(tmp_path, monkeypatch):
    monkeypatch.setattr(rivals, "HOME", tmp_path)
    assert rivals.interpreter("rechub") is None
    (tmp_path / "rechub").mkdir()
    rivals.stamp("rechub").write_text("torch-rechub==0.8.0\ntorch==2.13.0")
    assert rivals.interpreter("rechub") is None
    rivals.stamp("rechub").write_text("\n".join(rivals.REQUIREMENTS["rechub"]))
    assert rivals.interpreter("rechub").is_relative_to(tmp_path)
