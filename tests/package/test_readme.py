"""What the README shows is run as it stands."""

from functools import partial

import pytest

import tfmoe
from tests.docs.pages import ROOT, blocks

README = ROOT / "README.md"


@pytest.mark.slow
def test_its_example_runs(tmp_path, monkeypatch):
    (example,) = (block.text for block in blocks(README) if block.language == "python")
    monkeypatch.chdir(tmp_path)
    # Fewer rows, for time.
    small = partial(tfmoe.data.synthetic_ratings, num_rows=2000)
    monkeypatch.setattr(tfmoe.data, "synthetic_ratings", small)
    exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "serving" / "ranker" / "1" / "saved_model.pb").exists()
    assert (tmp_path / "model.keras").exists()


def test_it_opens_with_the_two_commands():
    opening = README.read_text(encoding="utf-8").split("##")[0]
    assert "make demo" in opening
    assert "make test" in opening


def test_it_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 130
