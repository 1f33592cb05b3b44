"""Large vocabularies are bisected: in tables, and inside a served graph, which holds no values."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import tfmoe
from tfmoe.data.encode import vocabulary
from tfmoe.data.encode.graph_tables import graph_table
from tfmoe.data.encode.sorted_table import SortedTable
from tfmoe.data.encode.vocabulary import Vocabulary
from tfmoe.schema.columns import FIRST_ID, MISSING_ID, UNKNOWN_ID
from tfmoe.serving.export import tensors

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
INTEGER = st.integers(-(2**63) + 1, 2**63 - 1)


@pytest.fixture(autouse=True)
def large(monkeypatch):
    """Few values are many."""
    monkeypatch.setattr(vocabulary, "LARGE", 3)


def filled(values, kind, free):
    """A vocabulary with free ids."""
    cells = [None if place in free else value for place, value in enumerate(values)]
    return Vocabulary(pa.array(cells, kind)), {
        value: FIRST_ID + place for place, value in enumerate(cells) if value is not None
    }


@given(
    st.lists(TEXT, unique=True, min_size=8, max_size=30),
    st.sets(st.integers(0, 3)),
    st.lists(TEXT, max_size=5),
)
def test_text_has_its_id(known, free, others):
    table, ids = filled(known, pa.large_string(), free)
    # Of few, as it would be of large tables; and one after the other.
    asked = [*known[:2], *others, *known[-2:]]
    for some in (asked[:3], asked):
        expected = [ids.get(text, UNKNOWN_ID) for text in some]
        for one, wanted in zip(some, expected, strict=True):
            assert table.text_ids(pa.array([one])).tolist() == [wanted]
        assert graph_table(table, text=True).lookup(tf.constant(some)).numpy().tolist() == (
            expected
        )


@given(
    st.lists(INTEGER, unique=True, min_size=8, max_size=30),
    st.sets(st.integers(0, 3)),
    st.lists(INTEGER, max_size=5),
)
def test_integers_have_their_id(known, free, others):
    table, ids = filled(known, pa.int64(), free)
    asked = [*known, *others]
    expected = [ids.get(value, UNKNOWN_ID) for value in asked]
    found = graph_table(table, text=False).lookup(tf.constant(asked, tf.int64))
    assert table.int_ids(np.array(asked)).tolist() == expected == found.numpy().tolist()
    # The same integers as text.
    text = list(map(str, asked))
    found = graph_table(table, text=True).lookup(tf.constant(text))
    assert found.numpy().tolist() == expected
    assert table.text_ids(pa.array(text[:2])).tolist() == expected[:2]


def test_lists_keep_their_shape():
    table = graph_table(Vocabulary(pa.array(list("abcde"), pa.large_string())), text=True)
    assert isinstance(table, SortedTable)
    found = table.lookup(tf.constant([["a", "x"], ["e", "b"]]))
    assert found.numpy().tolist() == [[FIRST_ID, UNKNOWN_ID], [FIRST_ID + 4, FIRST_ID + 1]]
    assert table.lookup(tf.zeros((0, 2), tf.string)).shape == (0, 2)


def test_values_of_one_hash_are_told_apart(monkeypatch):
    def alike(text):
        return np.zeros(len(text), np.int64)

    monkeypatch.setattr(vocabulary, "fingerprints", alike)
    table = Vocabulary(pa.array(list("abcde"), pa.large_string()))
    assert table.text_ids(pa.array(["d"])).tolist() == [FIRST_ID + 3]
    found = graph_table(table, text=True)
    assert not isinstance(found, SortedTable)
    assert found.lookup(tf.constant(["d", "x"])).numpy().tolist() == [FIRST_ID + 3, UNKNOWN_ID]


def test_a_served_graph_holds_no_values(monkeypatch, tmp_path):
    number = 4000
    values = [f"a rather long name of somebody, {i}" for i in range(number)]
    rows = pd.DataFrame({"user": values, "item": np.arange(number), "like": np.arange(number) % 2})
    rows["seen"] = [[i, i + 1] for i in range(number)]
    columns = [
        tfmoe.Categorical("user"),
        tfmoe.Categorical("item"),
        tfmoe.Sequence("seen", share="item"),
    ]
    prep = tfmoe.Preprocessor(tfmoe.Schema(columns, [tfmoe.Binary("like")])).fit(rows)
    model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(4,)), tower_units=())
    sizes = []
    for large in (10, 10**6):
        monkeypatch.setattr(vocabulary, "LARGE", large)
        path = tfmoe.export(model, tmp_path / "served")
        sizes.append((path / "saved_model.pb").stat().st_size)
        asked = pd.concat([rows[::50], rows[:3].assign(user=["", "new", None], item=-(2**63))])
        served = tf.saved_model.load(str(path)).signatures["serving_default"]
        found = served(**tensors(prep, asked))["like"].numpy()
        expected = model.predict(asked, verbose=0)["like"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert sizes[0] < sizes[1] - 40 * number
    assert MISSING_ID in prep.arrays(asked, labels=False)["user"]
