"""Sequences of numbers, which have the embeddings of intervals."""

import copy

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import tfmoe
from tfmoe.data.encode import graph
from tfmoe.serving.export import tensors
from tfmoe.serving.sample_rows import sample_rows, typical_rows

EDGES = (-1.5, 0.0, 30.0)
NUMBERS = st.one_of(
    st.none(),
    st.sampled_from([*EDGES, 1e-310, float("inf"), float("nan"), -7, 2.5, 29.999, 1e9]),
)
CELLS = st.lists(st.one_of(st.none(), st.lists(NUMBERS, max_size=6)), min_size=1, max_size=6)
TASKS = [tfmoe.Binary("y")]


def ids_of(cell, length):
    """The oracle: the last positions, up to the last number that is there."""
    ids = [
        0
        if number is None or not np.isfinite(number)
        else 3 + sum(edge <= number for edge in EDGES)
        for number in cell or []
    ]
    while ids and not ids[-1]:
        ids.pop()
    ids = ids[-length:]
    return [*(ids if any(ids) else [1]), *[0] * length][:length]


def fitted(*columns, rows):
    schema = tfmoe.Schema(columns, TASKS)
    assert tfmoe.Schema.from_json(schema.to_json()) == schema
    return tfmoe.Preprocessor(schema).fit(rows, progress=False)


@pytest.fixture(scope="module")
def prep():
    rows = pd.DataFrame({"n": [[1.0], [2.0, 40.0]], "y": [0, 1]})
    return fitted(tfmoe.Sequence("n", boundaries=EDGES, max_length=4), rows=rows)


@pytest.fixture(scope="module")
def look_up(prep):
    return tf.function(graph.GraphEncoder(prep), input_signature=[graph.signature(prep)])


@given(CELLS)
@settings(deadline=None)
def test_each_number_has_the_id_of_its_interval(prep, look_up, cells):
    rows = pd.DataFrame({"n": pd.Series(cells, dtype=object)})
    found = prep.arrays(rows, labels=False)["n"]
    assert found.tolist() == [ids_of(cell, 4) for cell in cells]
    request = tensors(prep, rows)
    assert request["n"].dtype == tf.float64
    np.testing.assert_array_equal(look_up(request)["n"], found)


def aligned(num_rows=60):
    rng = np.random.default_rng(0)
    sizes = rng.integers(0, 6, num_rows)
    rows = pd.DataFrame({"item": rng.integers(0, 9, num_rows), "y": np.arange(num_rows) % 2})
    rows["seen"] = [rng.integers(0, 9, size).tolist() for size in sizes]
    rows["dwell"] = [rng.exponential(20, size).round(1).tolist() for size in sizes]
    rows.loc[::7, "dwell"] = None
    return rows


COLUMNS = (
    tfmoe.Categorical("item", dim=3),
    tfmoe.Sequence("seen", share="item", max_length=3, pooling=tfmoe.TargetAttention("item")),
    tfmoe.Sequence("dwell", aligned_with="seen", boundaries=EDGES, dim=2),
)


def test_beside_a_history_in_every_source(tmp_path):
    rows = aligned()
    prep = fitted(*COLUMNS, rows=rows)
    assert prep.lengths == {"seen": 3, "dwell": 3}
    expected = prep.arrays(rows, labels=False)
    for place, (items, numbers) in enumerate(zip(rows["seen"], rows["dwell"], strict=True)):
        if items and numbers:
            assert (expected["dwell"][place] > 0).tolist() == (expected["seen"][place] > 0).tolist()
            assert expected["dwell"][place].tolist() == ids_of(numbers, 3)
    rows.to_parquet(tmp_path / "t.parquet")
    feature = {
        "item": lambda row: tf.train.Feature(int64_list=tf.train.Int64List(value=[row["item"]])),
        "y": lambda row: tf.train.Feature(int64_list=tf.train.Int64List(value=[row["y"]])),
        "seen": lambda row: tf.train.Feature(int64_list=tf.train.Int64List(value=row["seen"])),
        "dwell": lambda row: tf.train.Feature(
            float_list=tf.train.FloatList(value=row["dwell"] or [])
        ),
    }
    with tf.io.TFRecordWriter(str(tmp_path / "t.tfrecord")) as writer:
        for row in rows.to_dict("records"):
            one = tf.train.Features(feature={name: make(row) for name, make in feature.items()})
            writer.write(tf.train.Example(features=one).SerializeToString())
    for name in ("t.parquet", "t.tfrecord"):
        own = tfmoe.Preprocessor(prep.schema).fit(tmp_path / name, progress=False)
        for each in (own, prep):
            found = each.arrays(tmp_path / name, labels=False)
            for column, values in expected.items():
                np.testing.assert_array_equal(found[column], values, err_msg=column)


def test_separated_text_and_weights():
    rows = pd.DataFrame({"n": ["1|40.5|", "-2", "", None], "w": ["1|2|3", "0.5", "", None]})
    rows["y"] = [0, 1, 0, 1]
    column = tfmoe.Sequence("n", boundaries=EDGES, separator="|", weights="w", max_length=3)
    prep = fitted(column, rows=rows)
    found = prep.arrays(rows, labels=False)
    assert found["n"].tolist() == [[5, 6, 0], [3, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert found["n_weights"].tolist() == [[1, 2, 0], [0.5, 0, 0], [1, 0, 0], [1, 0, 0]]
    encoder = graph.GraphEncoder(prep)
    served = encoder(tensors(prep, rows))
    for name, values in found.items():
        np.testing.assert_array_equal(served[name], values)
    for make in (lambda: sample_rows(prep, 40), lambda: typical_rows(prep, 3)):
        made = make()
        served = encoder(tensors(prep, made))
        for name, values in prep.arrays(made, labels=False).items():
            np.testing.assert_array_equal(served[name], values)


def test_saved_merged_and_grown(tmp_path):
    rows = aligned()
    prep = fitted(*COLUMNS, rows=rows)
    expected = prep.arrays(rows, labels=False)
    prep.save(tmp_path / "prep")
    loaded = tfmoe.Preprocessor.load(tmp_path / "prep")
    parts = [fitted(*COLUMNS, rows=part) for part in (rows[:30], rows[30:])]
    merged = parts[0].merge(parts[1])
    later = rows.assign(item=rows["item"] + 9)
    grown = copy.deepcopy(prep).grow(later, progress=False)
    for each in (loaded, merged, grown):
        np.testing.assert_array_equal(each.arrays(rows, labels=False)["dwell"], expected["dwell"])
    assert grown.table_sizes["item"] > prep.table_sizes["item"]
    assert grown.table_sizes["dwell"] == prep.table_sizes["dwell"] == 7


def test_a_model_trains_on_it_and_is_served(tmp_path):
    rows = aligned()
    model = tfmoe.MultiTaskModel(
        fitted(*COLUMNS, rows=rows), tfmoe.MMoE(num_experts=2, hidden_units=(4,)), wide=True
    )
    model.compile(jit_compile=False)
    before = np.array(model.encoder.tables["dwell"].embeddings)
    model.fit(rows, epochs=1, batch_size=30, verbose=0)
    after = np.array(model.encoder.tables["dwell"].embeddings)
    moved = np.any(before != after, axis=1)
    assert moved[[4, 5, 6]].any()
    assert not moved[2]  # nothing is unknown
    tfmoe.export(model, tmp_path / "served")  # compares the graph with the model
    model.save(tmp_path / "model.keras")
    again = tfmoe.load_model(tmp_path / "model.keras")
    expected = model.predict(rows, verbose=0)["y"]
    np.testing.assert_array_equal(again.predict(rows, verbose=0)["y"], expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"boundaries": [1, 1]}, r"larger than the one before. Received boundaries=\[1, 1\]"),
        ({"boundaries": 5}, r"Received boundaries=5"),
        ({"boundaries": [np.nan]}, r"boundaries"),
        (
            {"boundaries": [1], "hash_buckets": 5},
            r"no table of values. Received \['hash_buckets'\]",
        ),
        ({"boundaries": [1], "unknown_rate": 0.1}, r"Received \['unknown_rate'\] beside them"),
    ],
)
def test_what_cannot_be(given, message):
    with pytest.raises(ValueError, match=message):
        tfmoe.Sequence("n", **given)


def test_what_is_no_number_is_told():
    column = tfmoe.Sequence("n", boundaries=EDGES)
    with pytest.raises(TypeError, match=r"'n' must hold lists of numbers.*row 1 "):
        fitted(column, rows=pd.DataFrame({"n": [["1.5"], ["many"]], "y": [0, 1]}))
    with pytest.raises(TypeError, match=r"A Sequence of numbers may have a `separator`"):
        fitted(column, rows=pd.DataFrame({"n": ["1,2", "3"], "y": [0, 1]}))
    with pytest.raises(TypeError, match="'n' must hold lists of numbers"):
        fitted(column, rows=pd.DataFrame({"n": [1.5, 2.5], "y": [0, 1]}))
    with pytest.raises(ValueError, match="share"):
        tfmoe.Schema([column, tfmoe.Categorical("m", share="n")], TASKS)
