import gzip

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from tfmoe.data.encode.graph import GraphEncoder
from tfmoe.data.encode.vocabulary import Vocabulary
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.data.read.source import open_source
from tfmoe.data.read.tfrecord import TfrecordFragment
from tfmoe.schema.columns import Categorical, MultiCategorical, Numeric, Sequence
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Multiclass, Regression
from tfmoe.serving.export import tensors

_NUM_ROWS = 3000
_SCHEMA = Schema(
    [
        Numeric("age"),
        Categorical("user"),
        Categorical("gap", dtype="int"),
        Categorical("city"),
        Categorical("bucket", source="city", hash_buckets=100),
        MultiCategorical("genres", separator="|"),
        MultiCategorical("tags"),
        Sequence("seen", share="user", max_length=3),
    ],
    [
        Binary("click"),
        Regression("rating", where="click"),
        Multiclass("kind", classes=("x", "y"), where="click"),
    ],
    weight_column="w",
)
# What a text file cannot hold.
_LISTS = ("tags", "seen")


def _table(num_rows=_NUM_ROWS, seed=0):
    rng = np.random.default_rng(seed)
    gap = np.where(rng.random(num_rows) < 0.2, np.nan, rng.integers(0, 50, num_rows))
    # float32 values, which tf.train.Example can hold without loss.
    age = np.where(rng.random(num_rows) < 0.1, np.nan, rng.integers(0, 99, num_rows) / 4)
    rating = np.where(rng.random(num_rows) < 0.3, np.nan, rng.integers(1, 6, num_rows))
    choice = lambda *values: pd.Series(rng.choice(np.array(values, object), num_rows))  # noqa: E731
    lists = lambda pool: [list(rng.choice(pool, n)) for n in rng.integers(0, 6, num_rows)]  # noqa: E731
    return pd.DataFrame(
        {
            "age": age,
            "user": rng.integers(-5, 500, num_rows),
            "gap": gap,
            "city": choice("Rome", "Z\u00fcrich", "\U0001f600", None, "a,b", 'q"t', "two\nlines"),
            "genres": choice("A|B", "A", None, "C||D"),
            "tags": lists(np.array(["u", "v", "w"])),
            "seen": lists(np.arange(500)),
            "click": rng.integers(0, 2, num_rows),
            "rating": rating,
            "kind": choice("x", "y", None),
            "w": rng.integers(1, 9, num_rows) / 8,
            "unused": "not read",
        }
    )


def _write_tfrecord(table, path):
    tf = pytest.importorskip("tensorflow")
    kinds = {"user": "int64_list", "gap": "int64_list", "seen": "int64_list", "click": "int64_list"}
    kinds |= dict.fromkeys(("age", "rating", "w"), "float_list")
    options = "GZIP" if str(path).endswith(".gz") else ""
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for row in table.to_dict("records"):
            example = tf.train.Example()
            for name, value in row.items():
                values = list(value) if isinstance(value, list) else [value]
                kind = kinds.get(name, "bytes_list")
                if values and values[0] is not None and values[0] == values[0]:
                    if kind == "bytes_list":
                        values = [str(v).encode() for v in values]
                    elif kind == "int64_list":
                        values = [int(v) for v in values]
                    getattr(example.features.feature[name], kind).value.extend(values)
            writer.write(example.SerializeToString())


def _write(table, path):
    name = path.name
    if name.endswith(".parquet"):
        table.to_parquet(path, row_group_size=700)
    elif ".tfrecord" in name:
        _write_tfrecord(table, path)
    else:
        separator = "\t" if ".tsv" in name else ","
        table.drop(columns=[c for c in _LISTS if c in table]).to_csv(
            path, index=False, sep=separator, encoding="utf-8-sig"
        )
    return path


def _schema_without_lists():
    columns = [column for column in _SCHEMA.columns if column.name not in _LISTS]
    return Schema(columns, _SCHEMA.tasks, _SCHEMA.weight_column)


def _assert_same(one, other):
    for part, expected in zip(one, other, strict=True):
        assert list(part) == list(expected)
        for name, values in expected.items():
            assert part[name].dtype == values.dtype
            np.testing.assert_array_equal(part[name], values, err_msg=name)


@pytest.mark.parametrize(
    "name",
    ["a.parquet", "a.csv", "a.csv.gz", "a.tsv", "a.tfrecord", "a.tfrecord.gz", "dict", "frames"],
)
def test_all_sources_give_the_same_arrays(tmp_path, name):
    table = _table()
    if name == "dict":
        source = {column: table[column].to_numpy() for column in table}
    elif name == "frames":
        source = (table[start : start + 1000] for start in range(0, len(table), 1000))
    else:
        source = str(_write(table, tmp_path / name))
    schema = _schema_without_lists() if ".csv" in name or ".tsv" in name else _SCHEMA
    expected = Preprocessor(schema).fit(table)
    if name != "frames":
        fitted = Preprocessor(schema).fit(source)
        assert fitted.dtypes == expected.dtypes
        assert fitted.num_rows == _NUM_ROWS
        for column in ("user", "gap", "city", "genres"):
            assert fitted.vocabulary(column).equals(expected.vocabulary(column))
        assert fitted.numeric["age"].mean == pytest.approx(expected.numeric["age"].mean)
    _assert_same(expected.arrays(source), expected.arrays(table))


def test_matrices_are_list_cells():
    tags = np.random.default_rng(0).integers(0, 9, (70_000, 2))
    schema = Schema([MultiCategorical("tags")], [Binary("click")])
    expected = pd.DataFrame({"tags": list(tags)})
    prep = Preprocessor(schema).fit({"tags": tags})
    assert prep.vocabulary("tags").equals(Preprocessor(schema).fit(expected).vocabulary("tags"))
    ids = prep.arrays({"tags": tags}, labels=False)["tags"]
    np.testing.assert_array_equal(ids, prep.arrays(expected, labels=False)["tags"])


def test_several_files_and_globs(tmp_path):
    parts = [_table(500, seed) for seed in range(3)]
    paths = [_write(part, tmp_path / f"p{i}.parquet") for i, part in enumerate(parts)]
    whole = pd.concat(parts, ignore_index=True)
    prep = Preprocessor(_SCHEMA).fit(whole)
    expected = prep.arrays(whole)
    _assert_same(prep.arrays(tmp_path / "p*.parquet"), expected)
    _assert_same(prep.arrays([str(paths[0]), tmp_path / "p[12].parquet"]), expected)
    _assert_same(prep.arrays(iter(parts)), expected)
    _assert_same(prep.arrays(lambda: iter(parts)), expected)


def test_only_needed_columns_are_read(tmp_path):
    path = _write(_table(100), tmp_path / "a.parquet")
    (fragment,) = open_source(path).fragments()
    (chunk,) = fragment.read({"age": "float"})
    assert list(chunk) == ["age"]


def test_chunks_are_bounded(tmp_path):
    rows = pd.DataFrame({"a": np.arange(200_000)})
    rows.to_csv(tmp_path / "a.csv", index=False)
    rows.to_parquet(tmp_path / "a.parquet")
    for source in (rows, tmp_path / "a.csv", tmp_path / "a.parquet"):
        chunks = [
            c["a"]
            for fragment in open_source(source).fragments()
            for c in fragment.read({"a": "int"})
        ]
        assert sum(map(len, chunks)) == 200_000
        assert max(map(len, chunks)) < 200_000
        # Of a text file cells are text.
        assert list(map(int, pa.chunked_array(chunks).to_pylist())) == rows["a"].to_list()


def _csv(tmp_path, text, name="a.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def _first_column(column, path):
    prep = Preprocessor(Schema([column], [Binary("y")])).fit(path)
    return prep, prep.arrays(path, labels=False)[column.name]


@pytest.mark.parametrize(
    ("column", "cells", "vocabulary"),
    [
        (Categorical("a", dtype="int"), ["3.0", "", "4.0"], [3, 4]),
        (Categorical("a"), ["3.0", "", "4.0"], [3, 4]),
        (Categorical("a", dtype="string"), ["007", "", "7"], ["007", "7"]),
        (Categorical("a"), ["007", "x", ""], ["007", "x"]),
        (Categorical("a"), ["true", "FALSE", ""], ["False", "True"]),
        (Categorical("a"), ["2020-01-01", "", ""], ["2020-01-01"]),
        (Categorical("a"), ["", "", ""], []),
        (Categorical("a", dtype="int"), ["", "", str(2**63 - 1)], [2**63 - 1]),
        (MultiCategorical("a", separator="|", dtype="int"), ["1|2", "", "3"], [1, 2, 3]),
    ],
)
def test_csv_cells(tmp_path, column, cells, vocabulary):
    lines = ["a,y", *(f"{cell},1" for cell in cells)]
    prep, ids = _first_column(column, _csv(tmp_path, "\n".join(lines) + "\n"))
    assert prep.vocabulary("a").to_pylist() == vocabulary
    first = ids if ids.ndim == 1 else ids[:, 0]
    assert [cell == "" for cell in cells] == (first == 1).tolist()
    assert (first != 2).all()


def test_csv_flags_and_late_values(tmp_path):
    # The first block of the file says nothing about what comes after it.
    empty = "\n".join(["1.5,,"] * 200_000)
    path = _csv(tmp_path, f"n,c,y\n{empty}\n2,x,True\n,y,0\n")
    schema = Schema(
        [Numeric("n"), Categorical("c", dtype="string")], [Regression("y", source="n2")]
    )
    prep = Preprocessor(schema).fit(path)
    assert prep.vocabulary("c").to_pylist() == ["x", "y"]
    path = _csv(tmp_path, "n,y\n1,True\n2,false\n3,\n", "b.csv")
    prep = Preprocessor(Schema([Numeric("n")], [Binary("y")])).fit(path)
    np.testing.assert_array_equal(prep.arrays(path)[1]["y"], [1.0, 0.0, np.nan])


@pytest.mark.quick(1)
@pytest.mark.parametrize("column", [{"dtype": "string"}, {"hash_buckets": 1000}])
def test_integers_with_gaps_are_the_same_text_from_everywhere(tmp_path, column):
    schema = Schema([Categorical("a", **column)], [Binary("y")])
    df = pd.DataFrame({"a": [10.0, np.nan, -12.0, 7.0], "y": [0, 1, 0, 1]})
    df.to_csv(tmp_path / "gaps.csv", index=False)
    df.dropna().astype(int).to_csv(tmp_path / "whole.csv", index=False)
    df.dropna().to_csv(tmp_path / "part.csv", index=False)
    late = pd.concat([df.dropna()] * 100_000 + [df])  # the first gap is behind the first block
    late.to_csv(tmp_path / "late.csv", index=False)
    prep = Preprocessor(schema).fit(df)
    expected = prep.arrays(df)[0]["a"]
    np.testing.assert_array_equal(prep.arrays(str(tmp_path / "gaps.csv"))[0]["a"], expected)
    for name in ("whole.csv", "part.csv"):
        ids = prep.arrays(str(tmp_path / name))[0]["a"]
        np.testing.assert_array_equal(ids, np.delete(expected, 1))
    late = prep.fit(str(tmp_path / "late.csv")).arrays(df)[0]["a"]
    assert late[1] == 1
    assert (np.delete(late, 1) > 2).all()


@pytest.mark.quick(1)
@pytest.mark.parametrize("column", [{}, {"dtype": "string"}, {"hash_buckets": 1000}])
def test_a_whole_number_is_one_value_in_all_files_and_requests(tmp_path, column):
    """Also where one file has nothing else and another has words too."""
    schema = Schema([Categorical("a", missing=["999.0"], **column)], [Binary("y")])
    gaps = _csv(tmp_path, "a,y\n12.0,1\n13.0,0\n,1\n", "gaps.csv")
    words = _csv(tmp_path, "a,y\n12.0,1\nx,0\n13,1\n", "words.csv")
    prep = Preprocessor(schema).fit([gaps, words])
    parts = Preprocessor(schema).fit(gaps).merge(Preprocessor(schema).fit(words))
    asked = pd.DataFrame({"a": ["12.0", "13", "12", " 13 ", "x", "12.5", "999", "999.0", None]})
    ids = prep.arrays(asked, labels=False)["a"]
    np.testing.assert_array_equal(parts.arrays(asked, labels=False)["a"], ids)
    np.testing.assert_array_equal(prep.arrays(gaps)[0]["a"], [*ids[:2], 1])
    np.testing.assert_array_equal(prep.arrays(words)[0]["a"], ids[[0, 4, 1]])
    np.testing.assert_array_equal(ids[[2, 3]], ids[[0, 1]])
    assert (ids[6:] == 1).all()
    assert len(set(ids[[0, 1, 4, 5]])) == 4
    served = GraphEncoder(prep)(tensors(prep, asked))["a"]
    np.testing.assert_array_equal(served, ids)


def test_values_with_a_dot_of_earlier_versions_keep_their_ids():
    values = pa.array(["1.0", "x", "2"], pa.large_string())
    asked = pa.array(["1.0", "1", "2", "2.0", "x"])
    assert Vocabulary(values).text_ids(asked).tolist() == [3, 2, 5, 2, 4]


def test_text_that_looks_like_numbers_stays_but_for_whole_ones(tmp_path):
    path = _csv(tmp_path, "a,y\n1.0,1\n2.5,0\n007.0,1\n-0.0,1\n")
    prep, _ = _first_column(Categorical("a", dtype="string"), path)
    assert prep.vocabulary("a").to_pylist() == ["-0.0", "007.0", "1", "2.5"]
    # So they are in a part of it that has whole ones only.
    part = _csv(tmp_path, "a,y\n1.0,1\n1,0\n 1 ,0\n", "part.csv")
    assert prep.arrays(part)[0]["a"].tolist() == [5, 5, 5]
    classes = _csv(tmp_path, "a,y\n1.0,1\n,0\n2.0,1\n")
    schema = Schema([Numeric("y")], [Multiclass("a", classes=("1.0", "2.0"))])
    labels = Preprocessor(schema).fit(classes).arrays(classes)[1]["a"]
    np.testing.assert_array_equal(labels, [0, np.nan, 1])


@pytest.mark.parametrize(
    ("dtype", "number"), [("float64", 2**53 + 2), ("float32", 2**24 + 2), ("float16", 2**11 + 2)]
)
def test_integers_too_large_for_their_floats_are_refused(dtype, number):
    schema = Schema([Categorical("a")], [Binary("y")])
    df = pd.DataFrame({"a": pd.Series([1, number, np.nan], dtype=dtype), "y": [0, 1, 0]})
    with pytest.raises(TypeError, match=rf"apart above .*Received {number}.*dtype=\"Int64\""):
        Preprocessor(schema).fit(df)
    df["a"] = pd.Series([1, number - 2, np.nan], dtype=dtype)
    prep = Preprocessor(schema).fit(df)
    assert prep.vocabulary("a").to_pylist() == [1, number - 2]


def test_nan_in_parquet_is_missing(tmp_path):
    schema = Schema([Categorical("a")], [Binary("y")])
    for name, cells in {"a": [np.nan, 3.0, np.nan, 5.0], "b": [np.nan] * 4}.items():
        table = pa.table({"a": pa.array(cells, pa.float64()), "y": [0, 1, 0, 1]})
        assert table["a"].null_count == 0
        pyarrow.parquet.write_table(table, tmp_path / f"{name}.parquet")
    first = Preprocessor(schema).fit(str(tmp_path / "a.parquet"))
    assert first.vocabulary("a").to_pylist() == [3, 5]
    rest = Preprocessor(schema).fit(str(tmp_path / "b.parquet"))
    merged = rest.merge(first)
    assert merged.vocabulary("a").to_pylist() == [3, 5]


def test_names_in_files_differ(tmp_path):
    _csv(tmp_path, "a,a,y\n1,2,0\n", "a.csv")
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    spare = _csv(tmp_path, "a,y,,\n1,0,,\n2,1,,\n", "spare.csv")
    Preprocessor(Schema([Numeric("a")], [Binary("y")])).fit(spare)
    for name in ("a.csv", "a.parquet"):
        with pytest.raises(ValueError, match=rf"Received \['a'\] twice in .*{name}"):
            Preprocessor(Schema([Numeric("a")], [Binary("y")])).fit(str(tmp_path / name))


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("a,y\nx,1\n", Numeric("a"), r"'a' must hold numbers.*'x'.*Correct.* row 0 .*of .*a.csv"),
        ("b,y\nx,1\n", Numeric("a"), r"a.csv without 'a' .*its columns are \['b', 'y'\]"),
        ("a,y\n1,1\n1,2,3\n", Numeric("a"), r"rows of as many cells.*Received .*a.csv"),
        ("", Numeric("a"), r"needs a header line.*Empty CSV"),
        ("a,y\n", Numeric("a"), r"must be rows to read.*no rows"),
        ("a,y\n1|2,1\n", MultiCategorical("a"), r"'a' must hold lists. Received string.*'1|2'"),
        ("a,y\n3.5,1\n", Categorical("a", dtype="int"), r"'a' must hold integers.*3.5"),
        ("a,y\nx,1\n", Categorical("a", dtype="int"), r"'a' must hold integers.*'x'"),
    ],
)
def test_csv_errors(tmp_path, text, column, message):
    with pytest.raises((ValueError, TypeError), match=message):
        _first_column(column, _csv(tmp_path, text))


def test_source_errors(tmp_path):
    _csv(tmp_path, "a\n1\n", "a.csv")
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(FileNotFoundError, match=r"No file matches. Received source='.*x\*.csv'"):
        open_source(tmp_path / "x*.csv")
    with pytest.raises(ValueError, match=r"must be named \*.csv, .*Received '.*a.json'"):
        open_source(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"of one kind. Received \['.csv', '.parquet'\]"):
        open_source([tmp_path / "a.csv", tmp_path / "a.parquet"])
    with pytest.raises(ValueError, match=r"broken.parquet, which is no Parquet file"):
        open_source(tmp_path / "broken.parquet")
    with pytest.raises(TypeError, match=r"Received source=7 of type int"):
        open_source(7)
    with pytest.raises(ValueError, match=r"equal length. Received lengths \{'a': 1, 'b': 2\}"):
        open_source({"a": [1], "b": [1, 2]})
    with pytest.raises(ValueError, match=r"different column names. Received \['a'\] twice"):
        open_source(pd.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(TypeError, match=r"must yield DataFrames, .* Received a int"):
        list(open_source(iter([1])).fragments())


def test_a_folder_is_the_files_in_it(tmp_path):
    spark = tmp_path / "table.parquet"
    spark.mkdir()
    for part in range(2):
        pd.DataFrame({"a": [1.0, 2.0], "y": [0, 1]}).to_parquet(spark / f"part-{part}.parquet")
    (spark / "_SUCCESS").touch()
    (spark / ".part-0.parquet.crc").touch()
    assert open_source(spark).num_rows == 4
    (tmp_path / "of_folders").mkdir()
    with pytest.raises(ValueError, match=r"A folder needs files .*of_folders' with \[\]"):
        open_source(tmp_path / "of_folders")


def test_columns_that_pandas_numbers(tmp_path):
    df = pd.DataFrame(np.ones((4, 2)))
    schema = Schema([Numeric("a", source="0")], [Binary("y", source="1")])
    features, labels, _ = Preprocessor(schema).fit(df).arrays(df)
    assert features["a"].tolist() == [0.0] * 4
    assert labels["y"].tolist() == [1.0] * 4
    with pytest.raises(ValueError, match=r"Received \['0'\] twice"):
        open_source(pd.DataFrame([[1, 2]], columns=[0, "0"]))
    with pytest.raises(TypeError, match=r"a single value for \['a'\]"):
        open_source({"a": 1.0})


def test_a_column_with_two_readers_may_be_empty_in_a_file(tmp_path):
    # A number is also the flag of a label, then a category too.
    columns = [Numeric("n", transform="none"), Categorical("c", source="n", dtype="string")]
    full = _csv(tmp_path, "n,y\n1,1\n2,0\n", "full.csv")
    empty = _csv(tmp_path, "n,y\n,1\n,0\n", "empty.csv")
    for count in (1, 2):
        prep = Preprocessor(Schema(columns[:count], [Binary("y", where="n")])).fit(full)
        features, labels, _ = prep.arrays(empty)
        assert features["n"].tolist() == [0.0, 0.0]
        assert np.isnan(labels["y"]).all()
        assert count == 1 or features["c"].tolist() == [1, 1]


def test_true_and_false_are_numbers_everywhere(tmp_path):
    path = _csv(tmp_path, "n,y\nTrue,1\nfalse,0\n,0\n")
    prep = Preprocessor(Schema([Numeric("n", transform="none")], [Binary("y")])).fit(path)
    assert prep.arrays(path)[0]["n"].tolist() == [1.0, 0.0, 0.0]


def test_broken_gzip_names_the_file(tmp_path):
    (tmp_path / "no.csv.gz").write_bytes(b"no gzip")
    text = "a,y\n" + "1.5,1\n" * 300_000
    (tmp_path / "no.tsv.gz").write_bytes(b"no gzip")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(text.encode())[:-50])
    prep = Preprocessor(Schema([Numeric("a")], [Binary("y")]))
    for name in ("no.csv.gz", "no.tsv.gz", "cut.csv.gz"):
        with pytest.raises(OSError, match=rf"{name}, which is cut off or no gzip"):
            prep.fit(str(tmp_path / name))


def test_files_without_rows(tmp_path):
    table = pa.table({"a": pa.array([], pa.float64()), "y": pa.array([], pa.int64())})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with gzip.open(tmp_path / "b.csv.gz", "wt") as file:
        file.write("a,y\n")
    prep = Preprocessor(Schema([Numeric("a")], [Binary("y")]))
    for path in ("a.parquet", "b.csv.gz"):
        with pytest.raises(ValueError, match=r"no rows"):
            prep.fit(tmp_path / path)


def _examples(path, records):
    tf = pytest.importorskip("tensorflow")
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            example = tf.train.Example()
            for name, values in record.items():
                feature = example.features.feature[name]
                if isinstance(values[0], str):
                    feature.bytes_list.value.extend(value.encode() for value in values)
                elif isinstance(values[0], int):
                    feature.int64_list.value.extend(values)
                else:
                    feature.float_list.value.extend(values)
            writer.write(example.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("records", "column", "error", "message"),
    [
        ([{"a": [1, 2]}], Categorical("a"), TypeError, r"'a' must hold single values"),
        ([{"b": [1]}], Categorical("a"), ValueError, r"without 'a' .*columns are \['b'\]"),
        (
            [{"a": [1]}, {"a": ["x"]}],
            Categorical("a"),
            ValueError,
            r"of one type .*Received .*a.tfrecord",
        ),
        ([], Categorical("a"), ValueError, r"without 'a' .*columns are \[\]"),
    ],
)
def test_tfrecord_errors(tmp_path, records, column, error, message):
    path = _examples(tmp_path / "a.tfrecord", records)
    with pytest.raises(error, match=message):
        Preprocessor(Schema([column], [Binary("y")])).fit(path)


def test_broken_tfrecord(tmp_path):
    pytest.importorskip("tensorflow")
    (tmp_path / "a.tfrecord").write_bytes(b"this is no record file at all, not at all")
    with pytest.raises(ValueError, match=r"must hold tf.train.Example records.*a.tfrecord"):
        Preprocessor(Schema([Numeric("a")], [Binary("y")])).fit(tmp_path / "a.tfrecord")


def test_a_feature_may_come_late_in_a_tfrecord(tmp_path):
    records = [{"a": [1], "text": ["late label"]}] * 1500 + [{"a": [2], "label": [0.5]}]
    path = _examples(tmp_path / "a.tfrecord", records)
    schema = Schema([Categorical("a")], [Regression("label"), Binary("none")])
    _, labels, _ = Preprocessor(schema).fit(path).arrays(path)
    assert np.isnan(labels["none"]).all()
    assert np.isnan(labels["label"][:1500]).all()
    assert labels["label"][1500] == 0.5


def test_a_file_may_lack_what_another_has(tmp_path):
    rng = np.random.default_rng(0)
    records = [
        {"c": ["uvw"[n % 3]], "y": [n % 2]}
        | ({"a": [float(n)], "tags": ["x", "y"]} if n % 40 == 5 else {})
        | ({"rare": ["late"]} if n == 39 else {})
        for n in rng.permutation(60).tolist()
    ]
    whole = _examples(tmp_path / "whole.tfrecord", records)
    (tmp_path / "parts").mkdir()
    for n in range(7):  # the last has no records
        _examples(tmp_path / "parts" / f"{n}.tfrecord", records[10 * n : 10 * n + 10])
    parts = tmp_path / "parts" / "*.tfrecord"
    columns = [Categorical("c"), Numeric("a"), MultiCategorical("tags"), Categorical("rare")]
    schema = Schema(columns, [Binary("y")])
    expected = Preprocessor(schema).fit(whole).arrays(whole)
    found = Preprocessor(schema).fit(parts).arrays(parts)
    for one, other in zip(found, expected, strict=True):
        assert set(one) == set(other)
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name])
    assert Schema.infer(parts, "y") == Schema.infer(whole, "y")
    with pytest.raises(ValueError, match=r"0.tfrecord without 'none'"):
        Preprocessor(Schema([Numeric("none")], [Binary("y")])).fit(parts)


def test_what_a_file_may_lack_is_of_others_first_records_in_any_order(tmp_path):
    late = _examples(tmp_path / "late.tfrecord", [{"y": [1]}] * 1100 + [{"y": [0], "a": [1]}])
    without = _examples(tmp_path / "without.tfrecord", [{"y": [1]}] * 3)
    schema = Schema([Categorical("a")], [Binary("y")])
    Preprocessor(schema).fit(late)
    for paths in ([late, without], [without, late]):
        with pytest.raises(ValueError, match=r"without.tfrecord without 'a'"):
            Preprocessor(schema).fit(paths)
    early = _examples(tmp_path / "early.tfrecord", [{"y": [0], "a": [1]}])
    gone = tmp_path / "gone.tfrecord"
    _examples(gone, [{"y": [1]}])
    source = open_source([without, gone, early])
    gone.unlink()
    assert "a" in next(iter(source.fragments())).names


def test_a_look_scans_no_file_for_what_another_one_shows(tmp_path, monkeypatch):
    one = _examples(tmp_path / "0.tfrecord", [{"y": [n % 2]} for n in range(1100)])
    other = _examples(tmp_path / "1.tfrecord", [{"y": [n % 2], "a": [n / 7]} for n in range(9)])
    monkeypatch.setattr(TfrecordFragment, "_behind_the_first", None)
    assert "a" in Schema.infer([one, other], "y").feature_names


@pytest.mark.parametrize("checked", [True, False])
def test_pages_that_are_not_as_they_were_written(tmp_path, checked):
    values = np.random.default_rng(0).random(20_000)
    table = pa.table({"a": values, "y": np.arange(20_000) % 2})
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(table, path, write_page_checksum=checked, compression="none")
    prep = Preprocessor(Schema([Numeric("a")], [Binary("y")])).fit(path)
    data = bytearray(path.read_bytes())
    for place in range(40_000, 40_016):
        data[place] ^= 0xA5
    path.write_bytes(bytes(data))
    if checked:
        with pytest.raises(OSError, match=r"t.parquet \(row group 0\).*checksum"):
            prep.arrays(path)
        with pytest.raises(OSError, match=r"t.parquet \(row group 0\).*checksum"):
            Schema.infer(path, "y")
    else:  # nothing tells
        prep.arrays(path)
    path.write_bytes(bytes(data[: len(data) // 2]))
    with pytest.raises(ValueError, match=r"t.parquet, which is no Parquet file"):
        prep.arrays(path)


def test_records_say_where_a_bad_cell_is(tmp_path):
    rows = [{"a": ["NA"], "y": [1]}, {"a": [" 7 "], "y": [0]}, {"a": ["1e1"], "y": [1]}]
    path = _examples(tmp_path / "a.tfrecord", rows)
    prep = Preprocessor(Schema([Numeric("a", transform="none", fill=-1)], [Binary("y")]))
    with pytest.warns(UserWarning, match=r"1 of 'a' \('NA'\)"):
        assert prep.fit(path).arrays(path)[0]["a"].tolist() == [-1, 7, 10]
    path = _examples(tmp_path / "b.tfrecord", [*rows, {"a": ["x"], "y": [1]}])
    with pytest.raises(TypeError, match=r"'a' must hold numbers.*row 3 \(from 0\) of .*b.tfrecord"):
        prep.fit(path)
    path = _examples(tmp_path / "c.tfrecord", [{"b": [1], "y": [0]}])
    with pytest.raises(ValueError, match=r"the table .*c.tfrecord without 'a'"):
        prep.fit(path)


class Exported:
    """A table of a library that pandas does not know, as Polars': it exports Arrow's columns."""

    def __init__(self, table):
        self._table, self.columns = table, table.column_names

    def __len__(self):
        return len(self._table)

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


def test_tables_of_other_libraries_are_read_as_pandas():
    columns = {
        "user": pa.array(["a", None, "b", "a"], pa.string_view()).dictionary_encode(),
        "item": pa.array([2**60 + 1, None, 3, 3]),
        "x": [0.5, None, 2.0, float("nan")],
        "tags": pa.array([["a"], None, [], ["b", "a"]], pa.large_list(pa.string_view())),
        "click": [1, 0, 0, 1],
    }
    table = pa.table(columns)
    frame = pd.DataFrame(
        {
            "user": ["a", None, "b", "a"],
            "item": pd.array([2**60 + 1, None, 3, 3], "Int64"),
            "x": [0.5, None, 2.0, None],
            "tags": [["a"], None, [], ["b", "a"]],
            "click": [1, 0, 0, 1],
        }
    )
    schema = Schema(
        [
            Categorical("user"),
            Categorical("item"),
            Numeric("x"),
            MultiCategorical("tags", max_length=2),
        ],
        [Binary("click")],
    )
    expected = Preprocessor(schema).fit(frame, progress=False).arrays(frame)
    parts = [Exported(table[:1]), table[1:]]
    for source in (table, Exported(table), parts, lambda: iter(parts)):
        found = Preprocessor(schema).fit(source, progress=False).arrays(source)
        for own, other in zip(found[:2], expected[:2], strict=True):
            np.testing.assert_equal(own, other)
    assert Schema.infer(Exported(table), "click") == Schema.infer(frame, "click")
    with pytest.raises(ValueError, match="different column names"):
        open_source(pa.table([[1], [2]], ["x", "x"]))
