"""What a schema is proposed for: paths, texts that are numbers, likely leaks."""

import warnings

import numpy as np
import pandas as pd
import pytest

from tfmoe import (
    Binary,
    Categorical,
    MultiCategorical,
    Multiclass,
    Numeric,
    Preprocessor,
    Regression,
    Schema,
    Text,
    Timestamp,
    Vector,
)


def told(make):
    """What a function returns, and what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = make()
    return made, " ".join(str(one.message) for one in caught)


def _csv(path, **columns):
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def _noise(seed=0, num_rows=300):
    return np.random.default_rng(seed).integers(0, 2, num_rows)


@pytest.mark.parametrize(
    ("cells", "column"),
    [
        (["1.5", "2", "NA", "-3e5"], Numeric("a", transform="log")),
        (["?", "21.5", "-", " 3 "], Numeric("a")),
        (["02139", "10001", "94105", "60601"], Categorical("a", dtype="string")),
        (["+4179555", "+4930555", "+4420555", "+1555"], Categorical("a", dtype="string")),
        (["+1.5", "-2", "+3", "-4"], Numeric("a")),
        (["true", "FALSE", "NA", "True"], Categorical("a", dtype="string")),
        (["3.0", "", "4.0", "NA"], Categorical("a", dtype="int")),
        (["18446744073709551615", "7", "8", "9"], Categorical("a", dtype="string")),
        (["u|v", "u", "v|w", "w|u"], MultiCategorical("a", separator="|")),
        (["NA", "de", "fr", "it"], Categorical("a", dtype="string")),
    ],
)
def test_texts_are_proposed_as_what_they_are(tmp_path, cells, column):
    cells = (cells * 75)[:300]
    path = _csv(tmp_path / "t.csv", a=cells, y=_noise())
    frame = pd.DataFrame({"a": pd.Series(cells, dtype=object).replace("", None), "y": _noise()})
    for source in (path, frame):
        schema, _ = told(lambda source=source: Schema.infer(source, "y"))
        kinds = {type(c).__name__ for c in schema.columns}
        assert kinds == {type(column).__name__}, source
        assert schema.columns[0].name == "a"
        assert getattr(schema.columns[0], "dtype", None) == getattr(column, "dtype", None)
        told(lambda source=source, schema=schema: Preprocessor(schema).fit(source).arrays(source))


_WORDS = ["action", "science fiction", "war", "drama", "comedy", "music", "crime", "noir"]


def _lists(mark, num_rows=300):
    """Texts of one to four values each, in any order."""
    rng = np.random.default_rng(0)
    return [mark.join(rng.choice(_WORDS, rng.integers(1, 5), False)) for _ in range(num_rows)]


@pytest.mark.parametrize("mark", [",", ", ", ";", "; ", " ;", "|", " | "])
def test_texts_that_are_lists(tmp_path, mark):
    path = _csv(tmp_path / "t.csv", a=_lists(mark), y=_noise())
    sign, blanks = mark.strip(), " " in mark
    for source in (path, pd.read_csv(path)):
        schema, said = told(lambda source=source: Schema.infer(source, "y"))
        assert schema.columns == (MultiCategorical("a", separator=sign, strip=blanks),)
        assert (f"'a' at {sign!r} (8 values, such as" in said) == (sign != "|")
    prep = Preprocessor(schema).fit(path)
    assert set(prep.vocabulary("a").to_pylist()) == set(_WORDS)
    assert prep.lengths == {"a": 4}


@pytest.mark.parametrize("mark", [",", ", "])
def test_lists_of_numbers(tmp_path, mark):
    rng = np.random.default_rng(0)
    cells = [mark.join(map(str, rng.integers(1, 40, rng.integers(1, 6)))) for _ in range(300)]
    path = _csv(tmp_path / "t.csv", a=cells, y=_noise())
    schema, _ = told(lambda: Schema.infer(path, "y"))
    assert schema.columns == (MultiCategorical("a", separator=",", strip=mark != ","),)


@pytest.mark.parametrize(
    ("name", "is_code"),
    [
        *[
            (n, True)
            for n in ("zip", "Zip5", "zip_code", "productCode", "SKU", "item-no", "Shop Nr")
        ],
        *[(n, True) for n in ("device.type", "CATEGORY", "jobKind", "item-no")],
        *[
            (n, False)
            for n in ("views", "no_items", "Nr Of Rooms", "type_count", "encoded", "noise")
        ],
        *[
            (n, False)
            for n in ("codeLength", "encoded", "skunk", "price_category_size", "nothing_no_more")
        ],
    ],
)
def test_whole_numbers_that_are_codes_by_name(name, is_code):
    cells = np.random.default_rng(0).integers(1000, 1100, 300)
    frame = pd.DataFrame({name: cells, "y": _noise()})
    schema, said = told(lambda: Schema.infer(frame, "y"))
    expected = Categorical if is_code else Numeric
    assert [type(column) for column in schema.columns] == [expected]
    assert ("taken for codes, by their names: " + repr(name) in said) == is_code
    assert "few different values" not in said


def test_codes_recur_and_have_no_sign():
    rng = np.random.default_rng(0)
    for cells in (rng.integers(0, 10**6, 300), rng.integers(-50, 50, 300), rng.random(300)):
        schema, said = told(lambda cells=cells: Schema.infer({"code": cells, "y": _noise()}, "y"))
        assert type(schema.columns[0]) is Numeric
        assert "codes" not in said


_PARTS = {
    "decimals": "{0},{1}",
    "amounts": "{0},{1} kg",
    "thousands": "{0},234,567",
    "addresses": "{0} Oak Street, {city}, {state}",
    "places": "{city}, {state}",
    "people": "{name}, {first}",
    "dates": "{month} {0}, {year}",
    "answers": "{state}, for the rest of my days",
    "prose": "I went to {city}, which is in {state}; {name} and {first} were there for {0} days",
    "pairs": "{0}{1}{2},{2}{1}{0}",
}


@pytest.mark.parametrize("name", _PARTS)
def test_texts_with_commas_that_are_no_lists(tmp_path, name):
    rng = np.random.default_rng(0)
    words = {
        "city": ["Springfield", "Portland", "Salem", "Dover"],
        "state": ["Ohio", "Oregon", "Maine", "Iowa"],
        "name": ["Doe", "Roe", "Poe"],
        "first": ["Jane", "Ann", "Max"],
        "month": ["Mar", "Apr"],
        "year": ["2020", "2021"],
    }
    cells = [
        _PARTS[name].format(
            *rng.integers(1, 30, 3), **{key: rng.choice(some) for key, some in words.items()}
        )
        for _ in range(300)
    ]
    path = _csv(tmp_path / "t.csv", a=cells, y=_noise())
    schema, said = told(lambda: Schema.infer(path, "y"))
    free = name == "prose"
    assert schema.columns == (Text("a") if free else Categorical("a", dtype="string"),)
    assert "taken for lists" not in said
    assert ("for free text: ['a']" in said) == free


def test_numbers_with_texts_of_their_own_for_missing_ones_are_told(tmp_path):
    cells = [
        "unknown" if i % 20 == 0 else "NA" if i % 33 == 0 else f"{i / 7:.2f}" for i in range(300)
    ]
    path = _csv(tmp_path / "t.csv", a=cells, b=[f"{i}b" for i in range(300)], y=_noise())
    schema, said = told(lambda: Schema.infer(path, "y"))
    assert isinstance(schema.column("a"), Categorical)
    assert "'a' (missing=['unknown', 'NA'])" in said
    assert "'b' (missing" not in said
    prep = Preprocessor(Schema([Numeric("a", missing=["unknown", "NA"])], schema.tasks)).fit(path)
    assert prep.numeric["a"].mean > 0


@pytest.mark.parametrize("cells", ["[0.5, {}]", "[0.5 {}]", "['u', 'v{}']", "({}, 7)"])
def test_lists_written_as_text_are_told(tmp_path, cells):
    path = _csv(
        tmp_path / "t.csv", a=[cells.format(i) for i in range(60)], b=1.5, y=_noise(num_rows=60)
    )
    schema, said = told(lambda: Schema.infer(path, "y"))
    assert [column.name for column in schema.columns] == ["b"]
    code = said.split("in pandas ")[1].split(", for MultiCategorical")[0]
    frame = pd.read_csv(path)
    frame["a"] = eval(code, {"df": frame})
    assert frame["a"].map(len).eq(2).all()
    columns = [MultiCategorical("a")]
    columns += [] if "u" in cells else [Numeric("n", source="a", element=1)]
    Preprocessor(Schema(columns, [Binary("y")])).fit(frame)


def test_texts_of_digits_stay_text_where_the_source_might_have_integers(tmp_path):
    frame = pd.DataFrame({"a": [str(n) for n in range(300)], "y": _noise()})
    assert Schema.infer(frame, "y").columns == (Categorical("a", dtype="string"),)
    frame.to_parquet(tmp_path / "t.parquet")
    assert Schema.infer(tmp_path / "t.parquet", "y").columns[0].dtype == "string"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_all_files_are_looked_at(tmp_path, kind):
    for i in range(5):
        part = pd.DataFrame(
            {"zip": ["501" if i < 4 else "00501"] * 9, "v": np.nan, "y": [0, 1, 0] * 3}
        )
        part["v"] = part["v"].astype(object) if i < 4 else 0.5
        getattr(part, f"to_{kind}")(tmp_path / f"{i}.{kind}", index=False)
    source = [tmp_path / "0*", str(tmp_path / f"[1-9].{kind}")]
    schema, _ = told(lambda: Schema.infer(source, ["y"]))
    assert schema.columns == (Categorical("zip", dtype="string"), Numeric("v"))
    part.drop(columns="v").to_parquet(tmp_path / "x.parquet")
    if kind == "parquet":
        schema, said = told(lambda: Schema.infer(tmp_path, "y"))
        assert "'v' (not in " in said
        assert "x.parquet" in said
        with pytest.raises(ValueError, match=r"of which \['v'\] are not there. They are in some"):
            Schema.infer(tmp_path, "v")


def test_other_sources():
    frame = pd.DataFrame({"a": np.linspace(0, 1, 60), "y": [0, 1] * 30})
    expected = Schema.infer(frame, "y")
    for source in (frame.to_dict("list"), [frame[:30], frame[30:]], lambda: iter([frame])):
        assert Schema.infer(source, "y") == expected
    with pytest.raises(ValueError, match="Received a generator"):
        Schema.infer(iter([frame]), "y")
    with pytest.raises(ValueError, match="for a table with rows"):
        Schema.infer(frame[:0], "y")
    with pytest.raises(FileNotFoundError, match=r"nowhere.csv"):
        Schema.infer("nowhere.csv", "y")


def test_records_are_looked_at(tmp_path):
    tf = pytest.importorskip("tensorflow")
    with tf.io.TFRecordWriter(str(tmp_path / "t.tfrecord")) as writer:
        for i in range(60):
            features = {
                "price": tf.train.Feature(
                    bytes_list={"value": [b"NA" if i % 9 == 0 else b"1.%d" % i]}
                ),
                "ids": tf.train.Feature(int64_list={"value": [i, i + 1]}),
                "y": tf.train.Feature(int64_list={"value": [i % 2]}),
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    schema, said = told(lambda: Schema.infer(tmp_path / "t.tfrecord", "y"))
    assert {type(column) for column in schema.columns} == {Numeric, MultiCategorical}
    assert "'price' ('NA')" in said
    with pytest.warns(UserWarning, match=r"7 of 'price' \('NA'\)"):
        Preprocessor(schema).fit(tmp_path / "t.tfrecord")


def test_a_pandas_index_is_a_column_of_its_file(tmp_path):
    frame = pd.DataFrame({"user_id": [5, 9] * 30, "a": np.linspace(0, 1, 60), "y": [0, 1] * 30})
    frame.set_index("user_id").to_parquet(tmp_path / "t.parquet")
    schema, _ = told(lambda: Schema.infer(tmp_path / "t.parquet", "y"))
    assert {column.name for column in schema.columns} == {"user_id", "a"}
    # One that counts up is but described in the file.
    frame["user_id"] = np.arange(100, 280, 3)
    frame.set_index(pd.RangeIndex(100, 280, 3, name="user_id")).drop(columns="user_id").to_parquet(
        tmp_path / "t.parquet", row_group_size=7
    )
    schema, _ = told(lambda: Schema.infer(tmp_path / "t.parquet", "y"))
    assert {column.name for column in schema.columns} == {"user_id", "a"}
    prep = Preprocessor(schema).fit(tmp_path / "t.parquet")
    for name, values in prep.arrays(frame)[0].items():
        np.testing.assert_array_equal(prep.arrays(tmp_path / "t.parquet")[0][name], values)


@pytest.mark.parametrize(
    ("cells", "task"),
    [
        (["no", "yes"], Binary("y", positive="yes")),
        (["Y", "N"], Binary("y", positive="Y")),
        (["negative", "Positive"], Binary("y", positive="Positive")),
        (["+", "-"], Binary("y", positive="+", negative=["-"])),
        ([">50K", "<=50K"], Binary("y", positive=">50K")),
        (["true", "false"], Binary("y")),
        (["yes", "no", "NA"], Binary("y", positive="yes")),
        (["1", "0", "NA"], Binary("y")),
        (["1.5", "?"], Regression("y")),
        (["a", "b", "c"], Multiclass("y", classes=("a", "b", "c"))),
    ],
)
def test_labels_of_text(tmp_path, cells, task):
    path = _csv(tmp_path / "t.csv", a=np.linspace(0, 1, 60), y=(cells * 60)[:60])
    for source in (path, pd.read_csv(path, dtype={"y": str}, keep_default_na=False)):
        schema, said = told(lambda source=source: Schema.infer(source, "y"))
        assert schema.tasks == (task,)
        if getattr(task, "positive", None):
            assert f"of which {task.positive!r} counts as 1" in said
        told(lambda schema=schema, source=source: Preprocessor(schema).fit(source).arrays(source))


@pytest.mark.parametrize(
    ("positive", "negative"),
    [
        ("Y", "N"),
        ("t", "f"),
        ("Bought", "left"),
        ("click", "No Click"),
        ("click", "no_click"),
        ("CLICK", "NON-CLICK"),
        ("subscribed", "unsubscribed"),
        ("active", "inactive"),
        ("read", "not read"),
        ("won", "lost"),
        ("good", "bad"),
        ("churned", "retained"),
        ("other", "declined"),
        ("1 star", "no star"),
    ],
)
@pytest.mark.parametrize("num_positive", [40, 260])
def test_the_positive_label_is_named_by_its_word(positive, negative, num_positive):
    cells = [positive] * num_positive + [negative] * (300 - num_positive)
    frame = pd.DataFrame({"a": np.linspace(0, 1, 300), "y": cells})
    schema, said = told(lambda: Schema.infer(frame, "y"))
    assert schema.tasks == (Binary("y", positive=positive),)
    assert f"of which {positive!r} counts as 1. If {negative!r} is meant" in said


def test_of_other_labels_the_rarer_one_is_positive(tmp_path):
    for rare, frequent in (("zeta", "alpha"), ("alpha", "zeta"), ("<=50K", ">50K"), ("F", "M")):
        cells = [rare] * 100 + [frequent] * 199 + ["NA"]
        path = _csv(tmp_path / f"{ord(rare[0])}.csv", a=np.linspace(0, 1, 300), y=cells)
        schema, said = told(lambda path=path: Schema.infer(path, "y"))
        assert schema.tasks == (Binary("y", positive=rare),)
        assert f"{rare!r} counts as 1, for it is the rarer one. If {frequent!r} is meant" in said


def _limits(**columns):
    frame = pd.DataFrame({"a": np.linspace(0, 1, len(next(iter(columns.values())))), **columns})
    schema, said = told(lambda: Schema.infer(frame, list(columns)))
    limits = {task.name: task.where for task in schema.tasks if task.where}
    for name, where in limits.items():
        assert f"{name!r} (where={where!r})" in said
    assert ("exactly where" in said) == bool(limits)
    told(lambda: Preprocessor(schema).fit(frame).arrays(frame))
    return limits


def test_labels_that_are_there_only_within_another(tmp_path):
    watch = _noise()
    bought = np.where(watch == 1, _noise(1), np.nan)
    rating = np.where(watch == 1, 3.5, np.nan)
    spend = np.where(bought == 1, 7.25, np.nan)
    chain = {"bought": "watch", "spend": "bought"}
    assert _limits(watch=watch, bought=bought, spend=spend) == chain
    assert _limits(watch=watch.astype(bool), rating=rating) == {"rating": "watch"}
    texts = np.where(watch == 1, "yes", "no")
    mood = pd.Series(np.where(watch == 1, np.array(["a", "b", "c"])[np.arange(300) % 3], ""))
    assert _limits(watch=texts, rating=rating, mood=mood) == {"rating": "watch", "mood": "watch"}
    signs = np.where(watch == 1, "+", "-")
    assert _limits(watch=signs, rating=rating) == {"rating": "watch"}
    path = _csv(tmp_path / "t.csv", **{"a b": texts, "r": rating, "x": np.linspace(0, 1, 300)})
    schema, _ = told(lambda: Schema.infer(path, ["a b", "r"]))
    assert schema.tasks == (
        Binary("a_b", source="a b", positive="yes"),
        Regression("r", where="a_b"),
    )


def test_labels_that_are_missing_elsewhere_are_limited_by_nothing():
    watch = _noise()
    rating = np.where(watch == 1, 3.5, np.nan)
    gaps = np.where(np.arange(300) % 7 == 0, np.nan, 3.5)
    assert _limits(watch=watch, rating=gaps) == {}
    assert _limits(watch=1 - watch, rating=rating) == {}
    assert _limits(watch=watch, rating=np.where(np.arange(300) == 0, np.nan, rating)) == {}
    # Missing in the same rows: that the one is 0 there was never seen.
    assert _limits(watch=np.where(watch == 1, 1.0, np.nan), rating=rating) == {}
    assert _limits(watch=watch, both=np.where(watch == 1, 1, np.nan)) == {"both": "watch"}


@pytest.mark.parametrize("cells", [["x", "x"], ["", ""], ["2020-01-01", "2020-01-02"]])
def test_labels_that_are_none(tmp_path, cells):
    path = _csv(tmp_path / "t.csv", a=[1.5, 2.5], y=cells)
    with pytest.raises(ValueError, match="'y'"):
        Schema.infer(path, "y")


# --- leaks ----------------------------------------------------------------------------


def _leaks(**columns):
    labels = [name for name in columns if name.startswith("y")]
    _, said = told(lambda: Schema.infer(pd.DataFrame(columns), labels))
    return said


def test_columns_that_tell_a_label():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    amount = rng.gamma(2, 3, 400)
    assert "'status' tells 'y'" in _leaks(y=y, status=np.where(y == 1, "done", "open"))
    one_wrong = np.where(np.arange(2000) == 7, "open", np.where(np.tile(y, 5) == 1, "done", "open"))
    assert "'status' tells 'y'" in _leaks(y=np.tile(y, 5), status=one_wrong)
    reason = np.where(y == 1, rng.choice(["a", "b", "c"], 400), "none at all")
    assert "'reason' tells 'y'" in _leaks(y=y, reason=reason)
    assert "'score' tells 'y'" in _leaks(y=y, score=y * 5 + rng.random(400))
    assert "'cents' tells 'y'" in _leaks(y=amount, cents=amount * 100)
    assert "'log' tells 'y'" in _leaks(y=amount, log=-np.log(amount))
    assert "'grade' tells 'y'" in _leaks(y=np.round(amount), grade=np.round(amount) > 5)


def test_sums_and_differences():
    rng = np.random.default_rng(1)
    casual, registered = rng.gamma(2, 5, (2, 300)).round()
    both = {"y_casual": casual, "y_registered": registered}
    said = _leaks(**both, total=casual + registered, other=rng.random(300))
    assert "'total' is the sum of 'y_casual' and 'y_registered'" in said
    assert "'other'" not in said
    said = _leaks(y_all=casual + registered, casual=casual, registered=registered)
    assert "'casual' and 'registered' have 'y_all' as their sum" in said
    said = _leaks(y_all=casual + registered, y_casual=casual, registered=registered)
    assert "'registered' is the difference of" in said


def test_row_numbers(tmp_path):
    y = _noise(num_rows=500)
    assert "['n'] count the rows" in _leaks(y=y, n=np.arange(500) + 17)
    assert "['n'] count the rows" in _leaks(y=y, n=np.random.default_rng(0).permutation(500))
    assert "count the rows" not in _leaks(y=y, n=np.random.default_rng(0).integers(0, 500, 500))
    assert "count the rows" not in _leaks(y=y, n=np.arange(500) / 7)
    path = _csv(tmp_path / "t.csv", n=np.arange(200_000), y=_noise(num_rows=200_000))
    assert "['n'] count the rows" in told(lambda: Schema.infer(path, "y"))[1]


def test_what_is_no_leak():
    """Nothing is said of chance, of ids, of few rows, of what is merely of use."""
    rng = np.random.default_rng(2)
    n = 2000
    signal = rng.normal(size=n)
    columns = {
        "y": (signal + rng.normal(size=n) > 0).astype(int),
        "y_rating": (3 + signal + rng.normal(size=n)).round(),
        "y_rare": (np.arange(n) == 7).astype(int),
        "signal": signal,
        "user_id": rng.integers(0, 800, n),
        "unique_id": rng.permutation(10**6)[:n],
        "city": rng.choice(["a", "b", "c"], n),
        "always": "x",
        "plays": rng.poisson(3, n).astype(float) + 0.5,
    }
    said = _leaks(**columns)
    assert "leak" not in said
    assert "count the rows" not in said
    assert _leaks(y=[0, 1, 0, 1], a=["u", "v", "u", "v"]) == ""


def test_amounts_with_a_sign_are_told(tmp_path):
    dollars = [f"${number}.50" for number in range(300)]
    path = _csv(tmp_path / "t.csv", age=np.arange(300) % 40, spend=dollars)
    schema, said = told(lambda: Schema.infer(path, ["spend"]))
    assert isinstance(schema.tasks[0], Multiclass)
    assert "'spend' (300, such as '$0.50')" in said
    assert "a Regression reads 12.50" in said


def test_vectors_and_times(tmp_path):
    rng = np.random.default_rng(0)
    days = pd.to_datetime("2024-01-01") + pd.to_timedelta(rng.integers(0, 400, 60), unit="D")
    frame = pd.DataFrame({"y": _noise(num_rows=60)})
    frame["emb"] = pd.Series([None, *rng.normal(size=(59, 3)).tolist()])
    frame["at"] = days + pd.to_timedelta(rng.integers(0, 86400, 60), unit="s")
    frame["day"] = days.date
    frame["uneven"] = [[0.5] * (1 + i % 2) for i in range(60)]
    schema, said = told(lambda: Schema.infer(frame, "y"))
    expected = (Vector("emb"), Timestamp("at"), Timestamp("day", parts=["weekday"]))
    assert schema.columns == expected
    assert "vectors: ['emb']" in said
    assert "in UTC: ['at', 'day']" in said
    assert "uneven: Declare Vector('vector', source='uneven'), if" in said
    found = Preprocessor(schema).fit(frame).arrays(frame)[0]
    assert {name: values.shape[1] for name, values in found.items()} == {
        "emb": 3,
        "at": 4,
        "day": 2,
    }
    frame[["at", "day", "y"]].to_csv(tmp_path / "t.csv", index=False)
    schema, _ = told(lambda: Schema.infer(tmp_path / "t.csv", "y"))
    assert schema.columns == expected[1:]
    again = Preprocessor(schema).fit(tmp_path / "t.csv").arrays(tmp_path / "t.csv")[0]
    np.testing.assert_array_equal(again["at"], found["at"])


def test_whole_numbers_that_are_times_by_name_and_size(tmp_path):
    rng = np.random.default_rng(0)
    seconds = rng.integers(1_500_000_000, 1_700_000_000, 60)
    frame = pd.DataFrame({"y": _noise(num_rows=60), "timestamp": seconds})
    frame["event_time_us"] = 1_000_000 * seconds
    frame["createdAt"] = np.where(np.arange(60) % 9, 1000 * seconds, np.nan)
    # By name or by size alone they are none.
    frame["watch_time_ms"] = rng.integers(10, 100_000, 60)
    frame["phone"] = seconds
    frame["flat"] = seconds
    frame["mixed_time"] = np.where(np.arange(60) % 2, seconds, 1000 * seconds)
    frame["date"] = [int(f"2024{1 + i % 12:02}{1 + i % 28:02}") for i in range(60)]
    schema, said = told(lambda: Schema.infer(frame, "y"))
    found = {column.name: column for column in schema.columns}
    assert [found[name] for name in ("timestamp", "event_time_us", "createdAt")] == [
        Timestamp("timestamp"),
        Timestamp("event_time_us", unit="us"),
        Timestamp("createdAt", unit="ms"),
    ]
    others = ("watch_time_ms", "phone", "flat", "mixed_time", "date")
    assert not any(isinstance(found[name], Timestamp) for name in others)
    assert "in UTC: ['timestamp', 'event_time_us', 'createdAt']" in said
    assert "read like dates were not taken for dates: ['date']" in said
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert told(lambda: Schema.infer(tmp_path / "t.csv", "y"))[0].columns == schema.columns
    arrays = Preprocessor(schema).fit(frame, progress=False).arrays(frame)[0]
    np.testing.assert_array_equal(arrays["timestamp"], arrays["event_time_us"])


def _weighted(rng, num_rows=60):
    sizes = rng.integers(0, 4, num_rows)
    tags = [[f"t{i}" for i in rng.integers(0, 9, size)] for size in sizes]
    return tags, [rng.random(size).round(3).tolist() for size in sizes]


def test_weights_beside_a_list(tmp_path):
    rng = np.random.default_rng(0)
    tags, weights = _weighted(rng)
    frame = pd.DataFrame({"y": _noise(num_rows=60)})
    frame["items"] = [[len(cell) + 7] * len(cell) for cell in tags]
    frame["tags"], frame["tags_score"] = tags, weights
    frame["others"] = [cell * 2 for cell in weights]
    schema, said = told(lambda: Schema.infer(frame, "y"))
    assert (
        schema.columns
        == (
            MultiCategorical("items", dtype="int"),
            MultiCategorical("tags", weights="tags_score"),
        )
        or schema.columns[1].weights == "tags_score"
    )
    assert "'tags_score' of 'tags'" in said
    assert "Left out ['others']" in said
    Preprocessor(schema).fit(frame, progress=False).arrays(frame)
    # The same as text.
    texts = pd.DataFrame({"y": frame["y"], "tags": frame["tags"].str.join("|")})
    texts["tag_weights"] = ["|".join(map(str, cell)) for cell in weights]
    texts.to_csv(tmp_path / "t.csv", index=False)
    schema, said = told(lambda: Schema.infer(tmp_path / "t.csv", "y"))
    assert schema.columns == (MultiCategorical("tags", separator="|", weights="tag_weights"),)
    assert "'tag_weights' of 'tags'" in said
    features = Preprocessor(schema).fit(texts, progress=False).arrays(texts)[0]
    assert features["tags_weights"].max() <= 1
    # Of other lengths they are none.
    texts["tag_weights"] = ["0.5|0.25"] * 60
    schema, _ = told(lambda: Schema.infer(texts, "y"))
    assert [column.weights for column in schema.columns] == [None, None]


def test_vectors_that_are_written_as_text_are_told():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"y": _noise(num_rows=60), "x": rng.normal(size=60)})
    numbers = rng.normal(size=(60, 3)).round(4)
    frame["spaced"] = [" ".join(map(str, row)) for row in numbers]
    frame["place"] = [f"{a},{b}" for a, b, _ in numbers]
    frame["money"] = [f"{n:,.2f}" for n in rng.uniform(1000, 9000, 60)]
    schema, said = told(lambda: Schema.infer(frame, "y"))
    assert [column.name for column in schema.columns] == ["x", "money"]
    assert "Left out ['spaced', 'place']" in said
    assert "df['spaced'].str.findall(" in said
    found = frame["spaced"].str.findall(r"[\w.+-]+")
    np.testing.assert_allclose(np.array(found.tolist(), float), numbers)


def test_two_columns_of_weights_do_not_weigh_each_other():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 5, 60)
    frame = pd.DataFrame({"y": _noise(num_rows=60)})
    frame["genres"] = ["|".join(rng.choice(list("abc"), size)) for size in sizes]
    for name in ("score_a", "score_b"):
        frame[name] = ["|".join(map(str, rng.random(size).round(2))) for size in sizes]
    schema, said = told(lambda: Schema.infer(frame, "y"))
    found = [(one.name, one.weights) for one in schema.columns]
    assert found == [("genres", "score_a"), ("score_b", None)]
    assert "Left out" not in said


def test_a_vector_that_is_missing_with_a_list_is_no_weight():
    rng = np.random.default_rng(0)
    there = rng.random(60) < 0.7
    frame = pd.DataFrame({"y": _noise(num_rows=60)})
    frame["top_items"] = pd.Series([[1, 2, 3] if one else None for one in there], dtype=object)
    frame["emb"] = pd.Series([list(rng.normal(size=3)) if one else None for one in there])
    schema, _ = told(lambda: Schema.infer(frame, "y"))
    assert schema.columns == (MultiCategorical("top_items"), Vector("emb"))


def test_whole_numbers_that_name_who_are_no_times():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"y": _noise(num_rows=60)})
    for name in ("created_by_id", "updated_by", "clicked_on", "time_of_day_code"):
        frame[name] = rng.integers(1_500_000_000, 1_700_000_000, 60)
    frame["chosen_at"] = pd.Categorical(frame["clicked_on"])
    frame["created_on"] = frame["updated_by"]
    frame["dateCreated"] = frame["updated_by"] * 1000
    frame["time_utc_ms"] = frame["updated_by"] * 1000
    schema, _ = told(lambda: Schema.infer(frame, "y"))
    times = [column.name for column in schema.columns if isinstance(column, Timestamp)]
    assert times == ["created_on", "dateCreated", "time_utc_ms"]


def test_texts_of_numbers_are_read_in_no_time():
    """A pattern of them had tried all ways to part the digits."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"y": _noise(num_rows=60)})
    cells = [",".join(map(str, rng.integers(10_000, 99_999, 40))) for _ in range(60)]
    frame["history"] = [f"{cell},1.5 and more" for cell in cells]
    frame["price"] = [f"{rng.integers(1, 9)}.{rng.integers(100, 999)},50" for _ in range(60)]
    frame["cents"] = [f"{rng.integers(100, 999)},5{i % 10}" for i in range(60)]
    frame["size"] = rng.choice(["38.5 39", "40 41.5", "9.5 10"], 60)
    schema, said = told(lambda: Schema.infer(frame, "y"))
    assert [column.name for column in schema.columns] == ["history", "price", "cents", "size"]
    assert "Left out" not in said
