"""A cell means the same whichever source it comes from, and errors say where it is."""

import datetime
import decimal
import re
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfmoe.data import numerals
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.schema.columns import MISSING_INT, Categorical, MultiCategorical, Numeric, Sequence
from tfmoe.schema.missing import MARKERS
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Multiclass, Regression
from tfmoe.schema.timestamp import Timestamp
from tfmoe.schema.vector import Vector

_Y = [Binary("y")]


def _sources(tmp_path, cells):
    """A column of texts, empty for missing, from every source that can hold it; by name."""
    present = [cell if cell != "" else None for cell in cells]
    df = pd.DataFrame({"a": pd.Series(present, dtype=object), "y": [0, 1] * (len(cells) // 2)})
    lines = ["a,y", *(f"{cell},{y}" for cell, y in zip(cells, df["y"], strict=True))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "t.tsv").write_text("\n".join(lines).replace(",", "\t") + "\n", encoding="utf-8")
    table = pa.table({"a": pa.array(present, pa.string()), "y": df["y"].to_numpy()})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    return {
        "csv": tmp_path / "t.csv",
        "tsv": tmp_path / "t.tsv",
        "objects": df,
        "strings": df.astype({"a": "string"}),
        "categories": df.astype({"a": "category"}),
        "parquet": tmp_path / "t.parquet",
        "view": {"a": table["a"].cast(pa.string_view()), "y": df["y"]},
        "bytes": {"a": pa.array(present, pa.string()).cast(pa.binary()), "y": df["y"]},
        "lists": {"a": present, "y": df["y"].tolist()},
    }


def _fit(columns, rows, tasks=_Y):
    return Preprocessor(Schema(columns, tasks)).fit(rows, progress=False)


# --- numbers --------------------------------------------------------------------------


def test_usual_signs_of_a_missing_number_are_missing_from_every_source(tmp_path):
    cells = [
        "1.5",
        "NA",
        "-2",
        "N/A",
        "null",
        "\\N",
        "?",
        "-",
        "#N/A",
        "",
        " 3 ",
        "None",
        "1e1",
        "+4",
    ]
    expected = [1.5, None, -2, *[None] * 7, 3, None, 10, 4]
    column = Numeric("a", transform="none", fill=-1.0)
    for name, rows in _sources(tmp_path, cells).items():
        with pytest.warns(UserWarning, match=r"8 of 'a' \(.*'NA'.*\)") as told:
            prep = _fit([column, Numeric("b", source="a")], rows)
        assert len(told) == 1
        values = prep.arrays(rows)[0]["a"]
        assert values.tolist() == [-1.0 if e is None else e for e in expected], name


@pytest.mark.parametrize(
    ("task", "cells", "expected"),
    [
        (Regression("a"), ["0.5", "NA", "?", "2"], [0.5, np.nan, np.nan, 2]),
        (Binary("a"), ["1", "null", "0", "-"], [1, np.nan, 0, np.nan]),
        (Binary("a"), ["true", "FALSE", "NA", "True"], [1, 0, np.nan, 1]),
        (Multiclass("a", num_classes=3), ["2", "NA", "0", ""], [2, np.nan, 0, np.nan]),
        (Multiclass("a", classes=(30, 10)), ["10", "N/A", "30", ""], [1, np.nan, 0, np.nan]),
        (Multiclass("a", classes=("x", "y")), ["y", "NA", "x", "?"], [1, np.nan, 0, np.nan]),
        (Multiclass("a", classes=("x", "NA")), ["NA", "?", "x", ""], [1, np.nan, 0, np.nan]),
        (
            Multiclass("a", classes=("True", "False")),
            ["TRUE", "false", "", "true"],
            [0, 1, np.nan, 0],
        ),
        (Multiclass("a", classes=("2", "1")), ["1.0", "2", "2.0", ""], [1, 0, 0, np.nan]),
        (Multiclass("a", classes=("1.0", "x")), ["1.0", "x", "1", ""], [0, 1, 0, np.nan]),
        (Binary("a", positive="yes"), ["yes", "no", "NA", ""], [1, 0, np.nan, np.nan]),
        (Binary("a", positive=2), ["2", "1", "NA", "1"], [1, 0, np.nan, 0]),
        (Binary("a", positive="+", negative="-"), ["+", "-", "?", "-"], [1, 0, np.nan, 0]),
        (
            Binary("a", positive="buy", negative=("see", "cart")),
            ["buy", "see", "cart", ""],
            [1, 0, 0, np.nan],
        ),
        (Binary("a", positive=True), ["true", "FALSE", "NA", "TRUE"], [1, 0, np.nan, 1]),
    ],
)
def test_labels_mean_the_same_from_every_source(tmp_path, task, cells, expected):
    for name, rows in _sources(tmp_path, cells).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            prep = _fit([Numeric("y", transform="none")], rows, [task])
        labels = prep.arrays(rows)[1]["a"]
        np.testing.assert_array_equal(labels, np.float32(expected), err_msg=name)
        mean = np.nanmean([e == 1 for e in expected if e == e])
        if isinstance(task, Binary):
            assert prep.label_means["a"] == pytest.approx(mean)


def test_numbers_of_other_types_may_be_positive():
    rows = pd.DataFrame(
        {"y": [1, 2, 1], "z": [2.0, np.nan, 1.0], "b": [True, False, True], "n": 0.5}
    )
    tasks = [Binary("y", positive=2), Binary("z", positive="2"), Binary("b", positive="true")]
    labels = _fit([Numeric("n")], rows, tasks).arrays(rows)[1]
    np.testing.assert_array_equal(labels["y"], [0, 1, 0])
    np.testing.assert_array_equal(labels["z"], [1, np.nan, 0])
    np.testing.assert_array_equal(labels["b"], [1, 0, 1])


def test_a_third_label_is_no_negative_one():
    rows = pd.DataFrame({"n": [1.0] * 3, "y": ["yes", "no", "maybe"]})
    with pytest.raises(ValueError, match=r"must be 'yes' or one other.*y='(no|maybe)'.*`negative`"):
        _fit([Numeric("n")], rows, [Binary("y", positive="yes")])
    # Nor does it come later, in another chunk or file.
    with pytest.raises(ValueError, match=r"'yes' or one other, here \['no'\].*Received y='maybe'"):
        _fit([Numeric("n")], [rows[:2], rows[2:]], [Binary("y", positive="yes")])
    prep = _fit([Numeric("n")], rows, [Binary("y", positive="yes", negative=["no", "maybe"])])
    assert prep.label_means == {"y": pytest.approx(1 / 3)}
    with pytest.raises(ValueError, match=r"one of `negative`=\['no', 'maybe'\].*Received y='so'"):
        prep.arrays(rows.assign(y="so"))


def test_a_task_may_be_limited_by_a_positive_label_or_a_value():
    rows = pd.DataFrame(
        {
            "n": [1.0, 2, 3],
            "seen": ["yes", "no", None],
            "stars": [5.0, 4, 3],
            "shop": ["de", "fr", "de"],
        }
    )
    tasks = [
        Binary("seen", positive="yes"),
        Regression("stars", where="seen"),
        Regression("local", source="stars", where="shop", where_value="de"),
    ]
    schema = Schema([Numeric("n")], tasks)
    labels = Preprocessor(schema).fit(rows).arrays(rows)[1]
    np.testing.assert_array_equal(labels["stars"], [5, np.nan, np.nan])
    np.testing.assert_array_equal(labels["local"], [5, np.nan, 3])
    with pytest.raises(TypeError, match=r"`where_value` says.*Received shop='de'.*row 0"):
        _fit([Numeric("n")], rows, [Regression("stars", where="shop")])
    alone = schema.select("stars")
    assert (alone.tasks[0].where, alone.tasks[0].where_value) == ("seen", "yes")
    labels = Preprocessor(alone).fit(rows).arrays(rows)[1]
    np.testing.assert_array_equal(labels["stars"], [5, np.nan, np.nan])


def test_what_is_missing_may_be_named(tmp_path):
    cells = ["-1", "5", "unknown", "999", "", "7"]
    column = Numeric("a", transform="none", fill=0.5, missing=["unknown", -1, "999"])
    for name, rows in _sources(tmp_path, cells).items():
        prep = _fit([column], rows)
        assert prep.arrays(rows)[0]["a"].tolist() == [0.5, 5, 0.5, 0.5, 0.5, 7], name
    numbers = pd.DataFrame({"a": [-1, 5, 999, 7], "y": [0, 1, 0, 1]})
    assert prep.arrays(numbers)[0]["a"].tolist() == [0.5, 5, 0.5, 7]
    # They do not count where numbers are fitted.
    fitted = _fit([Numeric("a", missing=[-1, 999])], numbers)
    assert fitted.numeric["a"].mean == 6.0
    # And the usual ones are none of them any more.
    with pytest.raises(TypeError, match=r"'a' must hold numbers.*'NA'.*name in `missing`"):
        _fit([column], pd.DataFrame({"a": ["NA", "1"], "y": [0, 1]}))


def test_numbers_among_texts_in_a_dataframe():
    rows = pd.DataFrame(
        {"a": pd.Series([1.5, "NA", 2, None, "4", True], dtype=object), "y": [0, 1] * 3}
    )
    with pytest.warns(UserWarning, match=r"1 of 'a' \('NA'\)"):
        prep = _fit([Numeric("a", transform="none", fill=-1)], rows)
    assert prep.arrays(rows)[0]["a"].tolist() == [1.5, -1, 2, -1, 4, 1]


def test_mixed_objects_are_proposed_if_they_can_be_fitted():
    cells = {"a": [1, "NA", 2, 1], "b": [0.5, "?", "7", True], "c": ["x", 1, None, 2]}
    rows = pd.DataFrame({n: pd.Series(c * 5, dtype=object) for n, c in cells.items()})
    rows["y"] = [0, 1] * 10
    schema, said = _told(lambda: Schema.infer(rows, "y"))
    assert schema.columns == (Categorical("a", dtype="int", missing=["NA"]), Numeric("b"))
    assert "Left out ['c']" in said
    with pytest.warns(UserWarning, match=r"5 of 'b' \('\?'\)"):
        prep = Preprocessor(schema).fit(rows)
    assert prep.vocabulary("a").to_pylist() == [1, 2]


_numbers = st.one_of(
    st.floats(allow_nan=False).map(repr),
    st.integers(-(10**20), 10**20).map(str),
    st.sampled_from(["", "  7 ", "+3", "1E5", ".5", "5.", "-0", "007", "true", "FALSE", *MARKERS]),
)


@settings(max_examples=2 * settings.default.max_examples)
@given(st.lists(_numbers, max_size=20))
def test_numbers_are_read_one_way_however_many_there_are(cells):
    """Arrow reads what it can, and each text alone the rest: both must agree."""
    expected = [
        np.nan if not cell.strip() or cell.strip() in MARKERS else numerals.number_of(cell)
        for cell in cells
    ]
    for text in (pa.array(cells, pa.string()), pa.array(cells, pa.string()).dictionary_encode()):
        found = numerals.numbers(text)
        assert not len(found.bad)
        np.testing.assert_array_equal(found.values, np.array(expected, float))
        signs = sum(cell.strip() in MARKERS for cell in cells)
        assert found.markers.total() == signs


_SPACES = ["", " ", "\t", "\n", "\x1c", "\u00a0", "\u2003"]
_odd = st.one_of(
    _numbers,
    st.tuples(st.sampled_from(_SPACES), _numbers, st.sampled_from(_SPACES)).map("".join),
    st.text("0123456789.eE+-_ inftrufalsNA\u0663\u00e9(", max_size=6),
    st.sampled_from(["+-1", "1e400", "-1e-400", "1.e5", ".5e3", "nan(1)", "Nan", "2" * 400]),
    st.sampled_from(["9223372036854775807", "9223372036854775808", "-0", "+7", "12.0", "-0.0"]),
)


@settings(max_examples=2 * settings.default.max_examples)
@given(
    st.lists(st.one_of(st.none(), _odd), max_size=8),
    st.sampled_from([MARKERS, (), ("x", "NA", "nan"), ("", "?")]),
)
def test_odd_texts_among_numbers_mean_what_they_mean_alone(cells, markers):
    alone = [None if cell is None or not cell.strip() else cell.strip() for cell in cells]
    marked = [cell in markers if cell else False for cell in alone]
    known = [cell is not None and not m for cell, m in zip(alone, marked, strict=True)]
    pairs = list(zip(alone, known, strict=True))
    numbers = [numerals.number_of(cell) if k else np.nan for cell, k in pairs]
    bad = [place for place, number in enumerate(numbers) if number is None]
    expected = np.array([np.nan if number is None else number for number in numbers], float)
    wholes = [re.fullmatch(r"([+-]?[0-9]+)(\.0*)?", cell or "") for cell in alone]
    whole = [
        int(match[1]) if k and match and -(2**63) <= int(match[1]) < 2**63 else None
        for match, k in zip(wholes, known, strict=True)
    ]
    for text in (pa.array(cells, pa.string()), pa.array(cells, pa.large_string())):
        for array in (text, text.dictionary_encode()):
            found = numerals.numbers(array, markers)
            np.testing.assert_array_equal(found.values, expected)
            np.testing.assert_array_equal(
                np.signbit(found.values)[expected == 0], np.signbit(expected)[expected == 0]
            )
            assert found.bad.tolist() == bad
            assert found.markers.total() == sum(marked)
            values, wrong = numerals.integers(array, markers)
            assert wrong.tolist() == [
                place for place, k in enumerate(known) if k and whole[place] is None
            ]
            assert values.tolist() == [MISSING_INT if one is None else one for one in whole]


@pytest.mark.parametrize("odd", ["NA", " 7", "+7", "true", "\u00a07", "Nan", "x"])
@pytest.mark.parametrize("encoded", [False, True])
def test_one_odd_text_does_not_make_all_slow(odd, encoded, monkeypatch):
    read = []
    number_of = numerals.number_of
    monkeypatch.setattr(numerals, "number_of", lambda text: read.append(text) or number_of(text))
    text = pa.array([*(f"{number}.5" for number in range(100)), odd])
    found = numerals.numbers(text.dictionary_encode() if encoded else text)
    assert found.values[:100].tolist() == [number + 0.5 for number in range(100)]
    assert len(read) <= 1


@pytest.mark.parametrize(
    "cell", ["1_000", "1,5", "0x10", "\uff11\uff12", "1 2", "ten", "--5", "1e"]
)
def test_what_is_no_number(cell):
    assert numerals.number_of(cell) is None
    found = numerals.numbers(pa.array(["1", cell, "NA"]))
    assert found.bad.tolist() == [1]


# --- categories -----------------------------------------------------------------------


def test_no_category_is_missing_unless_it_is_named(tmp_path):
    cells = ["NA", "?", "de", "", "null", "de"]
    for name, rows in _sources(tmp_path, cells).items():
        prep = _fit([Categorical("a"), Categorical("b", source="a", missing=["NA", "?"])], rows)
        assert prep.vocabulary("a").to_pylist() == ["de", "?", "NA", "null"], name
        assert prep.vocabulary("b").to_pylist() == ["de", "null"]
        features = prep.arrays(rows)[0]
        assert features["a"].tolist() == [5, 4, 3, 1, 6, 3]
        assert features["b"].tolist() == [1, 1, 3, 1, 4, 3]


@pytest.mark.parametrize("hashed", [None, 97])
def test_named_missing_values_of_lists_and_of_shared_tables(tmp_path, hashed):
    columns = [
        Categorical("user", dtype="int", missing=[-1], hash_buckets=hashed),
        Sequence("seen", share="user", max_length=3),
        MultiCategorical("tags", separator="|", missing=["?"], hash_buckets=hashed, max_length=2),
    ]
    rows = pd.DataFrame(
        {
            "user": [7, -1, 8],
            "seen": [[-1, 7], [8, -1], []],
            "tags": ["?|a", "?", "a|?"],
            "y": [0, 1, 0],
        }
    )
    prep = _fit(columns, rows)
    features = prep.arrays(rows)[0]
    seven, eight = features["user"][[0, 2]].tolist()
    assert features["user"].tolist() == [seven, 1, eight]
    assert features["seen"].tolist() == [[0, seven, 0], [eight, 0, 0], [1, 0, 0]]
    assert (
        features["tags"] == [[0, features["tags"][2, 0]], [1, 0], [features["tags"][2, 0], 0]]
    ).all()
    if not hashed:
        assert prep.vocabulary("user").to_pylist() == [7, 8]
        assert prep.vocabulary("tags").to_pylist() == ["a"]
    prep.save(tmp_path / "p")
    again = Preprocessor.load(tmp_path / "p").arrays(rows)[0]
    for name, values in features.items():
        np.testing.assert_array_equal(again[name], values)


@pytest.mark.quick(1)
@pytest.mark.parametrize("options", [{}, {"dtype": "string"}, {"hash_buckets": 1000}])
def test_truth_values_have_one_spelling(tmp_path, options):
    flags = [True, False, None, True, False, True]
    sources = {"bools": {"a": flags}, "arrow": {"a": pa.array(flags)}}
    for yes, no in (("true", "false"), ("TRUE", "FALSE"), ("True", "False")):
        cells = ["" if f is None else yes if f else no for f in flags]
        found = _sources(tmp_path / yes if (tmp_path / yes).mkdir() is None else None, cells)
        sources |= {f"{name} {yes}": rows for name, rows in found.items()}
    frame = pd.DataFrame({"a": flags})
    frame.to_parquet(tmp_path / "bools.parquet")
    sources["bools.parquet"] = tmp_path / "bools.parquet"
    preps = {
        name: Preprocessor(Schema([Categorical("a", **options)], _Y)).fit(rows, progress=False)
        for name, rows in sources.items()
    }
    (expected,) = {tuple(preps["bools"].arrays(frame, labels=False)["a"].tolist())}
    assert len(set(expected)) == 3
    for name, prep in preps.items():
        for other, rows in sources.items():
            ids = prep.arrays(rows, labels=False)["a"]
            assert tuple(ids.tolist()) == expected, (name, other)


def test_words_that_happen_to_be_true_stay_words(tmp_path):
    for rows in _sources(tmp_path, ["true", "True", "song", "TRUE"]).values():
        prep = _fit([Categorical("a")], rows)
        assert prep.vocabulary("a").to_pylist() == ["TRUE", "True", "song", "true"]


@pytest.mark.parametrize("old", [["True", "False"], ["false", "true"]])
def test_vocabularies_of_truth_values_keep_their_ids(tmp_path, old):
    from tfmoe.data.encode.vocabulary import Vocabulary

    table = Vocabulary(pa.array(old, pa.large_string()))
    assert table.text_ids(pa.array(old)).tolist() == [3, 4]
    spelled = {text.lower(): 3 + place for place, text in enumerate(old)}
    for text in ("true", "TRUE", "False", "FALSE"):
        assert table.text_ids(pa.array([text])).tolist() == [spelled[text.lower()]]
    assert table.size == 5


# --- what a column holds, over blocks and files ----------------------------------------


def _write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_digits_with_leading_zeros_are_text(tmp_path):
    rows = _write(tmp_path / "t.csv", "a,y\n02139,1\n501,0\n00501,1\n+7,0\n7,1\n")
    prep = _fit([Categorical("a")], rows)
    assert prep.dtypes == {"a": "string"}
    assert len(set(prep.arrays(rows)[0]["a"].tolist())) == 5
    # As an integer, or a number, they count by what they are worth.
    ints = _fit([Categorical("a", dtype="int")], rows)
    assert sorted(ints.vocabulary("a").to_pylist()) == [7, 501, 2139]


@pytest.mark.parametrize("late", ["007", "x", str(2**63), "7.5"])
def test_a_column_becomes_text_when_a_later_block_says_so(tmp_path, monkeypatch, late):
    monkeypatch.setattr("tfmoe.data.read.csv._BLOCK_BYTES", 2000)
    monkeypatch.setattr("tfmoe.data.read.tables.CHUNK_ROWS", 100)
    numbers = [7, 8, 8, 11] * 500
    text = "".join(f"{n},1\n" for n in numbers)
    rows = _write(tmp_path / "t.csv", f"a,y\n{text}{late},0\n7,1\n")
    prep = _fit([Categorical("a")], rows)
    assert prep.dtypes == {"a": "string"}
    assert prep.vocabulary("a").to_pylist() == ["8", "7", "11", late]
    ids = prep.arrays(rows)[0]["a"]
    assert ids[[0, 1, -2, -1]].tolist() == [4, 3, 6, 4]
    # Counted in parts, or in files, it is the same.
    parts = [
        _write(tmp_path / "0.csv", f"a,y\n{text}7,1\n"),
        _write(tmp_path / "1.csv", f"a,y\n{late},0\n"),
    ]
    for whole in (_fit([Categorical("a")], parts), _fit([Categorical("a")], parts[::-1])):
        assert whole.vocabulary("a").equals(prep.vocabulary("a"))
    one, other = (_fit([Categorical("a")], part) for part in parts)
    assert one.dtypes == {"a": "int"}
    for merged in (one.merge(other), other.merge(one)):
        assert merged.vocabulary("a").equals(prep.vocabulary("a"))
    # What came later is unknown to a part that had integers, and no error.
    assert one.arrays(rows)[0]["a"][-2] == 2


def test_an_empty_first_block_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tfmoe.data.read.csv._BLOCK_BYTES", 2000)
    rows = _write(tmp_path / "t.csv", "a,b,y\n" + ",,1\n" * 3000 + "4,x,0\n2.5,y,1\n")
    prep = _fit([Numeric("a", transform="none"), Categorical("b")], rows)
    assert prep.arrays(rows)[0]["a"][-2:].tolist() == [4, 2.5]
    assert prep.vocabulary("b").to_pylist() == ["x", "y"]


def test_files_of_one_source_may_differ_in_type(tmp_path):
    for i, values in enumerate(([1, 2], [1.0, np.nan], ["x", "2"], pd.array([7, None], "UInt8"))):
        pd.DataFrame({"a": values, "y": [0, 1]}).to_parquet(tmp_path / f"{i}.parquet")
    prep = _fit([Categorical("a")], tmp_path)
    assert prep.vocabulary("a").to_pylist() == ["1", "2", "7", "x"]
    assert prep.arrays(tmp_path)[0]["a"].tolist() == [3, 4, 3, 1, 6, 4, 5, 1]


@pytest.mark.parametrize(
    "column",
    [
        Categorical("a"),
        Categorical("a", dtype="string"),
        MultiCategorical("a", separator="|", max_length=1),
    ],
)
@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, 2**64 - 1, 2**63, 5], pa.uint64()),
        pa.array([decimal.Decimal(v) for v in (1, 2**64 - 1, 10**37, 5)], pa.decimal128(38, 0)),
        pa.array([decimal.Decimal(v) for v in (1, 2**64 - 1, 10**60, 5)], pa.decimal256(70, 2)),
        pd.Series([1, 2**64 - 1, 10**80, 5], dtype=object),
    ],
)
def test_every_integer_has_its_own_id(column, values, tmp_path):
    rows = {"a": values, "y": [0, 1, 0, 1]}
    prep = _fit([column], rows)
    ids = prep.arrays(rows)[0]["a"].ravel().tolist()
    assert len(set(ids)) == 4
    assert min(ids) > 2
    texts = [str(int(v)) for v in (values.to_pylist() if isinstance(values, pa.Array) else values)]
    lines = "".join(f"{text},{y}\n" for text, y in zip(texts, rows["y"], strict=True))
    path = _write(tmp_path / "t.csv", "a,y\n" + lines)
    assert prep.arrays(path)[0]["a"].ravel().tolist() == ids
    assert _fit([column], path).vocabulary("a").equals(prep.vocabulary("a"))


def test_small_wide_integers_are_integers():
    rows = {"a": pa.array([decimal.Decimal(7), None], pa.decimal128(38, 0)), "y": [0, 1]}
    assert _fit([Categorical("a")], rows).dtypes == {"a": "int"}
    assert _fit([Categorical("a", dtype="int")], rows).vocabulary("a").to_pylist() == [7]
    halves = {"a": pa.array([decimal.Decimal("0.5")] * 2, pa.decimal128(9, 1)), "y": [0, 1]}
    with pytest.raises(TypeError, match=r"strings or integers. Received decimal.*Numeric"):
        _fit([Categorical("a")], halves)


# --- errors ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "csv"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": None}, r"the table .*part-3\.\w+ without 'x'"),
        ({"x": ["1", "b"]}, r"'x' must hold numbers.*'b'.*row 1 \(from 0\).* of .*part-3"),
        ({"y": [0, 3]}, r"must be 0 or 1.*Received y=3.0.*row 1 \(from 0\).* of .*part-3"),
        ({"w": [1.0, -1]}, r"weight.*Received w=-1.0.*row 1 \(from 0\).* of .*part-3"),
    ],
)
def test_errors_name_file_and_row(tmp_path, kind, change, message):
    good = pd.DataFrame({"x": [1.0, 2], "y": [0, 1], "w": [1.0, 1]})
    for i in range(5):
        part = good.assign(**change).dropna(axis=1) if i == 3 else good
        getattr(part, f"to_{kind}")(tmp_path / f"part-{i}.{kind}", index=False)
    schema = Schema([Numeric("x")], _Y, weight_column="w")
    prep = Preprocessor(schema).fit(good)
    with pytest.raises((TypeError, ValueError), match=message):
        prep.arrays(tmp_path)
    if "w" not in change:
        with pytest.raises((TypeError, ValueError), match=message):
            Preprocessor(schema).fit(tmp_path, progress=False)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([["1", "2", "3"], ["4", "5"], ["x"]], r"must hold integers.*'x'.*row 2 "),
        ([["1", "2", "3"], None, [], ["4", "x"]], r"must hold integers.*'x'.*row 3 "),
        ([[1.0, 2.0, 3.0], [4.0, 2.0**60], [5.0]], r"cannot tell them apart.*row 1 "),
    ],
)
def test_errors_about_elements_name_the_row_of_their_cell(cells, message):
    table = pa.table({"m": cells, "y": [0, 1, 0, 1][: len(cells)]})
    column = MultiCategorical("m", dtype="int")
    with pytest.raises(TypeError, match=message):
        _fit([column], table)
    fine = pa.table({"m": [[1, 2], [3]], "y": [0, 1]})
    with pytest.raises(TypeError, match=message):
        _fit([column], fine).arrays(table)
    if "cannot" in message:  # nor where nothing is declared
        with pytest.raises(TypeError, match=message):
            _fit([MultiCategorical("m")], table)


def test_errors_about_dictionaries_name_the_row_of_the_value():
    cells = pd.Categorical([2.0, 1.0, 2.0, 2.5], categories=[2.5, 1.0, 2.0])
    rows = pd.DataFrame({"a": cells, "y": [0, 1, 0, 1]})
    with pytest.raises(TypeError, match=r"'a' must hold strings or integers.*2\.5.*row 3 "):
        _fit([Categorical("a", dtype="string")], rows)


def test_rows_are_counted_over_row_groups_and_frames(tmp_path, monkeypatch):
    monkeypatch.setattr("tfmoe.data.read.tables.CHUNK_ROWS", 10)
    rows = pd.DataFrame({"x": np.arange(50.0), "y": [0, 1] * 25})
    rows.loc[37, "y"] = 5
    rows.to_parquet(tmp_path / "t.parquet", row_group_size=20)
    rows.to_csv(tmp_path / "t.csv", index=False)
    for source, place in (
        (tmp_path / "t.parquet", r"row 37 \(from 0\) \(row group 1\) of .*t.parquet"),
        (tmp_path / "t.csv", r"row 37 \(from 0\) of .*t.csv"),
        (rows, r"row 37 \(from 0\)\."),
        ([rows[:30], rows[30:]], r"row 7 \(from 0\) of DataFrame 1"),
    ):
        with pytest.raises(ValueError, match=rf"Received y=5.0.*in {place}"):
            _fit([Numeric("x")], source)


def _mended(df, advice):
    """The DataFrame after the line of Python that an error advises."""
    code = re.search(r"in pandas (.*?)(?:, with n|; or an|, for Cat|\.$|\. [A-Z])", advice)[1]
    return df.assign(a=eval(code, {"df": df, "pd": pd, "field": "b"}))


@pytest.mark.parametrize(
    "cells",
    [
        [datetime.time(1, 2), datetime.time(3, 4)],
        pd.to_timedelta([1, 2], unit="s"),
        [{"b": 1}, {"b": 2}],
    ],
)
@pytest.mark.parametrize("column", [Numeric("a"), Categorical("a"), Categorical("a", dtype="int")])
def test_advice_works(cells, column):
    df = pd.DataFrame({"a": cells, "y": [0, 1]})
    with pytest.raises(TypeError, match="in pandas") as error:
        _fit([column], df)
    _fit([Numeric("a")], _mended(df, str(error.value)))
    _, said = _told(lambda: Schema.infer(df.assign(b=1), ["y"]))
    _fit([Numeric("a")], _mended(df, said.split("as they are. a: ")[1]))


@pytest.mark.parametrize(
    "cells",
    [
        pd.to_datetime(["2020-01-01", "2020-02-01"]),
        pd.to_datetime(["2020-01-01", "2020-02-01"], utc=True),
        [datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)],
    ],
)
@pytest.mark.parametrize("column", [Numeric("a"), Categorical("a"), Categorical("a", dtype="int")])
def test_a_time_is_a_timestamp(cells, column):
    df = pd.DataFrame({"a": cells, "y": [0, 1]})
    with pytest.raises(TypeError, match=r"Declare Timestamp\(") as error:
        _fit([column], df)
    code = re.findall(r"(Timestamp\(.*?\))[, ]", str(error.value))
    columns = [eval(one, {"Timestamp": Timestamp}) for one in code]
    features = _fit(columns, df).arrays(df)[0]
    assert features["time"].shape == (2, 4)
    assert features["age"][:, 0].tolist() == [-1, 1]


@pytest.mark.parametrize("kind", ["lists", "arrays", "matrix", "parquet", "halves"])
def test_a_vector_is_a_column_or_one_for_a_number(tmp_path, kind):
    vectors = np.random.default_rng(0).normal(size=(40, 3)).astype("float16").astype(float)
    rows = pd.DataFrame({"a": vectors.tolist(), "y": [0, 1] * 20})
    source = rows
    if kind == "arrays":
        source = rows.assign(a=list(vectors))
    elif kind == "matrix":
        source = {"a": vectors, "y": rows["y"]}
    elif kind == "halves":
        source = {"a": pa.array(list(vectors.astype("float16"))), "y": rows["y"]}
    elif kind == "parquet":
        rows.to_parquet(tmp_path / "t.parquet")
        source = tmp_path / "t.parquet"
    for column in (Numeric("a"), Categorical("a"), MultiCategorical("a")):
        with pytest.raises(TypeError, match=r"if each cell has as many numbers") as error:
            _fit([column], source)
        code = re.search(r"(Vector\(.*?\)).*(Numeric\(.*?\))\.", str(error.value))
    columns = [eval(one, {"Numeric": Numeric, "Vector": Vector}) for one in code.groups()]
    features = _fit(columns, source).arrays(source)[0]
    scaled = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)
    np.testing.assert_allclose(features["vector"], scaled, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(features["number"], scaled[:, 0], rtol=1e-4, atol=1e-6)
    schema, _ = _told(lambda: Schema.infer(source, "y"))
    assert schema.columns == (Vector("a"),)
    np.testing.assert_array_equal(
        _fit(schema.columns, source).arrays(source)[0]["a"], features["vector"]
    )


def test_vectors_may_be_short_or_missing():
    rows = {"a": [[0.5, 2.0], [3.0], None, []], "y": [0, 1, 0, 1]}
    prep = _fit([Numeric("a", element=1, transform="none", fill=-1)], rows)
    assert prep.arrays(rows)[0]["a"].tolist() == [2, -1, -1, -1]
    with pytest.raises(TypeError, match=r"must hold lists for a Numeric of `element`"):
        _fit([Numeric("a", element=1)], {"a": [1.0, 2.0], "y": [0, 1]})
    with pytest.raises(ValueError, match=r"a column that can be read.*\['a'\].*Declare Vector"):
        Schema.infer(rows, "y")


def _told(make):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = make()
    return made, " ".join(str(one.message) for one in caught)


# --- a text file, and what pandas makes of it -------------------------------------------

_columns = st.one_of(
    st.lists(st.integers(-(2**62), 2**62).map(str), min_size=2, max_size=9),
    st.lists(st.sampled_from(["7", "-3", " 12", "12 ", "0"]), min_size=2, max_size=9),
    st.lists(st.sampled_from(["7.0", "", "-3.0", "12.0"]), min_size=2, max_size=9),
    st.lists(st.sampled_from(["7.0", "7", "x", " 12", "12", "-3.0", "1.50x"]), max_size=9).map(
        lambda cells: [*cells, "x"]
    ),
    st.lists(st.sampled_from(["true", "FALSE", "True", ""]), min_size=2, max_size=9),
    st.lists(st.sampled_from(["a", "b c", "", "7x", "\u00e9"]), min_size=2, max_size=9),
)


@settings(max_examples=3 * settings.default.max_examples)
@given(_columns, st.sampled_from([{}, {"dtype": "string"}, {"hash_buckets": 1000}]))
def test_a_path_and_its_dataframe_have_the_same_ids(tmp_path_factory, cells, options):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_text("\n".join(["a,y", *(f"{cell},1" for cell in cells)]) + "\n", encoding="utf-8")
    frame = pd.read_csv(path)
    if all(frame["a"].isna()):
        return
    schema = Schema([Categorical("a", **options)], _Y)
    for fitted in (path, frame):
        prep = Preprocessor(schema).fit(fitted, progress=False)
        ids = prep.arrays(path, labels=False)["a"]
        np.testing.assert_array_equal(ids, prep.arrays(frame, labels=False)["a"])
        assert (ids != 2).all()
        assert ((ids == 1) == frame["a"].isna()).all()


def test_a_marker_is_counted_once_though_two_tasks_read_it():
    rows = pd.DataFrame({"n": [1.0] * 3, "y": ["yes", "NA", "no"], "z": [1.0, 2.0, 3.0]})
    tasks = [Binary("y", positive="yes"), Regression("z", where="y")]
    with pytest.warns(UserWarning, match=r"1 of 'y'"):
        Preprocessor(Schema([Numeric("n")], tasks)).fit(rows, progress=False)


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], ["no", "no", "yes", "yes"]])
def test_a_task_that_comes_later_knows_the_one_that_it_is_given(labels):
    """Its missing label is 0 where that one's is, as if it had been there from the start."""
    rows = pd.DataFrame({"n": [1.0, 2, 3, 4], "click": labels, "buy": [None, None, 1, 0]})
    rows["pay"] = [None, None, 1, None]
    click = Binary("click", positive="yes" if labels[0] == "no" else None)
    buy, pay = Binary("buy", given="click"), Binary("pay", given="buy")
    whole = Preprocessor(Schema([Numeric("n")], [click, buy, pay]))
    whole.fit(rows, progress=False)
    later = Preprocessor(Schema([Numeric("n")], [click])).fit(rows, progress=False)
    later = later.add_task(buy, rows).add_task(pay, rows)
    assert later.label_means == pytest.approx(whole.label_means)
    assert whole.label_means["buy"] == 0.25


def test_a_task_without_a_row_is_told():
    rows = pd.DataFrame({"n": [1.0, 2, 3], "paid": [5.0, 6, 7], "bought": ["yes", "no", "yes"]})
    task = Regression("paid", where="bought", where_value="Yes")
    prep, told = _told(lambda: Preprocessor(Schema([Numeric("n")], [task])).fit(rows))
    assert "'paid' has no label in 3 rows" in told
    assert "where='bought', where_value='Yes'" in told
    _, told = _told(lambda: prep.fit(rows.assign(bought="Yes")))
    assert told == ""
