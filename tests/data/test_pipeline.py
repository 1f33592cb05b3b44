import gc
import weakref

import numpy as np
import pandas as pd
import pytest

from tfmoe.data.batch.chunks import mixed, rebatch
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.schema.columns import Categorical, MultiCategorical, Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary, Regression

tf = pytest.importorskip("tensorflow")

_SCHEMA = Schema(
    [
        # The row's number, unscaled, tells rows apart.
        Numeric("row", transform="none"),
        Categorical("user"),
        MultiCategorical("tags"),
    ],
    [Binary("click"), Regression("rating", where="click")],
)


def _rows(start, stop):
    numbers = np.arange(start, stop)
    return pd.DataFrame(
        {
            "row": numbers.astype(float),
            "user": [f"u{n % 17}" for n in numbers],
            "tags": [["a", "b", "c"][: n % 4] for n in numbers],
            "click": np.where(numbers % 5 == 0, np.nan, numbers % 2),
            "rating": numbers / 3,
        }
    )


@pytest.fixture(scope="module")
def prep():
    return Preprocessor(_SCHEMA).fit(_rows(0, 1000))


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 50 rows, so that small files have several fragments and chunks."""
    monkeypatch.setattr("tfmoe.data.read.tables.CHUNK_ROWS", 50)


def _files(folder, kind, count, each=250):
    for file in range(count):
        rows = _rows(file * each, (file + 1) * each)
        if kind == "parquet":
            rows.to_parquet(folder / f"{file}.parquet", row_group_size=60)
        else:
            rows.drop(columns="tags").to_csv(folder / f"{file}.csv", index=False)
    return str(folder / f"*.{kind}")


def _order(dataset):
    """The rows' numbers in the order of the dataset."""
    return np.concatenate([features["row"].numpy() for features, *_ in dataset])


def _source(kind, folder):
    if kind == "frame":
        return _rows(0, 1000)
    if kind == "callable":
        return lambda: (_rows(start, start + 250) for start in range(0, 1000, 250))
    return _files(folder, kind, count=4)


_KINDS = ["frame", "parquet", "callable"]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("drop_remainder", [False, True])
def test_dataset_equals_arrays(prep, tmp_path, kind, drop_remainder):
    source = _source(kind, tmp_path)
    expected = prep.arrays(source)
    dataset = prep.dataset(source, batch_size=64, drop_remainder=drop_remainder)
    batches = list(dataset)
    sizes = [len(features["row"]) for features, *_ in batches]
    assert sizes == [64] * 15 + [40] * (not drop_remainder)
    for part in range(3):
        for name, values in expected[part].items():
            got = np.concatenate([batch[part][name] for batch in batches])
            assert got.dtype == values.dtype
            np.testing.assert_array_equal(got, values[: sum(sizes)], err_msg=name)
    assert int(dataset.cardinality()) == (-2 if kind == "callable" else len(sizes))


def _same(dataset):
    return dataset


def _twice(dataset):
    return dataset.repeat(2).map(lambda features, *_: features)


@pytest.mark.parametrize("derived", [_same, _twice])
def test_rows_live_as_long_as_what_is_made_of_the_dataset(prep, derived):
    dataset = prep.dataset(_rows(0, 100), batch_size=64)
    rows = weakref.ref(dataset.epochs)
    dataset = derived(dataset)
    gc.collect()
    iterator = iter(dataset)
    del dataset
    gc.collect()
    assert len(list(iterator)) in (2, 4)
    del iterator
    for _ in range(2):  # what is freed frees more
        gc.collect()
    assert rows() is None


@pytest.mark.parametrize("kind", _KINDS)
def test_no_whole_batch_is_an_error(prep, tmp_path, kind):
    source = _source(kind, tmp_path)
    with pytest.raises(
        (ValueError, tf.errors.InvalidArgumentError), match="fewer rows than batch_size=2000"
    ):
        list(prep.dataset(source, batch_size=2000, drop_remainder=True))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", _KINDS)
def test_batches_are_the_arrays(prep, tmp_path, kind):
    source = _source(kind, tmp_path)
    batches = list(prep.batches(source, 300, labels=False))
    for name, values in prep.arrays(source, labels=False).items():
        assert [len(batch[name]) for batch in batches] == [300, 300, 300, 100]
        np.testing.assert_array_equal(np.concatenate([b[name] for b in batches]), values)
    _, labels, _ = next(prep.batches(source, 10))
    assert labels["click"].shape == (10,)
    with pytest.raises(ValueError, match="no rows"):
        list(prep.batches(_rows(0, 0)))


def test_element_spec(prep):
    features, labels, weights = prep.dataset(_rows(0, 100), batch_size=8).element_spec
    assert list(features) == ["row", "user", "tags"]
    assert features["row"] == tf.TensorSpec((None,), tf.float32)
    assert features["user"] == tf.TensorSpec((None,), tf.int32)
    assert features["tags"] == tf.TensorSpec((None, 3), tf.int32)
    assert (
        labels == weights == dict.fromkeys(("click", "rating"), tf.TensorSpec((None,), tf.float32))
    )
    fixed = prep.dataset(_rows(0, 100), batch_size=8, drop_remainder=True, labels=False)
    assert fixed.element_spec["tags"] == tf.TensorSpec((8, 3), tf.int32)


@pytest.mark.quick(2)
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("shuffle", [True, 100])
def test_shuffle_permutes_rows_and_follows_the_seed(prep, tmp_path, kind, shuffle):
    source = _source(kind, tmp_path)

    def dataset(seed=0):
        return prep.dataset(source, batch_size=64, shuffle=shuffle, seed=seed)

    first = dataset()
    epochs = [_order(first), _order(first)]
    for order in epochs:
        np.testing.assert_array_equal(np.sort(order), np.arange(1000))
        # Neighbours part: an unshuffled row is followed by its successor.
        assert np.mean(np.diff(order) == 1) < 0.1
    assert (epochs[0] != epochs[1]).mean() > 0.9
    again = dataset()
    np.testing.assert_array_equal(_order(again), epochs[0])
    np.testing.assert_array_equal(_order(again), epochs[1])
    assert (_order(dataset(seed=1)) != epochs[0]).mean() > 0.9


def test_rows_stay_whole_when_shuffled(prep, tmp_path):
    source = _files(tmp_path, "parquet", count=2)
    features, labels, _ = prep.arrays(source)
    for batch, batch_labels, _ in prep.dataset(source, batch_size=50, shuffle=True):
        rows = batch["row"].numpy().astype(int)
        np.testing.assert_array_equal(batch["user"], features["user"][rows])
        np.testing.assert_array_equal(batch["tags"], features["tags"][rows])
        np.testing.assert_array_equal(batch_labels["rating"], labels["rating"][rows])


@pytest.mark.quick(4)
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    ("kind", "files", "count"),
    [
        ("frame", 1, 3),
        ("callable", 1, 3),
        ("parquet", 3, 2),  # by files
        ("parquet", 2, 5),  # by row groups
        ("parquet", 1, 7),  # by rows
        ("csv", 2, 3),  # by rows
    ],
)
def test_shards_partition_the_rows(tmp_path, kind, files, count, shuffle):
    schema = Schema([Numeric("row", transform="none")], [Binary("click")])
    prep = Preprocessor(schema)
    source = (
        _files(tmp_path, kind, files) if kind in ("parquet", "csv") else _source(kind, tmp_path)
    )
    num_rows = 1000 if kind in ("frame", "callable") else 250 * files
    shards = []
    for index in range(count):
        dataset = prep.dataset(source, batch_size=16, shuffle=shuffle, shard=(index, count))
        shards.append(_order(dataset))
        if int(dataset.cardinality()) >= 0:
            assert int(dataset.cardinality()) == -(-len(shards[-1]) // 16)
    np.testing.assert_array_equal(np.sort(np.concatenate(shards)), np.arange(num_rows))
    assert min(map(len, shards)) > 0
    if kind == "frame":
        assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_shards_without_rows_say_so(prep):
    with pytest.raises(ValueError, match=r"worker's shard of it\) with no rows.*fewer shards"):
        prep.dataset(_rows(0, 1), shard=(1, 2))


def test_rows_move_by_up_to_a_buffer():
    chunks = np.array_split(np.arange(10_000, dtype=np.int32)[:, None], 99)
    order = np.concatenate(list(mixed(iter(chunks), 1000, np.random.default_rng(0))))[:, 0]
    np.testing.assert_array_equal(np.sort(order), np.arange(10_000))
    moved = np.abs(order - np.arange(10_000))
    assert moved.max() <= 1000
    assert moved.mean() > 300


def test_small_input_is_mixed_evenly():
    rng = np.random.default_rng(0)
    rows = np.arange(4, dtype=np.int32)[:, None]
    seen = [tuple(np.concatenate(list(mixed([rows], 10, rng)))[:, 0]) for _ in range(2400)]
    counts = pd.Series(seen).value_counts()
    assert len(counts) == 24
    # 100 are expected of each order, with a standard deviation of 10.
    assert counts.min() > 50
    assert counts.max() < 150


@pytest.mark.parametrize("sizes", [[1] * 10, [7, 3], [3, 0, 7], [10], [2, 3, 5]])
@pytest.mark.parametrize("drop_remainder", [False, True])
def test_batches_are_cut_from_chunks_of_any_size(sizes, drop_remainder):
    rows = np.arange(10)[:, None]
    chunks = np.split(rows, np.cumsum(sizes)[:-1])
    batches = [batch[:, 0].tolist() for batch in rebatch(chunks, 4, drop_remainder)]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]][: 2 if drop_remainder else 3]


def test_dataset_of_a_generator_asks_for_a_callable(prep):
    with pytest.raises(ValueError, match=r"Received a generator.*Pass a callable"):
        prep.dataset(_rows(start, start + 10) for start in range(0, 30, 10))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": 0}, r"at least 1. Received batch_size=0"),
        ({"batch_size": 2.0}, r"at least 1. Received batch_size=2.0"),
        ({"seed": -1}, r"at least 0. Received seed=-1"),
        ({"shuffle": "yes"}, r"rows in the shuffle buffer. Received shuffle='yes'"),
        ({"shard": (2, 2)}, r"0 <= index < count. Received shard=\(2, 2\)"),
        ({"shard": 3}, r"0 <= index < count. Received shard=3"),
        ({"shard": (0, 2.0)}, r"0 <= index < count. Received shard=\(0, 2.0\)"),
        ({"mixer": "even"}, r"a TaskMixer as `mixer`.*Received mixer='even'"),
    ],
)
def test_dataset_arguments(prep, given, message):
    with pytest.raises(ValueError, match=message):
        prep.dataset(_rows(0, 10), **given)


def test_arguments_may_be_numpys(prep):
    numbers = {"batch_size": np.int64(4), "seed": np.int32(1), "shuffle": np.int64(5)}
    given = prep.dataset(_rows(0, 10), **numbers, shard=(np.int64(0), np.int64(2)))
    same = prep.dataset(_rows(0, 10), batch_size=4, seed=1, shuffle=5, shard=(0, 2))
    np.testing.assert_array_equal(_order(given), _order(same))


@pytest.mark.parametrize("batch_size", [0, 2.0, True])
def test_batches_tell_what_is_wrong_at_once(prep, batch_size):
    with pytest.raises(ValueError, match=f"at least 1. Received batch_size={batch_size}"):
        prep.batches(_rows(0, 10), batch_size)


def test_missing_columns_of_files_are_told_at_once(prep, tmp_path):
    _rows(0, 10).drop(columns="user").to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"without 'user'"):
        prep.dataset(tmp_path / "a.parquet")


def test_one_row_batches(prep):
    (batch,) = prep.dataset(_rows(3, 4), batch_size=10)
    assert batch[0]["row"].numpy().tolist() == [3.0]
    assert batch[0]["tags"].numpy().tolist() == [[3, 4, 5]]


def test_repeated_dataset_goes_on_to_the_next_epoch(prep):
    dataset = prep.dataset(_rows(0, 100), batch_size=100, shuffle=True)
    first, second = (_order([batch]) for batch in dataset.repeat(2))
    assert (first != second).any()
