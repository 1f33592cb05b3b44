import errno
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from tfmoe import files


class Broken(Exception):
    pass


def write_file(path, fail=False):
    with files.new_file(path) as draft:
        draft.write_text("new")
        assert not Path(path).exists()
        if fail:
            raise Broken


def write_folder(path, fail=False):
    with files.new_folder(path) as draft:
        (draft / "a.txt").write_text("new")
        assert not Path(path).exists()
        if fail:
            raise Broken


def write_files(path, fail=False):
    with files.new_files(path) as draft:
        (draft / "a.txt").write_text("new")
        if fail:
            raise Broken


def write_version(path, fail=False):
    def fill(draft):
        (draft / "a.txt").write_text("new")
        if fail:
            raise Broken

    return files.new_version(path, fill)


def write_over(path, fail=False):
    with files.replaced(path) as draft:
        draft.write_text("new")
        if fail:
            raise Broken


WRITERS = [write_file, write_folder, write_files, write_version, write_over]


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("write", "written"),
    [
        (write_file, ["b", "b/c.txt"]),
        (write_folder, ["b", "b/c.txt", "b/c.txt/a.txt"]),
        (write_files, ["b", "b/c.txt", "b/c.txt/a.txt"]),
        (write_version, ["b", "b/c.txt", "b/c.txt/1", "b/c.txt/1/a.txt"]),
        (write_over, ["b", "b/c.txt"]),
    ],
)
def test_what_is_written_appears_with_its_folders_and_nothing_else(tmp_path, write, written):
    write(str(tmp_path / "b" / "c.txt"))
    assert tree(tmp_path) == written


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("inside", [True, False])
def test_a_failure_leaves_no_part_and_no_litter(tmp_path, write, inside):
    (tmp_path / "kept.txt").touch()
    path = tmp_path / "new" / "deep" / "c.txt" if inside else tmp_path / "c.txt"
    with pytest.raises(Broken):
        write(path, fail=True)
    assert tree(tmp_path) == ["kept.txt"]


@pytest.mark.parametrize("write", WRITERS)
def test_what_is_written_may_be_read_by_others(tmp_path, write):
    mask = os.umask(0o022)
    try:
        write(tmp_path / "c")
    finally:
        os.umask(mask)
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)


@pytest.mark.parametrize("write", [write_file, write_folder])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_nothing_is_written_over(tmp_path, write, kind):
    path = tmp_path / "c"
    if kind == "file":
        path.write_text("old")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="which is there already"):
        write(path)
    assert tree(tmp_path) == ["c"]
    assert kind != "file" or path.read_text() == "old"


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_what_came_while_writing_is_kept(tmp_path, write, monkeypatch):
    path = tmp_path / "c"
    # The first look, before anything is written, sees nothing.
    looks = iter([False])
    real = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", lambda one: next(looks, None) or real(one))

    def late(given):
        with files.new_folder(given) if write is write_folder else files.new_file(given) as draft:
            if draft.is_dir():
                (draft / "a.txt").write_text("new")
            else:
                draft.write_text("new")
            path.mkdir()
            (path / "theirs").touch()

    with pytest.raises(FileExistsError, match="is there already"):
        late(path)
    assert tree(tmp_path) == ["c", "c/theirs"]


def test_files_join_those_of_a_folder_all_or_none(tmp_path):
    (tmp_path / "other.txt").touch()
    write_files(tmp_path)
    assert tree(tmp_path) == ["a.txt", "other.txt"]

    def write_again():
        with files.new_files(tmp_path) as draft:
            (draft / "Z.txt").touch()  # comes before "a.txt"
            (draft / "a.txt").write_text("newer")

    with pytest.raises(FileExistsError, match="is there already"):
        write_again()
    assert tree(tmp_path) == ["a.txt", "other.txt"]
    assert (tmp_path / "a.txt").read_text() == "new"


def test_files_take_the_place_of_an_empty_folder(tmp_path):
    path = tmp_path / "empty"
    path.mkdir()
    write_files(path)
    assert tree(tmp_path) == ["empty", "empty/a.txt"]


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_replaced_stays_where_writing_fails(tmp_path, kind):
    path = tmp_path / "c"
    if kind == "folder":
        path.mkdir()
        (path / "old.txt").touch()
    elif kind == "file":
        path.write_text("old")
    else:
        path.symlink_to(tmp_path / "nowhere")
    before = tree(tmp_path)
    with pytest.raises(Broken):
        write_over(path, fail=True)
    assert tree(tmp_path) == before
    write_over(path)
    assert path.read_text() == "new"
    assert tree(tmp_path) == ["c"]


def test_a_folder_takes_the_place_of_another(tmp_path):
    for name in ("old.txt", "new.txt"):
        with files.replaced(tmp_path / "c") as draft:
            draft.mkdir()
            (draft / name).touch()
    assert tree(tmp_path) == ["c", "c/new.txt"]


@pytest.mark.parametrize("step", [1, 2])
def test_who_replaces_a_folder_and_is_stopped_loses_nothing(tmp_path, monkeypatch, step):
    path = tmp_path / "c"
    path.mkdir()
    (path / "old.txt").touch()
    rename, steps = os.rename, []

    def stopped(*ends):
        steps.append(ends)
        if len(steps) == step:
            raise KeyboardInterrupt
        rename(*ends)

    monkeypatch.setattr(os, "rename", stopped)
    with pytest.raises(KeyboardInterrupt), files.replaced(path) as draft:
        draft.mkdir()
    assert tree(tmp_path) == ["c", "c/old.txt"]


def test_what_cannot_be_placed_says_why(tmp_path, monkeypatch):
    def full(*ends):
        raise OSError("full")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="full"), files.replaced(tmp_path / "c") as draft:
        draft.mkdir()
    assert tree(tmp_path) == []


KILLED_BETWEEN = """
import os, signal, sys
from tfmoe import files
rename, steps = os.rename, []
def killed(*ends):
    steps.append(ends)
    if len(steps) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*ends)
os.rename = killed
with files.replaced(sys.argv[1]) as draft:
    draft.mkdir()
    (draft / "new.txt").touch()
"""


@pytest.mark.parametrize("step", [1, 2])
def test_what_a_killed_writer_had_moved_away_comes_back(tmp_path, step):
    path = tmp_path / "c"
    path.mkdir()
    (path / "old.txt").touch()
    command = [sys.executable, "-c", KILLED_BETWEEN, str(path), str(step)]
    subprocess.run(command, check=False)
    assert path.exists() == (step == 1)
    with files.new_file(tmp_path / "other") as draft:
        draft.touch()
    assert tree(tmp_path) == ["c", "c/old.txt", "other"]


KILLED = """
import os, signal, sys
from tfmoe import files
with getattr(files, sys.argv[1])(sys.argv[2]) as draft:
    (draft / "part" if draft.is_dir() else draft).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("writer", ["new_file", "new_folder", "new_files", "replaced"])
def test_a_killed_writer_leaves_nothing_that_stays(tmp_path, writer):
    (tmp_path / ".kept-abcdefgh").mkdir()
    path = tmp_path / "c"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", KILLED, writer, str(path)], check=False)
        assert not path.exists()
    left = [name for name in os.listdir(tmp_path) if name.endswith(files._DRAFT)]
    assert len(left) == 1
    # That of a process which lives stays.
    with files.new_file(tmp_path / "other") as draft:
        draft.write_text("whole")
        write_file(path)
        assert draft.read_text() == "whole"
    assert tree(tmp_path) == [".kept-abcdefgh", "c", "other"]


def test_of_two_who_write_at_once_one_wins_whole(tmp_path):
    path = tmp_path / "c"
    with files.new_file(path) as draft:
        draft.write_text("first")
        with files.new_file(path) as other:
            other.write_text("second")
        with pytest.raises(FileExistsError, match="is there already"):
            files.place(draft, path)
        # The block ends as one that has nothing to place.
        path.unlink()
    assert path.read_text() == "first"
    with files.replaced(path) as first, files.replaced(path) as second:
        first.write_text("first" * 1000)
        second.write_text("second")
    assert path.read_text() == "first" * 1000
    assert tree(tmp_path) == ["c"]


def test_files_keep_their_endings_while_they_are_written(tmp_path):
    with files.new_file(tmp_path / "a.csv.gz") as draft:
        assert draft.name == "a.csv.gz"
        draft.touch()


def test_file_systems_without_links(tmp_path, monkeypatch):
    def no_link(*paths):
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr(os, "link", no_link)
    write_file(tmp_path / "c")
    assert tree(tmp_path) == ["c"]
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "c")


def test_versions_are_numbered_from_the_largest(tmp_path):
    for name in ("3", "12", "x9", "7.5", "\u00b2"):
        (tmp_path / name).mkdir()
    assert files.next_version(tmp_path) == 13
    assert write_version(tmp_path) == tmp_path / "13"
    assert files.next_version(tmp_path) == 14


def test_a_draft_that_another_takes_for_one_left_is_given_up(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    make, made, held = tempfile.mkdtemp, [], []

    def taken_at_once(**options):
        made.append(make(**options))
        if len(made) == 1:  # as by a writer that looks for what was left
            held.append(os.open(made[0], os.O_RDONLY))
            fcntl.flock(held[0], fcntl.LOCK_EX)
        if len(made) == 2:  # and another that has removed it before it can be locked
            os.rmdir(made[1])
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", taken_at_once)
    with files.new_folder(tmp_path / "a") as draft:
        assert str(draft.parent) == made[2]
    os.close(held[0])
    assert (tmp_path / "a").is_dir()


def test_writers_at_once_get_versions_of_their_own(tmp_path):
    ready = threading.Barrier(8)
    versions = []

    def fill(draft):
        (draft / "a.txt").touch()
        ready.wait(timeout=60)  # or one that failed would leave the others waiting

    def write():
        versions.append(int(files.new_version(tmp_path, fill).name))

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(versions) == list(range(1, 9))
    assert len(tree(tmp_path)) == 16


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("path", ["gs://bucket/ranker", "s3:/bucket/ranker"])
def test_no_url_becomes_a_folder_where_its_store_is_unknown(tmp_path, monkeypatch, write, path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ImportError, match=r"pip install 'tfmoe\[remote\]'"):
        write(path)
    assert tree(tmp_path) == []


def test_a_scratch_folder_is_local(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="a local folder, and copy it"), files.scratch("s3://b/a"):
        pass
    assert tree(tmp_path) == []


@pytest.mark.parametrize("write", WRITERS)
def test_an_url_of_a_local_file_is_its_path(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    write(f"file://{tmp_path}/b")
    assert tree(tmp_path)[0] == "b"
