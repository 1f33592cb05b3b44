"""How often tasks come, and that rows come round evenly within each."""

import math

import numpy as np
import pandas as pd
import pytest

from tfmoe.data.batch.task_mixer import MixedOrder, TaskMixer
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.schema.columns import Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary

_SIZES = {"de": 1600, "fr": 400, "us": 0, "jp": 25}
_SCHEMA = Schema(
    [Numeric("row", transform="none")],
    [Binary(name, source="click") for name in _SIZES],
    task_column="market",
)


def _rows():
    market = np.repeat(list(_SIZES), list(_SIZES.values()))
    number = np.arange(len(market), dtype=float)
    return pd.DataFrame({"row": number, "market": market, "click": number % 2})


_MIXERS = [
    (TaskMixer(), [1600, 400, 0, 25]),
    (TaskMixer("even"), [1, 1, 0, 1]),
    (TaskMixer("temperature", temperature=2.0), [40, 20, 0, 5]),
    (TaskMixer("temperature", temperature=0.5), [2560000, 160000, 0, 625]),
]


@pytest.mark.parametrize(("mixer", "shares"), _MIXERS)
def test_probabilities(mixer, shares):
    expected = np.array(shares) / sum(shares)
    np.testing.assert_allclose(mixer.probabilities(list(_SIZES.values())), expected, rtol=1e-12)


@pytest.mark.parametrize("temperature", [1e-3, 1e3])
def test_extreme_temperatures_stay_finite(temperature):
    found = TaskMixer("temperature", temperature=temperature).probabilities([10**9, 10, 0])
    np.testing.assert_allclose(found, [1, 0, 0] if temperature < 1 else [0.5, 0.5, 0], atol=0.01)


@pytest.mark.parametrize(("mixer", "shares"), _MIXERS)
def test_tasks_come_by_their_probability_and_rows_in_turn(mixer, shares):
    tasks = np.repeat(np.arange(len(_SIZES)), list(_SIZES.values()))
    order = MixedOrder(mixer, tasks, seed=3)
    num_epochs = 20
    places = np.concatenate([order.next_epoch() for _ in range(num_epochs)])
    assert len(places) == num_epochs * len(tasks)
    # Hoeffding: further off than this with a probability of at most 1e-9 a task.
    bound = math.sqrt(len(places) * math.log(2e9) / 2)
    counts = np.bincount(tasks[places], minlength=len(shares))
    assert (np.abs(counts - len(places) * np.array(shares) / sum(shares)) <= bound).all()
    for task, size in enumerate(_SIZES.values()):
        drawn = places[tasks[places] == task]
        times = np.bincount(drawn, minlength=len(tasks))[tasks == task]
        # None comes again before all have come: at any time all have come as often, or
        # once less.
        for end in range(0, len(drawn), max(1, len(drawn) // 50)):
            so_far = np.bincount(drawn[:end], minlength=len(tasks))[tasks == task]
            assert np.ptp(so_far) <= 1
        assert np.ptp(times) <= 1 if size else not len(drawn)
        if len(drawn) > 2 * size > 50:
            assert (drawn[:size] != drawn[size : 2 * size]).any()  # another order each time


def _epoch(dataset):
    parts = [(f["row"], f["market"], y["score"], w["score"]) for f, y, w in dataset]
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


@pytest.mark.parametrize("kind", ["frame", "parquet", "callable"])
def test_dataset_mixes_any_source_by_the_seed(tmp_path, kind):
    rows = _rows()
    rows.to_parquet(tmp_path / "a.parquet", row_group_size=500)
    source = {
        "frame": rows,
        "parquet": tmp_path / "a.parquet",
        "callable": lambda: iter([rows[:700], rows[700:]]),
    }[kind]
    prep = Preprocessor(_SCHEMA)

    def make(seed):
        return prep.dataset(source, batch_size=64, mixer=TaskMixer("even"), seed=seed)

    dataset = make(0)
    epochs = [_epoch(dataset) for _ in range(2)]
    assert int(dataset.cardinality()) == -(-len(rows) // 64)
    for row, market, score, weight in epochs:
        assert len(row) == len(rows)
        names = np.array(list(_SIZES))[market]
        np.testing.assert_array_equal(names, rows["market"].to_numpy()[row.astype(int)])
        np.testing.assert_array_equal(score, row % 2)
        np.testing.assert_array_equal(weight, 1)
        # A third of 2025 each, and 5 standard deviations.
        assert (np.abs(np.bincount(market)[[0, 1, 3]] - 675) < 5 * 21.3).all()
    again = make(0)
    for epoch in epochs:
        np.testing.assert_array_equal(_epoch(again)[0], epoch[0])
    assert (epochs[0][0] != epochs[1][0]).mean() > 0.9
    assert (_epoch(make(1))[0] != epochs[0][0]).mean() > 0.9


def test_each_worker_mixes_its_own_rows():
    prep = Preprocessor(_SCHEMA)
    rows, tasks = [], []
    for index in range(2):
        shard = prep.dataset(_rows(), mixer=TaskMixer("even"), shard=(index, 2))
        row, market, *_ = _epoch(shard)
        rows.append(set(row.tolist()))
        tasks.append(market)
    assert not rows[0] & rows[1]
    small = {row for row in range(2000, 2025)}
    assert (rows[0] | rows[1]) & small == small
    # Drawn apart: two draws from three even tasks agree in a third of the rows.
    assert np.mean(tasks[0][:1000] == tasks[1][:1000]) < 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TaskMixer("random"), r"\['size', 'temperature', 'even'\]. Received by='random'"),
        (lambda: TaskMixer("temperature", temperature=0.0), "above 0. Received temperature=0.0"),
        (lambda: TaskMixer("temperature", temperature=np.inf), "Received temperature=inf"),
        (lambda: TaskMixer("even", temperature=2.0), r"by='even' with temperature=2.0. Leave"),
    ],
)
def test_mixer_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_mixer_needs_a_task_column():
    schema = Schema(_SCHEMA.columns, [Binary("click")])
    with pytest.raises(ValueError, match=r"with task_column=None. Where every row"):
        Preprocessor(schema).dataset(_rows(), mixer=TaskMixer())
    with pytest.raises(ValueError, match=r"Received mixer='even' with task_column='market'"):
        Preprocessor(_SCHEMA).dataset(_rows(), mixer="even")
