"""Permutation importance: what the model reads is found, what it does not read is not."""

import numpy as np
import pandas as pd
import pytest

import tfmoe
from tests.oracles.consoles import shown
from tfmoe.cli.commands.importance import importance_table
from tfmoe.reports.importance import draw_importance, write_importance


def table(num_rows=400):
    random = np.random.default_rng(0)
    rows = pd.DataFrame({name: random.normal(size=num_rows) for name in ("a", "b")})
    rows["country"] = random.choice(["de", "fr"], num_rows)
    rows["market"] = random.choice(["click", "buy"], num_rows)
    rows["click"] = (rows["a"] > 0) * 1.0
    rows["stars"] = 10 * rows["b"]
    rows.loc[::3, "click"] = np.nan
    return rows


COLUMNS = [
    tfmoe.Numeric("a", transform="none"),
    # The same raw column once more.
    tfmoe.Numeric("a_again", source="a", transform="none"),
    tfmoe.Numeric("b", transform="none"),
    tfmoe.Categorical("country", hash_buckets=5),
]


class Known:
    """A model whose predictions are known: the mean of a column and its copy, and 10 b."""

    def __init__(self, schema):
        self.schema, self.preprocessor = schema, tfmoe.Preprocessor(schema)
        self.calls = 0

    def predict(self, features, batch_size, verbose):
        self.calls += 1
        a = (features["a"] + features["a_again"]) / 2
        if self.schema.task_column:
            return {"score": np.where(features["market"] == 0, a, features["b"])}
        return {"click": a, "stars": 10 * features["b"]}


def test_only_what_is_read_counts():
    rows = table()
    schema = tfmoe.Schema(COLUMNS, [tfmoe.Binary("click"), tfmoe.Regression("stars")])
    model = Known(schema)
    frame = tfmoe.permutation_importance(model, rows, repeats=4, num_rows=None)
    assert model.calls == 1 + 3 * 4
    assert frame["task"].tolist() == ["click"] * 3 + ["stars"] * 3
    found = frame.set_index(["task", "column"])
    assert found.loc[("click", "a"), "base"] == 1
    assert found.loc[("click", "a"), "drop"] == pytest.approx(0.5, abs=0.1)
    assert found.loc[("click", "a"), "spread"] > 0
    # Of permuted normal numbers the RMSE is sqrt(2) of their deviation.
    rise = 10 * np.sqrt(2) * rows["b"].std()
    assert found.loc[("stars", "b"), "drop"] == pytest.approx(rise, rel=0.1)
    others = found.drop([("click", "a"), ("stars", "b")])
    assert not others[["drop", "spread"]].any().any()
    assert found.loc[("stars", "b"), "metric"] == "rmse"
    again = tfmoe.permutation_importance(Known(schema), rows, repeats=4, num_rows=None)
    pd.testing.assert_frame_equal(again, frame)
    triple = Known(schema).preprocessor.arrays(rows)
    before = {name: array.copy() for name, array in triple[0].items()}
    pd.testing.assert_frame_equal(
        tfmoe.permutation_importance(Known(schema), triple, repeats=4, num_rows=None), frame
    )
    for name, array in before.items():
        np.testing.assert_array_equal(triple[0][name], array)


def test_values_stay_among_the_rows_of_their_task():
    rows = table()
    # The other task's values are huge: one of them would be the largest score.
    rows.loc[rows["market"] == "buy", "a"] += 1000
    rows["label"] = (rows["a"] > 0) * 1.0
    rows.loc[rows["market"] == "buy", "label"] = (rows["b"] > 0) * 1.0
    tasks = [tfmoe.Binary("click", source="label"), tfmoe.Binary("buy", source="label")]
    seen = []

    class Seeing(Known):
        def predict(self, features, **options):
            seen.append(features["a"][features["market"] == 0].max())
            return super().predict(features, **options)

    model = Seeing(tfmoe.Schema(COLUMNS, tasks, task_column="market"))
    found = tfmoe.permutation_importance(model, rows).set_index(["task", "column"])
    assert max(seen) < 100
    assert found.loc[("click", "a"), "drop"] > 0.4
    assert found.loc[("buy", "b"), "drop"] > 0.4
    assert found.loc[("buy", "a"), "drop"] == 0


def test_weights_of_a_list_count_for_themselves():
    """They stay with lists of their length, and a list that is permuted takes its own along."""
    column = tfmoe.MultiCategorical("tags", hash_buckets=50, max_length=3, weights="scores")
    schema = tfmoe.Schema([column], [tfmoe.Binary("click")])
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 4, 200)
    rows = pd.DataFrame({"tags": [[f"t{rng.integers(9)}" for _ in range(n)] for n in lengths]})
    rows["scores"] = [list(rng.normal(size=n)) for n in lengths]
    rows["click"] = (np.array([cell[0] for cell in rows["scores"]]) > 0) * 1.0
    seen = []

    class Seeing(Known):
        def predict(self, features, batch_size, verbose):
            seen.append({name: array.copy() for name, array in features.items()})
            return {"click": features["tags_weights"][:, 0]}

    frame = tfmoe.permutation_importance(Seeing(schema), rows, repeats=1, num_rows=None)
    found = frame.set_index("column")["drop"]
    assert found["scores"] > 0.3
    assert found["tags"] > 0.3
    base, of_tags, of_scores = seen

    def pairs(features):
        both = zip(features["tags"], features["tags_weights"], strict=True)
        return {(ids.tobytes(), own.tobytes()) for ids, own in both}

    assert (of_tags["tags"] != base["tags"]).any()
    assert pairs(of_tags) == pairs(base)
    np.testing.assert_array_equal(of_scores["tags"], base["tags"])
    assert (of_scores["tags_weights"] != base["tags_weights"]).any()
    for number in (1, 2, 3):
        own = (base["tags"] != 0).sum(axis=1) == number
        before, after = (f["tags_weights"][own] for f in (base, of_scores))
        assert {row.tobytes() for row in after} == {row.tobytes() for row in before}
    # A column of weights that are all alike decides nothing.
    rows["scores"] = [[1.0] * n for n in lengths]

    class First(Known):
        def predict(self, features, batch_size, verbose):
            return {"click": features["tags"][:, 0] * features["tags_weights"][:, 0]}

    frame = tfmoe.permutation_importance(First(schema), rows, num_rows=None)
    assert frame.set_index("column")["drop"]["scores"] == 0


def test_a_draw_of_rows_is_uniform_and_seeded():
    rows = table()
    schema = tfmoe.Schema(COLUMNS, [tfmoe.Binary("click")])
    one, same, other = (
        tfmoe.permutation_importance(Known(schema), rows, 1, seed, num_rows=60)
        for seed in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(one, same)
    assert not one.equals(other)
    assert one["spread"].isna().all()
    with pytest.raises(ValueError, match="num_rows"):
        tfmoe.permutation_importance(Known(schema), rows, num_rows=1)


def frame(num_tasks, num_columns):
    lines = [
        (f"task_{t}", f"column_{c}_of_a_long_name", "auc", 0.7, 0.1 / (c + 1), 0.01)
        for t in range(num_tasks)
        for c in range(num_columns)
    ]
    names = ["task", "column", "metric", "base", "drop", "spread"]
    return pd.DataFrame(lines, columns=names)


def test_the_table_is_whole_at_80_columns():
    text = shown(importance_table(frame(3, 5)))
    assert "…" not in text
    assert text.count("0.7000") == 15
    many = shown(importance_table(frame(14, 10)))
    assert many.count("0.7000") == 12 * 8
    assert "and 44 more lines" in " ".join(many.split())
    assert shown(importance_table(frame(14, 10), every=True)).count("0.7000") == 140


def test_a_folder_has_the_table_and_a_picture(tmp_path):
    write_importance(frame(2, 20), tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"importance.csv", "importance.png"}
    with pytest.raises(FileExistsError):
        write_importance(frame(2, 2), tmp_path / "out")
    draw_importance(frame(14, 3), tmp_path / "many.png")
