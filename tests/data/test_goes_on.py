"""Datasets that begin in the middle, and streams that do not end."""

import itertools
import tracemalloc

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tfmoe
from tfmoe import keras_private
from tfmoe.data.batch.chunks import in_blocks, without_first

tf = pytest.importorskip("tensorflow")

NUM_ROWS = 100
SCHEMA = tfmoe.Schema(
    [tfmoe.Numeric("row", transform="none"), tfmoe.Categorical("user", hash_buckets=50)],
    [tfmoe.Binary("click")],
    group="query",
)


def rows(start, stop):
    numbers = np.arange(start, stop)
    return pd.DataFrame(
        {
            "row": numbers.astype(float),
            "user": [f"u{n % 17}" for n in numbers],
            "click": numbers % 2,
            "query": numbers // 3,
        }
    )


def stream(start):
    """Without an end; where a chunk ends depends on where it began."""
    while True:
        yield rows(start, start + 37)
        start += 37


def finite(start):
    return (rows(at, min(at + 23, NUM_ROWS)) for at in range(start, NUM_ROWS, 23))


@pytest.fixture(scope="module")
def prep():
    return tfmoe.Preprocessor(SCHEMA)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr("tfmoe.data.read.tables.CHUNK_ROWS", 30)


def batches_of(epoch):
    """The rows' numbers in each batch, of the packed rows of an epoch."""
    return [batch[:, 0].view(np.float32).tolist() for batch in epoch]


def dataset_of(prep, kind, folder, **changes):
    arguments = {"batch_size": 8, "shuffle": True, "seed": 3} | changes
    if kind == "parquet":
        for place in range(4):
            path = folder / f"{place}.parquet"
            rows(25 * place, 25 * place + 25).to_parquet(path, row_group_size=10)
        return prep.dataset(str(folder / "*.parquet"), **{**arguments, "shuffle": 20})
    if kind == "callable":
        return prep.dataset(lambda: finite(0), **{**arguments, "shuffle": 20})
    if kind == "starts":
        return prep.dataset(finite, **{**arguments, "shuffle": 20})
    if kind == "starts in order":
        return prep.dataset(finite, **{**arguments, "shuffle": False})
    if kind == "groups":
        return prep.dataset(rows(0, NUM_ROWS), keep_groups=True, **arguments)
    if kind == "mixed":
        schema = tfmoe.Schema(
            SCHEMA.columns,
            [tfmoe.Binary("a", source="click"), tfmoe.Binary("b", source="click")],
            task_column="task",
        )
        table = rows(0, NUM_ROWS).assign(task=["a", "a", "b", "a"] * 25)
        mixer = tfmoe.TaskMixer("even")
        return tfmoe.Preprocessor(schema).dataset(table, mixer=mixer, **arguments)
    return prep.dataset(rows(0, NUM_ROWS), **arguments)


KINDS = ["frame", "parquet", "callable", "starts", "starts in order", "groups", "mixed"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_dataset_begins_at_any_epoch_and_batch(prep, kind, tmp_path):
    whole = dataset_of(prep, kind, tmp_path).epochs
    expected = [batches_of(whole()) for _ in range(4)]
    assert "in order" in kind or expected[2] != expected[3]
    later = dataset_of(prep, kind, tmp_path, start_epoch=2).epochs
    assert [batches_of(later()) for _ in range(2)] == expected[2:]
    for epoch, batch in [(3, 5), (1, 0), (2, len(expected[2])), (0, 1)]:
        later.seek(epoch, batch)
        found = batches_of(later())
        assert found == [[]] * batch + expected[epoch][batch:]
        if epoch < 3:  # and the next one is whole
            assert batches_of(later()) == expected[epoch + 1]


def test_batches_that_are_passed_over_are_of_the_one_size_that_others_have(prep):
    dataset = prep.dataset(rows(0, NUM_ROWS), 8, drop_remainder=True)
    dataset.epochs.seek(0, 11)
    features = [features["row"].numpy() for features, *_ in dataset]
    assert [len(one) for one in features] == [8] * 12
    np.testing.assert_array_equal(features[11], np.arange(88, 96))


def test_start_epoch_is_checked(prep):
    with pytest.raises(ValueError, match="`start_epoch` to be an integer of at least 0"):
        prep.dataset(rows(0, 9), start_epoch=-1)


@given(
    sizes=st.lists(st.integers(0, 9), max_size=6),
    block=st.integers(1, 12),
    without=st.integers(0, 40),
)
def test_blocks_hold_their_own_rows(sizes, block, without):
    ends = np.cumsum(sizes, dtype=int).tolist()
    chunks = [np.arange(a, b)[:, None] for a, b in itertools.pairwise([0, *ends])]
    found = [*in_blocks(chunks, block, lambda place: np.random.default_rng([7, place]))]
    mixed = np.concatenate([np.zeros((0, 1), int), *found])[:, 0]
    total = sum(sizes)
    expected = []
    for place, start in enumerate(range(0, total, block)):
        own = np.arange(start, min(start + block, total))
        expected += own[np.random.default_rng([7, place]).permutation(len(own))].tolist()
    assert mixed.tolist() == expected
    left = [*without_first(found, without)]
    assert np.concatenate([np.zeros((0, 1), int), *left])[:, 0].tolist() == expected[without:]


@pytest.mark.parametrize("shuffle", [False, 50])
def test_a_stream_is_read_from_where_it_goes_on(prep, shuffle):
    began = []

    def noted(start):
        began.append(start)
        return stream(start)

    dataset = prep.dataset(noted, 8, shuffle=shuffle, seed=1)
    expected = batches_of(itertools.islice(dataset.epochs(), 40))
    dataset.epochs.seek(0, 30)
    found = batches_of(itertools.islice(dataset.epochs(), 40))
    assert found == [[]] * 30 + expected[30:]
    # 240 rows were trained on: the block of them that is not yet done is read again.
    assert began == [0, 200 if shuffle else 240]
    seen = sorted(itertools.chain.from_iterable(expected))
    if not shuffle:
        assert seen == list(range(320))
    assert seen[:300] == list(range(300))


def test_memory_stays_flat_over_a_stream():
    # Of groups each one's number is kept.
    prep = tfmoe.Preprocessor(tfmoe.Schema(SCHEMA.columns, SCHEMA.tasks))
    dataset = prep.dataset(stream, 32, shuffle=200, seed=1)
    batches = dataset.epochs()
    for _ in itertools.islice(batches, 50):
        pass
    tracemalloc.start()
    held, arrow = [], []
    for _ in range(4):
        for _ in itertools.islice(batches, 60):
            pass
        held.append(tracemalloc.get_traced_memory()[0])
        arrow.append(pa.total_allocated_bytes())
    tracemalloc.stop()
    # 7,680 rows of 5 words and their texts, and no more than some chunks of them are held.
    assert max(held[1:]) < held[0] + 60_000
    assert max(arrow[1:]) < arrow[0] + 60_000
    batches.close()


def test_a_fit_reads_the_first_rows_of_a_stream():
    schema = tfmoe.Schema(
        [tfmoe.Numeric("row"), tfmoe.Categorical("user")], [tfmoe.Binary("click")]
    )
    given_rows = []

    def noted():
        for frame in stream(0):
            given_rows.append(len(frame))
            yield frame

    prep = tfmoe.Preprocessor(schema).fit(noted, rows=100)
    assert prep.num_rows == 100
    assert sum(given_rows) < 400  # a chunk or two ahead
    assert prep.digest() == tfmoe.Preprocessor(schema).fit(rows(0, 100)).digest()
    assert prep.digest() != tfmoe.Preprocessor(schema).fit(rows(0, 101)).digest()
    with pytest.raises(ValueError, match="fit needs `rows` to be None or an integer of at least 1"):
        tfmoe.Preprocessor(schema).fit(noted, rows=0)


def test_what_a_dataset_was_made_of_is_found(prep):
    dataset = prep.dataset(rows(0, 9), 3)
    derived = tf.data.Dataset.zip(dataset.map(lambda *batch: batch), tf.data.Dataset.range(3))
    found = [one for one in keras_private.datasets_of(derived.repeat()) if hasattr(one, "epochs")]
    assert found == [dataset]
