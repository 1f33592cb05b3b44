import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tfmoe.data.preprocessor import Preprocessor
from tfmoe.datasets import kuairand, public

LOG = [
    *("user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "is_like", "is_follow"),
    *("is_comment", "is_forward", "is_hate", "long_view", "play_time_ms", "duration_ms"),
    *("profile_stay_time", "comment_stay_time", "is_profile_enter", "is_rand", "tab"),
]
CODES = [f"onehot_feat{i}" for i in range(18)]


def log(num, day, users=10):
    """A log like those of the data; `play_time_ms` is the number of the row."""
    table = pd.DataFrame(0, index=range(num), columns=LOG)
    table["user_id"] = np.arange(num) % users
    table["video_id"] = np.arange(num) % 4
    table["date"], table["hourmin"] = day, 2300
    table["time_ms"] = 1649434200000 + np.arange(num)
    table["is_click"] = np.arange(num) % 2
    table["long_view"] = (np.arange(num) % 4 == 1).astype(int)
    table["play_time_ms"] = np.arange(num)
    table["duration_ms"], table["tab"] = 17200, 1
    return table


def users(num):
    table = pd.DataFrame({"user_id": range(num), "user_active_degree": "full_active"})
    table[["is_lowactive_period", "is_live_streamer", "is_video_author"]] = [0, 0, 1]
    for count, bounds in (
        ("follow_user_num", "(0,10]"),
        ("fans_user_num", "[1,10)"),
        ("friend_user_num", "0"),
        ("register_days", "730+"),
    ):
        table[count], table[f"{count}_range"] = 5, bounds
    table[CODES] = 1
    # As pandas writes a column that has an empty cell.
    table["onehot_feat4"] = np.where(table["user_id"] == 0, np.nan, 3.0)
    return table


def videos(num):
    table = pd.DataFrame({"video_id": range(num), "author_id": np.arange(num) + 100})
    table["video_type"], table["upload_dt"], table["upload_type"] = "NORMAL", "2020-07-08", "Kara"
    table["visible_status"], table["video_duration"] = 1, 17200.0
    table["server_width"], table["server_height"], table["music_id"] = 720, 1280, 3_000_000_000
    table["music_type"] = 4.0
    table["tag"] = [["12,65", "7", "", "39"][i % 4] for i in range(num)]
    return table


def write(folder, version="pure", num_train=40, num_test=12, parts=("",)):
    folder.mkdir(exist_ok=True)
    for stem, num, day in (
        ("log_standard_4_08_to_4_21", num_train, 20220408),
        ("log_standard_4_22_to_5_08", num_test, 20220422),
    ):
        table = log(num, day)
        for i, part in enumerate(parts):
            rows = table.iloc[i :: len(parts)]
            rows.to_csv(folder / f"{stem}_{version}{part}.csv", index=False)
    log(5, 20220422).to_csv(folder / f"log_random_4_22_to_5_08_{version}.csv", index=False)
    users(10).to_csv(folder / f"user_features_{version}.csv", index=False)
    videos(50).to_csv(folder / f"video_features_basic_{version}.csv", index=False)
    return folder


def test_columns_and_labels(tmp_path):
    split = kuairand(write(tmp_path / "data").parent)
    for part in (split.train, split.valid, split.test):
        number = part["play_time_ms"].to_numpy()
        np.testing.assert_array_equal(part["is_click"], number % 2)
        np.testing.assert_array_equal(part["long_view"], number % 4 == 1)
        np.testing.assert_array_equal(part["user_id"], number % 10)
        np.testing.assert_array_equal(part["author_id"], number % 4 + 100)
        np.testing.assert_array_equal(part["onehot_feat4"].isna(), number % 10 == 0)
        assert set(part["hour"]) == {23}
        assert set(part["music_id"]) == {3_000_000_000}
        assert part["tag"].iloc[0] == ["12,65", "7", "", "39"][number[0] % 4]
        assert set(part["register_days_range"]) == {"730+"}
        assert len(part.columns) == 20 + 25 + 6  # log and hour, users, videos; keys once
    assert set(split.test["date"]) == {20220422}
    assert len(split.test) == 12


def test_the_first_log_is_parted_at_random(tmp_path):
    write(tmp_path)
    splits = [kuairand(tmp_path, seed=seed) for seed in (0, 0, 1)]
    held = [split.valid["play_time_ms"].tolist() for split in splits]
    assert [len(split.valid) for split in splits] == [4, 4, 4]
    assert sorted([*held[0], *splits[0].train["play_time_ms"]]) == list(range(40))
    assert held[0] == held[1] != held[2]


def test_files_in_parts_are_one_table(tmp_path):
    write(tmp_path / "a", "27k", parts=("_part1", "_part2"))
    write(tmp_path / "b", "27k")
    parted, whole = (kuairand(tmp_path / name).test for name in "ab")
    order = parted.sort_values("play_time_ms", ignore_index=True)
    pd.testing.assert_frame_equal(order, whole)


def test_blocks_change_nothing(tmp_path, monkeypatch):
    write(tmp_path, num_train=200)
    whole = kuairand(tmp_path, fraction=0.6)
    monkeypatch.setattr(public, "_BLOCK", 1024)
    found = kuairand(tmp_path, fraction=0.6)
    for name in ("train", "valid", "test"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(whole, name))


def test_rows_without_features_stay(tmp_path):
    write(tmp_path)
    users(9).to_csv(tmp_path / "user_features_pure.csv", index=False)
    videos(3).to_csv(tmp_path / "video_features_basic_pure.csv", index=False)
    test = kuairand(tmp_path).test
    assert len(test) == 12
    np.testing.assert_array_equal(test["user_active_degree"].isna(), test["user_id"] == 9)
    np.testing.assert_array_equal(test["author_id"].isna(), test["video_id"] == 3)


def test_a_fraction_is_of_whole_users(tmp_path):
    write(tmp_path, num_train=100, num_test=50)
    split = kuairand(tmp_path, fraction=0.5)
    found = pd.concat([split.train, split.valid])
    assert set(found.groupby("user_id").size()) == {10}
    assert set(found["user_id"]) == set(split.test["user_id"])
    assert 0 < found["user_id"].nunique() < 10


@pytest.mark.parametrize("tasks", [("is_click", "long_view"), ["is_hate"]])
def test_schema_is_of_the_tasks(tmp_path, tasks):
    split = kuairand(write(tmp_path), tasks=tasks)
    assert split.schema.task_names == tuple(tasks)
    names = {column.name for column in split.schema.columns}
    assert len(names) == 7 + 7 + 21 + 2
    outcomes = {"play_time_ms", "is_click", "long_view", "comment_stay_time", "date", "time_ms"}
    assert not names & outcomes
    features, labels, _ = Preprocessor(split.schema).fit(split.train, False).arrays(split.test)
    assert set(features) == names
    assert set(labels) == set(tasks)
    # 1 is missing, 3 the first value seen: whole floats are the integers that they were.
    assert features["onehot_feat4"].tolist() == [1, *[3] * 9, 1, 3]
    assert features["tag"][2].tolist()[0] == 1


def test_the_usual_tasks(tmp_path):
    expected = ("is_click", "is_like", "is_follow", "is_comment", "is_forward", "long_view")
    assert kuairand(write(tmp_path)).schema.task_names == expected


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="which is none"):
        kuairand(tmp_path / "nowhere")
    write(tmp_path)
    write(tmp_path, "1k")
    with pytest.raises(ValueError, match=r"one version of the data. .* holds \['1k', 'pure'\]"):
        kuairand(tmp_path)
    (tmp_path / "log_standard_4_08_to_4_21_1k.csv").unlink()
    (tmp_path / "user_features_pure.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"user_features_<version>.csv"):
        kuairand(tmp_path)
    with pytest.raises(ValueError, match=r"takes `tasks` from .* Received tasks='is_share'"):
        kuairand(tmp_path, tasks=["is_share"])
    with pytest.raises(ValueError, match=r"as a list of labels. Received tasks='is_like'"):
        kuairand(tmp_path, tasks="is_like")


def test_other_columns_are_told(tmp_path):
    write(tmp_path)
    log(4, 20220408).drop(columns="long_view").to_csv(
        tmp_path / "log_standard_4_08_to_4_21_pure.csv", index=False
    )
    with pytest.raises(ValueError, match=r"needs the columns \['long_view'\]"):
        kuairand(tmp_path)


def test_a_file_that_was_unpacked_beside_itself_is_read_once(tmp_path):
    folder = write(tmp_path)
    expected = kuairand(tmp_path)
    for file in list(folder.glob("*.csv")):
        Path(f"{file}.gz").write_bytes(gzip.compress(file.read_bytes()))
    for name in ("train", "valid", "test"):
        pd.testing.assert_frame_equal(
            getattr(kuairand(tmp_path), name), getattr(expected, name), check_exact=True
        )
