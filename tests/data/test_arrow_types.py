"""Every type of Arrow's is read by the columns that suit it, or is one of our errors."""

import datetime
import decimal
import uuid

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from tfmoe.data.kinds import is_list, is_time, plain
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.schema.columns import Categorical, MultiCategorical, Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Multiclass, Regression

_DAY = datetime.date(2020, 1, 1)
_NOON = datetime.datetime(2020, 1, 1, 12)
_BYTES = b"0123456789abcdef"

_ARRAYS = [
    pa.nulls(2),
    pa.array([True, None]),
    *[pa.array([1, None], kind) for kind in (pa.int8(), pa.uint8(), pa.int64(), pa.uint64())],
    *[pa.array(np.array([1, 2], "float16")), pa.array([1.0, None], pa.float32())],
    pa.array([1.5, None]),
    *[pa.array(["a", None], kind) for kind in (pa.string(), pa.large_string(), pa.string_view())],
    *[pa.array([b"a", None], kind) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())],
    pa.array([_BYTES, None], pa.binary(16)),
    pa.array([b"\xff", None]),
    *[
        pa.array([decimal.Decimal(7), None], kind)
        for kind in (pa.decimal32(9), pa.decimal64(18, 2), pa.decimal128(38), pa.decimal256(76, 5))
    ],
    *[pa.array([_DAY, None], kind) for kind in (pa.date32(), pa.date64())],
    *[pa.array([_NOON, None], pa.timestamp(*unit)) for unit in (("s",), ("ns", "Asia/Tokyo"))],
    pa.array([datetime.time(1), None], pa.time32("s")),
    pa.array([1, None], pa.time64("ns")),
    pa.array([1, None], pa.duration("ns")),
    pa.array([(1, 2, 3), None], pa.month_day_nano_interval()),
    pa.array([{"b": 1}, None]),
    pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
    pa.UnionArray.from_dense(
        pa.array([0, 1], pa.int8()), pa.array([0, 0], pa.int32()), [pa.array([1]), pa.array(["x"])]
    ),
    pa.UnionArray.from_sparse(
        pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["x", "y"])]
    ),
    *[pa.array([[1, 2], None], kind(pa.int64())) for kind in (pa.list_, pa.large_list)],
    *[pa.array([[1, 2], None], kind(pa.int64())) for kind in (pa.list_view, pa.large_list_view)],
    pa.array([[1, 2], None], pa.list_(pa.int64(), 2)),
    *[
        pa.array([["u", "v"], None], pa.list_(kind))
        for kind in (pa.string_view(), pa.large_string())
    ],
    pa.array([["u", "v"], None], pa.list_view(pa.string_view())),
    *[
        pa.array([[0.5, 1.5], None], kind)
        for kind in (pa.list_(pa.float32()), pa.list_(pa.float64(), 2))
    ],
    pa.array([[[1]], None]),
    pa.array([[{"b": 1}], None]),
    pa.array([[_DAY], None]),
    pa.array([[True], None]),
    pa.array([[], None], pa.list_(pa.null())),
    pa.array(["a", None]).dictionary_encode(),
    pa.array([1, None]).dictionary_encode(),
    pa.array([0.5, None]).dictionary_encode(),
    pa.DictionaryArray.from_arrays(pa.array([0, None]), pa.array(["a"], pa.string_view())),
    pa.DictionaryArray.from_arrays(pa.array([0, None]), pa.array([_NOON])),
    pa.RunEndEncodedArray.from_arrays(pa.array([1, 2], pa.int32()), pa.array(["a", None])),
    pa.RunEndEncodedArray.from_arrays(pa.array([1, 2], pa.int32()), pa.array([5, None])),
    pa.array([uuid.UUID(int=5).bytes, None], pa.uuid()),
    pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, None], pa.int8())),
    pa.array(['{"a": 1}', None], pa.json_(pa.string())),
    pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.int32(), [2]), pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2))
    ),
]
_COLUMNS = [
    Numeric("a"),
    Numeric("a", transform="buckets", missing=["x", -1]),
    Categorical("a"),
    Categorical("a", dtype="int", missing=["x"]),
    Categorical("a", dtype="string", missing=["x"]),
    Categorical("a", hash_buckets=9),
    MultiCategorical("a"),
    MultiCategorical("a", dtype="int"),
    MultiCategorical("a", separator="|"),
    MultiCategorical("a", separator="|", hash_buckets=9),
]
_TASKS = [
    Binary("a"),
    Binary("a", positive="a"),
    Regression("a"),
    Multiclass("a", num_classes=9),
    Multiclass("a", classes=("a", "b")),
]


def _plain_error(error):
    assert type(error) in (TypeError, ValueError), type(error)
    assert "Received" in str(error)
    assert "Arrow" not in type(error).__name__


@pytest.mark.quick(25)
@pytest.mark.parametrize("array", _ARRAYS, ids=lambda array: str(array.type))
def test_every_type_is_read_or_refused(array, tmp_path):
    rows = {"a": array, "y": pa.array([0, 1]), "n": pa.array([0.5, 1.5])}
    sources = [rows, {**rows, "a": pa.chunked_array([array[:1], array[1:]])}]
    try:
        pyarrow.parquet.write_table(pa.table(rows), tmp_path / "t.parquet")
        sources.append(tmp_path / "t.parquet")
    except (pa.ArrowException, NotImplementedError):
        pass  # Parquet has no such type
    read = set()
    schemas = [Schema([column], [Binary("y")]) for column in _COLUMNS]
    schemas += [Schema([Numeric("n")], [task]) for task in _TASKS]
    for number, schema in enumerate(schemas):
        for place, source in enumerate(sources):
            try:
                prep = Preprocessor(schema).fit(source, progress=False)
                found = prep.arrays(source)
            except (TypeError, ValueError) as error:
                _plain_error(error)
            else:
                read.add((number, place))
                assert len(next(iter(found[0].values()))) == 2
    # The first two read alike; so does a file, whose types may differ a little.
    assert {n for n, place in read if place == 0} == {n for n, place in read if place == 1}
    kind = plain(array).type
    if is_time(kind) or (pa.types.is_nested(kind) and not is_list(kind)):
        assert not read
    if kind in (pa.string(), pa.large_string()) or pa.types.is_integer(kind):
        assert (2, 0) in read


@pytest.mark.parametrize("array", _ARRAYS, ids=lambda array: str(array.type))
def test_a_schema_is_proposed_that_can_be_fitted(array, tmp_path, recwarn):
    rows = {"a": array, "y": pa.array([0, 1]), "n": pa.array([0.5, 1.5])}
    schema = Schema.infer(rows, "y")
    Preprocessor(schema).fit(rows, progress=False).arrays(rows)
    if "a" not in {column.raw_name for column in schema.columns}:
        assert any("Left out ['a']" in str(one.message) for one in recwarn)
    try:
        pyarrow.parquet.write_table(pa.table(rows), tmp_path / "t.parquet")
    except (pa.ArrowException, NotImplementedError):
        return
    schema = Schema.infer(tmp_path / "t.parquet", "y")
    Preprocessor(schema).fit(tmp_path / "t.parquet", progress=False).arrays(tmp_path / "t.parquet")


def test_views_runs_and_extensions_are_what_they_stand_for():
    texts = pa.array(["u", "v", None, "u"])
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([1, 2, 3, 4], pa.int32()), texts)
    views = [texts.cast(pa.string_view()), texts.cast(pa.binary()).cast(pa.binary_view())]
    prep = Preprocessor(Schema([Categorical("a")], [Binary("y")]))
    for array in (texts, *views, runs, texts.dictionary_encode()):
        rows = {"a": array, "y": [0, 1, 0, 1]}
        assert prep.fit(rows).arrays(rows)[0]["a"].tolist() == [3, 4, 1, 3]


def _categories(first, kind):
    """100 values and a missing one, as pandas writes a category column."""
    values = pa.array([f"v{number}" for number in range(first, first + 100)])
    places = pa.array([*range(100), None], kind)
    return pa.DictionaryArray.from_arrays(places, values)


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int16(), pa.int64()])
@pytest.mark.parametrize("ending", ["table", "batches", "stream", "lists"])
def test_dictionaries_of_parts_are_joined(ending, kind, tmp_path):
    parts = [_categories(first, kind) for first in (0, 100, 200)]
    if ending == "lists":
        # Of two elements each, and one missing cell.
        offsets = pa.array([*range(0, 101, 2), 101])
        parts = [pa.ListArray.from_arrays(offsets, part) for part in parts]
    tables = [pa.table({"c": part, "y": np.arange(len(part)) % 2}) for part in parts]
    if ending == "stream":
        rows = str(tmp_path / "t.arrow")
        with pa.OSFile(rows, "wb") as file, pa.ipc.new_stream(file, tables[0].schema) as writer:
            for table in tables:
                writer.write_table(table)
    elif ending == "batches":
        rows = lambda: iter(tables)  # noqa: E731
    else:
        rows = pa.concat_tables(tables)
    column = MultiCategorical("c") if ending == "lists" else Categorical("c")
    prep = Preprocessor(Schema([column], [Binary("y")])).fit(rows, progress=False)
    assert set(prep.vocabulary("c").to_pylist()) == {f"v{number}" for number in range(300)}
    if ending == "batches":
        rows = pa.concat_tables(tables)
    ids = prep.arrays(rows)[0]["c"]
    plain_rows = pa.concat_tables(tables).to_pydict()
    np.testing.assert_array_equal(ids, prep.arrays(plain_rows)[0]["c"])


@pytest.mark.parametrize("column", [Numeric("c"), Categorical("c", dtype="int"), Categorical("c")])
def test_a_full_dictionary_of_few_bits_has_missing_cells_too(column):
    places = pa.array([*range(128), None], pa.int8())
    values = pa.array([str(number) for number in range(128)])
    rows = pa.table({"c": pa.DictionaryArray.from_arrays(places, values), "y": [0, 1] * 64 + [0]})
    plain_rows = {"c": [*values.to_pylist(), None], "y": rows["y"]}
    schema = Schema([column], [Binary("y")])
    found, expected = (
        Preprocessor(schema).fit(one, progress=False).arrays(one)[0]["c"]
        for one in (rows, plain_rows)
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "cells",
    [
        [7, None, 8, 7],
        [np.int32(7), None, np.int64(8), 7],
        [7, np.nan, 8, 7],
        [7, pd.NA, np.uint8(8), 7],
        [True, None, False, True],
        [np.True_, pd.NA, False, True],
    ],
)
def test_objects_are_what_their_values_are(cells, recwarn):
    df = pd.DataFrame({"a_id": pd.Series(cells, dtype=object), "y": [0, 1, 0, 1]})
    (column,) = Schema.infer(df, "y").columns
    flags = isinstance(cells[0], bool | np.bool_)
    assert column == Categorical("a_id", dtype="string" if flags else "int")
    ids = Preprocessor(Schema([column], [Binary("y")])).fit(df).arrays(df)[0]["a_id"]
    assert ids.tolist() == [3, 1, 4, 3]
