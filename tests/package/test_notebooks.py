"""The notebooks are executed by nbmake (see pyproject.toml); here is what they must look like."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def test_they_are_all_found():
    assert [path.name for path in NOTEBOOKS] == [
        "01_quickstart.ipynb",
        "02_gates.ipynb",
        "03_task_aware.ipynb",
        "04_modsquad.ipynb",
        "05_two_stage_movielens.ipynb",
        "06_ranking_model.ipynb",
        "07_conversion_funnel.ipynb",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_they_open_in_colab_and_have_no_output(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert f"notebooks/{path.name}" in "".join(cells[0]["source"])
    install = "".join(cells[1]["source"])
    assert 'find_spec("tfmoe") is None' in install
    assert 'Path("..").resolve().as_uri()' in install  # on no index yet
    for cell in cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
