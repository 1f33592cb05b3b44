"""What the driver sends to workers and makes of what they send back, without Spark."""

import pickle
import sys
import warnings
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import tfmoe

VECTORS = pd.DataFrame(
    np.random.default_rng(0).normal(size=(500, 64)), index=[f"i{n}" for n in range(500)]
)
ROWS = pd.DataFrame(
    {
        "item": [f"i{n % 520}" for n in range(2000)],
        "seen": [[f"i{n % 7}", f"i{n % 511}"] for n in range(2000)],
        "age": [str(n % 50) if n % 100 else "NA" for n in range(2000)],
        "click": [n % 2 for n in range(2000)],
        "buy": [n % 3 == 0 for n in range(2000)],
    }
)


class State(NamedTuple):
    """A row as `tfmoe.spark._STATES` says."""

    part: int
    error: str | None
    type_error: bool | None
    json: bytes
    arrays: bytes


class Frame:
    """As much of a Spark table as `fit` asks for; `sent` is what goes to workers and back."""

    def __init__(self, rows, num_parts):
        self.columns, self.sent = list(rows), []
        self._parts = [
            pa.Table.from_pandas(rows.iloc[places], preserve_index=False).to_batches(
                max_chunksize=100
            )
            for places in np.array_split(np.arange(len(rows)), num_parts)
        ]

    def select(self, *names):
        assert [name.strip("`") for name in names] == self.columns
        return self

    def mapInArrow(self, function, schema):
        self.sent.append(pickle.dumps(function))
        return self

    def collect(self):
        states = []
        for number, batches in enumerate(self._parts):
            sys.modules["pyspark"].TaskContext.number = number
            for batch in pickle.loads(self.sent[0])(iter(batches)):
                states += [State(**row) for row in batch.to_pylist()]
        self.sent += [state.arrays for state in states]
        return states


@pytest.fixture
def spark_fit(monkeypatch):
    """`tfmoe.spark.fit` in one process."""
    context = SimpleNamespace(number=0)
    context.get = lambda: SimpleNamespace(partitionId=lambda: context.number)
    monkeypatch.setitem(sys.modules, "pyspark", SimpleNamespace(TaskContext=context))
    return tfmoe.spark.fit


def schema_of(vectors):
    return tfmoe.Schema(
        [
            tfmoe.Pretrained("item", vectors=vectors),
            tfmoe.MultiCategorical("seen", share="item"),
            tfmoe.Numeric("age"),
        ],
        [tfmoe.Binary("click"), tfmoe.Binary("buy", given="click")],
    )


def told(act):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = act()
    return result, [str(one.message) for one in caught]


@pytest.mark.parametrize("in_file", [False, True])
def test_vectors_stay_with_the_driver_and_warnings_are_told(spark_fit, tmp_path, in_file):
    vectors = VECTORS
    if in_file:
        vectors = tmp_path / "v.npz"
        np.savez(vectors, ids=VECTORS.index.to_numpy(str), vectors=VECTORS.to_numpy("float32"))
    df = Frame(ROWS, 3)
    fitted, warned = told(lambda: spark_fit(df, schema_of(vectors)))
    here, expected = told(lambda: tfmoe.Preprocessor(schema_of(vectors)).fit(ROWS))
    assert warned == expected
    assert len(warned) == 3
    assert fitted.fits["item"].equals(here.fits["item"])
    assert fitted.table_sizes == here.table_sizes
    for one, other in zip(fitted.arrays(ROWS), here.arrays(ROWS), strict=True):
        for name, values in other.items():
            np.testing.assert_allclose(one[name], values, rtol=1e-6)
    # Later rows, too, and merging, need no vectors again.
    later = told(lambda: fitted.grow(ROWS, progress=False))[0]
    assert later.fits["item"].equals(here.fits["item"])
    assert fitted.merge(here).num_rows == 4000
    assert len(df.sent) == 4
    assert max(map(len, df.sent)) < VECTORS.size


def test_vectors_that_are_not_there_are_asked_for_by_the_driver(spark_fit):
    schema = tfmoe.Schema.from_dict(schema_of(VECTORS).to_dict())
    df = Frame(ROWS, 2)
    with pytest.raises(ValueError, match=r"Received vectors=None. Give `vectors` again"):
        spark_fit(df, schema)
    assert not df.sent
