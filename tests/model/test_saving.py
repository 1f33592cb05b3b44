"""A model's file appears whole or not at all, and what it holds goes together."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pandas as pd
import pytest

import tfmoe


@pytest.fixture(scope="module")
def df():
    return pd.DataFrame(
        {
            "city": ["Rome", "Paris", "Oslo", "Rome"] * 5,
            "tags": [["a", "b"], ["a"], [], ["c", "a", "b"]] * 5,
            "age": np.arange(20.0),
            "click": [0, 1, 0, 1] * 5,
        }
    )


@pytest.fixture(scope="module")
def model(df):
    schema = tfmoe.Schema(
        [
            tfmoe.Categorical("city", dim=2),
            tfmoe.MultiCategorical("tags", dim=2),
            tfmoe.Numeric("age", transform="buckets", num_buckets=4, dim=2),
        ],
        [tfmoe.Binary("click")],
    )
    prep = tfmoe.Preprocessor(schema).fit(df, progress=False)
    return tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(3,)), tower_units=())


class Broken(Exception):
    pass


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_a_save_that_fails_leaves_the_older_file(model, df, tmp_path, monkeypatch, name):
    path = tmp_path / name
    save = model.save if name == "model.keras" else model.save_weights
    save(path)
    save(str(path))
    before = path.read_bytes()
    assert os.listdir(tmp_path) == [name]

    def broken(*arguments, **options):
        raise Broken

    monkeypatch.setattr(type(model.encoder), "save_own_variables", broken, raising=False)
    monkeypatch.setattr(type(model.head), "save_own_variables", broken, raising=False)
    with pytest.raises(Broken):
        save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [name]
    with pytest.raises(FileExistsError, match="Nothing is written over"):
        save(path, overwrite=False)


def test_an_unzipped_model_takes_the_place_of_an_older_one(model, df, tmp_path):
    for _ in range(2):
        model.save(tmp_path / "folder", zipped=False)
    assert os.listdir(tmp_path) == ["folder"]
    again = keras.saving.load_model(tmp_path / "folder")
    np.testing.assert_array_equal(
        again.predict(df, verbose=0)["click"], model.predict(df, verbose=0)["click"]
    )


def test_a_folder_with_something_else_in_it_stays(model, tmp_path):
    folder = tmp_path / "models"
    model.save(folder, zipped=False)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"in which lie \['notes.txt'\]"):
        model.save(folder, zipped=False)
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "config.json").exists()
    folder = folder.rename(tmp_path / "model.keras")
    with pytest.raises(FileExistsError, match="Name a folder for the model alone"):
        model.save(folder)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_hub_is_left_to_keras(model, monkeypatch):
    given = []
    monkeypatch.setattr(keras.Model, "save", lambda self, *args, **kwargs: given.append(args))
    model.save("hf://me/model", overwrite=False)
    assert given == [("hf://me/model", False)]


KILLED = """
import os, signal, sys
import keras, tfmoe
@keras.saving.register_keras_serializable("here")
class Killing(tfmoe.SharedBottom):
    def save_own_variables(self, store):
        os.kill(os.getpid(), signal.SIGKILL)
schema = tfmoe.Schema([tfmoe.Numeric("age", transform="none")], [tfmoe.Binary("click")])
tfmoe.MultiTaskModel(schema, Killing(hidden_units=(3,))).save(sys.argv[1])
"""


@pytest.mark.slow
def test_a_killed_save_leaves_the_older_file(model, tmp_path):
    path = tmp_path / "model.keras"
    model.save(path)
    before = path.read_bytes()
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert path.read_bytes() == before
    assert len(os.listdir(tmp_path)) == 2
    model.save(path)
    assert os.listdir(tmp_path) == ["model.keras"]


def changed(model, tmp_path, document=None, config=None, arrays=None):
    """The model's file, with parts of it changed."""
    model.save(tmp_path / "model.keras")
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(tmp_path / "model.keras") as packed:
        packed.extractall(folder)
    (assets,) = (path.parent for path in folder.rglob("preprocessor.json"))
    if arrays:
        with np.load(assets / "arrays.npz") as file:
            held = dict(file)
        arrays(held)
        np.savez_compressed(assets / "arrays.npz", **held)
    for path, change in (
        (assets / "preprocessor.json", document),
        (folder / "config.json", config),
    ):
        if change:
            held = json.loads(path.read_text())
            change(held)
            path.write_text(json.dumps(held))
    shutil.make_archive(str(tmp_path / "changed"), "zip", folder)
    os.rename(tmp_path / "changed.zip", tmp_path / "changed.keras")
    return tmp_path / "changed.keras"


def longer(arrays):
    arrays["text/city"] = np.frombuffer(b"ParisRomeOsloBonn", np.uint8)
    arrays["offsets/city"] = np.array([0, 5, 9, 13, 17])
    arrays["counts/city"] = np.ones(4, np.int64)


def several(arrays):
    arrays["offsets/city"] = np.array([0, 5, 999, 13])


def twice(arrays):
    arrays["text/city"] = np.frombuffer(b"RomeRomeOslo", np.uint8)
    arrays["offsets/city"] = np.array([0, 4, 8, 12])


def enormous(lengths):
    lengths["tags"] = 10**10


DOCUMENTS = {
    "another task": (lambda d: d["schema"]["tasks"][0].update(weight=2.0), None, "tasks="),
    "another column": (lambda d: d["schema"]["columns"][2].update(num_buckets=9), None, "columns="),
    "no column": (lambda d: d["schema"]["columns"].pop(), None, "columns="),
    "longer": (lambda d: d["vocabulary"].update(city=4), longer, "table_sizes="),
    "shorter": (lambda d: d["vocabulary"].update(city=2), None, "table_sizes="),
    "as long as it says": (lambda d: d["vocabulary"].update(city=7), None, "has not 7 values"),
    "uncounted": (None, lambda a: a.update({"counts/city": np.ones(9, int)}), "have 9 counts"),
    "twice": (None, twice, "'city' has a value twice"),
    "outside": (None, several, "[Oo]ffset"),
    "lengths": (lambda d: d["lengths"].update(tags=2), None, "lengths="),
    "enormous": (lambda d: enormous(d["lengths"]), None, "`lengths` are"),
    "no lengths": (lambda d: d["lengths"].clear(), None, "`lengths` are"),
    "no numbers": (lambda d: d["numeric"].clear(), None, r"nothing was fitted of \['age'\]"),
    "no means": (lambda d: d.pop("label_means"), None, "KeyError: 'label_means'"),
    "not finite": (
        None,
        lambda a: a.update({"boundaries/age": np.array([1.0, np.nan])}),
        "'age' is not finite",
    ),
    "falling": (
        None,
        lambda a: a.update({"boundaries/age": np.array([2.0, 1.0])}),
        "or not in order",
    ),
    "no array": (None, lambda a: a.pop("boundaries/age"), "KeyError"),
    "a number for text": (lambda d: d["dtypes"].update(city="int"), None, "another type"),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_vocabularies_of_another_model_are_refused(model, tmp_path, name):
    document, arrays, message = DOCUMENTS[name]
    path = changed(model, tmp_path, document, arrays=arrays)
    with pytest.raises(ValueError, match=message):
        keras.saving.load_model(path)


CONFIGS = {
    "table": (lambda c: c["table_sizes"].update(city=10**12), "Received table_sizes="),
    "buckets": (lambda c: c["table_sizes"].update(age=10**9), "Received table_sizes="),
    "too few": (lambda c: c["table_sizes"].pop("city"), "Received table_sizes="),
    "lengths": (lambda c: enormous(c["lengths"]), "Received lengths="),
    "both": (lambda c: c["lengths"].update(tags=-1), "Received lengths="),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_sizes_are_checked_before_anything_is_made(model, tmp_path, name):
    change, message = CONFIGS[name]
    path = changed(model, tmp_path, config=lambda held: change(held["config"]))
    with pytest.raises(ValueError, match=message):
        keras.saving.load_model(path)


def test_an_unchanged_model_loads(model, df, tmp_path):
    again = keras.saving.load_model(changed(model, tmp_path))
    np.testing.assert_array_equal(
        again.predict(df, verbose=0)["click"], model.predict(df, verbose=0)["click"]
    )


def test_an_array_says_no_more_than_there_is(model, tmp_path):
    model.preprocessor.save(tmp_path / "prep")
    with zipfile.ZipFile(tmp_path / "prep" / "arrays.npz") as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    name = "boundaries/age.npy"
    members[name] = members[name].replace(b"(3,)", b"(10000000000,)")
    with zipfile.ZipFile(tmp_path / "prep" / "arrays.npz", "w") as packed:
        for member, data in members.items():
            packed.writestr(member, data)
    with pytest.raises(ValueError, match=r"'boundaries/age\.npy' is cut off"):
        tfmoe.Preprocessor.load(tmp_path / "prep")


@pytest.mark.slow
def test_every_part_that_is_frozen_stays_so(tmp_path):
    rows = pd.DataFrame({"a": ["x", "y"] * 8, "b": np.arange(16.0), "click": [0, 1] * 8, "buy": 0})
    tasks = [tfmoe.Binary("click"), tfmoe.Binary("buy", given="click", link="escm2-dr")]
    schema = tfmoe.Schema([tfmoe.Categorical("a", dim=4), tfmoe.Numeric("b")], tasks)
    prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    model = tfmoe.MultiTaskModel(
        prep,
        tfmoe.SharedBottom(hidden_units=(3,)),
        (2,),
        wide=True,
        interactions=[tfmoe.FM(), tfmoe.Cross()],
    )
    for part in (model.wide, model.interactions, model.imputation):
        part.trainable = False
    model.compile("adam", jit_compile=False)
    model.fit(prep.dataset(rows, 4), verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert len(again.trainable_variables) == len(model.trainable_variables)
    assert int(again.optimizer.iterations) == 4
    grown = model.grow(prep.grow(pd.concat([rows, rows.assign(a="z")])))
    for other in (again, grown):
        parts = [other.wide, other.interactions, other.imputation]
        assert not any(layer.trainable_weights for layer in parts)
        before = [np.asarray(one) for part in parts for one in part.weights]
        other.fit(other.training_preprocessor.dataset(rows, 4), verbose=0)
        for one, values in zip((w for part in parts for w in part.weights), before, strict=True):
            np.testing.assert_array_equal(one, values)
