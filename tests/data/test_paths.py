"""Which files a path stands for: each once, however its path is spelled."""

import os

import pytest

from tfmoe.data.preprocessor import Preprocessor
from tfmoe.data.read.paths import files_of
from tfmoe.schema.columns import Categorical
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary

SCHEMA = Schema([Categorical("c")], [Binary("y")])


def write(path, text="c,y\na,0\nb,1\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where one works: a file, partitions, and a folder that is called as a file."""
    write(tmp_path / "z.csv")
    for day in (1, 2):
        write(tmp_path / "data" / f"day={day}" / "p.csv")
    for part in (0, 1):
        write(tmp_path / "out" / "visits.csv" / f"part-{part}.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("start", ["", "./", "././", "data/../", "{folder}/", "{folder}/./"])
@pytest.mark.parametrize("pattern", ["data", "data/**", "data//**", "data/*/", "out/**/*.csv"])
def test_a_glob_that_finds_folders_reads_their_files_once(folder, start, pattern):
    source = start.format(folder=folder) + pattern
    assert len(files_of([source])) == 2
    assert Preprocessor(SCHEMA).fit(source, progress=False).num_rows == 4


def test_a_file_under_several_names_is_one_under_the_first(folder):
    names = [
        "z.csv",
        "./z.csv",
        str(folder / "z.csv"),
        f"file://{folder}/z.csv",
        "*.csv",
        "./*.csv",
    ]
    for first in names:
        (found,) = files_of([first, *names])
        assert found.path == first.removeprefix("file://").replace("*", "z")
    assert [
        one.path for one in files_of(["./out/visits.csv", "z.csv", "./z.csv", "out/*/*.csv"])
    ] == [
        "out/visits.csv/part-0.csv",
        "out/visits.csv/part-1.csv",
        "z.csv",
    ]


def test_other_files_stay_others(folder):
    """Behind links too, where `..` is not the folder in which the link is."""
    write(folder / "far" / "inner" / "a.csv")
    write(folder / "far" / "z.csv")
    os.symlink(folder / "far" / "inner", folder / "near")
    os.symlink(folder / "far", folder / "day=3")
    assert [one.path for one in files_of(["z.csv", "near/../z.csv", "near/../inner/a.csv"])] == [
        "z.csv",
        "near/../z.csv",
        "near/../inner/a.csv",
    ]
    # A partition may be a link: it says another day of the same rows.
    assert len(files_of(["far/z.csv", "day=3/z.csv"])) == 2
