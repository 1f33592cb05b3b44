"""Spark as a user has it, on this machine: one session for all tests, two workers, Java needed."""

import itertools
import os
import shutil
import sys
import warnings
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import tfmoe
from tfmoe.remote import stamp
from tfmoe.spark import _counted, _loaded, _scored, _state

pytest.importorskip("pyspark", reason="PySpark is not installed: pip install 'tfmoe[spark]'")

NUM_ROWS = 3000
SCHEMA = tfmoe.Schema(
    [
        tfmoe.Numeric("age"),
        tfmoe.Numeric("spent", transform="buckets", num_buckets=10),
        tfmoe.Categorical("user"),
        tfmoe.Categorical("city", min_count=3),
        tfmoe.Timestamp("seen"),
        tfmoe.MultiCategorical("tags"),
        tfmoe.Vector("point"),
    ],
    [
        tfmoe.Binary("click"),
        tfmoe.Regression("rating"),
        tfmoe.Multiclass("kind", classes=("x", "y", "z")),
    ],
    weight_column="w",
)


@pytest.fixture(scope="module")
def spark():
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        pytest.skip("Spark needs Java 17 or later.")
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        session = (
            SparkSession.builder.master("local[2,3]")
            .config("spark.ui.enabled", "false")
            .config("spark.driver.memory", "1g")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.sql.session.timeZone", "UTC")
            .config("spark.sql.execution.arrow.maxRecordsPerBatch", "400")
            .getOrCreate()
        )
        session.sparkContext.setLogLevel("OFF")
        yield session
        session.stop()


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)

    def gaps(values, share=0.1):
        return pa.array(values, mask=rng.random(NUM_ROWS) < share)

    tags = [list(rng.choice(["u", "v", "w"], n)) for n in rng.integers(0, 4, NUM_ROWS)]
    cities = np.array([f"c{int(i)}" for i in rng.exponential(9, NUM_ROWS)], object)
    days = np.datetime64("2024-01-01", "us") + rng.integers(0, 10**13, NUM_ROWS)
    return pa.table(
        {
            "age": gaps(rng.normal(40, 9, NUM_ROWS)),
            "spent": rng.exponential(20, NUM_ROWS),
            "user": gaps(rng.integers(2**53, 2**53 + 500, NUM_ROWS)),
            "city": gaps(cities),
            "seen": pa.array(days).cast(pa.timestamp("us", "UTC")),
            "tags": gaps(tags),
            "point": list(rng.normal(size=(NUM_ROWS, 3))),
            "click": gaps(rng.integers(0, 2, NUM_ROWS)),
            "rating": gaps(rng.normal(3, 1, NUM_ROWS)),
            "kind": gaps(rng.choice(np.array(["x", "y", "z"], object), NUM_ROWS)),
            "w": rng.random(NUM_ROWS),
            "nothing of ours": rng.random(NUM_ROWS),
        }
    )


def spread(spark, table, partitions):
    """The table in Spark, in partitions, of which one has no rows."""
    from pyspark.sql import functions

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        df = spark.createDataFrame(table)
    return df.repartitionByRange(partitions, functions.monotonically_increasing_id()).union(
        df.filter("false").repartition(1)
    )


def failing_at_first(df):
    """The same rows; each task fails once in their middle."""

    def same(batches):
        from pyspark import TaskContext

        for number, batch in enumerate(batches):
            if number == 1 and TaskContext.get().attemptNumber() == 0:
                raise RuntimeError("the worker is lost")
            yield batch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return df.mapInArrow(same, df.schema)


def to_frame(table):
    return table.to_pandas(types_mapper=pd.ArrowDtype)


def fitted_here(table):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tfmoe.Preprocessor(SCHEMA).fit(to_frame(table))


def assert_fitted_alike(one, other):
    assert one.num_rows == other.num_rows
    assert one.dtypes == other.dtypes
    assert one.lengths == other.lengths
    assert one.table_sizes == other.table_sizes
    for column in ("user", "city", "tags"):
        assert one.vocabulary(column).equals(other.vocabulary(column))
    numbers = [[prep.numeric["age"].mean, prep.numeric["age"].scale] for prep in (one, other)]
    np.testing.assert_allclose(*numbers, rtol=1e-9)
    for name, fit in one.fits.items():
        for field, values in vars(fit).items():
            if isinstance(values, np.ndarray):
                np.testing.assert_allclose(values, getattr(other.fits[name], field), rtol=1e-9)
    for task, pair in one.label_moments.items():
        np.testing.assert_allclose(pair, other.label_moments[task], rtol=1e-9)
    for task, mean in one.label_means.items():
        np.testing.assert_allclose(mean, other.label_means[task], rtol=1e-9)


def assert_quantiles_within(prep, table):
    """The ranks of fitted boundaries are those of even quantiles, up to the sketch's error."""
    boundaries, values = prep.numeric["spent"].boundaries, np.sort(table["spent"].to_numpy())
    ranks = np.searchsorted(values, boundaries, side="right") / len(values)
    even = np.linspace(0, 1, len(boundaries) + 2)[1:-1]
    assert np.abs(ranks - even).max() <= 2 * prep.rank_error + 1 / len(values)


def test_what_workers_count_is_merged(table, monkeypatch):
    """Without Spark: what a worker does with the batches of its partition."""
    from pyspark import TaskContext

    numbers = itertools.count()
    monkeypatch.setattr(TaskContext, "get", lambda: SimpleNamespace(partitionId=numbers.__next__))
    batches = table.to_batches(max_chunksize=400)
    states = [
        pa.Table.from_batches(list(_state(SCHEMA.to_dict(), 10**6, {}, iter(part)))).to_pylist()
        for part in (batches[:3], batches[3:], batches[:1])
    ]
    assert [state["part"] for (state,) in states] == [0, 1, 2]
    counted = [_counted(SimpleNamespace(**state)) for (state,) in states[:2]]
    whole = tfmoe.Preprocessor(SCHEMA)
    whole._set(counted[0].merge(counted[1]))
    assert_fitted_alike(whole, fitted_here(table))
    assert list(_state(SCHEMA.to_dict(), 10**6, {}, iter([batches[0].slice(0, 0)]))) == []


def test_what_workers_predict_is_what_the_model_does(table, model_path):
    """Without Spark: what a worker does with the batches of its partition."""
    outputs = {"click_predicted": ("click", None), "rating": ("rating", None), "kind": ("kind", 3)}
    wanted = [name for name in table.column_names if name not in ("nothing of ours", "w")]
    path, kept = str(model_path), ["w", "click"]
    batches = table.to_batches(max_chunksize=400)
    found = list(_scored(path, stamp(path), wanted, kept, outputs, 128, iter(batches)))
    assert_predicted(pa.Table.from_batches(found), table, model_path, kept)


@pytest.mark.slow
def test_a_fit_is_that_of_one_machine_also_when_tasks_fail(spark, table):
    df = spread(spark, table, 2)
    fitted = tfmoe.spark.fit(failing_at_first(df), SCHEMA)
    assert_fitted_alike(fitted, fitted_here(table))
    assert_quantiles_within(fitted, table)


@pytest.mark.slow
def test_vectors_in_memory_and_warnings_are_those_of_one_machine(spark, table):
    vectors = {f"c{number}": [number, 1.0] for number in range(20)}
    column = tfmoe.Pretrained("city", vectors=vectors)
    schema = tfmoe.Schema([column], [tfmoe.Binary("click", where="kind", where_value="X")])
    with warnings.catch_warnings(record=True) as expected:
        warnings.simplefilter("always")
        here = tfmoe.Preprocessor(schema).fit(to_frame(table))
    df = spread(spark, table, 2)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fitted = tfmoe.spark.fit(df, schema)
    assert len(expected) == 2
    told = [one for one in told if issubclass(one.category, UserWarning)]
    assert [str(one.message) for one in told] == [str(one.message) for one in expected]
    assert fitted.digest() == here.digest()


@pytest.fixture(scope="module")
def model_path(table, tmp_path_factory):
    prep = fitted_here(table)
    keras.utils.set_random_seed(0)
    model = tfmoe.MultiTaskModel(prep, tfmoe.MMoE(num_experts=2, hidden_units=(4,)))
    path = tmp_path_factory.mktemp("models") / "model.keras"
    model.save(path)
    return path


def assert_predicted(df, table, model_path, kept):
    """Each row has the predictions of `model.predict`, beside what was kept."""
    found = df if isinstance(df, pa.Table) else df.toArrow()
    expected = tfmoe.load_model(model_path).predict(to_frame(table), verbose=0)
    assert found.column_names == [*kept, "click_predicted", "rating", "kind"]
    # `w` tells rows apart.
    order, own = np.argsort(table["w"].to_numpy()), np.argsort(found["w"].to_numpy())
    for name in ("click_predicted", "rating"):
        values = expected[name.removesuffix("_predicted")][order]
        np.testing.assert_allclose(found[name].to_numpy()[own], values, rtol=1e-5, atol=1e-6)
    values = np.stack(found["kind"].to_numpy()[own])
    np.testing.assert_allclose(values, expected["kind"][order], rtol=1e-5, atol=1e-6)
    for name in kept:
        assert found[name].take(own).to_pylist() == table[name].take(order).to_pylist()


@pytest.mark.slow
def test_predictions_are_those_of_the_model_also_when_tasks_fail(spark, table, model_path):
    df = spread(spark, table, 2)
    kept = ["w", "user", "tags", "click"]
    scored = tfmoe.spark.predict(failing_at_first(df), model_path, keep=kept, batch_size=128)
    assert_predicted(scored, table, model_path, kept)


@pytest.mark.slow
def test_a_worker_loads_the_model_once(spark, table, model_path):
    path = str(model_path)

    def loads(batches):
        for _ in batches:
            yield pa.RecordBatch.from_pydict({"misses": [_loaded.cache_info().misses]})

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scored = tfmoe.spark.predict(spread(spark, table, 2), path, keep=["w"])
        misses = scored.mapInArrow(loads, "misses long").toArrow()["misses"]
    assert set(misses.to_pylist()) == {1}


@pytest.mark.slow
def test_what_is_wrong_is_told_once_and_at_once(spark, table, model_path):
    rows = table.select(["age", "click"])
    schema = tfmoe.Schema([tfmoe.Numeric("age")], [tfmoe.Binary("click")])
    bad = rows.set_column(1, "click", pa.array([0] * (NUM_ROWS - 1) + [7]))
    with pytest.raises(ValueError, match=r"Received.*7"):
        tfmoe.spark.fit(spread(spark, bad, 2), schema)
    text = rows.set_column(0, "age", pa.array(["old"] * NUM_ROWS))
    with pytest.raises(TypeError, match=r"numbers.*of partition"):
        tfmoe.spark.fit(spread(spark, text, 2), schema)
    df = spread(spark, rows, 1)
    with pytest.raises(ValueError, match="'income'"):
        tfmoe.spark.fit(df, tfmoe.Schema([tfmoe.Numeric("income")], [tfmoe.Binary("click")]))
    with pytest.raises(ValueError, match="no rows"):
        tfmoe.spark.fit(df.filter("false"), schema)
    with pytest.raises(ValueError, match=r"'age'.* twice"):
        tfmoe.spark.fit(df.select("age", "age", "click"), schema)
    with pytest.raises(ValueError, match=r"`keep` names columns.*'nothing'"):
        tfmoe.spark.predict(df, model_path, keep=["nothing"])
    with pytest.raises(FileNotFoundError, match="no model at"):
        tfmoe.spark.predict(df, model_path.parent / "other.keras")


def test_other_tables_are_refused(table):
    for call in (tfmoe.spark.fit, tfmoe.spark.predict):
        with pytest.raises(ValueError, match=r"takes a Spark DataFrame\. Received a Table"):
            call(table, SCHEMA if call is tfmoe.spark.fit else "model.keras")
