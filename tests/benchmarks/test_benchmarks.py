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
    """An empty folder in place of benchmarks/results, and one in place of docs/results."""
    monkeypatch.setattr(results, "RESULTS", tmp_path / "rows")
    monkeypatch.setattr(results, "PAGES", tmp_path / "pages")
    results.RESULTS.mkdir()
    return results.RESULTS


@pytest.fixture
def fake(monkeypatch):
    """A benchmark that is done at once."""
    module = types.ModuleType("fake_benchmark")
    module.run = lambda quick: [{"name": "a", "rows_per_s": 12345}, {"name": "b", "ratio": 0.5}]
    module.headline = lambda rows: f"rows={len(rows)}"
    monkeypatch.setitem(sys.modules, "fake_benchmark", module)
    monkeypatch.setitem(command_line.BENCHMARKS, "fake", "fake_benchmark")


# `make test` runs these, `make check` all.
SECONDS = {"correlation"}


@pytest.mark.whole
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


@pytest.mark.parametrize("name", list(command_line.BENCHMARKS))
def test_what_can_be_drawn_has_a_picture(name):
    draws = hasattr(importlib.import_module(command_line.BENCHMARKS[name]), "draw")
    has_rows = bool(results.newest(name)[0])
    assert (results.PICTURES / f"{name}.png").exists() == (has_rows and draws)


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
