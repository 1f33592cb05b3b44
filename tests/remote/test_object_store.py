"""A real object store, moto's server on loopback, by way of s3fs: read, written, from Python and
from the command line."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet
import pytest
import yaml
from typer.testing import CliRunner

import tfmoe
from tests.remote.stores import object_store
from tfmoe.cli.app import app

pytest.importorskip("moto")
pytest.importorskip("s3fs")

SCHEMA = tfmoe.Schema(
    [tfmoe.Numeric("age"), tfmoe.Categorical("city"), tfmoe.Categorical("day")],
    [tfmoe.Binary("click")],
)
WRITERS = {
    "parquet": pa.parquet.write_table,
    "feather": pa.feather.write_feather,
    "orc": pa.orc.write_table,
    "csv": lambda table, path: table.to_pandas().to_csv(path, index=False),
    "csv.gz": lambda table, path: table.to_pandas().to_csv(path, index=False),
}


@pytest.fixture(scope="module")
def store():
    with object_store() as system:
        yield system


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": rng.normal(40, 9, 600),
            "city": rng.choice(["Rome", "Oslo", "Zürich"], 600),
            "click": rng.integers(0, 2, 600),
        }
    )
    return frame.assign(day=np.repeat(["2024-01-01", "2024-01-02"], 300))


def put(store, rows, ending, tmp_path, prefix):
    for day, part in rows.groupby("day"):
        path = tmp_path / f"part.{ending}"
        WRITERS[ending](pa.Table.from_pandas(part.drop(columns="day"), preserve_index=False), path)
        store.put_file(str(path), f"shop/{prefix}/day={day}/part-0.{ending}")
    store.pipe_file(f"shop/{prefix}/_SUCCESS", b"")


def assert_same(found, expected):
    for part, other in zip(found, expected, strict=True):
        for name, values in other.items():
            np.testing.assert_array_equal(part[name], values)


@pytest.mark.quick(2)
@pytest.mark.parametrize("ending", WRITERS)
def test_tables_are_the_same_as_here(store, rows, tmp_path, ending):
    put(store, rows, ending, tmp_path, f"of-{ending}")
    here = tfmoe.Preprocessor(SCHEMA).fit(rows)
    for url in (
        f"s3://shop/of-{ending}",
        f"s3://shop/of-{ending}/day=*",
        f"s3://shop/of-{ending}/**/*.{ending}",
        [f"s3://shop/of-{ending}/day=2024-01-0{n}/part-0.{ending}" for n in (1, 2)],
    ):
        there = tfmoe.Preprocessor(SCHEMA).fit(url)
        assert there.num_rows == 600
        assert_same(there.arrays(url), here.arrays(rows))


@pytest.mark.slow
def test_records_are_the_same_as_here(store, rows, tmp_path):
    tf = pytest.importorskip("tensorflow")
    path = str(tmp_path / "a.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for row in rows.to_dict("records"):
            example = tf.train.Example()
            feature = example.features.feature
            feature["age"].float_list.value.append(row["age"])
            feature["click"].int64_list.value.append(row["click"])
            feature["city"].bytes_list.value.append(row["city"].encode())
            feature["day"].bytes_list.value.append(row["day"].encode())
            writer.write(example.SerializeToString())
    store.put_file(path, "shop/records/a.tfrecord")
    here = tfmoe.Preprocessor(SCHEMA).fit(path)
    there = tfmoe.Preprocessor(SCHEMA).fit("s3://shop/records")
    assert_same(there.arrays("s3://shop/records/a.tfrecord"), here.arrays(path))


def test_epochs_until_a_file_changes(store, rows, tmp_path):
    tf = pytest.importorskip("tensorflow")
    put(store, rows, "parquet", tmp_path, "changing")
    prep = tfmoe.Preprocessor(SCHEMA).fit("s3://shop/changing")
    batches = prep.dataset("s3://shop/changing", batch_size=100, shuffle=True)
    assert [len(list(batches)) for _ in range(2)] == [6, 6]
    # As long as it was.
    whole = store.cat_file("shop/changing/day=2024-01-02/part-0.parquet")
    store.pipe_file("shop/changing/day=2024-01-02/part-0.parquet", whole[:-9] + b"x" + whole[-8:])
    with pytest.raises(tf.errors.OpError, match=r"day=2024-01-02/part-0.parquet, which was writ"):
        list(batches)


def test_a_preprocessor_there_and_back(store, rows):
    prep = tfmoe.Preprocessor(SCHEMA).fit(rows)
    prep.save("s3://shop/preps/one")
    assert_same(tfmoe.Preprocessor.load("s3://shop/preps/one").arrays(rows), prep.arrays(rows))
    with pytest.raises(FileExistsError, match=r"s3://shop/preps/one/preprocessor\.json"):
        prep.save("s3://shop/preps/one")
    with pytest.raises(FileNotFoundError, match="s3://shop/preps/two"):
        tfmoe.Preprocessor.load("s3://shop/preps/two")


@pytest.mark.slow
def test_a_model_and_what_is_served_there_and_back(store, rows, tmp_path):
    tf = pytest.importorskip("tensorflow")
    prep = tfmoe.Preprocessor(SCHEMA).fit(rows)
    model = tfmoe.MultiTaskModel(prep, tfmoe.MMoE(num_experts=2, hidden_units=(4,)))
    expected = model.predict(rows, verbose=0)["click"]
    for _ in range(2):  # the second takes the first one's place
        model.save("s3://shop/models/model.keras")
    with pytest.raises(FileExistsError, match=r"s3://shop/models/model\.keras"):
        model.save("s3://shop/models/model.keras", overwrite=False)
    loaded = tfmoe.load_model("s3://shop/models/model.keras")
    np.testing.assert_array_equal(loaded.predict(rows, verbose=0)["click"], expected)
    with pytest.raises(FileNotFoundError, match=r"no model at s3://shop/models/other\.keras"):
        tfmoe.load_model("s3://shop/models/other.keras")

    assert tfmoe.export(model, "s3://shop/served") == "s3://shop/served/1"
    assert tfmoe.export(model, "s3://shop/served") == "s3://shop/served/2"
    store.get("shop/served/1", str(tmp_path / "served"), recursive=True)
    served = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    found = served(
        age=tf.constant(rows["age"].to_numpy()),
        city=tf.constant(rows["city"].tolist()),
        day=tf.constant(rows["day"].tolist()),
    )
    np.testing.assert_allclose(found["click"], expected, rtol=1e-4)


@pytest.mark.slow
def test_the_command_line_reads_and_writes_urls(store, rows, tmp_path):
    put(store, rows, "parquet", tmp_path, "cli/table")
    SCHEMA.save("s3://shop/cli/schema.yaml")

    def run(*words):
        done = CliRunner().invoke(app, [*map(str, words)])
        assert done.exit_code == 0, done.output
        return done.output

    table, model = "s3://shop/cli/table", "s3://shop/cli/model.keras"
    how = ["--schema", "s3://shop/cli/schema.yaml", "--epochs", 1, "--num-experts", 2]
    assert f"Wrote {model}" in run("train", table, *how, "--out", model)
    run("evaluate", model, table)
    out = "s3://shop/cli/predictions.parquet"
    assert out in run("predict", model, table, "--out", out, "--keep", "day,city")
    with store.open(out) as file:
        predictions = pd.read_parquet(file)
    assert predictions["day"].tolist() == rows["day"].tolist()
    loaded = tfmoe.load_model(model)
    np.testing.assert_array_equal(predictions["click"], loaded.predict(rows, verbose=0)["click"])
    assert "s3://shop/cli/served/1" in run("export", model, "s3://shop/cli/served")
    again = CliRunner().invoke(app, ["predict", model, table, "--out", out])
    assert again.exit_code == 1
    assert "Nothing is written over" in again.output


@pytest.mark.slow
def test_a_search_reads_urls_and_writes_here(store, rows, tmp_path):
    pytest.importorskip("optuna")
    put(store, rows, "parquet", tmp_path, "tune/table")
    SCHEMA.save("s3://shop/tune/schema.yaml")
    run = {
        "data": "s3://shop/tune/table",
        "valid": "s3://shop/tune/table/day=2024-01-02",
        "schema": "s3://shop/tune/schema.yaml",
        "num_experts": 2,
        "hidden_units": "4",
        "epochs": 1,
        "search": {"learning_rate": [0.01, 0.02]},
    }
    store.pipe_file("shop/tune/run.yaml", yaml.safe_dump(run).encode())
    command = ["tune", "--config", "s3://shop/tune/run.yaml", "--trials", "1"]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "tuned")])
    assert done.exit_code == 0, done.output
    best = tfmoe.Run.load(tmp_path / "tuned" / "best.yaml")
    assert best.data == run["data"]
    with pytest.raises(ValueError, match="Write to a local folder"):
        tfmoe.tune(run, folder="s3://shop/tuned", trials=1)
