"""Vectors that were made elsewhere: how they come, what they become, who has none."""

import copy
import decimal
import pickle

import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

import tfmoe
from tfmoe.data.encode import graph
from tfmoe.data.read.vectors import read_vectors
from tfmoe.serving.export import tensors
from tfmoe.serving.sample_rows import sample_rows, typical_rows

IDS = np.array([30, 10, 20])
VECTORS = np.array([[3.0, 0.3], [1.0, 0.1], [2.0, 0.2]], "float32")
TASKS = [tfmoe.Binary("y")]


def fitted(vectors, cells=(10, 20, None, 99), **options):
    column = tfmoe.Pretrained("item", vectors=vectors, **options)
    rows = pd.DataFrame({"item": pd.Series(cells, dtype=object), "y": 0})
    prep = tfmoe.Preprocessor(tfmoe.Schema([column], TASKS))
    return prep.fit(rows, progress=False), rows


def forms(folder):
    np.savez(folder / "v.npz", ids=IDS, vectors=VECTORS)
    table = pa.table({"id": IDS, "vector": list(VECTORS)})
    pq.write_table(table, folder / "v.parquet")
    by_place = np.zeros((31, 2), "float32")
    by_place[IDS] = VECTORS
    np.save(folder / "v.npy", by_place)
    return {
        "dict": dict(zip(IDS.tolist(), VECTORS.tolist(), strict=True)),
        "frame": pd.DataFrame(VECTORS, index=IDS),
        "npz": folder / "v.npz",
        "parquet": str(folder / "v.parquet"),
        "npy": folder / "v.npy",
    }


@pytest.mark.parametrize("form", ["dict", "frame", "npz", "parquet", "npy"])
def test_vectors_come_in_many_forms(tmp_path, form):
    with pytest.warns(UserWarning, match="1 of 3 cells of 'item' name values without a vector"):
        prep, rows = fitted(forms(tmp_path)[form])
    ids = prep.arrays(rows)[0]["item"].tolist()
    assert ids[2:] == [1, 2]
    assert prep.lengths == {"item": 2}
    assert prep.table_sizes == {"item": 34 if form == "npy" else 6}
    np.testing.assert_array_equal(prep.fits["item"].vectors[np.array(ids[:2]) - 3], VECTORS[1:])
    # Text of digits is the same, and a schema's file has the path of a file.
    texts = pd.DataFrame({"item": ["10", "20", "", "x"], "y": 0})
    assert prep.arrays(texts)[0]["item"].tolist() == ids
    written = tfmoe.Schema.from_json(prep.schema.to_json())
    assert written == prep.schema
    assert isinstance(written.columns[0].vectors, str) == (form not in ("dict", "frame"))
    prep.save(tmp_path / "prep")
    again = tfmoe.Preprocessor.load(tmp_path / "prep")
    assert again.arrays(rows)[0]["item"].tolist() == ids


@pytest.mark.parametrize("form", ["dict", "frame", "npz", "parquet"])
@pytest.mark.parametrize(
    "ids",
    [
        np.array([30.0, 10.0, 20.0]),
        np.array([30.0, 10.0, 20.0], "float32"),
        np.array(["30.0", "10", " 20 "]),
        np.array([30, 10.0, "20"], object),
        np.array([decimal.Decimal("30.00"), decimal.Decimal(10), decimal.Decimal(20)], object),
    ],
    ids=repr,
)
def test_ids_are_integers_however_they_are_written(tmp_path, form, ids):
    if ids.dtype == object and (form == "npz" or (form == "parquet" and isinstance(ids[2], str))):
        return  # such files have one type
    if form == "npz":
        np.savez(tmp_path / "v.npz", ids=ids, vectors=VECTORS)
    elif form == "parquet":
        pq.write_table(pa.table({"id": ids, "vector": list(VECTORS)}), tmp_path / "v.parquet")
    vectors = {
        "dict": dict(zip(ids.tolist(), VECTORS.tolist(), strict=True)),
        "frame": pd.DataFrame(VECTORS, index=ids),
    }.get(form, str(tmp_path / f"v.{form}"))
    prep, rows = fitted(vectors, [10, 20, 30])
    expected = [VECTORS[1], VECTORS[2], VECTORS[0]]
    for kind in (int, float, str, object):
        found = prep.arrays(rows.astype({"item": kind}))[0]["item"]
        np.testing.assert_array_equal(prep.fits["item"].vectors[found - 3], expected)


def test_ids_with_fractions_are_texts():
    prep, rows = fitted({1.5: [1.0], 2.0: [2.0]}, ["1.5", "2"])
    assert prep.arrays(rows)[0]["item"].tolist() == [3, 4]
    assert prep.vocabulary("item").to_pylist() == ["1.5", "2"]
    with pytest.raises(TypeError, match=r"ids of Pretrained\('item'\).*cannot tell them apart"):
        fitted({2.0**60: [1.0], 2.0: [2.0]})


@pytest.mark.parametrize("gap", [None, np.nan, pd.NA], ids=repr)
def test_each_vector_has_an_id(tmp_path, gap):
    table = pa.table({"id": pa.array([1, 2, None]), "v": [[0.0], [1.0], [5.0]]})
    pq.write_table(table, tmp_path / "v.parquet")
    for vectors in (
        str(tmp_path / "v.parquet"),
        pd.DataFrame([[0.0], [1.0], [5.0]], index=[1, 2, gap]),
        pd.DataFrame([[0.0], [1.0], [5.0]], index=pd.Index(["a", "b", gap], dtype=object)),
        {1: [0.0], 2: [1.0], gap: [5.0]},
    ):
        with pytest.raises(ValueError, match=r"Received no id of the vector in place 2"):
            fitted(vectors)


@pytest.mark.quick(1)
@pytest.mark.filterwarnings("ignore:.*without a vector")
@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("projection", [None, 3])
def test_vectors_stay_or_are_trained(tmp_path, trainable, projection):
    keras.utils.set_random_seed(0)
    vectors = {"a": [1.0, 2.0], "b": [3.0, 4.0]}
    options = {"trainable": trainable, "projection": projection}
    prep, rows = fitted(vectors, ["a", "b", None, "c"] * 4, **options)
    model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(32,)))
    table = model.encoder.tables["item"]
    ids = prep.arrays(rows)[0]["item"]
    assert tuple(table(ids).shape) == (16, projection or 2)
    if projection is None:
        np.testing.assert_array_equal(table(ids)[:2], [[1, 2], [3, 4]])
    model.trainable = True
    model.compile("adam", jit_compile=False)
    held = {weight.path: np.array(weight) for weight in table.weights}
    model.fit(*prep.arrays(rows), verbose=0)
    moved = {
        weight.path.split("/")[-1]: np.any(np.array(weight) != held[weight.path])
        for weight in table.weights
        if "special" not in weight.path
    }
    name = "embeddings" if trainable else "frozen"
    assert moved == {name: trainable, **({"kernel": True} if projection else {})}
    special = next(weight for weight in table.weights if "special" in weight.path)
    changed = np.any(np.array(special) != held[special.path], axis=1)
    assert changed.tolist() == [False, True, True]
    model.save(tmp_path / "model.keras")
    again = tfmoe.load_model(tmp_path / "model.keras")
    expected = model.predict(rows, verbose=0)["y"]
    np.testing.assert_array_equal(again.predict(rows, verbose=0)["y"], expected)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({1: [1.0], 2: [1.0, 2.0]}, "no table of numbers"),
        ({1: [np.nan]}, "not finite"),
        (pd.DataFrame([[1.0], [2.0]], index=["a", "a"]), "the id 'a' twice"),
        ({}, "0 ids"),
        ([1, 2], "vectors=list"),
        ("v.txt", "vectors='v.txt'"),
        (None, "vectors=None"),
    ],
)
def test_what_is_no_table_of_vectors(vectors, message):
    with pytest.raises(ValueError, match=message):
        fitted(vectors)


def test_parts_are_merged():
    vectors = {"a": [1.0, 2.0]}
    column = tfmoe.Pretrained("item", vectors=vectors)
    parts = [
        tfmoe.Preprocessor(tfmoe.Schema([column], TASKS)).fit({"item": ["a", None], "y": [0, 1]})
        for _ in range(2)
    ]
    assert parts[0].merge(parts[1]).num_rows == 4


def sharing(strings, **options):
    """A column with vectors, and four that share them."""
    vectors = {(f"i{n}" if strings else n): [n, 0.5] for n in (30, 10, 20)}
    return tfmoe.Schema(
        [
            tfmoe.Sequence("seen", share="item", max_length=3),
            tfmoe.Sequence("kinds", aligned_with="seen", hash_buckets=9, dtype="string"),
            tfmoe.Pretrained("item", vectors=vectors, **options),
            tfmoe.MultiCategorical("parts", share="item", separator="|", max_length=None),
            tfmoe.Categorical("last", share="item"),
        ],
        TASKS,
    )


def histories(strings):
    def named(cell):
        if isinstance(cell, list):
            return [named(one) for one in cell]
        return None if cell is None else f"i{cell}" if strings else cell

    cells = {
        "seen": [[10, 20, 30, 99], [], None, [None, 10, None]],
        "item": [20, 99, None, 30],
        "last": [10, 10, 77, None],
        "parts": [[30, 10], [20], None, [99, 77]],
    }
    rows = {name: [named(cell) for cell in own] for name, own in cells.items()}
    rows["parts"] = [None if one is None else "|".join(map(str, one)) for one in rows["parts"]]
    rows["kinds"] = [["a", "b", "c", "d"], [], ["e"], ["a", None, None]]
    return pd.DataFrame({name: pd.Series(own, dtype=object) for name, own in rows.items()})


# The vectors have the ids 3 to 5 in their order.
SHARED = {
    "seen": [[5, 3, 2], [1, 0, 0], [0, 0, 0], [0, 4, 0]],
    "item": [5, 2, 1, 3],
    "last": [4, 4, 2, 1],
    "parts": [[3, 4], [5, 0], [1, 0], [2, 2]],
}


@pytest.mark.parametrize("strings", [False, True])
def test_other_columns_share_the_values_and_their_vectors(tmp_path, strings):
    schema, rows = sharing(strings), histories(strings).assign(y=0)
    words = "5 of 16 values of 'item' and 'seen' and 'parts' and 'last' name values without"
    with pytest.warns(UserWarning, match=words):
        prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    assert prep.lengths == {"seen": 3, "kinds": 3, "item": 2, "parts": 2}
    assert prep.table_sizes == {"kinds": 12, "item": 6}
    kind = "string" if strings else "int"
    assert {prep.dtypes[name] for name in SHARED} == {kind}
    known = ["i30", "i10", "i20"] if strings else [30, 10, 20]
    assert prep.vocabulary("seen").to_pylist() == prep.vocabulary("item").to_pylist() == known
    assert tfmoe.Schema.from_json(schema.to_json()) == schema

    with pytest.warns(UserWarning, match="without a vector"):
        parts = [tfmoe.Preprocessor(schema).fit(part, progress=False) for part in (rows, rows[:2])]
    merged = parts[0].merge(parts[1])
    merged.save(tmp_path / "merged")
    prep.save(tmp_path / "plain", state=False)
    loaded = tfmoe.Preprocessor.load(tmp_path / "merged")
    rows.to_parquet(tmp_path / "rows.parquet")
    for one in (prep, merged, loaded, tfmoe.Preprocessor.load(tmp_path / "plain")):
        for source in (rows, tmp_path / "rows.parquet"):
            found = one.arrays(source, labels=False)
            for name, ids in SHARED.items():
                assert found[name].tolist() == ids, name
    assert loaded.merge(parts[1]).num_rows == 8


def test_a_graph_reads_shared_vectors_as_training_does():
    for strings in (False, True):
        schema, rows = sharing(strings), histories(strings).assign(y=0)
        with pytest.warns(UserWarning, match="without a vector"):
            prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
        encoder = graph.GraphEncoder(prep)
        # Of one table there is one look-up, but where text is parted for a table of integers.
        assert len(encoder.tables) == (1 if strings else 2)
        for seed in range(3):
            odd = pd.concat([rows.drop(columns="y"), sample_rows(prep, 30, seed)])
            odd = odd.reset_index(drop=True)
            expected, found = prep.arrays(odd, labels=False), encoder(tensors(prep, odd))
            for name, ids in expected.items():
                np.testing.assert_array_equal(found[name], ids, err_msg=name)
        assert len(typical_rows(prep, 3)) == 3


def test_records_have_histories_of_what_has_vectors(tmp_path):
    path, rows = tmp_path / "rows.tfrecord", histories(False)
    columns = [sharing(False).column(name) for name in ("seen", "item")]
    prep = tfmoe.Preprocessor(tfmoe.Schema(columns, TASKS))
    with tf.io.TFRecordWriter(str(path)) as writer:
        for seen, item in zip(rows["seen"], rows["item"], strict=True):
            given = [one for one in seen or [] if one is not None]
            cells = {"seen": given, "item": [] if item is None else [item], "y": [1]}
            features = {
                name: tf.train.Feature(int64_list=tf.train.Int64List(value=values))
                for name, values in cells.items()
            }
            record = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(record.SerializeToString())
    with pytest.warns(UserWarning, match="2 of 8 values of 'item' and 'seen'"):
        prep.fit(path, progress=False)
    found = prep.arrays(path)[0]
    assert found["seen"].tolist() == [[5, 3, 2], [1, 0, 0], [1, 0, 0], [4, 0, 0]]
    assert found["item"].tolist() == SHARED["item"]


def test_further_vectors_are_those_of_all_columns():
    schema, rows = sharing(False), histories(False).assign(y=0)
    with pytest.warns(UserWarning, match="without a vector"):
        prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    with pytest.warns(UserWarning, match="2 of 16 values"):
        grown = prep.grow(rows, vectors={"item": {99: [9.0, 9.0]}}, progress=False)
    found = grown.arrays(rows, labels=False)
    assert found["seen"][0].tolist() == [5, 3, 6]
    assert found["parts"][3].tolist() == [6, 2]
    assert grown.table_sizes["item"] == 7


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            [tfmoe.Vector("item"), tfmoe.Sequence("seen", share="item")],
            r"or the vectors of a Pretrained. Received share='item'; such columns are \[\]",
        ),
        (
            [
                tfmoe.Pretrained("item"),
                tfmoe.Sequence("seen", share="item", pooling=tfmoe.BST("kind")),
                tfmoe.Categorical("kind"),
            ],
            r"such columns are \['item'\]",
        ),
    ],
)
def test_what_shares_no_vectors(columns, message):
    with pytest.raises(ValueError, match=message):
        tfmoe.Schema(columns, TASKS)


def test_parts_merge_by_the_vectors_that_they_have(tmp_path):
    """Those that came by growth are there in copies, pickles and files too; others are refused."""
    rows = pd.DataFrame({"p": ["a", "b"], "click": [0, 1], "like": [1, 0]})
    tasks = [tfmoe.Binary("click"), tfmoe.Binary("like")]

    def fit(**vectors):
        column = tfmoe.Pretrained("p", vectors={name: [value] for name, value in vectors.items()})
        return tfmoe.Preprocessor(tfmoe.Schema([column], tasks)).fit(rows, progress=False)

    prep = fit(a=1.0, b=2.0)
    assert prep.merge(fit(a=1.0, b=2.0)).vocabulary("p").to_pylist() == ["a", "b"]
    for other in (fit(a=9.0, b=2.0), fit(a=1.0, b=2.0, c=3.0)):
        with pytest.raises(ValueError, match=r"same vectors.*column 'p'"):
            prep.merge(other)
    grown = prep.grow(rows, vectors={"p": {"c": [3.0]}}, progress=False)
    grown.save(tmp_path / "grown")
    loaded = tfmoe.Preprocessor.load(tmp_path / "grown")
    for one in (grown, loaded, pickle.loads(pickle.dumps(grown)), copy.deepcopy(loaded)):
        for part in (one, one.select("click"), copy.copy(one)):
            merged = part.merge(part)
            assert merged.vocabulary("p").to_pylist() == ["a", "b", "c"]
            assert merged.num_rows == 2 * part.num_rows


def test_ids_of_64_bits_without_a_sign_have_their_vectors():
    """As a categorical column of such ids they are text."""
    ids = np.array([5, 2**63 + 5], np.uint64)
    column = tfmoe.Pretrained("p", vectors=pd.DataFrame([[1.0], [2.0]], index=ids))
    rows = pd.DataFrame({"p": ids, "click": [0, 1]})
    schema = tfmoe.Schema([column], [tfmoe.Binary("click")])
    prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    assert prep.arrays(rows, labels=False)["p"].tolist() == [3, 4]


def test_a_loaded_one_takes_a_task_without_its_vectors(tmp_path):
    """They were given in memory, so the saved schema has them no more, but the fit has."""
    prep, rows = fitted({1: [0.0, 1.0], 2: [1.0, 0.0]}, [1, 2, 1, 2])
    rows["z"] = [1.0, 2.0, 3.0, 4.0]
    prep.save(tmp_path / "with")
    prep.save(tmp_path / "without", state=False)
    fresh = prep.add_task(tfmoe.Regression("z"), rows=rows)
    for name in ("with", "without"):
        loaded = tfmoe.Preprocessor.load(tmp_path / name)
        later = loaded.add_task(tfmoe.Regression("z"), rows=rows)
        assert later.label_moments == fresh.label_moments == {"z": (2.5, 1.25**0.5)}
        assert later.label_means == fresh.label_means == {"y": 0, "z": 2.5}
        np.testing.assert_array_equal(later.arrays(rows)[0]["item"], prep.arrays(rows)[0]["item"])


def test_objects_in_numpys_files_are_told(tmp_path):
    ids = np.array(["a", "b"], object)
    np.savez(tmp_path / "v.npz", ids=ids, vectors=np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"^item takes.*v.npz's ids, .*ids.astype\(str\)"):
        read_vectors(str(tmp_path / "v.npz"), "item")
    np.save(tmp_path / "v.npy", np.array([[1.0], [1.0, 2.0]], object))
    with pytest.raises(ValueError, match=r"v.npy, an array.*np.stack\(vectors\)"):
        read_vectors(str(tmp_path / "v.npy"), "item")


def test_a_frame_may_hold_lists_as_a_file_does():
    frame = pd.DataFrame({"v": [[1.0, 2.0], [3.0, 4.0]]}, index=["a", "b"])
    ids, vectors = read_vectors(frame, "item")
    assert ids.tolist() == ["a", "b"]
    np.testing.assert_array_equal(vectors, [[1, 2], [3, 4]])
    plain = pd.DataFrame({"v": pd.Series([1.0, 2.0], index=["a", "b"], dtype=object)})
    np.testing.assert_array_equal(read_vectors(plain, "item")[1], [[1], [2]])


def test_the_unknown_vector_is_trained_where_asked():
    rows = pd.DataFrame({"item": [10, 20, 30, None], "y": [0.0, 1.0, 0.0, 1.0]})
    vectors = {10: [1.0, 2.0], 20: [3.0, 4.0], 30: [5.0, 6.0]}
    for rate in (0.0, 1.0):
        column = tfmoe.Pretrained("item", vectors=vectors, unknown_rate=rate)
        schema = tfmoe.Schema([column], [tfmoe.Binary("y")])
        assert tfmoe.Schema.from_json(schema.to_json()).columns[0].unknown_rate == rate
        prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
        model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(2,)))
        x = prep.arrays(rows, labels=False)
        unknown = prep.arrays(rows.assign(item=[99, 99, 99, None]), labels=False)
        made = np.array(model.encoder(x, training=True))
        np.testing.assert_array_equal(made, model.encoder(unknown if rate else x, training=False))
        np.testing.assert_array_equal(model.encoder(x)[0], vectors[10])
