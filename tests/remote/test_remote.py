"""URLs: their addresses, what is tried again, what is told, and how files come to appear there."""

import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from tests.datasets.test_movielens import write_ml_1m
from tests.remote.stores import Failing, failing_store, web_server
from tfmoe import files, remote
from tfmoe.cli.app import app
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.data.read.source import open_source
from tfmoe.datasets.movielens import movielens
from tfmoe.schema.columns import Categorical, Numeric
from tfmoe.schema.pretrained import Pretrained
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary

SCHEMA = Schema([Numeric("a"), Categorical("c")], [Binary("y")])


@pytest.fixture
def store():
    with failing_store() as system:
        yield system


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    texts = np.array(["x", "y", None], object)
    return pd.DataFrame(
        {
            "a": rng.normal(size=500),
            "c": rng.choice(texts, 500),
            "y": rng.integers(0, 2, 500),
        }
    )


@pytest.mark.parametrize(
    ("path", "is_remote", "expected"),
    [
        ("s3://b/a.csv", True, "s3://b/a.csv"),
        (Path("s3://b/a.csv"), True, "s3://b/a.csv"),
        ("hdfs:///a.csv", True, "hdfs:///a.csv"),
        ("https://h/a.csv?k=v", True, "https://h/a.csv?k=v"),
        ("file:///t/a.csv", False, "/t/a.csv"),
        (Path("file:///t/a.csv"), False, "/t/a.csv"),
        ("a.csv", False, "a.csv"),
        ("/t/day=1/a.csv", False, "/t/day=1/a.csv"),
        ("C:/a.csv", False, "C:/a.csv"),
    ],
)
def test_addresses(path, is_remote, expected):
    assert remote.is_remote(path) is is_remote
    assert remote.address(path) == expected


def test_without_fsspec_an_url_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    for act in (
        lambda: open_source("s3://shop/a.csv"),
        lambda: files.check_new("s3://shop/a.csv"),
        lambda: Preprocessor.load("s3://shop/prep"),
    ):
        with pytest.raises(ImportError, match=r"pip install 'tfmoe\[remote\]'"):
            act()


def test_a_package_that_a_store_needs_is_named():
    with pytest.raises(ImportError, match=r"'gs://shop/a.csv'.*gs:// needs gcsfs"):
        open_source("gs://shop/a.csv")
    with pytest.raises(ValueError, match=r"that fsspec knows.*'nonsense://a.csv'"):
        open_source("nonsense://a.csv")


def test_local_files_load_no_fsspec(tmp_path):
    (tmp_path / "a.csv").write_text("a\n1\n", encoding="utf-8")
    code = (
        "import sys; from tfmoe.data.read.source import open_source;"
        f"list(open_source({str(tmp_path / 'a.csv')!r}).fragments()[0].read({{'a': None}}));"
        "print({'fsspec', 's3fs', 'pyspark'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet", "feather"])
def test_what_fails_at_first_is_tried_again(store, rows, ending):
    url = f"failing://shop/t/k=1/a.{ending}"
    with store.open(url, "wb") as file:
        kind, _, packed = ending.partition(".")
        how = {"compression": "gzip"} if packed else {}
        getattr(rows, f"to_{kind}")(file, **({} if kind == "feather" else {"index": False}), **how)
    schema = Schema([*SCHEMA.columns, Categorical("k")], SCHEMA.tasks)
    expected = Preprocessor(schema).fit(rows.assign(k=1)).arrays(rows.assign(k=1))
    for failures in (0, 1, remote.TRIES - 1):
        Failing.failures = failures
        found = Preprocessor(schema).fit("failing://shop/t").arrays("failing://shop/t")
        assert Failing.failures == 0
        for part, other in zip(found, expected, strict=True):
            for name, values in other.items():
                np.testing.assert_array_equal(part[name], values)
    Failing.failures = 10**6
    with pytest.raises(remote.RemoteError, match=r"tried 4 times: ConnectionResetError"):
        open_source("failing://shop/t")
    Failing.failures = 0
    source = open_source("failing://shop/t")
    Failing.failures, before = 10**6, Failing.calls
    with pytest.raises(remote.RemoteError, match=r"a\.\S+, tried 4 times: ConnectionResetError"):
        list(source.fragments()[0].read({"a": "float"}))
    assert Failing.calls - before <= 2 * remote.TRIES


def test_bytes_that_do_not_come_are_asked_for_again(store, monkeypatch):
    store.pipe_file("/shop/a.txt", bytes(range(100)))
    whole, answers = Failing.cat_file, []

    def cut_off(self, path, start=None, end=None, **kwargs):
        answers.append(end)
        found = whole(self, path, start, end)
        return found[:3] if len(answers) == 1 else found

    monkeypatch.setattr(Failing, "cat_file", cut_off)
    with remote.RemoteFile("failing://shop/a.txt", 10) as file:
        file.seek(20)
        assert file.read(15) == bytes(range(20, 35))
        assert file.read(4) == bytes(range(35, 39))
        assert file.read() == bytes(range(39, 100))
        assert file.read(5) == b""
        file.seek(-2, 2)
        assert (file.tell(), file.read(9)) == (98, bytes([98, 99]))
    assert answers[:3] == [35, 35, 45]


def test_what_waiting_does_not_mend_is_told_at_once(store):
    calls = []

    def act():
        calls.append(1)
        raise PermissionError("no")

    with pytest.raises(PermissionError):
        remote.tried("s3://shop/a", act)
    assert len(calls) == 1
    with pytest.raises(FileNotFoundError, match=r"No file matches\. Received source='fail"):
        open_source("failing://shop/none.csv")
    with pytest.raises(FileNotFoundError, match="No file matches"):
        open_source("failing://shop/*.csv")


@pytest.mark.parametrize("ending", ["csv", "parquet", "tfrecord"])
def test_a_changed_file_behind_an_url_is_told(store, rows, ending):
    url = f"failing://shop/a.{ending}"
    if ending == "tfrecord":
        pytest.importorskip("tensorflow")
    source = None
    for number in (1, 2):
        with store.open(url, "wb") as file:
            if ending == "tfrecord":
                file.write(b"0" * number)
            else:
                getattr(rows[: 100 * number], f"to_{ending}")(file, index=False)
        source = source or open_source(url)
    with pytest.raises(OSError, match=rf"must not change .*failing://shop/a\.{ending}, which has"):
        next(iter(source.fragments()[0].read({"a": "float"})))


def test_a_file_appears_whole_or_not_at_all(store, monkeypatch):
    url = "failing://shop/new/a.txt"
    with files.new_file(url) as draft:
        draft.write_text("whole")
        assert not store.exists(url)
    assert store.cat_file(url) == b"whole"
    # One that is no object store sees the file under another name first.
    assert store.ls("/shop/new", detail=False) == ["/shop/new/a.txt"]
    with pytest.raises(FileExistsError, match=url), files.new_file(url):
        pass
    with files.replaced(url) as draft:
        draft.write_text("other")
    assert store.cat_file(url) == b"other"
    with pytest.raises(UnicodeError), files.replaced(url) as draft:
        draft.write_text("broken \udcff", encoding="utf-8")
    assert store.cat_file(url) == b"other"
    with pytest.raises(ValueError, match="takes no other's place"), files.replaced(url) as draft:
        draft.mkdir()


def test_of_a_folder_the_marker_comes_last_and_a_failure_leaves_nothing(store, monkeypatch):
    came = []
    put = Failing.put_file

    def watched(self, lpath, rpath, **kwargs):
        came.append(rpath)
        put(self, lpath, rpath, **kwargs)

    monkeypatch.setattr(Failing, "put_file", watched)

    def fill(folder):
        (folder / "variables").mkdir()
        for name in ("saved_model.pb", "a.json", "variables/v.index", "zz"):
            (folder / name).write_text(name)

    assert files.new_version("failing://shop/served", fill) == "failing://shop/served/1"
    assert "saved_model.pb" in came[-1]
    assert len(came) == 4
    assert files.new_version("failing://shop/served", fill) == "failing://shop/served/2"
    Failing.failures = 10**6
    with pytest.raises(remote.RemoteError):
        files.new_version("failing://shop/served", fill)
    Failing.failures = 0
    assert [path for path in Failing.store if "/served/3" in path] == []


def test_a_preprocessor_there_and_back(store, rows):
    fitted = Preprocessor(SCHEMA).fit(rows)
    Failing.failures = 1
    fitted.save("failing://shop/prep")
    loaded = Preprocessor.load("failing://shop/prep")
    np.testing.assert_array_equal(loaded.arrays(rows)[0]["a"], fitted.arrays(rows)[0]["a"])
    assert loaded.merge(fitted).num_rows == 1000
    with pytest.raises(FileExistsError, match="never over another file"):
        fitted.save("failing://shop/prep")
    store.rm_file("/shop/prep/preprocessor.json")
    with pytest.raises(FileNotFoundError, match="failing://shop/prep"):
        Preprocessor.load("failing://shop/prep")


def test_a_web_server_that_knows_no_ranges(tmp_path, rows):
    pytest.importorskip("aiohttp")
    for part in ("k=1", "k=2"):
        (tmp_path / part).mkdir()
        rows.to_csv(tmp_path / part / "a.csv", index=False)
        rows.to_parquet(tmp_path / part / "a.parquet", index=False)
    schema = Schema([*SCHEMA.columns, Categorical("k")], SCHEMA.tasks)
    twice = pd.concat([rows.assign(k=1), rows.assign(k=2)], ignore_index=True)
    expected = Preprocessor(schema).fit(twice).arrays(twice)
    with web_server(tmp_path) as url:
        for name in ("a.csv", "a.parquet?signed=yes"):
            source = [f"{url}/k=1/{name}", f"{url}/k=2/{name}"]
            found = Preprocessor(schema).fit(source).arrays(source)
            for part, other in zip(found, expected, strict=True):
                for column, values in other.items():
                    np.testing.assert_array_equal(part[column], values)
        with pytest.raises(FileNotFoundError, match="No file matches"):
            open_source(f"{url}/none.csv")
    fsspec.get_filesystem_class("http").clear_instance_cache()


@pytest.mark.parametrize("ending", ["npz", "npy", "parquet"])
def test_vectors_behind_an_url(store, tmp_path, ending):
    vectors = np.arange(6, dtype="float32").reshape(3, 2)
    path = tmp_path / f"v.{ending}"
    if ending == "npz":
        np.savez(path, ids=[0, 1, 2], vectors=vectors)
    elif ending == "npy":
        np.save(path, vectors)
    else:
        pd.DataFrame({"id": [0, 1, 2], "vector": list(vectors)}).to_parquet(path)
    store.put_file(str(path), f"/shop/{path.name}")
    rows = pd.DataFrame({"item": [0, 1, 2], "y": 0})
    for place in (f"failing://shop/{path.name}", Path(f"failing://shop/{path.name}")):
        column = Pretrained("item", vectors=place)
        Failing.failures = 1
        prep = Preprocessor(Schema([column], [Binary("y")])).fit(rows, progress=False)
        assert Failing.failures == 0
        np.testing.assert_array_equal(prep.fits["item"].vectors, vectors)
        # A schema's file has the URL.
        assert Schema.from_json(prep.schema.to_json()).columns[0].vectors == str(
            f"failing://shop/{path.name}"
        )
    assert Pretrained("item", vectors=Path(f"file://{path}")).vectors == str(path)
    nowhere = Pretrained("item", vectors=f"failing://shop/none.{ending}")
    with pytest.raises(FileNotFoundError, match="none"):
        Preprocessor(Schema([nowhere], [Binary("y")])).fit(rows, progress=False)
    other = Pretrained("item", vectors="failing://shop/v.txt")
    with pytest.raises(ValueError, match=r"path or URL of .* Received vectors='failing:"):
        Preprocessor(Schema([other], [Binary("y")])).fit(rows, progress=False)


def test_movielens_behind_an_url(store, tmp_path):
    folder = write_ml_1m(tmp_path / "ml")
    for path in folder.iterdir():
        store.put_file(str(path), f"/shop/ml/{path.name}")
    expected = movielens(folder)
    for place in ("failing://shop/ml", Path("failing://shop/ml"), f"file://{folder}"):
        found = movielens(place)
        for part in ("train", "valid", "test"):
            pd.testing.assert_frame_equal(getattr(found, part), getattr(expected, part))
    store.pipe_file("/shop/other/a.txt", b"a")
    with pytest.raises(ValueError, match=r"name_or_path='failing://shop/other', which holds \['a"):
        movielens("failing://shop/other")


@pytest.mark.parametrize("command", [["tune", "--config", "run.yaml"], ["demo"]])
def test_commands_that_write_here_say_so(command):
    done = CliRunner().invoke(app, [*command, "--out", "s3://shop/out"])
    assert done.exit_code == 1
    text = " ".join(done.output.split())
    assert "This is written where this process runs. Received path='s3://shop/out'" in text
