"""Columns of objects and Sparse ones: NumPy's scalars are the values that they hold."""

import datetime
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

from tfmoe.data.encode import graph
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.schema.columns import Categorical, Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Regression
from tfmoe.schema.timestamp import Timestamp
from tfmoe.serving.export import tensors

pytestmark = [
    pytest.mark.filterwarnings("ignore:Texts that stand for a missing number"),
    pytest.mark.filterwarnings("ignore:Whole numbers of few different values"),
]


def _fit(column, rows, *tasks):
    schema = Schema([column], tasks or [Binary("y")])
    return Preprocessor(schema).fit(rows, progress=False)


def _table(cells):
    """A column of objects in a DataFrame."""
    return pd.DataFrame({"x": pd.Series(cells, dtype=object), "y": np.arange(len(cells)) % 2})


# Of each kind of number that NumPy has; the texts say that they came among others.
_SCALARS = [
    [np.float64(1.5), "NA", np.float64(-3)],
    [np.float32(1.5), "?", np.float16(-3)],
    [np.int64(5), "", np.int8(-7)],
    [np.uint8(5), "NA", np.str_("7")],
    [np.True_, "NA", np.False_],
    [np.longdouble(1.5), pd.NA, "2"],
    [np.float64(1.5), pd.NaT, "2"],
    [np.int64(5), np.float64("nan"), True, "2"],
]


@pytest.mark.parametrize("cells", _SCALARS, ids=repr)
def test_numpys_scalars_among_texts_are_numbers(cells):
    expected = [
        np.nan if pd.isna(cell) or cell in ("NA", "?", "") else np.float32(float(cell))
        for cell in cells
    ]
    column = Numeric("x", transform="none", fill=-1)
    for rows in (_table(cells), {"x": cells, "y": np.arange(len(cells)) % 2}):
        prep = _fit(column, rows)
        found = prep.arrays(rows)[0]["x"]
        np.testing.assert_array_equal(found, np.nan_to_num(expected, nan=-1))
    rows = _table(cells)
    for sent in (graph.request(prep, rows), tensors(prep, rows)):
        np.testing.assert_array_equal(np.asarray(sent["x"]), expected)
    # As labels they are alike.
    labelled = pd.DataFrame({"c": "a", "z": rows["x"]})
    for table in (labelled, labelled.to_dict("list")):
        prep = _fit(Categorical("c"), table, Regression("z"))
        np.testing.assert_array_equal(prep.arrays(table)[1]["z"], expected)


def test_a_32_bit_number_among_texts_is_that_of_a_column_of_them():
    column = Numeric("x", num_buckets=2, transform="buckets")
    plain = pd.DataFrame({"x": np.float32([0.1, 0.2, 0.3]), "y": [0, 1, 0]})
    prep = _fit(column, plain)
    mixed = _table([*np.float32([0.1, 0.2, 0.3]), "NA"])
    for name, values in graph.request(prep, mixed).items():
        np.testing.assert_array_equal(values[:3], graph.request(prep, plain)[name])


@pytest.mark.parametrize(
    "cells",
    [[np.int64(1), "NA", 0], [np.True_, "", "false"], [np.uint8(1), pd.NA, np.str_("0")]],
    ids=repr,
)
def test_a_binary_label_may_be_numpys(cells):
    rows = _table([0.5, 1.5, 2.5]).astype({"x": float}).assign(y=pd.Series(cells, dtype=object))
    labels = _fit(Numeric("x"), rows).arrays(rows)[1]["y"]
    np.testing.assert_array_equal(labels, [1, np.nan, 0])


def test_large_integers_among_numpys_have_ids():
    cells = [np.int64(3), 2**70, np.int64(3), None, np.uint64(2**64 - 1), 2**70]
    rows = _table(cells)
    prep = _fit(Categorical("x"), rows)
    assert prep.arrays(rows)[0]["x"].tolist() == [4, 3, 4, 1, 5, 3]
    assert prep.vocabulary("x").to_pylist() == [str(2**70), "3", str(2**64 - 1)]


def test_mixed_numbers_are_proposed_as_numbers():
    rows = _table([np.float64(1.5), "NA", np.float64(2.5), np.float64(7.25)] * 5)
    with pytest.warns(UserWarning, match="Taken for numbers"):
        assert Schema.infer(rows, "y").columns == (Numeric("x"),)


@pytest.mark.parametrize(
    "column",
    [
        pd.arrays.SparseArray([0, 1, 1, 0, 2]),
        pd.arrays.SparseArray([0.0, 1.5, np.nan, 2.5, 0.0]),
        pd.arrays.SparseArray([np.nan, 1.5, np.nan, 2.5, 0.0]),
        pd.get_dummies(pd.Series(list("abcab")), sparse=True)["a"],
        pd.arrays.SparseArray([1, 1, 7, 1, 1], fill_value=1),
    ],
    ids=repr,
)
def test_a_sparse_column_is_the_dense_one(column):
    dense = pd.DataFrame({"x": np.asarray(column), "y": [0, 1, 0, 1, 0]})
    sparse = dense.assign(x=column)
    assert isinstance(sparse["x"].dtype, pd.SparseDtype)
    tables = (sparse, dense, {"x": sparse["x"], "y": sparse["y"]}, {"x": column, "y": dense["y"]})
    schemas = [
        Schema([Numeric("x", transform="none")], [Binary("y")]),
        Schema([Numeric("n", source="y")], [Regression("x")]),
    ]
    if dense["x"].dtype.kind != "f":
        schemas.append(Schema([Categorical("x")], [Binary("y")]))
    assert Schema.infer(sparse, "y") == Schema.infer(dense, "y")
    for schema in schemas:
        expected = Preprocessor(schema).fit(dense, progress=False).arrays(dense)[:2]
        for table in tables:
            found = Preprocessor(schema).fit(table, progress=False).arrays(table)[:2]
            for own, wanted in zip(found, expected, strict=True):
                for name, values in wanted.items():
                    np.testing.assert_array_equal(own[name], values)


def test_a_frame_of_a_sparse_matrix_has_its_numbers():
    scipy = pytest.importorskip("scipy.sparse")
    rows = pd.DataFrame.sparse.from_spmatrix(scipy.csr_matrix(np.eye(3)), columns=list("abc"))
    rows["y"] = [0, 1, 0]
    schema = Schema([Numeric(name, transform="none") for name in "abc"], [Binary("y")])
    found = Preprocessor(schema).fit(rows, progress=False).arrays(rows)[0]
    np.testing.assert_array_equal(np.stack([found[name] for name in "abc"], axis=1), np.eye(3))


@pytest.mark.parametrize(
    "units", [("h", "D"), ("D", "D"), ("s", "ns"), ("M", "ms"), ("W", "m")], ids=repr
)
def test_points_in_time_of_numpys_units(units):
    moments = [
        np.datetime64(datetime.datetime(2024, 1, 4, 5, 6, 7), "s"),
        np.datetime64(datetime.datetime(2023, 12, 31, 23, 59, 59), "s"),
    ]
    moments = [moment.astype(f"datetime64[{u}]") for moment, u in zip(moments, units, strict=True)]
    expected = [moment.astype("datetime64[s]") for moment in moments]
    column = Timestamp("x")
    prep = _fit(column, pd.DataFrame({"x": np.array(expected), "y": [0, 1]}))
    wanted = prep.arrays({"x": np.array([*expected, "NaT"], "datetime64[s]"), "y": [0] * 3})[0]["x"]
    for gap in (None, np.datetime64("NaT"), pd.NaT, pd.NA):
        rows = _table([*moments, gap])
        np.testing.assert_array_equal(prep.arrays(rows)[0]["x"], wanted)
        sent = graph.request(prep, rows)["x"]
        seconds = np.array(expected).astype(np.int64).astype(float)
        np.testing.assert_array_equal(sent, [*seconds, np.nan])


@pytest.mark.parametrize(
    "cell",
    [
        np.complex128(1 + 2j),
        np.void(b"ab"),
        np.timedelta64(3, "h"),
        np.datetime64("2024-01-01"),
        np.bytes_(b"1"),
        Fraction(1, 2),
    ],
    ids=repr,
)
def test_what_is_no_number_is_refused_among_texts(cell):
    rows = _table([cell, "NA", 1.5])
    with pytest.raises(TypeError, match="Column 'x' must hold values of one type"):
        _fit(Numeric("x"), rows)
    with pytest.raises(TypeError, match="Column 'x' must hold values of one type"):
        _fit(Categorical("x"), _table([cell, 2**70]))


def test_spans_of_several_units_are_no_integers():
    rows = _table([np.timedelta64(3, "h"), np.timedelta64(1, "D")])
    with pytest.raises(TypeError, match="'x' must hold"):
        _fit(Categorical("x"), rows)
