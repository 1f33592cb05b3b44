import gzip
import os

import numpy as np
import pytest

from tfmoe.data.preprocessor import Preprocessor
from tfmoe.datasets import delicious

WORDS = ("ajax", "blue", "web")
TAGS = ("TAG_web", "TAG_web2.0", "TAG_??", "TAG_???", "TAG_web2 0")


def write(folder, num_rows=50, zipped=False):
    """A file like Mulan's: of row `i` the words are the bits of `i`, and the tags too.

    The first tag is in every second row, the next in every fourth, and so on.
    """
    lines = ["@relation delicious_train", ""]
    lines += [f"@attribute {name.replace(' ', '-')} {{0,1}}" for name in (*WORDS, *TAGS)]
    lines += ["", "@data"]
    for i in range(num_rows):
        ones = [f"{word} 1" for word in range(len(WORDS)) if i >> word & 1]
        ones += [f"{len(WORDS) + tag} 1" for tag in range(len(TAGS)) if i % 2 ** (tag + 1) == 0]
        lines.append("{" + ",".join(ones) + "}")
    text = "\n".join(lines)
    if zipped:
        (folder / "delicious.arff.gz").write_bytes(gzip.compress(text.encode()))
    else:
        (folder / "delicious.arff").write_text(text)
    return folder


@pytest.mark.parametrize("zipped", [False, True])
def test_words_and_tags(tmp_path, zipped):
    split = delicious(write(tmp_path, zipped=zipped), num_tasks=3)
    assert split.schema.task_names == ("tag_web", "tag_web2_0", "tag___")
    for part in (split.train, split.valid, split.test):
        assert part.columns.tolist() == ["words", *split.schema.task_names]
        words = np.stack(part["words"].to_list())
        np.testing.assert_array_equal(words[:, 0], 1 - part["tag_web"])
        # Every fourth row is one whose two lowest bits are 0.
        np.testing.assert_array_equal(part["tag_web2_0"], (words[:, :2] == 0).all(axis=1))


def test_names_of_tasks_differ(tmp_path):
    split = delicious(write(tmp_path), num_tasks=5)
    assert split.schema.task_names == ("tag_web", "tag_web2_0", "tag___", "tag____", "tag_web2_0_2")


def test_parts_are_random_and_fixed(tmp_path):
    write(tmp_path)
    splits = [delicious(tmp_path, 1, seed=seed) for seed in (0, 0, 1)]
    assert [len(part) for part in (splits[0].train, splits[0].valid, splits[0].test)] == [32, 8, 10]
    tested = [split.test["tag_web"].tolist() for split in splits]
    assert tested[0] == tested[1] != tested[2]


def test_schema_is_of_the_most_frequent_tags(tmp_path):
    split = delicious(write(tmp_path), num_tasks=2)
    features, labels, _ = Preprocessor(split.schema).fit(split.train, False).arrays(split.test)
    np.testing.assert_array_equal(features["words"], np.stack(split.test["words"].to_list()))
    np.testing.assert_array_equal(labels["tag_web"], split.test["tag_web"])
    assert set(labels) == {"tag_web", "tag_web2_0"}


def test_errors(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"at most 5 tags. Received num_tasks=6. Ask"):
        delicious(write(tmp_path), num_tasks=6)
    monkeypatch.delenv("TFMOE_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"delicious.arff or .*TFMOE_DATA=None. Get"):
        delicious()
    for line in ("{0 1,9 1}", "{0 2}", "0,1,0"):
        text = "@relation d\n@attribute a {0,1}\n@attribute TAG_b {0,1}\n@data\n" + line
        (tmp_path / "delicious.arff").write_text(text)
        with pytest.raises(ValueError, match=r"delicious.arff, whose line 5 is"):
            delicious(tmp_path, 1)
    (tmp_path / "delicious.arff").write_text("@relation d\n@attribute a numeric\n@data\n")
    with pytest.raises(ValueError, match=r"whose line 2 is '@attribute a numeric'. Get the file"):
        delicious(tmp_path, 1)


@pytest.mark.slow
@pytest.mark.skipif("TFMOE_DATA" not in os.environ, reason="TFMOE_DATA names no folder.")
def test_counts_of_the_real_file():
    split = delicious()
    parts = (split.train, split.valid, split.test)
    assert [len(part) for part in parts] == [10_307, 2_577, 3_221]
    positives = sum(part[list(split.schema.task_names)].sum() for part in parts)
    assert positives.is_monotonic_decreasing
    assert positives.iloc[-1] == 560
    assert len(split.train["words"][0]) == 500
