import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import pipeline as oracle
from tfmoe.data.encode.hashing import HASH_KEY, hash_buckets
from tfmoe.data.fit.sketches import RANK_ERROR
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.schema.columns import Categorical, MultiCategorical, Numeric, Sequence
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Multiclass, Regression

_CLICK = [Binary("click")]


def _fit(columns, rows, tasks=_CLICK, **settings):
    return Preprocessor(Schema(columns, tasks, **settings)).fit(rows, progress=False)


def _column(values):
    """As pandas must be given integers with gaps to keep them whole."""
    return pd.Series(values, dtype=object)


# --- against the oracle ---------------------------------------------------------------

_texts = st.one_of(
    st.none(),
    st.just(float("nan")),
    st.sampled_from(["", "a", "b", "7", "007", "\U0001f600", "\u00e9", "e\u0301", "a|b"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
_ints = st.one_of(
    st.none(),
    st.sampled_from([-(2**63), 2**63 - 1, -(2**63) + 1, 0, -1, 7]),
    st.integers(-(2**63), 2**63 - 1),
)
_floats = st.one_of(
    st.none(),
    st.sampled_from([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-300, 1e30, 5.5]),
    st.floats(-1e4, 1e4),
)
_pieces = st.one_of(
    st.none(),
    st.lists(
        st.sampled_from(["", "a", " a", "7", "7 ", "007", "-7", "+7", " ", str(2**63), "\u00e9"]),
        max_size=5,
    ).map("|".join),
)
_rows = st.lists(
    st.fixed_dictionaries(
        {
            "number": _floats,
            "text": _texts,
            "whole": _ints,
            "text_list": st.one_of(st.none(), st.lists(_texts, max_size=4)),
            "int_list": st.one_of(st.none(), st.lists(_ints, max_size=4)),
            "pieces": _pieces,
        }
    ),
    min_size=1,
    max_size=12,
)
_COLUMNS = [
    Numeric("number"),
    Numeric("logged", source="number", transform="log"),
    Numeric("filled", source="number", transform="log", fill=-3.0),
    Numeric("plain", source="number", transform="none"),
    Numeric("cut", source="number", transform="buckets", num_buckets=4),
    Numeric("cut_filled", source="number", transform="buckets", num_buckets=4, fill=1.0),
    Categorical("text", dtype="string"),
    Categorical("common", source="text", dtype="string", min_count=2, max_size=2),
    Categorical("hashed", source="text", dtype="string", hash_buckets=1000),
    Categorical("whole", dtype="int"),
    Categorical("whole_hashed", source="whole", dtype="int", hash_buckets=1000),
    Categorical("whole_text", source="whole", dtype="string"),
    MultiCategorical("text_list", share="text"),
    MultiCategorical("two", source="text_list", dtype="string", max_length=2),
    Sequence("int_list", share="whole", max_length=3),
    MultiCategorical("pieces", separator="|", dtype="string"),
    Sequence("int_pieces", source="pieces", separator="|", share="whole", max_length=2),
    MultiCategorical("hash_pieces", source="pieces", separator="|", hash_buckets=99),
    MultiCategorical("bare_pieces", source="pieces", separator="|", strip=True, dtype="string"),
]


def _frame(rows):
    return pd.DataFrame({name: _column([row[name] for row in rows]) for name in rows[0]})


def _expected(prep, fitted_rows, rows):
    """The oracle's features of `rows`; only the boundaries are the Preprocessor's own."""
    tables, lengths, expected = {}, {}, {}
    columns = {column.name: column for column in _COLUMNS}
    for column in _COLUMNS:
        if isinstance(column, Numeric) or column.share:
            continue
        counts = {}
        for user in _COLUMNS:
            if getattr(user, "table", None) != column.name:
                continue
            for row in fitted_rows:
                value, pieces = row[user.raw_name], False
                if isinstance(user, MultiCategorical):
                    value, pieces = oracle.cells(value, user.separator, user.strip)
                else:
                    value = [value]
                oracle.count(value, counts, column.dtype, pieces)
        tables[column.name] = oracle.Table(
            column.dtype, counts, column.min_count, column.max_size, column.hash_buckets
        )
    for name, column in columns.items():
        values = [row[column.raw_name] for row in rows]
        if isinstance(column, Numeric):
            seen = [row[column.raw_name] for row in fitted_rows]
            if column.transform == "log":
                seen = [v if oracle.is_missing(v) else oracle.log(v) for v in seen]
            mean, scale = oracle.moments(seen)
            if column.embeds:
                cuts = prep.numeric[name].boundaries
                expected[name] = [oracle.bucket(v, cuts, column.fill) for v in values]
            else:
                expected[name] = [
                    oracle.number(v, mean, scale, column.transform, column.fill) for v in values
                ]
        elif isinstance(column, MultiCategorical):
            seen = [
                len(oracle.cells(row[column.raw_name], column.separator, column.strip)[0])
                for row in fitted_rows
            ]
            lengths[name] = column.max_length or max([*seen, 1])
            expected[name] = [
                oracle.list_ids(
                    tables[column.table],
                    v,
                    lengths[name],
                    column.separator,
                    column.keeps_last,
                    column.strip,
                )
                for v in values
            ]
        else:
            expected[name] = [tables[column.table].id(v) for v in values]
    assert prep.lengths == lengths
    return expected


@settings(max_examples=4 * settings.default.max_examples)
@given(fitted_rows=_rows, rows=_rows)
def test_features_match_oracle(fitted_rows, rows):
    prep = _fit(_COLUMNS, _frame(fitted_rows))
    features = prep.arrays(_frame(rows), labels=False)
    expected = _expected(prep, fitted_rows, rows)
    assert list(features) == [column.name for column in _COLUMNS]
    for name, values in expected.items():
        if features[name].dtype == np.int32:
            np.testing.assert_array_equal(features[name], values, err_msg=name)
        else:
            # Cancellation: the mean is only good to rounding of the largest value.
            assert features[name].dtype == np.float32
            np.testing.assert_allclose(features[name], values, rtol=1e-5, atol=1e-5, err_msg=name)
            assert np.isfinite(features[name]).all()


@settings(max_examples=3 * settings.default.max_examples)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=20))
def test_hash_matches_oracle(texts):
    buckets = hash_buckets(pa.array(texts, pa.string()), 10_007)
    assert buckets.tolist() == [oracle.siphash(text.encode()) % 10_007 for text in texts]


def test_hash_is_that_of_tensorflow():
    tf = pytest.importorskip("tensorflow")
    texts = ["x" * size for size in range(70)] + ["\u00e9" * 300, str(-(2**63)), "\U0001f600"]
    for num_buckets in (1, 7, 2**40):
        op = tf.strings.to_hash_bucket_strong(texts, num_buckets, key=list(HASH_KEY))
        ours = hash_buckets(pa.array(texts), num_buckets)
        np.testing.assert_array_equal(ours, op)
        # A slice of an array begins in the middle of its bytes.
        for kind in (pa.string(), pa.large_string()):
            part = pa.array(texts, kind)[5:9]
            np.testing.assert_array_equal(hash_buckets(part, num_buckets), op[5:9])


def test_vocabulary_larger_than_the_chunk_gives_the_same_ids():
    values = [f"v{i}" for i in range(500)] + ["v3"]
    prep = _fit([Categorical("a")], pd.DataFrame({"a": values}))
    few = pd.DataFrame({"a": ["v3", "v499", "new", None, ""]})
    many = pd.DataFrame({"a": [*few["a"], *values]})
    ids = prep.arrays(few, labels=False)["a"]
    assert ids.tolist() == [3, prep.vocabulary("a").to_pylist().index("v499") + 3, 2, 1, 1]
    np.testing.assert_array_equal(prep.arrays(many, labels=False)["a"][:5], ids)


# --- what a column holds --------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "dtype", "vocabulary"),
    [
        ([3, 1, 3], "int", [3, 1]),
        ([3.0, np.nan, 1.0, 3.0], "int", [3, 1]),
        (pd.array([3, None, 3], "Int64"), "int", [3]),
        (["b", "a", "b", None], "string", ["b", "a"]),
        ([True, False, True], "string", ["True", "False"]),
        (pd.Categorical(["u", "t", "u"], categories=["z", "u", "t"]), "string", ["u", "t"]),
        (pd.Categorical([5, 4, 5]), "int", [5, 4]),
        (_column([b"u", b"\xc3\xa9", b"u"]), "string", ["u", "\u00e9"]),
        (_column([None, None]), "string", []),
    ],
)
def test_dtype_is_resolved_from_the_data(values, dtype, vocabulary):
    prep = _fit([Categorical("a")], pd.DataFrame({"a": values}))
    assert prep.dtypes == {"a": dtype}
    assert prep.vocabulary("a").to_pylist() == vocabulary
    assert prep.table_sizes == {"a": 3 + len(vocabulary)}


def test_dtype_waits_for_the_first_value():
    parts = [pd.DataFrame({"a": _column([None])}), pd.DataFrame({"a": [5, 6]})]
    prep = _fit([Categorical("a")], parts)
    assert prep.dtypes == {"a": "int"}


def test_unused_categories_of_pandas_count_for_nothing():
    cells = pd.Categorical(["a|b"], categories=["a|b|c", "a|b", "d"])
    prep = _fit([MultiCategorical("a", separator="|")], pd.DataFrame({"a": cells}))
    assert prep.lengths == {"a": 2}
    assert prep.vocabulary("a").to_pylist() == ["a", "b"]


def test_declared_string_column_reads_integers_as_digits():
    prep = _fit([Categorical("a", dtype="string")], pd.DataFrame({"a": [7, 7, 8]}))
    ids = prep.arrays(pd.DataFrame({"a": ["7", "007", "8"]}), labels=False)["a"]
    assert ids.tolist() == [3, 2, 4]


def test_number_edges():
    columns = [
        Numeric("constant"),
        Numeric("huge"),
        Numeric("huge_plain", source="huge", transform="none"),
        Numeric("never"),
        Numeric("flag"),
    ]
    rows = pd.DataFrame(
        {
            "constant": [0.1] * 3,
            "huge": [1.7e308, -1.7e308, 0.0],
            "never": _column([None] * 3),
            "flag": [True, False, True],
        }
    )
    prep = _fit(columns, rows)
    features = prep.arrays(rows, labels=False)
    assert prep.numeric["constant"].scale == 1.0
    np.testing.assert_allclose(features["constant"], 0.0, atol=1e-7)
    np.testing.assert_array_equal(features["huge"], np.float32([100, -100, 0]))
    np.testing.assert_array_equal(features["huge_plain"], np.float32([3e38, -3e38, 0.0]))
    np.testing.assert_array_equal(features["never"], [0.0, 0.0, 0.0])
    np.testing.assert_allclose(features["flag"], [0.5**0.5, -(2**0.5), 0.5**0.5], rtol=1e-6)


def test_quantiles_are_within_the_stated_rank_error():
    values = np.random.default_rng(0).lognormal(size=100_000)
    prep = _fit([Numeric("a", transform="buckets", num_buckets=10)], pd.DataFrame({"a": values}))
    cuts = prep.numeric["a"].boundaries
    ranks = np.searchsorted(np.sort(values), cuts, side="right") / len(values)
    assert prep.table_sizes == {"a": 13}
    assert np.abs(ranks - np.arange(1, 10) / 10).max() < 2 * RANK_ERROR


# --- labels and weights ---------------------------------------------------------------

_TASKS = [
    Binary("click"),
    Regression("rating", where="click"),
    Multiclass("grade", num_classes=3, where="seen"),
    Multiclass("kind", classes=("x", "y")),
    Multiclass("code", classes=(30, 10)),
]
_LABELLED = {
    "a": [1.0, 2.0, 3.0, 4.0],
    "click": _column([True, False, None, 1]),
    "rating": [5.0, 4.0, 3.0, np.nan],
    "grade": [2.0, 99.0, np.nan, 0.0],
    "seen": [1, 0, 1, 1],
    "kind": ["y", None, "", "x"],
    "code": [10.0, 30.0, np.nan, 10.0],
    "w": [1.0, 0.0, 2.5, 1.0],
}


def _labelled(**changes):
    return pd.DataFrame({**_LABELLED, **changes})


def test_labels_and_weights():
    prep = _fit([Numeric("a")], _labelled(click=[1, 0, np.nan, 1]), _TASKS, weight_column="w")
    _, labels, weights = prep.arrays(_labelled(click=[1, 0, np.nan, 1]))
    nan = np.nan
    expected = {
        "click": [1, 0, nan, 1],
        "rating": [5, nan, nan, nan],
        "grade": [2, nan, nan, 0],
        "kind": [1, nan, nan, 0],
        "code": [1, 0, nan, 1],
    }
    assert list(labels) == list(expected) == list(weights)
    for task, values in expected.items():
        np.testing.assert_array_equal(labels[task], np.float32(values), err_msg=task)
        np.testing.assert_array_equal(weights[task], np.float32([1, 0, 2.5, 1]))
    means = prep.label_means
    assert means["click"] == pytest.approx(2 / 3)
    assert means["rating"] == 5.0
    np.testing.assert_array_equal(means["grade"], [0.5, 0.0, 0.5])
    np.testing.assert_allclose(means["code"], [1 / 3, 2 / 3])


def test_a_task_without_label_column_is_missing():
    rows = _labelled(click=[1, 0, 0, 1]).drop(columns=["kind", "w"])
    prep = _fit([Numeric("a")], rows, _TASKS)
    _, labels, weights = prep.arrays(rows)
    assert np.isnan(labels["kind"]).all()
    assert np.isnan(prep.label_means["kind"]).all()
    np.testing.assert_array_equal(weights["click"], np.ones(4))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"click": [1, 2, 0, 1]},
            ValueError,
            r"'click' \(Binary\) must be 0 or 1.*Received click=2.0",
        ),
        (
            {"click": ["yes", "no", "yes", "no"]},
            TypeError,
            r"'click' must hold numbers .*'yes'. Binary\('click', positive='yes'\)",
        ),
        ({"grade": [3, 0, 0, 0]}, ValueError, "0 to num_classes - 1 = 2.*Received grade=3.0"),
        ({"grade": [0.5, 0, 0, 0]}, ValueError, "'grade' .*integers.*Received grade=0.5"),
        ({"kind": ["z", "x", "x", "x"]}, ValueError, r"classes \['x', 'y'\].*Received kind='z'"),
        ({"code": [20, 10, 10, 10]}, ValueError, r"classes \[30, 10\].*Received code=20.0"),
        ({"rating": [np.inf, 1, 1, 1]}, ValueError, "'rating' .*finite.*Received rating=inf"),
        ({"w": [1, np.nan, 1, 1]}, ValueError, "at least 0 in every row. Received w=nan"),
        ({"w": [1, -1, 1, 1]}, ValueError, "at least 0 in every row. Received w=-1.0"),
    ],
)
def test_bad_labels_and_weights(changes, error, message):
    good = _labelled(click=[1, 0, 0, 1])
    prep = _fit([Numeric("a")], good, _TASKS, weight_column="w")
    with pytest.raises(error, match=message):
        prep.arrays(_labelled(**{"click": [1, 0, 0, 1], **changes}))


def test_labels_are_needed_unless_unwanted():
    prep = _fit([Numeric("a")], _labelled(click=[1, 0, 0, 1]), _TASKS)
    bare = pd.DataFrame({"a": [1.0]})
    with pytest.raises(ValueError, match=r"without any of \['click', .*For features only pass"):
        prep.arrays(bare)
    assert prep.arrays(bare, labels=False)["a"].shape == (1,)
    without_where = _labelled(click=[1, 0, 0, 1]).drop(columns="seen")
    with pytest.raises(ValueError, match=r"'seen' \(for `where` of 'grade'\)"):
        prep.arrays(without_where)


# --- clear errors ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        (Numeric("a"), ["1", "x"], "'a' must hold numbers. Received (large_)?string.*'x'. Correct"),
        (
            Numeric("a"),
            [[1.0], [2.0]],
            "'a' must hold single values. Received list.*Declare Vector",
        ),
        (Categorical("a", dtype="int"), ["7", "x"], "'a' must hold integers. Received .*'x'"),
        (Categorical("a", dtype="int"), [3.0, 3.5], "'a' must hold integers. Received double.*3.5"),
        (Categorical("a", dtype="int"), [1e30], r"must hold integers. .*1e\+30"),
        (Categorical("a", dtype="int"), [2.0**63], r"must hold integers. .*9.22"),
        (Categorical("a", dtype="int"), np.array([2**63], np.uint64), "integers. Received uint64"),
        (Categorical("a"), [[1], [2, 3]], "'a' must hold single values. Received list"),
        (Categorical("a"), [0.5, 1.5], "must hold strings or integers. Received double.*0.5"),
        (Categorical("a"), pd.to_datetime(["2020-01-01"]), "'a' must hold strings or integers"),
        (MultiCategorical("a"), ["x|y"], "'a' must hold lists. Received .*'x|y'.*separator"),
        (MultiCategorical("a"), _column([[1], 2]), "'a' must hold values of one type, or lists"),
        (Categorical("a"), _column([1, "x"]), "'a' must hold values of one type"),
        (Categorical("a"), _column([b"\xff"]), "'a' holds bytes that are not UTF-8"),
    ],
)
def test_wrong_types(column, values, message):
    with pytest.raises(TypeError, match=message):
        _fit([column], pd.DataFrame({"a": values}))


def test_missing_column_lists_what_there_is():
    with pytest.raises(
        ValueError, match=r"without 'b\.x' \(for column 'b'\); its columns are \['a', 'c'\]"
    ):
        _fit([Numeric("a"), Numeric("b", source="b.x")], pd.DataFrame({"a": [1.0], "c": [2.0]}))


def test_no_rows():
    with pytest.raises(ValueError, match=r"no rows. Check the files"):
        _fit([Numeric("a")], pd.DataFrame({"a": []}))


def test_one_row():
    rows = pd.DataFrame({"a": [5.0], "c": ["x"], "click": [1]})
    prep = _fit([Numeric("a"), Categorical("c")], rows)
    features, labels, _ = prep.arrays(rows)
    assert features["a"].tolist() == [0.0]
    assert features["c"].tolist() == [3]
    assert labels["click"].tolist() == [1.0]


def test_constructor_errors():
    with pytest.raises(TypeError, match=r"takes a Schema. Received schema=3"):
        Preprocessor(3)
    with pytest.raises(ValueError, match=r"at least 1. Received max_distinct=0"):
        Preprocessor(Schema([Numeric("a")], _CLICK), max_distinct=0)
    with pytest.raises(TypeError, match="max_distinkt"):
        Preprocessor(Schema([Numeric("a")], _CLICK), max_distinkt=5)


def test_the_cap_may_be_numpys(tmp_path):
    prep = Preprocessor(Schema([Categorical("a")], _CLICK), max_distinct=np.int64(7))
    prep.fit(pd.DataFrame({"a": ["x", "y"]})).save(tmp_path / "p")
    assert Preprocessor.load(tmp_path / "p").max_distinct == 7


def test_what_missing_numbers_count_as():
    rows = pd.DataFrame({"a": [1.0, 1.0, 3.0, 9.0, np.nan]})
    columns = [
        Numeric("filled", source="a", transform="buckets", num_buckets=2, fill=9.0),
        Numeric("own_id", source="a", transform="buckets", num_buckets=2),
        Numeric("log", source="a", transform="log"),
        Numeric("log_filled", source="a", transform="log", fill=9.0),
    ]
    prep = _fit(columns, rows)
    features = prep.arrays(rows, labels=False)
    assert features["filled"].tolist()[-1] == features["filled"].tolist()[-2]
    assert features["own_id"].tolist()[-1] == 1
    # The mean of the logarithms, not the logarithm of the mean.
    logarithms = np.log1p(rows["a"][:-1])
    assert prep.numeric["log"].mean == pytest.approx(logarithms.mean())
    assert features["log"][-1] == 0.0
    assert features["log_filled"][-1] == features["log"][-2] > 0


# --- unfitted -------------------------------------------------------------------------


def test_unfitted_use_if_nothing_needs_fitting():
    columns = [
        Categorical("user", hash_buckets=10),
        MultiCategorical("tags", share="user", max_length=2),
        Numeric("a", transform="none"),
    ]
    prep = Preprocessor(Schema(columns, _CLICK))
    rows = {"user": [7, 8], "tags": [["7"], []], "a": [1.5, None]}
    features = prep.arrays(pd.DataFrame(rows), labels=False)
    seven = 3 + oracle.siphash(b"7") % 10
    assert features["user"][0] == seven
    assert features["tags"].tolist() == [[seven, 0], [1, 0]]
    assert features["a"].tolist() == [1.5, 0.0]
    assert prep.table_sizes == {"user": 13}
    assert not prep.fitted


def test_unfitted_use_names_what_needs_fit():
    columns = [
        Categorical("user"),
        MultiCategorical("tags", hash_buckets=9),
        MultiCategorical("ok", hash_buckets=9, max_length=2),
        Numeric("a"),
        Numeric("plain", transform="none"),
    ]
    prep = Preprocessor(Schema(columns, _CLICK))
    with pytest.raises(ValueError, match=r"columns \['user', 'tags', 'a'\] that need `fit`"):
        prep.arrays(pd.DataFrame({"user": [1]}))
    with pytest.raises(ValueError, match=r"with a vocabulary|Only a categorical column"):
        _fit([Numeric("a")], pd.DataFrame({"a": [1.0]})).vocabulary("a")


# --- merging --------------------------------------------------------------------------

_MERGED = [
    Numeric("number"),
    Numeric("logged", source="number", transform="log"),
    Numeric("cut", source="number", transform="buckets", num_buckets=4),
    Categorical("text", dtype="string", min_count=2),
    Categorical("whole"),
    MultiCategorical("text_list", share="text"),
    MultiCategorical("pieces", separator="|", dtype="string"),
]
_MERGE_TASKS = [Binary("click"), Regression("rating"), Multiclass("grade", num_classes=3)]
_merge_rows = st.lists(
    st.fixed_dictionaries(
        {
            "number": st.one_of(st.none(), st.floats(-1e6, 1e6)),
            "text": _texts,
            "whole": _ints,
            "text_list": st.one_of(st.none(), st.lists(_texts, max_size=3)),
            "pieces": _pieces,
            "click": st.sampled_from([0.0, 1.0, None]),
            "rating": st.one_of(st.none(), st.floats(-5, 5)),
            "grade": st.sampled_from([0, 1, 2, None]),
        }
    ),
    min_size=2,
    max_size=30,
)


def _assert_same_state(one, other):
    assert one.num_rows == other.num_rows
    assert one.dtypes == other.dtypes
    assert one.lengths == other.lengths
    for name in ("text", "whole", "pieces"):
        assert one.vocabulary(name).equals(other.vocabulary(name))
    for name in ("number", "logged"):
        # A mean near 0 by cancellation is only as good as the numbers it is made of.
        spread = 1.0 / one.numeric[name].scale
        assert one.numeric[name].mean == pytest.approx(
            other.numeric[name].mean, rel=1e-9, abs=1e-9 * spread
        )
        assert one.numeric[name].scale == pytest.approx(other.numeric[name].scale, rel=1e-9)
    # So few numbers a sketch holds exactly.
    np.testing.assert_array_equal(one.numeric["cut"].boundaries, other.numeric["cut"].boundaries)
    for name, mean in one.label_means.items():
        np.testing.assert_allclose(mean, other.label_means[name], rtol=1e-6, atol=1e-6)


@settings(max_examples=2 * settings.default.max_examples)
@given(rows=_merge_rows, data=st.data())
def test_merge_equals_fitting_on_all(rows, data):
    schema = Schema(_MERGED, _MERGE_TASKS)
    cut = data.draw(st.integers(1, len(rows) - 1))
    whole = Preprocessor(schema).fit(_frame(rows))
    first, second = (Preprocessor(schema).fit(_frame(part)) for part in (rows[:cut], rows[cut:]))
    _assert_same_state(first.merge(second), whole)
    _assert_same_state(second.merge(first), whole)
    in_parts = Preprocessor(schema).fit([_frame(rows[:cut]), _frame(rows[cut:])])
    _assert_same_state(in_parts, whole)


def test_merged_quantiles_stay_within_the_error():
    values = np.random.default_rng(1).normal(size=60_000)
    schema = Schema([Numeric("a", transform="buckets", num_buckets=8)], _CLICK)
    parts = [
        Preprocessor(schema).fit(pd.DataFrame({"a": part})) for part in np.array_split(values, 3)
    ]
    cuts = parts[2].merge(parts[0]).merge(parts[1]).numeric["a"].boundaries
    ranks = np.searchsorted(np.sort(values), cuts, side="right") / len(values)
    assert np.abs(ranks - np.arange(1, 8) / 8).max() < 2 * RANK_ERROR


def test_merge_errors(tmp_path):
    schema = Schema([Categorical("a")], _CLICK)
    ints = Preprocessor(schema).fit(pd.DataFrame({"a": [1]}))
    with pytest.raises(ValueError, match=r"equal schemas"):
        ints.merge(_fit([Categorical("b")], pd.DataFrame({"b": [1]})))
    with pytest.raises(ValueError, match=r"Received one with fitted=False and no counts"):
        ints.merge(Preprocessor(schema))
    ints.save(tmp_path / "p", state=False)
    with pytest.raises(ValueError, match=r"fitted=True and no counts.*rather than `save"):
        ints.merge(Preprocessor.load(tmp_path / "p"))


def test_cap_on_distinct_values_warns_and_keeps_the_frequent():
    rows = pd.DataFrame({"a": [*"aaabbc", *"defgh"]})
    with pytest.warns(UserWarning, match=r"'a' has more than max_distinct=2 different values"):
        prep = Preprocessor(Schema([Categorical("a")], _CLICK), max_distinct=2).fit(rows)
    assert prep.vocabulary("a").to_pylist() == ["a", "b"]


def test_buffered_counts_are_summed_up(monkeypatch):
    monkeypatch.setattr("tfmoe.data.fit.counts._BUFFER", 3)
    parts = [pd.DataFrame({"a": list(text)}) for text in ("abc", "bcd", "cde", "xyz", "c")]
    prep = _fit([Categorical("a")], parts)
    assert prep.vocabulary("a").to_pylist() == [*"cbd", *"aexyz"]


# --- saving ---------------------------------------------------------------------------


def _everything():
    rows = [
        {"number": float(i), "text": t, "whole": 2**62 + i, "text_list": [t, None], "pieces": "a|b"}
        | {"click": i % 2, "rating": i * 0.1, "grade": i % 3}
        for i, t in enumerate(["a", "a", "\U0001f600", "\u00e9", "", "a"])
    ]
    frame = _frame(rows)
    return Preprocessor(Schema(_MERGED, _MERGE_TASKS)).fit(frame), frame


@pytest.mark.parametrize("state", [True, False])
def test_save_and_load(tmp_path, state):
    prep, frame = _everything()
    (tmp_path / "p").mkdir()
    prep.save(tmp_path / "p", state=state)
    loaded = Preprocessor.load(tmp_path / "p")
    assert loaded.schema == prep.schema
    assert loaded.fitted
    _assert_same_state(loaded, prep)
    for one, other in zip(loaded.arrays(frame), prep.arrays(frame), strict=True):
        assert all(np.array_equal(one[name], other[name], equal_nan=True) for name in other)
    if state:
        _assert_same_state(loaded.merge(prep), prep.merge(prep))
    with pytest.raises(FileExistsError, match=r"never over another file. Received path="):
        prep.save(tmp_path / "p")
    # Neither file may need a pickle.
    json.loads((tmp_path / "p" / "preprocessor.json").read_text(encoding="utf-8"))
    with np.load(tmp_path / "p" / "arrays.npz", allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays)
    assert sorted(file.name for file in (tmp_path / "p").iterdir()) == [
        "arrays.npz",
        "preprocessor.json",
    ]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("fails", ["numpy.savez_compressed", "pathlib.Path.write_text"])
def test_a_save_that_fails_leaves_nothing(tmp_path, monkeypatch, there, fails):
    prep, _ = _everything()
    if there:
        (tmp_path / "p").mkdir()
        (tmp_path / "p" / "kept.txt").touch()
    monkeypatch.setattr(fails, lambda *given, **more: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prep.save(tmp_path / "p")
    assert [path.name for path in tmp_path.rglob("*")] == ["p", "kept.txt"] * there
    monkeypatch.undo()
    prep.save(tmp_path / "p")
    assert Preprocessor.load(tmp_path / "p").num_rows == prep.num_rows


def test_labels_never_seen_are_saved(tmp_path):
    prep = _fit([Numeric("a")], pd.DataFrame({"a": [1.0]}), _MERGE_TASKS)
    prep.save(tmp_path / "p")
    loaded = Preprocessor.load(tmp_path / "p")
    assert math.isnan(loaded.label_means["rating"])
    assert np.isnan(loaded.label_means["grade"]).all()


def test_load_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"which is none. Pass the path"):
        Preprocessor.load(tmp_path)
    prep, _ = _everything()
    prep.save(tmp_path / "p")
    file = tmp_path / "p" / "preprocessor.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"format": 1', '"format": 99'))
    with pytest.raises(ValueError, match=r"reads the formats 1 and 2. Received format=99"):
        Preprocessor.load(tmp_path / "p")


def test_fitting_anew_replaces_the_state():
    prep, _ = _everything()
    schema = Schema([Categorical("a")], _CLICK)
    prep = Preprocessor(schema).fit(pd.DataFrame({"a": ["x", "y"]})).fit(pd.DataFrame({"a": ["z"]}))
    assert prep.vocabulary("a").to_pylist() == ["z"]
    assert prep.num_rows == 1


def test_progress_is_shown_on_a_terminal_only(monkeypatch, capsys):
    rows = pd.DataFrame({"a": [1.0, 2.0]})
    prep = Preprocessor(Schema([Numeric("a")], _CLICK))
    prep.fit(rows)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    prep.fit(rows, progress=False)
    assert capsys.readouterr().err == ""
    prep.fit(rows)
    assert "2 rows" in capsys.readouterr().err


def test_transform_is_for_a_look():
    prep, frame = _everything()
    seen = prep.transform(frame.set_index(pd.Index([*"uvwxyz"])))
    assert list(seen.columns) == [column.name for column in _MERGED]
    assert list(seen.index) == [*"uvwxyz"]
    assert list(seen["text_list"].iloc[0]) == [3, 0]


_NO_TENSORFLOW = """
import sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "keras"):
            raise ImportError(f"{name} is forbidden here")

sys.meta_path.insert(0, Forbidden())
from tfmoe import Binary, Categorical, MultiCategorical, Numeric, Preprocessor, Schema

columns = [Numeric("a"), Categorical("c"), MultiCategorical("l")]
prep = Preprocessor(Schema(columns, [Binary("click")])).fit(sys.argv[1])
features, labels, weights = prep.arrays(sys.argv[1])
print(features["c"].tolist(), features["l"].tolist(), labels["click"].tolist())
"""


def test_fit_and_arrays_need_no_tensorflow(tmp_path):
    path = tmp_path / "rows.parquet"
    rows = {"a": [1.0, 2.0], "c": ["x", None], "l": [["u", "v"], []], "click": [0, 1]}
    pd.DataFrame(rows).to_parquet(path)
    command = [sys.executable, "-c", _NO_TENSORFLOW, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[3, 1] [[3, 4], [1, 0]] [0.0, 1.0]", done.stderr
