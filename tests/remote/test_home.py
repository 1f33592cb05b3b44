"""`~` at a path's beginning is the user's folder; a shell leaves it as it is in `--out=~/a`."""

import json

import keras
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import tfmoe
from tfmoe.cli.app import app


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The user's folder; the current one is another, where no folder named `~` may appear."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))  # Windows
    monkeypatch.chdir(here)
    yield home
    assert list(here.iterdir()) == []


def table(home):
    frame = pd.DataFrame({"x": np.arange(64.0), "y": np.arange(64) % 2})
    frame.to_csv(home / "rows.csv", index=False)
    return frame


def test_read_and_written_from_python(home):
    frame = table(home)
    schema = tfmoe.Schema([tfmoe.Numeric("x")], [tfmoe.Binary("y")])
    assert tfmoe.Schema.infer("~/rows.csv", ["y"]).columns[0].name == "x"
    schema.save("~/schema.yaml")
    assert tfmoe.Schema.load("~/schema.yaml") == schema
    prep = tfmoe.Preprocessor(schema).fit("~/rows.csv", progress=False)
    prep.save("~/deep/prep")
    prep = tfmoe.Preprocessor.load("~/deep/prep")
    model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(2,)), tower_units=())
    model.compile(metrics={"y": []})
    kept = [tfmoe.Checkpoint("~/kept", every_steps=1), tfmoe.TaskCheckpoint("~/best")]
    model.fit("~/r*.csv", epochs=1, batch_size=32, verbose=0, callbacks=kept)
    assert list((home / "kept").iterdir())
    assert (home / "best" / "y.keras").exists()
    model.save("~/model.keras")
    scores = tfmoe.load_model("~/model.keras").predict("~/rows.csv", verbose=0)["y"]
    np.testing.assert_array_equal(scores, model.predict(frame, verbose=0)["y"])
    model.save_weights("~/w.weights.h5")
    model.load_weights("~/w.weights.h5")
    assert tfmoe.export(model, "~/served") == home / "served" / "1"


def test_callbacks_of_keras_write_there_and_go_on(home):
    frame = table(home)
    schema = tfmoe.Schema([tfmoe.Numeric("x")], [tfmoe.Binary("y")])
    prep = tfmoe.Preprocessor(schema).fit(frame, progress=False)

    def losses(epochs):
        keras.utils.set_random_seed(0)
        model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(2,)), tower_units=())
        model.compile("sgd", metrics={"y": []})
        callbacks = [
            keras.callbacks.BackupAndRestore("~/backup", delete_checkpoint=False),
            keras.callbacks.ModelCheckpoint("~/models/{epoch}.keras"),
            keras.callbacks.CSVLogger("~/log.csv"),
        ]
        how = {"batch_size": 32, "shuffle": False, "verbose": 0, "callbacks": callbacks}
        return model.fit(*prep.arrays(frame), epochs=epochs, **how).history["loss"]

    losses(1)
    assert len(losses(3)) == 2
    found = sorted(path.name for path in home.rglob("*") if path.is_file())
    expected = ["1.keras", "2.keras", "3.keras", "latest.weights.h5", "log.csv", "rows.csv"]
    assert found == [*expected, "training_metadata.json"]


def test_written_by_the_command_line(home):
    table(home)

    def done(*words):
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == 0, result.output
        return result.output

    done("schema", "~/rows.csv", "--label", "y", "--out=~/some/schema.yaml")
    assert (home / "some" / "schema.yaml").exists()
    assert done("schema", "~/rows.csv", "--label", "y", "--out=~/other.json")
    assert json.loads((home / "other.json").read_text())


@pytest.mark.parametrize(
    "read",
    [
        tfmoe.datasets.school,
        tfmoe.datasets.movielens,
        lambda path: tfmoe.datasets.aliexpress(path, "NL"),
    ],
)
def test_folders_of_data_are_looked_up_there(home, read):
    (home / "public").mkdir()
    with pytest.raises((FileNotFoundError, ValueError)) as caught:
        read("~/public")
    assert "which is none" not in str(caught.value)
    assert "which is neither" not in str(caught.value)
