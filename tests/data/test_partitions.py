"""Tables in folders of folders, and in every kind of file: the same rows come out."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfmoe.data.preprocessor import Preprocessor
from tfmoe.data.read.look import look_at
from tfmoe.data.read.source import open_source
from tfmoe.schema.columns import Categorical, MultiCategorical, Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary


def _write_stream(table, path):
    with pa.ipc.new_stream(path, table.schema) as writer:
        # Batches as small as some writers make them.
        for batch in table.to_batches(max_chunksize=3):
            writer.write_batch(batch)


WRITERS = {
    "orc": pa.orc.write_table,
    "feather": pa.feather.write_feather,
    "arrow": _write_stream,
    "parquet": pa.parquet.write_table,
    "csv": lambda table, path: table.drop(["tags"]).to_pandas().to_csv(path, index=False),
}

_TEXT = st.sampled_from(["a", "b", "Zürich", "a,b", "1", "01"])
_ROW = st.fixed_dictionaries(
    {
        "age": st.none() | st.sampled_from([-1.5, 0.0, 2.25, 1e9]),
        "user": st.none() | st.integers(-3, 3),
        "city": st.none() | _TEXT,
        "tags": st.none() | st.lists(st.sampled_from(["u", "v"]), max_size=3),
        "click": st.sampled_from([0, 1]),
        "day": st.sampled_from(["2024-01-01", "2024-01-02"]),
        "shop": st.none() | st.integers(0, 2),
        "word": st.none() | st.sampled_from(["x=y", "a b", "1/2", "7"]),
    }
)
_KINDS = pa.schema(
    {
        "age": pa.float64(),
        "user": pa.int64(),
        "city": pa.string(),
        "tags": pa.list_(pa.string()),
        "click": pa.int64(),
        "day": pa.string(),
        "shop": pa.int64(),
        "word": pa.string(),
    }
)
_FOLDERS = ["day", "shop", "word"]
_COLUMNS = [
    Numeric("age"),
    Categorical("user", dtype="int"),
    Categorical("city", dtype="string"),
    MultiCategorical("tags", dtype="string", max_length=3),
    Categorical("day", dtype="string"),
    Categorical("shop", dtype="int"),
    Numeric("number", source="shop"),
    Categorical("word", dtype="string"),
]


def _folder(values):
    from urllib.parse import quote

    texts = {
        name: "__HIVE_DEFAULT_PARTITION__" if value is None else quote(str(value), safe="")
        for name, value in values.items()
    }
    return "/".join(f"{name}={text}" for name, text in texts.items())


def _write_parted(table, root, kind):
    """Writes rows with the same values of the folders' columns into one file; those rows again, in
    the order of the files."""
    parts = {}
    for place, row in enumerate(table.select(_FOLDERS).to_pylist()):
        parts.setdefault(_folder(row), []).append(place)
    for folder, rows in parts.items():
        (root / folder).mkdir(parents=True)
        WRITERS[kind](table.take(rows).drop(_FOLDERS), root / folder / f"part-0.{kind}")
    (root / "_SUCCESS").touch()
    (root / "_temporary").mkdir()
    (root / "_temporary" / "day=x").mkdir()
    return table.take([row for folder in sorted(parts) for row in parts[folder]])


def _assert_same(prep, source, expected):
    for part, other in zip(prep.arrays(source), expected, strict=True):
        assert part.keys() == other.keys()
        for name, values in other.items():
            np.testing.assert_array_equal(part[name], values, err_msg=name)


@pytest.mark.quick(2)
@settings(max_examples=12, deadline=None)
@given(rows=st.lists(_ROW, min_size=1, max_size=20))
@pytest.mark.parametrize("kind", WRITERS)
def test_a_table_is_the_same_in_every_kind_of_file_and_in_folders(kind, rows):
    table = pa.Table.from_pylist(rows, _KINDS)
    columns = [c for c in _COLUMNS if kind != "csv" or c.name != "tags"]
    schema = Schema(columns, [Binary("click")])
    with tempfile.TemporaryDirectory() as held:
        root = Path(held)
        WRITERS[kind](table, root / f"whole.{kind}")
        # In memory as it is from Parquet.
        frame = table.to_pandas(types_mapper=pd.ArrowDtype)
        prep = Preprocessor(schema).fit(frame)
        _assert_same(prep, root / f"whole.{kind}", prep.arrays(frame))

        parted = _write_parted(table, root / "parted", kind)
        expected = prep.arrays(parted.to_pandas(types_mapper=pd.ArrowDtype))
        _assert_same(prep, root / "parted", expected)
        _assert_same(prep, root / "parted" / "day=*", expected)
        _assert_same(prep, f"{root}/parted/**/*.{kind}", expected)
        again = Preprocessor(schema).fit(root / "parted")
        for name in ("user", "day", "shop", "word"):
            assert again.vocabulary(name).equals(prep.vocabulary(name)), name
        assert again.numeric["age"].mean == pytest.approx(prep.numeric["age"].mean)


def _parquet(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pa.parquet.write_table(pa.table(columns), path)


def _types(source):
    chunks = [
        chunk
        for fragment in open_source(source).fragments()
        for chunk in fragment.read(dict.fromkeys(fragment.names))
    ]
    return [{name: str(array.type) for name, array in chunk.items()} for chunk in chunks]


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["1", "-20"], "int64"),
        (["0", "7"], "int64"),
        (["1", "__HIVE_DEFAULT_PARTITION__"], "int64"),
        (["1", "x"], "text"),
        (["1", "01"], "text"),
        (["1", "+2"], "text"),
        (["1.0", "2"], "text"),
        (["1", str(2**63)], "text"),
        (["2024-01-01", "2024-01-02"], "text"),
    ],
)
def test_a_column_of_folders_is_of_integers_or_text(tmp_path, texts, kind):
    for text in texts:
        _parquet(tmp_path / f"k={text}" / "a.parquet", a=[1])
    text = "dictionary<values=string, indices=int32, ordered=0>"
    for types in _types(tmp_path):
        assert types["k"] in ({"int64"} if kind == "int64" else {text, "string"})
    assert list(_types(tmp_path)[0]) == ["a", "k"]


def test_a_column_of_folders_alone_has_all_rows(tmp_path):
    _parquet(tmp_path / "k=1" / "a.parquet", a=list(range(70_000)))
    (fragment,) = open_source(tmp_path).fragments()
    assert sum(len(chunk["k"]) for chunk in fragment.read({"k": "int"})) == 70_000
    assert look_at(tmp_path).columns["k"].holds == "integers"


def test_a_path_inside_a_folder_knows_what_the_folder_says(tmp_path):
    _parquet(tmp_path / "k=1" / "a.parquet", a=[1])
    for source in (tmp_path / "k=1", tmp_path / "k=1" / "a.parquet", f"file://{tmp_path}/k=1"):
        assert list(_types(source)[0]) == ["a", "k"]


def test_only_folders_that_are_columns_are_entered(tmp_path):
    _parquet(tmp_path / "a.parquet", a=[1])
    _parquet(tmp_path / "old" / "a.parquet", a=[2])
    assert len(open_source(tmp_path).fragments()) == 1
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(ValueError, match=r"named column=value, or given as a glob"):
        open_source(tmp_path)


def test_folders_and_files_that_do_not_go_together_are_told(tmp_path):
    _parquet(tmp_path / "t" / "k=1" / "a.parquet", k=[1], a=[2])
    with pytest.raises(ValueError, match=r"not in both. Received \['k'\] in both of .*k=1"):
        open_source(tmp_path / "t").fragments()[0].names  # noqa: B018
    _parquet(tmp_path / "u" / "k=1" / "a.parquet", a=[2])
    _parquet(tmp_path / "u" / "a.parquet", a=[2])
    with pytest.raises(ValueError, match=r"folders of the same columns. Received .* with \[\]"):
        open_source(tmp_path / "u")
    _parquet(tmp_path / "v" / "k=1" / "k=2" / "a.parquet", a=[2])
    with pytest.raises(ValueError, match=r"with 'k' twice"):
        open_source(tmp_path / "v")


@pytest.mark.parametrize("kind", ["feather", "arrow", "orc"])
def test_large_and_small_parts_become_chunks(tmp_path, kind):
    num_rows = 200_000
    table = pa.table({"a": np.arange(num_rows), "b": pa.array(["x", "y"] * (num_rows // 2))})
    path = tmp_path / f"a.{kind}"
    if kind == "arrow":
        with pa.ipc.new_file(path, table.schema) as writer:
            for batch in table.to_batches(max_chunksize=1000):
                writer.write_batch(batch)
    elif kind == "feather":
        pa.feather.write_feather(table, path, chunksize=num_rows)
    else:
        pa.orc.write_table(table, path)
    (fragment,) = open_source(path).fragments()
    assert fragment.num_rows == num_rows
    chunks = list(fragment.read({"b": None, "a": None}))
    assert [chunk.start for chunk in chunks] == np.cumsum([0, *map(len, (c["a"] for c in chunks))])[
        :-1
    ].tolist()
    assert max(len(chunk["a"]) for chunk in chunks) < 140_000
    assert pa.chunked_array([chunk["a"] for chunk in chunks]).equals(table["a"])
    assert 0 < len(fragment.look(1000)["a"]) <= 1010


def test_categories_whose_dictionaries_differ_are_one_column(tmp_path):
    kind = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema({"a": kind})
    with pa.ipc.new_stream(tmp_path / "a.arrow", schema) as writer:
        for texts in (["x", "y"], ["z", None, "x"]):
            batch = pa.record_batch([pa.array(texts).dictionary_encode().cast(kind)], schema)
            writer.write_batch(batch)
    (chunk,) = open_source(tmp_path / "a.arrow").fragments()[0].read({"a": "text"})
    assert chunk["a"].to_pylist() == ["x", "y", "z", None, "x"]


@pytest.mark.parametrize("kind", ["feather", "arrow", "orc"])
def test_broken_files_are_told(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    path.write_bytes(b"ARROW1 and no more")
    with pytest.raises(ValueError, match=f"a.{kind}, which is no whole (ORC|Arrow IPC) file"):
        open_source(path)
    path.write_bytes(b"FEA1" + b"\0" * 99)
    with pytest.raises(ValueError, match="no whole"):
        open_source(path)
