"""What the README shows is run as it stands."""

import re
from functools import partial
from pathlib import Path

import pytest

import tfmoe

README = Path(__file__).parents[2] / "README.md"


def python_blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


# On few rows the example's gate has not decided.
@pytest.mark.filterwarnings("ignore:extract keeps more experts")
@pytest.mark.parametrize("number", [1, pytest.param(7, marks=pytest.mark.slow)])
def test_python_examples_run(number, tmp_path, monkeypatch):
    # The one with TensorFlow Recommenders runs in `test_tfrs.py`.
    blocks = [block for block in python_blocks() if "tfrs" not in block]
    assert len(blocks) == len(python_blocks()) - 1 == 7
    monkeypatch.chdir(tmp_path)
    # Fewer rows, for time.
    small = partial(tfmoe.data.synthetic_ratings, num_rows=5000)
    monkeypatch.setattr(tfmoe.data, "synthetic_ratings", small)
    names = {}  # each block goes on where the last one ended
    for block in blocks[:number]:
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "serving" / "ranker" / "1" / "saved_model.pb").exists()
    assert (tmp_path / "model.keras").exists()


def test_it_opens_with_the_two_commands():
    opening = README.read_text(encoding="utf-8").split("##")[0]
    assert "make demo" in opening
    assert "make test" in opening
