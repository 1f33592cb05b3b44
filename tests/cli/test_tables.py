"""The command line's tables and its line of progress are whole at 80 columns."""

import io

import numpy as np
import pytest
from rich.console import Console

import tfmoe
from tests.oracles.consoles import shown, use
from tfmoe.cli import demo, metrics, terminal
from tfmoe.cli.progress import ProgressLine
from tfmoe.datasets.synthetic import synthetic_ratings


@pytest.fixture(scope="module")
def split():
    return synthetic_ratings(num_rows=2000, num_users=100, num_movies=80)


def trained(name):
    row = {"model": name, "watch_auc": 0.7, "rating_rmse": 0.85, "parameters": 123_456_789}
    row |= {"epochs": 15, "rows_per_s": 1_234_567.8}
    return demo.Trained(None, row, use(["watch", "rating"], range(16)))


def test_the_demos_models_are_whole(split):
    text = shown(demo.table([trained(name) for name in demo.mixtures(16)], split.schema))
    assert "…" not in text
    for word in (*demo.mixtures(16), "parameters", "rows/s", "123,456,789", "16.0, 16.0"):
        assert word in text


@pytest.mark.parametrize("width", [80, 200])
def test_the_demos_rows_are_whole(split, width):
    rows = split.test[:10].reset_index(drop=True)
    predictions = rows[[column.raw_name for column in split.schema.columns]].join(
        rows[["watch", "rating"]]
    )
    predictions = predictions.assign(watch_predicted=0.25, rating_predicted=3.5)
    predictions.loc[0, "rating"] = np.nan
    table = demo.rows_table(predictions, split.schema, width, "demo/1/predictions.csv")
    text = shown(table, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert text.count("0.250") == text.count("3.500") == 10
    # What has no room is named; the rest is shown, each row on its one line.
    hidden = ["genres"] if width == 80 else []
    assert ("Without genres: see demo/1/predictions.csv" in text) == bool(hidden)
    titles = " ".join(text.split())
    for name in predictions.columns.drop(hidden):
        assert all(word in titles for word in name.split("_predicted"))
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("─")) + 1
    for i in range(10):
        assert str(rows["user_id"][i]) in lines[start + i]


def test_metrics_are_whole():
    name = "a_task_with_a_name_that_nobody_would_type_" * 3
    text = shown(metrics.metrics_table({f"{name}auc": 0.5, "loss": 1.25}, "here"))
    assert "…" not in text
    assert "".join(text.replace("0.50000", "").split()).count(f"{name}auc") == 1
    assert "1.25000" in text


_AUCS = {f"market_{i:02}": (i * 37 % 64) / 100 for i in range(64)}


def _many():
    """Tasks of three kinds, and their metrics; the last market has but one label."""
    tasks = [tfmoe.Binary(name) for name in _AUCS]
    tasks += [tfmoe.Regression("stars"), tfmoe.Regression("spend")]
    values = {"loss": 1.5}
    for name, auc in _AUCS.items():
        values |= {f"{name}_auc": auc, f"{name}_loss": 1 - auc, f"{name}_log_loss": 1 - auc}
    values["market_63_auc"] = values["market_63_loss"] = values["market_63_log_loss"] = np.nan
    for name, loss in (("stars", 0.25), ("spend", 0.75)):
        values |= {f"{name}_loss": loss, f"{name}_rmse": 90.0, f"{name}_mae": 80.0}
    return values, tasks


def test_of_many_tasks_means_and_extremes_are_shown():
    values, tasks = _many()
    text = shown(metrics.metrics_table(values, tasks=tasks))
    lines = [line.strip() for line in text.splitlines()]
    assert max(map(len, lines)) <= 80
    assert len(lines) < 36
    known = [auc for name, auc in _AUCS.items() if name != "market_63"]
    assert f"mean auc of 63 binary tasks {np.mean(known):.5f}" in " ".join(lines[2].split())
    ranked = sorted(_AUCS, key=_AUCS.get)
    ranked.remove("market_63")
    for heading, some in (("worst by auc", ranked[:4]), ("best by auc", ranked[-4:])):
        start = lines.index(heading) + 1
        assert [line.split()[0] for line in lines[start : start + 4]] == [f"{n}_auc" for n in some]
    # Of errors less is better; and those of two labels have no mean.
    start = lines.index("worst to best by loss") + 1
    assert [line.split()[0] for line in lines[start : start + 2]] == ["spend_loss", "stars_loss"]
    assert "mean loss of 2 regression tasks" in text
    assert "mean rmse" not in text
    assert "market_63_auc" in lines[lines.index("without auc") + 1]
    # 63 aucs and losses of 64 markets, of which 9 are shown; rmse and mae of two.
    assert f"and {2 * 64 - 9 + 4} more numbers: `tfmoe evaluate --all` shows them" in " ".join(
        text.split()
    )


def test_all_numbers_are_shown_if_asked_for_and_of_few_tasks():
    values, tasks = _many()
    text = shown(metrics.metrics_table(values, tasks=tasks, every=True))
    assert all(name in text for name in values if not name.endswith("_log_loss"))
    assert "_log_loss" not in text
    assert "more numbers" not in text
    stars = [tfmoe.Regression(name, source="stars", key=name) for name in ("de", "fr")]
    values = {"loss": 1.0, "de_rmse": 1.0, "fr_rmse": 2.0, "de_mae": 0.5, "fr_mae": 0.7}
    lines = [
        line.split() for line in shown(metrics.metrics_table(values, tasks=stars)).splitlines()
    ]
    assert lines[2] == ["mean", "rmse", "of", "2", "regression", "tasks", "1.50000"]
    assert {line[0] for line in lines[2:] if line} >= set(values)
    # Of one task there is no mean.
    assert "mean" not in shown(metrics.metrics_table({"y_auc": 0.5}, tasks=[tfmoe.Binary("y")]))


@pytest.mark.parametrize("steps", [31_300, None])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_whole(is_terminal, steps):
    console = Console(width=80, file=io.StringIO(), force_terminal=is_terminal, color_system=None)
    titles = ["SharedBottom", "MMoE"]
    for title in titles:
        line = ProgressLine(title, console, widest=max(titles, key=len))
        line.set_params({"epochs": 15, "steps": steps})
        with line.progress:
            line.on_train_begin()
            for epoch in (0, 14):
                line.on_epoch_begin(epoch)
                line.on_train_batch_end(31_299, {"loss": 11.5023})
                line.on_epoch_end(epoch, {"loss": 11.5023, "val_loss": 10.3302})
            assert line.progress.finished
    text = console.file.getvalue()
    assert "…" not in text
    for title in titles:
        assert f"{title}, epoch 15/15" in text
    assert "31300/31300" in text
    assert "loss 11.5023, val 10.3302" in text
    if not is_terminal:
        first, second = text.splitlines()  # one below the other, in columns
        assert first.index("31300") == second.index("31300")


def test_a_path_is_not_broken_and_has_no_markup(monkeypatch):
    console = Console(width=80, file=io.StringIO())
    monkeypatch.setattr(terminal, "console", lambda: console)
    path = f"results[best]/:x:/{'long' * 30}.csv"
    terminal.say(f"Wrote {path}")
    assert console.file.getvalue() == f"Wrote {path}\n"


def test_errors_of_ours_keep_their_traceback(monkeypatch):
    console = Console(width=80, file=io.StringIO())
    monkeypatch.setattr(terminal, "console", lambda: console)
    with pytest.raises(KeyError), terminal.errors_shown():
        {}["missing"]
    assert console.file.getvalue() == ""
