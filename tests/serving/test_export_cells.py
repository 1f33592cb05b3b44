"""What stands for a missing value, truth values, long ids, vectors: the same when served."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow as tf

import tfmoe
from tests.oracles import tables
from tfmoe.data.encode import graph
from tfmoe.schema.columns import MISSING_INT
from tfmoe.serving.export import tensors
from tfmoe.serving.sample_rows import sample_rows

_COLUMNS = [
    tfmoe.Numeric("price", missing=["unknown", -1, "999"]),
    tfmoe.Numeric("cut", source="price", transform="buckets", num_buckets=3, missing=[-1]),
    tfmoe.Numeric("usual", source="price", transform="none", fill=2.0, missing=[-1, 5, "unknown"]),
    tfmoe.Categorical("land", missing=["NA", "?"]),
    tfmoe.Categorical("hashed_land", source="land", hash_buckets=50, missing=["NA"]),
    tfmoe.Categorical("user", dtype="int", missing=[-1, "7"]),
    tfmoe.Sequence("seen", share="user", max_length=3),
    tfmoe.MultiCategorical("tags", separator="|", missing=["?"], max_length=3),
    tfmoe.Categorical("vip"),
    tfmoe.Categorical("hashed_vip", source="vip", hash_buckets=50),
    tfmoe.Categorical("wide"),
    *[tfmoe.Numeric(f"emb_{i}", source="emb", element=i) for i in range(2)],
]


def _rows():
    return pd.DataFrame(
        {
            "price": [1.5, -1, 999, np.nan, 5, 7],
            "land": ["NA", "?", "de", None, "fr", "de"],
            "user": [7, -1, 8, 9, 10, 8],
            "seen": [[7, 8], [-1], [], [8, -1, 9, 10], [9], [8]],
            "tags": ["?|a", "?", "a|b", None, "b|?", "a"],
            "vip": ["true", "false", "true", None, "false", "true"],
            "wide": [str(2**64 - 1), "7", str(2**63), None, "7", "8"],
            "emb": [[0.5, 1.5], [2.5, 3.0], [1.0, -1.0], [0.0, 9.0], None, [4.0]],
            "y": [0, 1, 0, 1, 0, 1],
        }
    )


@pytest.fixture(scope="module")
def prep():
    return tfmoe.Preprocessor(tfmoe.Schema(_COLUMNS, [tfmoe.Binary("y")])).fit(_rows())


@pytest.mark.parametrize("vip", [None, True, "TRUE", "False", "false", "vip"])
def test_served_cells_mean_what_they_mean_in_training(prep, vip):
    rows = _rows()
    if vip is not None:
        rows["vip"] = pd.Series([vip] * len(rows), dtype=object)
    expected = prep.arrays(rows, labels=False)
    served = graph.GraphEncoder(prep)(tensors(prep, rows))
    assert set(served) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(served[name], values, err_msg=name)
    asked = tensors(prep, rows)
    assert asked["price"].numpy()[1] == -1  # for the graph to tell
    assert expected["user"].tolist() == [1, 1, 3, 4, 5, 3]
    assert expected["usual"].tolist() == [1.5, 2.0, 999, 2.0, 2.0, 7]
    assert expected["cut"][1] == 1
    assert expected["wide"].min() == 1
    assert len(set(expected["wide"].tolist())) == 5


def test_truth_values_of_a_vocabulary_have_one_id(prep):
    encoder = graph.GraphEncoder(prep)
    rows = _rows()
    asked = tensors(prep, rows)
    for spelled in ("true", "True", "TRUE"):
        asked["vip"] = asked["hashed_vip"] = tf.constant([spelled] * len(rows))
        found = encoder(asked)
        assert found["vip"].numpy().tolist() == [3] * len(rows)
        assert found["hashed_vip"].numpy()[0] == prep.arrays(rows)[0]["hashed_vip"][0]


@pytest.mark.slow
def test_a_model_of_such_columns_is_exported(prep, tmp_path):
    model = tables.small_model(prep)
    tfmoe.export(model, tmp_path / "served")  # compares 256 rows with the model
    assert sample_rows(prep, 20)["emb"].map(len).eq(2).all()


@pytest.mark.parametrize("hashed", [None, 97])
@pytest.mark.parametrize("strip", [False, True])
def test_spaces_around_the_values_of_a_list(hashed, strip):
    cells = ["a, b", "a,b ", "\tb ,\u00a0a", " , ", "7,\n8", "", " a", "c d, e", ",a", None]
    rows = pd.DataFrame({"tags": cells, "y": [0, 1] * 5})
    column = tfmoe.MultiCategorical("tags", separator=",", strip=strip, hash_buckets=hashed)
    prep = tfmoe.Preprocessor(tfmoe.Schema([column], [tfmoe.Binary("y")])).fit(rows)
    expected = prep.arrays(rows, labels=False)["tags"]
    served = graph.GraphEncoder(prep)(tensors(prep, rows))["tags"]
    np.testing.assert_array_equal(served, expected)
    assert (expected[0] == expected[1]).all() == strip
    assert (expected[3].tolist() == [1, 0]) == strip
    if strip and not hashed:
        # A space that is no ASCII stays, for TensorFlow knows no other.
        values = ["a", "b", "7", "8", "c d", "e", "\u00a0a"]
        assert prep.vocabulary("tags").to_pylist() == values


CELLS = pd.DataFrame(
    {"n": [1, 2, 3], "word": ["a", "b", None], "list": [[1, 2], [3], None], "y": [0, 1, 0]}
)


@pytest.fixture(scope="module")
def of_cells():
    columns = [tfmoe.Categorical("n", missing=["NA"]), tfmoe.Categorical("word")]
    columns.append(tfmoe.MultiCategorical("list"))
    return tfmoe.Preprocessor(tfmoe.Schema(columns, [tfmoe.Binary("y")])).fit(CELLS)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"n": ["1", "NA", None]}, {"n": [1, MISSING_INT, MISSING_INT]}),
        ({"n": [1.0, np.nan, 3.0]}, {"n": [1, MISSING_INT, 3]}),
        ({"word": [7, 8, 9]}, {"word": ["7", "8", "9"]}),
        ({"word": [b"a", b"b", None]}, {"word": ["a", "b", ""]}),
        ({"list": [[1, None], [2], []]}, {"list": [[1, MISSING_INT], [2, MISSING_INT]]}),
        (
            {"list": pd.array([[1, None], [2], None], pd.ArrowDtype(pa.list_(pa.int64())))},
            {"list": [[1, MISSING_INT], [2, MISSING_INT]]},
        ),
    ],
)
def test_cells_of_a_request_are_read_as_those_of_a_table(of_cells, cells, expected):
    found = graph.request(of_cells, CELLS.assign(**cells))
    for name, values in expected.items():
        assert found[name][: len(values)].tolist() == values
    assert graph.request(of_cells, CELLS.iloc[:0])["list"].shape == (0, 1)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            {"n": ["1", "x", "3"]},
            "'n' must hold integers. Received .*string, for example 'x'",
        ),
        ({"n": [1.5, 2, 3]}, "'n' must hold integers. Received double, for example 1.5"),
        ({"word": [1.5, None, 3]}, "'word' must hold strings or integers"),
        ({"list": [1, 2, 3]}, "'list' must hold lists. Received int64"),
        ({"list": [["q"], [2], []]}, "'list' must hold values of one type"),
    ],
)
def test_a_cell_that_is_none_of_its_columns_is_named(of_cells, cells, message):
    with pytest.raises(TypeError, match=message):
        graph.request(of_cells, CELLS.assign(**cells))
