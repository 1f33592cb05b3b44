"""What the pages show is run as it stands: Python, and the command line's own commands."""

import shlex
import warnings
from functools import partial

import keras
import pytest

import tfmoe
from tests.docs.pages import DOCS, PAGES, blocks
from tfmoe.cli.app import app

# Needs Keras 2, and runs in a process of its own: `tests/package/test_tfrs.py`.
APART = DOCS / "guides" / "tfrs.md"
RUN = [p for p in PAGES if p != APART and any(b.language == "python" for b in blocks(p))]
# One that has the whole way, from a table to a SavedModel, and one that trains nothing.
QUICK = {"concepts/schema.md"}


def run(block, names):
    if block.title:
        with open(block.title, "x", encoding="utf-8") as file:
            file.write(block.text)
    elif block.language == "python":
        exec(compile(block.text, "page", "exec"), names)
    elif block.language == "sh":
        for line in block.text.splitlines():
            if line.startswith("tfmoe "):
                with warnings.catch_warnings():
                    app(shlex.split(line, comments=True)[1:], standalone_mode=False)


def cases():
    for page in RUN:
        name = page.relative_to(DOCS).as_posix()
        yield pytest.param(page, id=name, marks=() if name in QUICK else pytest.mark.slow)


# Few rows, few steps: gates have not decided, and there is little to hold out.
@pytest.mark.filterwarnings("ignore:extract keeps more experts")
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
@pytest.mark.whole
@pytest.mark.parametrize("page", list(cases()))
def test_a_pages_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = partial(tfmoe.data.synthetic_ratings, num_rows=1500)
    monkeypatch.setattr(tfmoe.data, "synthetic_ratings", small)
    names = {}  # each block goes on where the last one ended
    for block in blocks(page):
        run(block, names)
    keras.utils.clear_session()


def test_many_pages_have_examples():
    assert len(RUN) >= 14
    assert blocks(APART)
    assert {page.relative_to(DOCS).as_posix() for page in RUN} >= QUICK
