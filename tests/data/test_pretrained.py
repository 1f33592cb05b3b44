"""Vectors that were made elsewhere: how they come, what they become, who has none."""

import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tfmoe

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
