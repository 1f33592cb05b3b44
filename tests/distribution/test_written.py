"""Of several workers that run the same callbacks, one writes their files."""

import keras
import numpy as np
import pandas as pd

from tfmoe.distribution.written import written_by_chief


def small():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")
    return model


def fitted(model, callbacks, is_chief, epochs):
    x = np.arange(8.0).reshape(8, 1)
    with written_by_chief(callbacks, is_chief):
        return model.fit(x, 0.1 * x, epochs=epochs, verbose=0, callbacks=callbacks).history["loss"]


def all_kinds(folder):
    return [
        keras.callbacks.BackupAndRestore(folder / "backup", delete_checkpoint=False),
        [keras.callbacks.ModelCheckpoint(folder / "models" / "{epoch}.keras")],
        keras.callbacks.CSVLogger(folder / "log.csv"),
    ]


def test_the_chief_writes_and_others_read(tmp_path):
    whole = fitted(small(), [], True, 3)
    assert fitted(small(), all_kinds(tmp_path), True, 2) == whole[:2]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert len(before) == 5
    # Another worker goes on where the chief was, and leaves all as it is.
    callbacks = all_kinds(tmp_path)
    assert fitted(small(), callbacks, False, 3) == whole[2:]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == before
    assert len(pd.read_csv(tmp_path / "log.csv")) == 2


def test_other_workers_leave_nothing_anywhere(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    given = all_kinds(tmp_path)
    # As by default: deleted at the end, of which a worker that comes second would find nothing.
    given[0].delete_checkpoint = True
    _, [models], log = given
    fitted(small(), given, False, 2)
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]
    # The callbacks say again where they were told to write.
    assert models.filepath == str(tmp_path / "models" / "{epoch}.keras")
    assert log.filename == str(tmp_path / "log.csv")
