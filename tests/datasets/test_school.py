import os

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from tfmoe.data.preprocessor import Preprocessor
from tfmoe.datasets import school

SIZES = (22, 40, 31)


def write(folder, columns=("X", "Y")):
    """A file like MALSAR's, of three schools: the score is 10 times the school, and the pupil.

    The second number is the pupil, the last is the same for all.
    """
    x, y = np.empty((1, 3), object), np.empty((1, 3), object)
    for i, size in enumerate(SIZES):
        pupils = np.arange(size)
        x[0, i] = np.stack([pupils % 2, pupils, np.ones(size)], axis=1).astype("uint8")
        y[0, i] = (10 * (i + 1) + pupils)[:, None].astype("uint8")
    savemat(folder / "school.mat", dict(zip(columns, (x, y), strict=True)))
    return folder


def test_rows_are_of_one_school_each(tmp_path):
    split = school(write(tmp_path))
    rows = pd.concat([split.train, split.valid, split.test])
    assert rows.columns.tolist() == ["school", "x_1", "x_2", "x_3", "score"]
    assert rows["school"].value_counts().sort_index().tolist() == list(SIZES)
    np.testing.assert_array_equal(rows["score"], 10 * rows["school"] + rows["x_2"])
    np.testing.assert_array_equal(rows["x_1"], rows["x_2"] % 2)


def test_each_school_is_parted_alike(tmp_path):
    write(tmp_path)
    splits = [school(tmp_path, seed=seed) for seed in (0, 0, 1)]
    counts = [
        part["school"].value_counts().sort_index().tolist()
        for part in (splits[0].train, splits[0].valid, splits[0].test)
    ]
    assert counts == [[13, 24, 18], [3, 6, 5], [6, 10, 8]]
    tested = [split.test["score"].tolist() for split in splits]
    assert tested[0] == tested[1] != tested[2]
    of_first = splits[0].test["x_2"][splits[0].test["school"] == 2].tolist()
    assert of_first != list(range(10))


def test_schema_is_of_a_task_a_row(tmp_path):
    split = school(write(tmp_path))
    assert split.schema.task_names == ("school_1", "school_2", "school_3")
    assert [column.name for column in split.schema.columns] == ["x_1", "x_2"]
    features, labels, _ = Preprocessor(split.schema).fit(split.train, False).arrays(split.test)
    np.testing.assert_array_equal(labels["score"], split.test["score"])
    assert set(features) == {"x_1", "x_2", "school"}


def test_errors(tmp_path, monkeypatch):
    monkeypatch.delenv("TFMOE_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"holds school.mat or .*TFMOE_DATA=None. Get"):
        school()
    write(tmp_path, columns=("X", "Z"))
    with pytest.raises(ValueError, match=r"of which the reader says: 'Y'. Get the file"):
        school(tmp_path)
    (tmp_path / "school.mat").write_bytes(b"no such file" * 50)
    with pytest.raises(ValueError, match=r"school reads MALSAR's file, with X, a cell"):
        school(tmp_path)


@pytest.mark.skipif("TFMOE_DATA" not in os.environ, reason="TFMOE_DATA names no folder.")
def test_counts_of_the_real_file():
    split = school()
    parts = (split.train, split.valid, split.test)
    assert [len(part) for part in parts] == [9_216, 2_301, 3_845]
    assert (len(split.schema.tasks), len(split.schema.columns)) == (139, 27)
    assert all(part["school"].nunique() == 139 for part in parts)
