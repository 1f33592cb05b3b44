"""Parquet files of many row groups: what is read of them, and how often."""

import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.remote.stores import Failing, failing_store
from tfmoe.data.read.look import look_at
from tfmoe.data.read.parquet import ParquetFragment
from tfmoe.data.read.source import open_source

NUM_GROUPS, GROUP_ROWS = 12, 10


@pytest.fixture
def footers(monkeypatch):
    """Of each file that is opened, whether what it says of its row groups was parsed."""
    parsed = []

    class Counted(pq.ParquetFile):
        def __init__(self, source, **options):
            parsed.append(options.get("metadata") is None)
            super().__init__(source, **options)

    monkeypatch.setattr("pyarrow.parquet.ParquetFile", Counted)
    monkeypatch.setattr("tfmoe.data.read.tables.CHUNK_ROWS", 2 * GROUP_ROWS)
    return parsed


def written(path, num_groups=NUM_GROUPS):
    rows = pd.DataFrame({"a": np.arange(float(num_groups * GROUP_ROWS))})
    # An index of which the file says but where it begins.
    rows.index = pd.RangeIndex(5, 5 + len(rows), name="row")
    pq.write_table(pa.Table.from_pandas(rows), path, row_group_size=GROUP_ROWS)
    return rows.reset_index()


def read(fragments):
    chunks = [chunk for fragment in fragments for chunk in fragment.read({"a": None, "row": None})]
    return pd.DataFrame({n: np.concatenate([c[n].to_numpy() for c in chunks]) for n in chunks[0]})


def test_a_footer_is_parsed_once_however_many_row_groups(tmp_path, footers):
    rows = written(tmp_path / "a.parquet")
    fragments = open_source(tmp_path / "a.parquet").fragments()
    assert [fragment.num_rows for fragment in fragments] == [2 * GROUP_ROWS] * (NUM_GROUPS // 2)
    for _ in range(2):
        pd.testing.assert_frame_equal(read(fragments)[list(rows)], rows)
    pd.testing.assert_frame_equal(read(pickle.loads(pickle.dumps(fragments)))[list(rows)], rows)
    assert look_at(tmp_path / "a.parquet").columns["a"].num_rows == len(rows)
    assert sum(footers) == 2  # the other of the look, which opens the source
    assert len(footers) > 3 * len(fragments)


def test_of_a_file_that_is_one_part_nothing_is_held(tmp_path, footers):
    """Of thousands of small files it would be more than their rows."""
    rows = written(tmp_path / "a.parquet", num_groups=2)
    (fragment,) = ParquetFragment.all_of(str(tmp_path / "a.parquet"), 0)
    pd.testing.assert_frame_equal(read([fragment])[list(rows)], rows)
    look = fragment.look(100)
    assert look["row"].to_pylist() == rows["row"].tolist()
    assert footers == [True, True, True, False, False]


def test_a_footer_behind_an_url_is_fetched_once(footers, tmp_path):
    rows = written(tmp_path / "a.parquet")
    with failing_store() as store:
        store.put_file(str(tmp_path / "a.parquet"), "failing://shop/a.parquet")
        fragments = open_source("failing://shop/a.parquet").fragments()
        Failing.calls = 0
        pd.testing.assert_frame_equal(read(fragments)[list(rows)], rows)
        assert Failing.calls == len(fragments)
    assert sum(footers) == 1


def test_a_look_at_a_file_that_has_changed_is_told(tmp_path, footers):
    written(tmp_path / "a.parquet")
    fragments = open_source(tmp_path / "a.parquet").fragments()
    written(tmp_path / "a.parquet", num_groups=4)
    for act in (lambda one: one.look(5), lambda one: list(one.read({"a": None}))):
        with pytest.raises(OSError, match=r"must not change.*a\.parquet, which has"):
            act(fragments[-1])
