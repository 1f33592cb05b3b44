import numpy as np
import pandas as pd
import pytest

from tfmoe.data.preprocessor import Preprocessor
from tfmoe.datasets import ali_ccp, public

USER = ["101", "121", "122", "124", "125", "126", "127", "128", "129"]
ROW = ["205", "206", "207", "216", "508", "509", "702", "853", "301"]


def features(*found):
    return "\x01".join(f"{field}\x02{number}\x03{value}" for field, number, value in found)


def write_raw(train, test=None, num_train=40, num_test=8, visits=5):
    """Files like the raw ones; the product of a row is 1000 and its number."""
    for folder, part, num in ((train, "train", num_train), (test or train, "test", num_test)):
        folder.mkdir(exist_ok=True)
        lines = []
        for i in range(num):
            # 210 has several values; 2051 and 12205 are no 205.
            found = [("2051", 7, 1.0), ("12205", 8, 1.0), ("210", 5, 1.0), ("210", 6, 0.5)]
            found += [("205", 1000 + i, "1.0"), ("206", 50, 1.0), ("301", 9351665, 1.0)]
            found += [("853", 3, 2.3979)] if i % 2 else []
            labels = (int(i % 3 == 0), int(i % 6 == 0))
            line = [i + 1, *labels, f"{i % visits:016x}", len(found), features(*found)]
            lines.append(",".join(map(str, line)))
        (folder / f"sample_skeleton_{part}.csv").write_text("\n".join(lines) + "\n")
        lines = []
        for i in range(visits + 1):
            found = [("101", 31390 + i, 1.0), ("109_14", 1, 2.0), ("109_14", 2, 1.0)]
            found += [("121", 3438658, "1.0")]
            lines.append(f"{i:016x},{len(found)},{features(*found)}")
        (folder / f"common_features_{part}.csv").write_text("\n".join(lines) + "\n")
    return train


def numbers(part):
    return (part["205"] - 1000).tolist()


def test_raw_columns_and_labels(tmp_path):
    split = ali_ccp(write_raw(tmp_path))
    for part in (split.train, split.valid, split.test):
        assert part.columns.tolist() == ["click", "purchase", *USER, *ROW]
        assert part["click"].tolist() == [int(i % 3 == 0) for i in numbers(part)]
        assert part["purchase"].tolist() == [int(i % 6 == 0) for i in numbers(part)]
        assert part["101"].tolist() == [31390 + i % 5 for i in numbers(part)]
        assert part["853"].tolist() == [3 * (i % 2) for i in numbers(part)]
        assert set(part["301"]) == {9351665}
        assert set(part["129"]) == {0}
    assert numbers(split.test) == list(range(8))
    # What the docstring says of memory.
    bytes_of_a_row = split.test.memory_usage(index=False).sum() / len(split.test)
    assert bytes_of_a_row == 74


def test_the_archives_folders_are_found(tmp_path):
    write_raw(tmp_path / "sample_train", tmp_path / "sample_test")
    assert len(ali_ccp(tmp_path).train) == 36


def test_raw_rows_are_parted_at_random(tmp_path):
    write_raw(tmp_path)
    splits = [ali_ccp(tmp_path, seed=seed) for seed in (0, 0, 1)]
    held = [numbers(split.valid) for split in splits]
    assert sorted([*held[0], *numbers(splits[0].train)]) == list(range(40))
    assert held[0] == held[1] != held[2]
    assert len(held[0]) == 4


def test_a_part_of_the_raw_form(tmp_path):
    write_raw(tmp_path, num_train=200, visits=20)
    split = ali_ccp(tmp_path, num_rows=10)
    assert sorted([*numbers(split.train), *numbers(split.valid)]) == list(range(10))
    assert numbers(split.test) == list(range(8))
    split = ali_ccp(tmp_path, fraction=0.5)
    found = pd.concat([split.train, split.valid])
    assert set(found.groupby("101").size()) == {10}
    assert 0 < found["101"].nunique() < 20


@pytest.mark.parametrize("raw", [True, False])
def test_blocks_change_nothing(tmp_path, monkeypatch, raw):
    if raw:
        write_raw(tmp_path, num_train=300, num_test=100, visits=90)
    else:
        for part in ("train", "test"):
            prepared(300).to_csv(tmp_path / f"ali_ccp_{part}.csv", index=False)
    parts = ({}, {"fraction": 0.4}, {"num_rows": 90}, {"num_rows": 90, "fraction": 0.4})
    whole = [ali_ccp(tmp_path, **part) for part in parts]
    monkeypatch.setattr(public, "_BLOCK", 2048)
    for part, expected in zip(parts, whole, strict=True):
        found = ali_ccp(tmp_path, **part)
        for name in ("train", "valid", "test"):
            pd.testing.assert_frame_equal(getattr(found, name), getattr(expected, name))


def test_a_purchase_without_a_click_is_left_out(tmp_path):
    write_raw(tmp_path)
    file = tmp_path / "sample_skeleton_test.csv"
    file.write_text(file.read_text().replace("2,0,0,", "2,0,1,", 1))
    assert numbers(ali_ccp(tmp_path).test) == [0, *range(2, 8)]


def test_schema_is_of_both_tasks(tmp_path):
    split = ali_ccp(write_raw(tmp_path))
    assert split.schema.task_names == ("click", "purchase")
    found, labels, _ = Preprocessor(split.schema).fit(split.train, False).arrays(split.test)
    assert set(found) == {f"field_{name}" for name in (*USER, *ROW)}
    assert set(labels) == {"click", "purchase"}
    # 1 is missing, 3 the first value.
    assert found["field_853"].tolist() == [1, 3] * 4
    assert found["field_301"].tolist() == [3] * 8


def prepared(num):
    table = pd.DataFrame({"click": np.arange(num) % 2, "purchase": 0})
    for name in (*USER, *ROW, "210", "109_14"):
        table[name] = np.arange(num) % 3
    return table.assign(D109_14=0.5, D853=np.arange(num) / 8)


@pytest.mark.parametrize("end", [".csv", "_sample.csv"])
def test_prepared_form_of_torch_rechub(tmp_path, end):
    for part, num in (("train", 20), ("val", 6), ("test", 8)):
        prepared(num).to_csv(tmp_path / f"ali_ccp_{part}{end}", index=False)
    split = ali_ccp(tmp_path)
    assert [len(part) for part in (split.train, split.valid, split.test)] == [20, 6, 8]
    assert split.test["D853"].tolist() == [i / 8 for i in range(8)]
    names = [column.name for column in split.schema.columns]
    more = ["field_210", "field_109_14", "D109_14", "D853"]
    assert names == [f"field_{name}" for name in (*USER, *ROW)] + more
    found, _, _ = Preprocessor(split.schema).fit(split.train, False).arrays(split.test)
    assert found["field_205"].tolist()[0] == 1
    assert found["D853"].dtype == "float32"
    assert len(ali_ccp(tmp_path, num_rows=5).train) == 5


def test_prepared_form_of_aitm(tmp_path):
    names = ["click", "purchase", *USER, *ROW]
    for part, num in (("train", 20), ("test", 8)):
        prepared(num)[names].to_csv(tmp_path / f"ctr_cvr.{part}", index=False)
    split = ali_ccp(tmp_path)
    assert [len(part) for part in (split.train, split.valid, split.test)] == [18, 2, 8]
    assert len(split.schema.columns) == 18


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="which is none"):
        ali_ccp(tmp_path / "nowhere")
    write_raw(tmp_path)
    (tmp_path / "common_features_test.csv").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"(?s)common_features_test.csv \(raw\), or ali_ccp"
    ):
        ali_ccp(tmp_path)
    with pytest.raises(ValueError, match="Received num_rows=0"):
        ali_ccp(tmp_path, num_rows=0)


def test_other_files_are_told(tmp_path):
    write_raw(tmp_path)
    common = tmp_path / "common_features_train.csv"
    whole = common.read_text()
    common.write_text(whole.partition("\n")[0] + "\n")
    expected = r"train.csv, which lacks 4 of 5, such as '0000000000000001'. Unpack"
    with pytest.raises(ValueError, match=expected):
        ali_ccp(tmp_path)
    common.write_text(whole)
    skeleton = tmp_path / "sample_skeleton_train.csv"
    lines = skeleton.read_text()
    skeleton.write_text(lines.replace("\x02", ":"))
    with pytest.raises(ValueError, match=r"no row that was to be read has the field 205. Unpack"):
        ali_ccp(tmp_path)
    skeleton.write_text("id,click,purchase,common,number,features\n" + lines)
    with pytest.raises(ValueError, match=r"Received .*_train.csv, of which Arrow says: .*'click'"):
        ali_ccp(tmp_path)
    skeleton.write_text("1,0\n")
    with pytest.raises(ValueError, match=r"of which Arrow says: .*xpected 6 columns, got 2"):
        ali_ccp(tmp_path)


def test_other_columns_are_told(tmp_path):
    for part in ("train", "test"):
        prepared(8).drop(columns="101").to_csv(tmp_path / f"ali_ccp_{part}.csv", index=False)
    with pytest.raises(ValueError, match=r"needs the columns \['101'\]"):
        ali_ccp(tmp_path)
