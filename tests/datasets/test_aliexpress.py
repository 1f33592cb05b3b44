import gzip

import numpy as np
import pandas as pd
import pytest

from tfmoe.data.preprocessor import Preprocessor
from tfmoe.datasets import aliexpress

CATEGORICAL = [f"categorical_{i}" for i in range(1, 17)]
NUMERICAL = [f"numerical_{i}" for i in range(1, 64)]
COLUMNS = ["search_id", *CATEGORICAL, *NUMERICAL, "click", "conversion"]


def rows(num, first=0):
    """Rows like those of the files: three of each search, and the first number is the row's."""
    table = pd.DataFrame({"search_id": (first + np.arange(num)) // 3})
    for i, name in enumerate(CATEGORICAL):
        table[name] = (np.arange(num) + i) % 5
    for i, name in enumerate(NUMERICAL):
        table[name] = (np.arange(num) + i) / 4
    # The files have whole numbers in some of these.
    table["numerical_58"] = 0
    table["click"] = np.arange(num) % 2
    table["conversion"] = (np.arange(num) % 4 == 1).astype(int)
    return table


def write(folder, num_train=40, num_test=8, name="AliExpress_NL"):
    (folder / name).mkdir()
    rows(num_train).to_csv(folder / name / "train.csv", index=False)
    rows(num_test, 1000).to_csv(folder / name / "test.csv", index=False)
    return folder


def numbers(part):
    """Which rows of the file a part has."""
    return (part["numerical_1"] * 4).astype(int).tolist()


def test_columns_and_labels(tmp_path):
    split = aliexpress(write(tmp_path), "NL")
    for part in (split.train, split.valid, split.test):
        assert part.columns.tolist() == COLUMNS
        assert part["click"].tolist() == [i % 2 for i in numbers(part)]
        assert part["conversion"].tolist() == [int(i % 4 == 1) for i in numbers(part)]
        assert part["categorical_16"].tolist() == [(i + 15) % 5 for i in numbers(part)]
        assert part["numerical_63"].tolist() == [(i + 62) / 4 for i in numbers(part)]
        assert part["search_id"].dtype == "int32"
        assert part["numerical_58"].dtype == "float32"
    assert split.test["search_id"].tolist()[:4] == [333, 333, 334, 334]


def test_a_tenth_of_the_training_file_is_held_out(tmp_path):
    write(tmp_path)
    splits = [aliexpress(tmp_path, "NL", seed=seed) for seed in (0, 0, 1)]
    held = [numbers(split.valid) for split in splits]
    assert [len(split.train) for split in splits] == [36, 36, 36]
    assert sorted([*held[0], *numbers(splits[0].train)]) == list(range(40))
    assert held[0] == held[1] != held[2]
    assert [numbers(split.test) for split in splits] == [list(range(8))] * 3
    assert len(aliexpress(tmp_path, "NL", valid_fraction=0.5).valid) == 20


def test_a_fraction_is_of_whole_searches(tmp_path):
    write(tmp_path, num_train=3000)
    half = aliexpress(tmp_path, "NL", fraction=0.5)
    found = pd.concat([half.train, half.valid])
    assert set(found.groupby("search_id").size()) == {3}
    assert 1300 < len(found) < 1700
    quarter = aliexpress(tmp_path, "NL", fraction=0.25)
    assert set(quarter.train["search_id"]) < set(found["search_id"])
    other = aliexpress(tmp_path, "NL", fraction=0.5, seed=1)
    assert set(other.train["search_id"]) != set(half.train["search_id"])


def test_schema_is_of_both_tasks(tmp_path):
    split = aliexpress(write(tmp_path), "NL")
    assert split.schema.task_names == ("click", "conversion")
    features, labels, _ = Preprocessor(split.schema).fit(split.train, False).arrays(split.test)
    assert set(features) == {*CATEGORICAL, *NUMERICAL}
    np.testing.assert_array_equal(labels["conversion"], [0, 1, 0, 0, 0, 1, 0, 0])


def test_the_markets_folder_may_be_named_in_other_ways(tmp_path):
    write(tmp_path, name="ES")
    assert len(aliexpress(tmp_path, "ES").test) == 8
    assert len(aliexpress(tmp_path / "ES", "ES").test) == 8
    for file in (tmp_path / "ES").iterdir():
        file.with_name(file.name + ".gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert len(aliexpress(tmp_path, "ES").test) == 8
    # All markets' files are alike.
    with pytest.raises(FileNotFoundError, match=r"reads AliExpress_FR/train.csv"):
        aliexpress(tmp_path / "ES", "FR")


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Received path='.*nowhere', which is none. Get"):
        aliexpress(tmp_path / "nowhere", "NL")
    (tmp_path / "readme.txt").touch()
    expected = r"AliExpress_NL/test.csv. Received .* which holds \['readme.txt'\]. Get the files"
    with pytest.raises(FileNotFoundError, match=expected):
        aliexpress(tmp_path, "NL")
    with pytest.raises(ValueError, match="Received market='DE'"):
        aliexpress(tmp_path, "DE")
    with pytest.raises(ValueError, match="Received fraction=0"):
        aliexpress(tmp_path, "NL", fraction=0)
    with pytest.raises(ValueError, match=r"Received valid_fraction=0.9"):
        aliexpress(tmp_path, "NL", valid_fraction=0.9)


def test_other_files_are_told(tmp_path):
    write(tmp_path)
    file = tmp_path / "AliExpress_NL" / "test.csv"
    table = rows(4)
    table.rename(columns={"conversion": "purchase"}).to_csv(file, index=False)
    expected = r"needs the columns \['conversion'\] in .*test.csv. Received a file whose first"
    with pytest.raises(ValueError, match=expected):
        aliexpress(tmp_path, "NL")
    table.assign(click="yes").to_csv(file, index=False)
    with pytest.raises(ValueError, match=r"Received .*test.csv, of which Arrow says: .*'yes'"):
        aliexpress(tmp_path, "NL")
    file.write_text("")
    with pytest.raises(ValueError, match=r"Received a file whose first line is \[\]"):
        aliexpress(tmp_path, "NL")
