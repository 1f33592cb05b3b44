"""Rows of one task each: the schema, the encoding, what is fitted."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfmoe.data.preprocessor import Preprocessor
from tfmoe.schema.columns import Categorical, Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Multiclass, Regression

_COLUMNS = [Numeric("age", transform="none"), Categorical("market_id", source="market")]
_TASKS = [
    Binary("de", source="click"),
    Regression("fr", source="stars", where="seen"),
    Binary("us", source="click", key="U S", weight=2.0),
    Binary("jp", source="click", where="seen"),
    Regression("it", source="hours", key=7),
]
_CLASSED = [
    Multiclass("de", source="kind", classes=("x", "y", "z")),
    Multiclass("fr", source="kind", classes=("y", "x"), where="seen"),
    Multiclass("us", source="grade", num_classes=2, key="U S"),
    Multiclass("jp", source="kind", classes=("x", "y", "z")),
    Multiclass("it", source="grade", classes=(5, 3), key=7),
]
_KEYS = ["de", "fr", "U S", "jp", "7"]


def _schema(tasks=_TASKS, **fields):
    return Schema(_COLUMNS, tasks, task_column="market", **fields)


def _rows(num_rows=60, seed=0):
    """Rows whose labels suit the row's own task; for others the cells are out of range."""
    rng = np.random.default_rng(seed)
    market = rng.choice(_KEYS, num_rows)
    clicks = np.isin(market, ["de", "U S", "jp"])
    return pd.DataFrame(
        {
            "age": rng.normal(size=num_rows),
            "market": market,
            "click": np.where(clicks, rng.choice([0, 1, np.nan], num_rows), 9.0),
            "stars": np.where(market == "fr", rng.random(num_rows), np.inf),
            "hours": np.where(market == "7", rng.random(num_rows), -np.inf),
            "seen": rng.integers(0, 2, num_rows),
            "w": rng.random(num_rows),
        }
    )


# --- the schema -----------------------------------------------------------------------


def test_select_and_add_keep_the_column():
    schema = _schema()
    assert schema.task_keys == tuple(_KEYS)
    assert schema.output_names == ("score",)
    one = schema.select("us")
    assert (one.task_column, one.tasks) == ("market", (_TASKS[2],))
    grown = one.add(Binary("es", source="click"))
    assert grown.task_names == ("us", "es")
    assert grown.task_column == "market"
    assert _schema(_CLASSED).num_outputs == 3
    assert Schema(_COLUMNS, [Binary("click")]).output_names == ("click",)
    with pytest.raises(ValueError, match=r"different names. Received tasks named \['us'\] twice"):
        schema.add(Binary("us"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _schema([Binary("a", key=True)]), r"the task column. Received key=True. Leave"),
        (lambda: _schema([Binary("a", key="")]), r"Received key=''"),
        (lambda: _schema([Binary("a", key=1.0)]), r"Received key=1.0"),
        (
            lambda: Schema(_COLUMNS, [Binary("a"), Binary("b", key="x")]),
            r"Received keys of \['b'\] with task_column=None. Name the column",
        ),
        (
            lambda: Schema(_COLUMNS, _TASKS, task_column="my market"),
            r"and no word of Python. Received task_column='my market'. Rename",
        ),
        (
            lambda: Schema(_COLUMNS, _TASKS, task_column="market_id"),
            r"task_column='market_id', which is the name of an input column. An input that",
        ),
        (
            lambda: Schema(_COLUMNS[:1], [Binary("market")], task_column="market"),
            "which is the label of task 'market'",
        ),
        (
            lambda: Schema(_COLUMNS[:1], _TASKS, "market", "market"),
            "which is the `weight_column`",
        ),
        (
            lambda: _schema([Binary("a", key="b"), Binary("b"), Binary("c", key=3)]),
            r"Received \['b'\] twice. Choose different",
        ),
        (
            lambda: _schema([Binary("a", key="3"), Binary("c", key=3)]),
            r"as text. Received \['3'\] twice",
        ),
        (
            lambda: _schema([Binary("a"), Binary("b", where="a")]),
            r"Received tasks \['b'\] limited by another. Write",
        ),
        (
            lambda: _schema([Binary("a"), Multiclass("b", num_classes=2)]),
            r"Multiclass \['b'\] among \['a', 'b'\]. Make two schemas",
        ),
    ],
)
def test_schema_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- against an oracle ----------------------------------------------------------------

_cell = {
    "click": st.sampled_from([0.0, 1.0, None]),
    "stars": st.one_of(st.none(), st.floats(-9, 9)),
    "hours": st.one_of(st.none(), st.floats(-9, 9)),
    "kind": st.sampled_from(["x", "y", "", None]),
    "grade": st.sampled_from([None, 0.0, 1.0]),
}
_other = st.sampled_from([7.5, math.inf, None, 0.0])


@st.composite
def _tables(draw, tasks):
    """Rows as dicts; labels of other tasks than the row's own may be anything."""
    rows = []
    for _ in range(draw(st.integers(1, 12))):
        task = draw(st.sampled_from(tasks))
        own = draw(_cell[task.raw_name])
        if task.raw_name == "grade" and task.classes:
            own = draw(st.sampled_from([3.0, 5.0, None]))
        row = {"age": 0.5, "market": task.name if task.key is None else str(task.key)}
        row |= {name: draw(_other) for name in ("click", "stars", "hours", "grade")}
        row["kind"] = draw(st.sampled_from(["x", "q", None]))
        row["seen"] = draw(st.sampled_from([0.0, 1.0, None]))
        rows.append(row | {task.raw_name: own})
    return rows


def _expected(tasks, row):
    """The row's task and label, one row at a time."""
    (task,) = [t for t in tasks if row["market"] == (t.name if t.key is None else str(t.key))]
    value = row[task.raw_name]
    if value in (None, "") or (task.where and row[task.where] != 1):
        value = math.nan
    elif getattr(task, "classes", None):
        value = task.classes.index(value)
    return tasks.index(task), value


@pytest.mark.parametrize("tasks", [_TASKS, _CLASSED])
@settings(max_examples=3 * settings.default.max_examples)
@given(data=st.data())
def test_tasks_and_labels_match_oracle(tasks, data):
    rows = data.draw(_tables(tasks))
    table = {name: pd.Series([r[name] for r in rows], dtype=object) for name in rows[0]}
    prep = Preprocessor(_schema(tasks)).fit(pd.DataFrame(table), progress=False)
    features, labels, _ = prep.arrays(pd.DataFrame(table))
    expected = [_expected(tasks, row) for row in rows]
    assert list(labels) == ["score"]
    np.testing.assert_array_equal(features["market"], [index for index, _ in expected])
    np.testing.assert_array_equal(labels["score"], np.float32([value for _, value in expected]))
    assert (features["market"].dtype, labels["score"].dtype) == (np.int32, np.float32)
    for place, task in enumerate(tasks):
        seen = [v for index, v in expected if index == place and not math.isnan(v)]
        mean = math.fsum(seen) / len(seen) if seen else math.nan
        if isinstance(task, Multiclass):
            counts = [seen.count(c) / len(seen) if seen else math.nan for c in range(3)]
            mean = counts[: task.num_outputs]
        np.testing.assert_allclose(prep.label_means[task.name], mean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "keys",
    [
        [3, 12, 3],
        [3.0, 12.0, 3.0],
        ["3", "12", "3"],
        [b"3", b"12", b"3"],
        pd.Categorical([3, 12, 3], categories=[99, 12, 3]),
        pd.Categorical(["3", "12", "3"], categories=["no", "3", "12"]),
    ],
)
def test_keys_are_compared_as_text(keys):
    schema = Schema(
        _COLUMNS[:1], [Binary("a", source="y", key="12"), Binary("b", source="y", key=3)],
        task_column="market",
    )  # fmt: skip
    rows = pd.DataFrame({"age": 1.0, "market": keys, "y": [1, 0, np.nan]})
    features, labels, weights = Preprocessor(schema).arrays(rows)
    assert features["market"].tolist() == [1, 0, 1]
    np.testing.assert_array_equal(labels["score"], np.float32([1, 0, np.nan]))
    assert weights["score"].tolist() == [1, 1, 1]


# --- sources --------------------------------------------------------------------------


def _tfrecord(rows, path):
    tf = pytest.importorskip("tensorflow")
    with tf.io.TFRecordWriter(str(path)) as file:
        for row in rows.to_dict("records"):
            features = {}
            for name, value in row.items():
                if isinstance(value, str):
                    part = {"bytes_list": tf.train.BytesList(value=[value.encode()])}
                else:
                    part = {"float_list": tf.train.FloatList(value=[value])}
                features[name] = tf.train.Feature(**part)
            example = tf.train.Example(features=tf.train.Features(feature=features))
            file.write(example.SerializeToString())


def _source(kind, rows, folder):
    if kind == "dict":
        return {name: rows[name].to_numpy() for name in rows}
    if kind == "csv":
        rows.to_csv(folder / "a.csv", index=False)
    elif kind == "parquet":
        rows.to_parquet(folder / "a.parquet", row_group_size=25)
    else:
        _tfrecord(rows, folder / "a.tfrecord")
    return folder / f"a.{kind}"


@pytest.mark.parametrize("kind", ["dict", "csv", "parquet", "tfrecord"])
def test_sources_agree(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("tfmoe.data.read.tables.CHUNK_ROWS", 25)
    rows = _rows().astype({"age": "float32", "stars": "float32", "hours": "float32", "w": "f4"})
    prep = Preprocessor(_schema(weight_column="w")).fit(rows, progress=False)
    expected = prep.arrays(rows)
    source = _source(kind, rows, tmp_path)
    again = Preprocessor(prep.schema).fit(source, progress=False)
    for name, mean in prep.label_means.items():
        np.testing.assert_allclose(again.label_means[name], mean, rtol=1e-6)
    shards = [prep.dataset(source, 7, shuffle=True, shard=(index, 2)) for index in range(2)]
    batches = [batch for shard in shards for batch in shard]
    order = np.argsort(np.concatenate([features["age"] for features, *_ in batches]))
    by_age = np.argsort(expected[0]["age"])
    for part, found in enumerate(prep.arrays(source)):
        for name, values in expected[part].items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)
            mixed = np.concatenate([batch[part][name] for batch in batches])
            np.testing.assert_array_equal(mixed[order], values[by_age], err_msg=name)
    assert prep.transform(rows)["market"].tolist() == expected[0]["market"].tolist()


def test_csv_keys_are_text(tmp_path):
    tasks = [Binary("a", source="y", key="07"), Binary("b", source="y", key=7)]
    schema = Schema(_COLUMNS[:1], tasks, task_column="market")
    (tmp_path / "a.csv").write_text("age,market,y\n1,07,0\n2,7,1\n")
    features, labels, _ = Preprocessor(schema).arrays(tmp_path / "a.csv")
    assert features["market"].tolist() == [0, 1]
    assert labels["score"].tolist() == [0, 1]


def test_labels_are_read_only_when_wanted():
    rows = _rows()
    prep = Preprocessor(_schema()).fit(rows, progress=False)
    bare = rows[["age", "market"]]
    assert list(prep.arrays(bare, labels=False)) == ["age", "market_id", "market"]
    without = rows.drop(columns="hours")
    _, labels, _ = prep.arrays(without)
    assert np.isnan(labels["score"][rows["market"] == "7"]).all()
    with pytest.raises(ValueError, match=r"without any of \['click', 'stars', 'click'"):
        prep.arrays(bare)
    with pytest.raises(ValueError, match=r"without 'market' \(for `task_column`\)"):
        Preprocessor(Schema(_COLUMNS[:1], _TASKS, task_column="market")).arrays(
            rows.drop(columns="market"), labels=False
        )


@pytest.mark.parametrize(("key", "shown"), [("dee", "'dee'"), ("", "''"), (None, "None")])
@pytest.mark.parametrize("labels", [True, False])
def test_rows_of_no_task_are_told(key, shown, labels):
    prep = Preprocessor(_schema()).fit(_rows(), progress=False)
    rows = _rows().assign(market=[*_rows()["market"][:-1], key])
    message = rf"\['de', 'fr', 'U S', 'jp', '7'\]. Received market={shown}.*add_task.* row 59 "
    with pytest.raises(ValueError, match=message):
        prep.arrays(rows, labels=labels)
    with pytest.raises(ValueError, match=message):
        Preprocessor(prep.schema).fit(rows, progress=False)


def test_a_bad_label_is_told_of_the_rows_own_task():
    rows = _rows()
    last = np.flatnonzero(rows["market"] == "jp")[-1]
    rows.loc[last, ["click", "seen"]] = [3.0, 1]
    with pytest.raises(ValueError, match=r"task 'jp' \(Binary\) must be 0 or 1.*click=3.0"):
        Preprocessor(_schema()).fit(rows, progress=False)


# --- what is fitted -------------------------------------------------------------------


def test_merged_saved_selected_and_grown(tmp_path):
    rows = _rows()
    whole = Preprocessor(_schema()).fit(rows, progress=False)
    parts = [Preprocessor(_schema()).fit(rows[i::2], progress=False) for i in range(2)]
    merged = parts[0].merge(parts[1])
    merged.save(tmp_path / "p")
    for other in (merged, Preprocessor.load(tmp_path / "p")):
        assert other.schema == whole.schema
        for name, mean in whole.label_means.items():
            assert other.label_means[name] == pytest.approx(mean, rel=1e-6)
    kept = rows[np.isin(rows["market"], ["fr", "jp"])]
    selected = merged.select(["fr", "jp"])
    features, labels, _ = selected.arrays(kept)
    np.testing.assert_array_equal(features["market"], kept["market"] == "jp")
    np.testing.assert_array_equal(labels["score"], whole.arrays(kept)[1]["score"])
    with pytest.raises(ValueError, match=r"keys \['fr', 'jp'\]. Received market='"):
        selected.arrays(rows)
    grown = selected.add_task(Binary("es", source="click"))
    assert grown.schema.task_names == ("fr", "jp", "es")
    assert math.isnan(grown.label_means["es"])
    assert grown.label_means.items() > selected.label_means.items()
    np.testing.assert_array_equal(
        grown.arrays(kept, labels=False)["market_id"], features["market_id"]
    )
    grown.save(tmp_path / "q")
    # The new task's rows are counted where they come: in a part to be merged.
    es = Preprocessor(grown.schema).fit(kept.assign(market="es", click=1.0), progress=False)
    assert Preprocessor.load(tmp_path / "q").merge(es).label_means["es"] == 1.0


def test_add_task_where_rows_have_all_labels():
    schema = Schema([Numeric("age")], [Binary("click")])
    rows = pd.DataFrame({"age": [1.0, 2.0], "click": [0, 1], "kind": [1, 0]})
    prep = Preprocessor(schema).fit(rows, progress=False)
    grown = prep.add_task(Multiclass("kind", num_classes=2))
    assert np.isnan(grown.label_means["kind"]).all()
    assert grown.arrays(rows)[1]["kind"].tolist() == [1, 0]
    assert prep.schema == schema
    assert dataclasses.replace(grown.schema, tasks=schema.tasks) == schema


def test_keys_are_told_however_a_source_spells_them(tmp_path):
    tasks = [Binary("two", source="click", key=2), Binary("ten", source="click", key="10")]
    prep = Preprocessor(Schema([Numeric("n", transform="none")], tasks, task_column="m"))
    rows = pd.DataFrame({"m": [2, 10, 2], "n": 0.5, "click": [0, 1, 1]})
    rows.to_csv(tmp_path / "ints.csv", index=False)
    rows.astype({"m": float}).to_csv(tmp_path / "floats.csv", index=False)
    for source in (
        rows,
        rows.astype({"m": float}),
        rows.astype({"m": str}),
        tmp_path / "ints.csv",
        tmp_path / "floats.csv",
    ):
        assert prep.arrays(source)[0]["m"].tolist() == [0, 1, 0]


def test_tasks_of_one_column_are_each_read_by_their_own_rule():
    """What one of them may not have, another may."""
    columns = [Numeric("n", transform="none")]

    def fit(tasks, market, cells):
        rows = pd.DataFrame({"n": 0.0, "market": market, "label": cells})
        schema = Schema(columns, tasks, task_column="market")
        prep = Preprocessor(schema).fit(rows, progress=False)
        return prep.arrays(rows)[1]["score"].tolist()

    counts = Regression("de", source="label", loss="poisson", standardize=False)
    plain = Regression("fr", source="label", standardize=False)
    for tasks in ([counts, plain], [plain, counts]):
        assert fit(tasks, ["de", "fr", "fr"], [1.0, -2.0, 3.0]) == [1, -2, 3]
        with pytest.raises(ValueError, match=r"labels of task 'de'.*at least 0"):
            fit(tasks, ["de", "fr", "fr"], [-1.0, -2.0, 3.0])
    tasks = [Binary(name, source="label", positive="yes") for name in ("de", "fr")]
    assert fit(tasks, ["de", "fr", "de", "fr"], ["yes", "non", "no", "yes"]) == [1, 0, 0, 1]
    with pytest.raises(ValueError, match="labels of task 'fr'"):
        fit(tasks, ["de", "fr", "fr"], ["no", "non", "no"])
