import dataclasses
import decimal
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tfmoe import (
    Binary,
    Categorical,
    Crossed,
    MultiCategorical,
    Multiclass,
    Numeric,
    Preprocessor,
    Pretrained,
    Regression,
    Schema,
    Sequence,
    Text,
    Timestamp,
    Vector,
)
from tfmoe.objectives.losses import own_metrics
from tfmoe.schema.poolings import BST, TargetAttention

# No field at its default, so that one lost on the way to a file is seen.
FULL = Schema(
    columns=[
        Numeric(
            *("age",),
            source="Age!",
            transform="buckets",
            num_buckets=4,
            dim=3,
            regularizer=0.5,
            fill=1.5,
            missing=["unknown", -1, 0.5],
            element=2,
        ),
        Categorical(
            *("city",), source="c", dim=4, regularizer=1e-5, dtype="string", min_count=2, max_size=9
        ),
        Categorical("device", hash_buckets=7, missing=["?", -1], unknown_rate=0.5),
        MultiCategorical("genres", separator="|", strip=True, pooling="max", max_length=3),
        Sequence("history", share="city", max_length=5, pooling=TargetAttention("city", (9,))),
        Sequence("views", share="city", max_length=5, pooling="sum", weights="marks"),
        Sequence("visits", share="device", aligned_with="history"),
        Sequence("dwell", aligned_with="history", boundaries=(1.5, 30)),
        Sequence("shops", share="city", pooling=BST("city", num_heads=1, dropout_rate=0.5)),
        Vector("emb", size=3, standardize=False),
        Timestamp(
            *("at",), parts=["hour"], cyclic=False, time_zone="Europe/Berlin", unit="ms", dim=2
        ),
        Timestamp("old", source="at", parts=["age"], since="2020-01-01"),
        Crossed("where", columns=["city", "device"], hash_buckets=9, dim=2),
        Pretrained("item", vectors="v.npz", trainable=True, projection=2, dtype="int"),
        Text("title", ngrams=2, hash_buckets=9, dim=2, lower=False, max_length=4),
    ],
    tasks=[
        Binary("click", source="clicked", weight=2.0, where="shown", where_value="yes"),
        Binary("bought", positive="y", negative=["n", "-"]),
        Binary("paid", given="bought", link="aitm", served=False, weight_column="pw"),
        Binary("liked", loss="focal", gamma=1.0, alpha=0.5, label_smoothing=0.1),
        Binary("shared", positive_weight=2.0, negatives_kept=0.5),
        Regression("price", loss="quantile", quantile=0.9),
        Regression("spent", loss="lognormal", parts=True),
        Regression("stars", loss="huber", where="click"),
        Multiclass("size", classes=("s", "m", "l")),
        Multiclass("grade", num_classes=3),
    ],
    weight_column="w",
    scenario="city",
    group="u",
)
# The same of the other regime, where each row belongs to one task.
SPLIT = Schema(
    columns=[Categorical("market_id", source="market"), Numeric("age")],
    tasks=[
        Binary("de", source="click", key=7),
        Regression("fr", source="stars", key="f r", standardize=False),
    ],
    task_column="market",
)


def told(make):
    """What a function returns, and what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = make()
    return made, " ".join(str(one.message) for one in caught)


@pytest.mark.parametrize("schema", [FULL, SPLIT])
def test_json_and_yaml_round_trips(tmp_path, schema):
    assert Schema.from_json(schema.to_json()) == schema
    for name in ("schema.json", "schema.yaml"):
        schema.save(tmp_path / name)
        assert Schema.load(tmp_path / name) == schema
        with pytest.raises(FileExistsError):
            schema.save(tmp_path / name)


def test_every_field_reaches_the_file():
    written = [json.loads(schema.to_json()) for schema in (FULL, SPLIT)]
    names = {key for one in written for part in one["columns"] + one["tasks"] for key in part}
    kinds = {type(part) for part in (*FULL.columns, *FULL.tasks)}
    assert names == {f.name for kind in kinds for f in dataclasses.fields(kind)} | {"kind"}
    assert {name for one in written for name in one} == {f.name for f in dataclasses.fields(FULL)}


def test_a_schema_can_leave_out_a_column():
    schema = Schema([Numeric("a"), Categorical("b"), Categorical("c", share="b")], [Binary("y")])
    assert [column.name for column in schema.without("a").columns] == ["b", "c"]
    for column, message in (("d", "Received column='d'"), ("b", "share the table")):
        with pytest.raises(ValueError, match=message):
            schema.without(column)


def test_schema_is_frozen_and_equal_by_value():
    assert Numeric("a") == Numeric("a") != Numeric("a", fill=0.0)
    assert hash(FULL) == hash(Schema.from_dict(FULL.to_dict()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.columns[0].dim = 9


def test_fill_is_a_plain_number():
    schema = Schema([Numeric("a", fill=np.int64(3))], [Binary("y")])
    assert Schema.from_json(schema.to_json()).column("a").fill == 3.0


def test_infer_proposes_what_a_person_would():
    df = pd.DataFrame(
        {
            "user_id": [10_000_000 + i for i in range(50)],
            "age": np.linspace(18, 80, 50),
            "plays": [0, 1, 2, 3, 4000] * 10,
            "country": ["de", "fr"] * 25,
            "genres": ["a|b", "b"] * 25,
            "tags": [["x"], ["x", "y"]] * 25,
            "capital-gain": np.linspace(0, 1, 50),
            "watch": [0, 1] * 25,
            "rating": [np.nan, 3.5] * 25,
            "plan": ["free", "paid"] * 25,
            "shop_id": [*range(1, 50), np.nan],
        }
    )
    schema, said = told(lambda: Schema.infer(df, labels=["watch", "rating", "plan"]))
    assert "for categories: 'plays' (5)." in said
    assert "'plan' has two values, of which 'paid' counts as 1" in said
    assert "'country' tells 'watch'" in said
    assert "Columns ['user_id'] count the rows" in said
    assert schema.columns == (
        Categorical("user_id", dtype="int"),
        Numeric("age"),
        Categorical("plays", dtype="int"),
        Categorical("country", dtype="string"),
        MultiCategorical("genres", separator="|"),
        MultiCategorical("tags"),
        Numeric("capital_gain", source="capital-gain"),
        Categorical("shop_id", dtype="int"),
    )
    assert schema.tasks == (
        Binary("watch"),
        Regression("rating", where="watch"),
        Binary("plan", positive="paid"),
    )
    with pytest.raises(ValueError, match="of which \\['clicks'\\] are not there"):
        Schema.infer(df, labels=["clicks"])


def test_the_raw_names_old_name_goes_on_working():
    assert Numeric("a", source="A").raw == Numeric("a", source="A").raw_name == "A"
    assert Binary("y").raw == Binary("y").raw_name == "y"


def test_a_file_that_fails_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "write_text", lambda *given, **more: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        FULL.save(tmp_path / "new" / "schema.json")
    assert not list(tmp_path.iterdir())


def test_what_is_inferred_can_be_fitted():
    df = pd.DataFrame(
        {
            "class": ["x", "y"] * 30,
            "a b": np.linspace(0, 1, 60),
            "a_b": np.linspace(0, 1, 60),
            "price": [decimal.Decimal("1.5"), decimal.Decimal("2.25")] * 30,
            "size": pd.Categorical([0.5, 1.5] * 30),
            "floor": pd.Categorical([1, 2] * 30),
            "clicked": [True, None] + [False, True] * 29,
            "bytes": [b"u", b"v"] * 30,
            "amount_paid": range(100, 160),
            "Size": np.linspace(0, 1, 60),
        }
    )
    df[7] = np.linspace(0, 1, 60)
    labels = ["clicked", "bytes"]
    schema, said = told(lambda: Schema.infer(df, labels))
    assert "'bytes' has two values, of which 'v' counts as 1" in said
    assert schema.columns == (
        Categorical("c_class", source="class", dtype="string"),
        Numeric("a_b", source="a b"),
        Numeric("a_b_2", source="a_b"),
        Numeric("price"),
        Numeric("size"),
        Categorical("floor", dtype="int"),
        Numeric("amount_paid"),
        Numeric("Size_2", source="Size"),
        Numeric("c_7", source="7"),
    )
    assert schema.tasks == (Binary("clicked"), Binary("bytes", positive="v"))
    Preprocessor(schema).fit(df).arrays(df)
    assert Schema.infer(df[["a b", "clicked"]], "clicked").tasks == (Binary("clicked"),)


def test_what_no_column_reads_is_left_out():
    df = pd.DataFrame({"a": [1.5, 2.5], "y": [0, 1]})
    df["spent"] = pd.to_timedelta([1, 2], unit="s")
    df["row"] = [{"a": 1}, {"a": 2}]
    df["bin"] = pd.cut([1.0, 2.0], 2)
    schema, said = told(lambda: Schema.infer(df, ["y"]))
    assert all(f"{name}:" in said for name in ("spent", "row", "bin"))
    assert ".dt.total_seconds()" in said
    assert schema.columns == (Numeric("a"),)


def test_fields_may_be_numpys():
    schema = Schema(
        [Numeric("a"), Categorical("b", dim=np.int64(8))],
        [
            Multiclass("y", num_classes=np.int64(3), weight=np.float32(2)),
            Multiclass("z", classes=np.array([4, 7])),
            Binary("u", key=None, where=np.str_("seen")),
        ],
    )
    assert Schema.from_json(schema.to_json()) == schema
    counts = {"dim": 3, "min_count": 2, "max_size": 5}
    written = Categorical("a", **{name: np.int32(n) for name, n in counts.items()})
    assert {name: type(getattr(written, name)) for name in counts} == dict.fromkeys(counts, int)
    assert schema.tasks[1].classes == (4, 7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Numeric("capital gain"), "give the table's as `source`"),
        (lambda: Categorical("class"), r"word of Python. Received name='class'.*'c_class'"),
        (lambda: Numeric("self"), r"word of Python. Received name='self'"),
        (lambda: Schema([Numeric("Age"), Numeric("age")], [Binary("y")]), r"\['Age', 'age'\]"),
        (
            lambda: Schema([Numeric("a")], [Binary("y")], task_column="class"),
            "no word of Python",
        ),
        (lambda: Binary("y", weight=True), "Received weight=True"),
        (lambda: Schema.from_dict({"columns": None, "tasks": []}), "lists its `columns`"),
        (
            lambda: Schema.from_dict({"columns": [{"kind": "Numeric", 1: 2}], "tasks": []}),
            "names fields by text",
        ),
        (lambda: Numeric("a", transform="sqrt"), r"Received transform='sqrt'"),
        (lambda: Numeric("a", fill=float("nan")), r"finite number or None. Received fill=nan"),
        (lambda: Numeric("a", fill="mean"), r"Received fill='mean'"),
        (lambda: Numeric("a", source=3), r"Received source=3"),
        (lambda: Numeric("a", missing="NA"), r"as a list .*Received missing='NA'.*\['NA'\]"),
        (lambda: Numeric("a", missing=[None]), r"texts and numbers.*missing=\[None\]"),
        (lambda: Categorical("a", missing=[0.5]), r"texts and integers.*missing=\[0.5\]"),
        (lambda: Sequence("a", share="b", missing=["?"]), r"Set it on 'b'"),
        (lambda: Binary("y", negative="no"), r"Received negative=\('no',\) with positive=None"),
        (lambda: Binary("y", positive="a", negative=["a"]), r"to be other ones.*positive='a'"),
        (lambda: Binary("y", positive=""), r"to be a label.*positive=''"),
        (lambda: Binary("y", where_value="x"), r"Received where_value='x' with where=None"),
        (
            lambda: Schema(
                [Numeric("a")], [Binary("y"), Regression("z", where="y", where_value=2)]
            ),
            r"limited by task 'y'.*Received where_value=2",
        ),
        (lambda: Numeric("a", num_buckets=1), r"at least 2. Received num_buckets=1"),
        (lambda: Categorical("a", dtype="float"), r"Received dtype='float'"),
        (lambda: Categorical("a", dim=0), r"Received dim=0"),
        (lambda: Categorical("a", hash_buckets=5, min_count=2), "no vocabulary to cut"),
        (lambda: Sequence("a", share="b", dim=3), r"Set it on 'b'"),
        (lambda: MultiCategorical("a", strip=True), "parted at `separator`. Received strip=True"),
        (lambda: MultiCategorical("a", separator=""), "not empty, or None.*Received separator=''"),
        (lambda: MultiCategorical("a", pooling="median"), r"Received pooling='median'"),
        (lambda: Binary("a", weight=-1), r"Received weight=-1"),
        (lambda: Regression("a", loss="gamma"), r"Received loss='gamma'"),
        (lambda: Multiclass("a"), "either `num_classes`"),
        (lambda: Multiclass("a", classes=("x", "x")), "at least two different"),
        (lambda: Schema([], [Binary("y")]), "at least one of its `columns`"),
        (lambda: Schema(["a"], [Binary("y")]), "Received 'a'"),
        (lambda: Schema([Numeric("a"), Numeric("a")], [Binary("y")]), "named \\['a'\\] twice"),
        (lambda: Schema([Numeric("y")], [Binary("y")]), "the model reads the answer"),
        (
            lambda: Schema([Sequence("a", share="b")], [Binary("y")]),
            "such columns are \\[\\]",
        ),
        (
            lambda: Schema([Numeric("a")], [Regression("y"), Binary("z", where="y")]),
            "the binary tasks are \\['z'\\]",
        ),
        (lambda: Schema.from_dict({"columns": []}), "mapping with `columns` and `tasks`"),
        (
            lambda: Schema.from_dict({"columns": [{"kind": "Os", "name": "x"}], "tasks": []}),
            "Received kind='Os'",
        ),
        (
            lambda: Schema.from_dict(
                {"columns": [{"kind": "Numeric", "name": "x", "size": 3}], "tasks": []}
            ),
            "unknown fields \\['size'\\]",
        ),
        (
            lambda: Schema.from_dict(
                {"columns": [{"kind": "Numeric", "name": "x", "transfrom": "log"}], "tasks": []}
            ),
            r"unknown fields \['transfrom'\]\. For 'transfrom': Did you mean 'transform'\?",
        ),
        (
            lambda: Schema.from_dict({"columns": [{"kind": "numeric", "name": "x"}], "tasks": []}),
            r"Received kind='numeric'\. Did you mean 'Numeric'\?",
        ),
        (
            lambda: Schema.from_dict({"columns": [], "tasks": [], "weights_column": "w", 3: 4}),
            r"unknown fields \[3, 'weights_column'\]\. For 'weights_column': Did you mean 'weight_",
        ),
        (lambda: Categorical("a", dim=True), r"Received dim=True"),
        (lambda: Categorical("a", max_size=2.0), r"None or an integer.*Received max_size=2.0"),
    ],
)
def test_errors_say_what_to_do(make, message):
    with pytest.raises(ValueError, match=message):
        make()


COLLIDING = [
    ([Binary("a"), Binary("a_log")], "task 'a_log' with 'a_log_loss'.*reported of task 'a'"),
    ([Regression("a_log"), Multiclass("a", num_classes=2)], "'a_log_loss'.*of task 'a_log'"),
    ([Binary("a"), Regression("val_a")], "task 'val_a' with 'val_a_loss'.*'a' in validation"),
    ([Binary("a"), Binary("val_a_log")], "task 'val_a_log' with 'val_a_log_loss'"),
    ([Binary("val")], "task 'val' with 'val_loss'.*the total loss in validation"),
]


@pytest.mark.parametrize(("tasks", "message"), COLLIDING)
def test_no_two_metrics_have_one_name(tasks, message):
    with pytest.raises(ValueError, match=message):
        Schema([Numeric("x")], tasks)
    by_row = [dataclasses.replace(task, source="y") for task in tasks]
    if not any(isinstance(task, Multiclass) for task in tasks):
        with pytest.raises(ValueError, match=message):
            Schema([Numeric("x")], by_row, task_column="kind")
    if len(tasks) > 1:
        with pytest.raises(ValueError, match="Choose another name"):
            Schema([Numeric("x")], tasks[:1]).add(tasks[1])


def test_names_that_only_look_alike_are_taken():
    # A regression has no log loss.
    for tasks in ([Regression("a"), Binary("a_log")], [Binary("a"), Binary("a_val"), Binary("b")]):
        assert len(Schema([Numeric("x")], tasks).tasks) == len(tasks)


def test_reported_names_are_those_of_the_metrics():
    for task in (Binary("a"), Regression("a"), Multiclass("a", num_classes=2)):
        own = [f"a_{metric.name}" for metric in own_metrics(task)]
        assert task.reported_names == ("a_loss", *own)


TWICE = """
columns:
  - kind: Numeric
    name: x
    source: y
    {again}
tasks:
  - {{kind: Binary, name: click}}
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TWICE.format(again="source: z"), "'source' twice, in lines 5 and 6 of .*schema.yaml"),
        (TWICE.format(again="") + "columns: []", "'columns' twice, in lines 2 and "),
        (TWICE.format(again="").replace("name: click", "name: a, name: b"), "'name' twice"),
    ],
)
def test_a_yaml_file_says_a_thing_once(tmp_path, text, message):
    (tmp_path / "schema.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        Schema.load(tmp_path / "schema.yaml")
    (tmp_path / "schema.yaml").write_text(TWICE.format(again=""))
    assert Schema.load(tmp_path / "schema.yaml").columns[0].source == "y"


def test_a_json_file_says_a_thing_once():
    text = '{"columns": [{"kind": "Numeric", "name": "x", "name": "z"}], "tasks": []}'
    with pytest.raises(ValueError, match="Received 'name' twice"):
        Schema.from_json(text)


@pytest.mark.parametrize("scenario", ["age", "genres", "genre", "device", "nobody"])
def test_a_scenario_is_a_column_of_counted_values(scenario):
    with pytest.raises(ValueError, match=r"one of \['city', 'place'\]. Received scenario="):
        Schema(
            [
                Numeric("age", transform="buckets"),
                Categorical("city"),
                Categorical("place", share="city"),
                Categorical("device", hash_buckets=7),
                MultiCategorical("genres", hash_buckets=7),
                Categorical("genre", share="genres"),
            ],
            [Binary("click")],
            scenario=scenario,
        )


def test_a_scenario_travels_with_the_schema():
    schema = Schema([Categorical("city")], [Binary("a"), Binary("b")], scenario="city")
    assert Schema.from_json(schema.to_json()) == schema
    assert schema.select("b").scenario == schema.add(Binary("c")).scenario == "city"


def test_yes_is_a_word(tmp_path):
    """YAML of 2005 takes it for true, and Norway for false."""
    (tmp_path / "s.yaml").write_text(
        "columns:\n- {kind: Categorical, name: land, missing: [no, NO]}\n"
        "tasks:\n- {kind: Regression, name: paid, where: bought, where_value: yes}\n"
        "- {kind: Binary, name: won, positive: on, served: true}\n"
    )
    schema = Schema.load(tmp_path / "s.yaml")
    assert schema.tasks[0].where_value == "yes"
    assert schema.tasks[1].positive == "on"
    assert schema.tasks[1].served is True
    assert schema.column("land").missing == ("no", "NO")
    schema.save(tmp_path / "again.yaml")
    assert Schema.load(tmp_path / "again.yaml") == schema


def test_a_label_is_proposed_once():
    with pytest.raises(ValueError, match=r"\['y', 'y'\], one of them twice"):
        Schema.infer({"x": [1.0, 2.0], "y": [0, 1]}, ["y", "y"])


def test_a_column_without_a_name_can_be_read():
    rows = {"": [1.0, 2.5], "y": [0, 1]}
    schema = Schema([Numeric("first", source="", transform="none")], [Binary("y")])
    assert Preprocessor(schema).fit(rows).arrays(rows)[0]["first"].tolist() == [1.0, 2.5]
