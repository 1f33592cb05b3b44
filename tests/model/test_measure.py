"""Models measured by group, by segment and by decile, on raw rows of every source."""

import decimal
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

import tfmoe
from tfmoe.data.encode.values import ValueCodes
from tfmoe.objectives import calibration as cal


def table(num_rows=900, seed=0):
    random = np.random.default_rng(seed)
    rows = pd.DataFrame({"age": random.normal(size=num_rows)})
    rows["country"] = random.choice(["de", "fr", None, "us"], num_rows)
    # Ids that differ in their last digit only, which no float tells apart.
    rows["user"] = 9007199254740993 + random.integers(0, 60, num_rows)
    rows["click"] = (rows["age"] + random.normal(size=num_rows) > 0) * 1.0
    rows.loc[random.random(num_rows) < 0.2, "click"] = np.nan
    rows.loc[rows["user"] % 7 == 0, "click"] = 1.0
    rows["spend"] = rows["age"] * 100
    rows["weight"] = random.integers(0, 3, num_rows)
    return rows


SCHEMA = tfmoe.Schema(
    [tfmoe.Numeric("age"), tfmoe.Categorical("country")],
    [tfmoe.Binary("click"), tfmoe.Regression("spend")],
    weight_column="weight",
    group="user",
)


@pytest.fixture(scope="module")
def rows():
    return table()


@pytest.fixture(scope="module")
def model(rows):
    prep = tfmoe.Preprocessor(SCHEMA).fit(rows, progress=False)
    model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(8,)))
    model.compile(jit_compile=False)
    model.fit(rows, epochs=2, batch_size=100, verbose=0)
    return model


def expected_gauc(rows, scores, names):
    """By a loop: the value, and the share of the rows."""
    areas, sizes = [], []
    use = rows["click"].notna() & (rows["weight"] > 0)
    for _, own in rows[use].assign(score=scores[use]).groupby(names):
        if own["click"].nunique() == 2:
            given = own["click"], own["score"]
            areas.append(roc_auc_score(*given, sample_weight=own["weight"]))
            sizes.append(own["weight"].sum())
    return np.average(areas, weights=sizes), sum(sizes) / rows["weight"][use].sum()


def written(rows, folder, kind):
    """The rows in several files, whose blocks and row groups part users."""
    for part in range(3):
        own = rows.iloc[part::3]
        if kind == "csv":
            own.to_csv(folder / f"{part}.csv", index=False)
        else:
            own.to_parquet(folder / f"{part}.parquet", row_group_size=50, index=False)
    return str(folder / f"*.{kind}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["frame", "csv", "parquet"])
def test_gauc_of_raw_rows_is_that_of_a_loop(model, rows, kind, tmp_path):
    source = rows if kind == "frame" else written(rows, tmp_path, kind)
    found = tfmoe.measure(model, source, by="country", batch_size=64)
    scores = model.predict(rows, verbose=0)["click"]
    value, share = expected_gauc(rows, scores, "user")
    assert found.numbers["click_gauc"] == pytest.approx(value, rel=1e-6)
    assert found.numbers["click_gauc_share"] == pytest.approx(share)
    assert 0.3 < share < 1
    own = rows["country"].fillna("missing")
    lines = found.segments.set_index(["task", "segment"])
    for country in ("de", "fr", "us", "missing"):
        part = (own == country) & rows["click"].notna() & (rows["weight"] > 0)
        given = rows["click"][part], scores[part]
        area = roc_auc_score(*given, sample_weight=rows["weight"][part])
        line = lines.loc[("click", country)]
        assert (line["metric"], line["rows"]) == ("auc", part.sum())
        assert line["value"] == pytest.approx(area, rel=1e-6)
    assert lines.loc[("spend", "de"), "metric"] == "rmse"
    assert found.deciles["rows"].sum() == (rows["click"].notna() & (rows["weight"] > 0)).sum()


def test_evaluate_tells_them_beside_its_own(model, rows):
    plain = model.evaluate(*model.preprocessor.arrays(rows), verbose=0)
    logs = model.evaluate(rows, by=["country", "age"], k=3, threshold=0.4, verbose=0)
    del plain["loss"]  # a mean over batches, which are larger
    assert {name: logs[name] for name in plain} == pytest.approx(plain, rel=1e-6)
    more = {name.removeprefix("click_") for name in logs if name.startswith("click_")}
    numbers = "normalized_entropy calibration gauc gauc_share ndcg@3 recall@3 mrr"
    assert {*numbers.split(), "precision_above_0.4", "auc[country=de]"} <= more
    assert sum(name.startswith("spend_rmse[age=") for name in logs) == 10
    # The schema has a group, so raw rows are measured by it.
    assert "click_gauc" in model.evaluate(rows, verbose=0)
    other = model.evaluate(rows, group="country", verbose=0)
    assert other["click_gauc"] != pytest.approx(logs["click_gauc"], abs=1e-4)


def test_rows_that_are_encoded_have_the_groups_of_the_schema_alone(model, rows):
    arrays = model.preprocessor.arrays(rows)
    assert tfmoe.measure(model, arrays, group="user").numbers["click_gauc"] > 0
    with pytest.raises(ValueError, match="told by columns of raw rows"):
        tfmoe.measure(model, arrays, group="country")


def test_rows_that_are_encoded_have_no_columns(model, rows):
    arrays = model.preprocessor.arrays(rows)
    with pytest.raises(ValueError, match="on all raw rows of a table"):
        model.evaluate(*arrays, by="country")
    with pytest.raises(ValueError, match="on all raw rows of a table"):
        model.evaluate(rows, by="country", exact=False)
    with pytest.raises(ValueError, match=r"Received \['nobody'\], which are not there"):
        model.evaluate(rows, by="nobody", verbose=0)
    with pytest.raises(ValueError, match="above 0 and below 1"):
        model.evaluate(rows, threshold=50, verbose=0)
    with pytest.raises(ValueError, match="each once"):
        tfmoe.measure(model, rows, by=["age", "age"])


def test_rows_of_one_task_each_are_measured_by_task(rows):
    rows = rows.assign(market=np.where(rows["age"] > 0.3, "a", "a_log"))
    tasks = [
        tfmoe.Binary("a", source="click"),
        tfmoe.Binary("b", source="click", key="a_log"),
    ]
    schema = tfmoe.Schema(
        [tfmoe.Numeric("age", transform="none")], tasks, task_column="market", group="user"
    )
    model = tfmoe.MultiTaskModel(schema, tfmoe.SharedBottom(hidden_units=(8,)))
    found = tfmoe.measure(model, rows, by="country")
    scores = model.predict(rows, verbose=0)["score"]
    for task, market in (("a", "a"), ("b", "a_log")):
        own = (rows["market"] == market).to_numpy()
        value, share = expected_gauc(rows[own].assign(weight=1), scores[own], "user")
        assert found.numbers[f"{task}_gauc"] == pytest.approx(value, rel=1e-6)
        assert found.numbers[f"{task}_gauc_share"] == pytest.approx(share)
    assert set(found.segments["task"]) == {"a", "b"}


def test_segments_of_a_scenarios_name_are_refused(rows):
    """Task `click` in the scenario `calibration` of task `click_auc`."""
    rows = rows.assign(country="calibration", other=rows["click"])
    tasks = [tfmoe.Binary("click"), tfmoe.Binary("click_auc", source="other")]
    schema = tfmoe.Schema([tfmoe.Categorical("country")], tasks, scenario="country")
    prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(4,)))
    model.compile(jit_compile=False)
    with pytest.raises(ValueError, match=r"\['click_auc_calibration'\] twice"):
        model.evaluate(rows, group="user", verbose=0)


def test_values_have_codes_of_their_own():
    codes = ValueCodes("user")
    first = codes.codes(pa.array(["7", "", None, "007", "8"]))
    assert first.tolist() == [0, -1, -1, 1, 2]
    big = [2**63, 2**63 + 1, 7]
    assert codes.codes(pa.array(big, pa.uint64())).tolist() == [3, 4, 0]
    assert codes.codes(pa.array([7.0, 7.5, np.nan, None])).tolist() == [0, 5, -1, -1]
    decimals = [decimal.Decimal("7.00"), decimal.Decimal("7.50"), None]
    assert codes.codes(pa.array(decimals)).tolist() == [0, 5, -1]
    words = pa.array(["8", None, "9"]).dictionary_encode()
    assert codes.codes(words).tolist() == [2, -1, 6]
    assert codes.codes(pa.nulls(2)).tolist() == [-1, -1]
    assert codes.codes(pa.array([0, 86_400], pa.timestamp("s"))).tolist() == [7, 8]
    with pytest.raises(TypeError, match="single values"):
        codes.codes(pa.array([[1]]))


def test_a_group_is_neither_label_nor_weight():
    columns, tasks = [tfmoe.Numeric("age")], [tfmoe.Binary("click")]
    for group in ("click", "", 3):
        with pytest.raises(ValueError, match="neither label, weight nor task"):
            tfmoe.Schema(columns, tasks, group=group)
    schema = tfmoe.Schema(columns, tasks, group="age")  # an input may be one too
    assert tfmoe.Schema.from_json(schema.to_json()) == schema
    assert schema.add(tfmoe.Binary("buy")).select("buy").group == "age"


@pytest.mark.slow
def test_sampled_negatives_count_for_all_that_they_stand_for(rows):
    """A model that is right about the whole table, measured on the sampled one."""
    random = np.random.default_rng(0)
    whole = pd.DataFrame({"age": random.normal(size=40_000)})
    whole["click"] = (random.random(40_000) < 1 / (1 + np.exp(2 - whole["age"]))) * 1.0
    whole["user"] = random.integers(0, 500, 40_000)
    sampled = whole[(whole["click"] == 1) | (random.random(40_000) < 0.25)]
    columns = [tfmoe.Numeric("age", transform="none")]
    task = tfmoe.Binary("click", negatives_kept=0.25)
    model = tfmoe.MultiTaskModel(
        tfmoe.Schema(columns, [task]), tfmoe.SharedBottom(hidden_units=(8,)), tower_units=()
    )
    metrics = [tfmoe.Calibration(), tfmoe.NormalizedEntropy()]
    model.compile(keras.optimizers.Adam(0.01), metrics={"click": metrics}, jit_compile=False)
    model.fit(sampled, epochs=3, batch_size=256, verbose=0)
    found = tfmoe.measure(model, sampled, group="user", threshold=0.3, by="age").numbers
    scores = model.predict(whole, verbose=0)["click"]
    assert found["click_calibration"] == pytest.approx(1, abs=0.1)
    truth = cal.calibration(whole["click"], scores)
    assert found["click_calibration"] == pytest.approx(truth, rel=0.03)
    entropy = cal.normalized_entropy(whole["click"], scores)
    assert found["click_normalized_entropy"] == pytest.approx(entropy, rel=0.03)
    precision, _ = cal.precision_and_recall(whole["click"], scores, 0.3)
    assert found["click_precision_above_0.3"] == pytest.approx(precision, rel=0.05)
    logs = model.evaluate(sampled, verbose=0)
    for name in ("calibration", "normalized_entropy"):
        assert logs[f"click_{name}"] == pytest.approx(found[f"click_{name}"], rel=1e-4)


@pytest.mark.slow
def test_a_task_that_is_given_another_is_measured_in_both_ways(rows):
    rows = rows.assign(buy=np.where(rows["click"] == 1, (rows["age"] > 0.5) * 1.0, np.nan))
    tasks = [tfmoe.Binary("click"), tfmoe.Binary("buy", given="click")]
    schema = tfmoe.Schema([tfmoe.Numeric("age", transform="none")], tasks, group="user")
    model = tfmoe.MultiTaskModel(schema, tfmoe.SharedBottom(hidden_units=(8,)))
    found = tfmoe.measure(model, rows, by="country")
    scores = model.predict(rows, verbose=0)
    clicked = rows["click"] == 1
    area = roc_auc_score(rows["buy"][clicked], scores["buy_given_click"][clicked])
    assert found.numbers["buy_given_click_auc"] == pytest.approx(area, rel=1e-6)
    known = rows["click"].notna()
    area = roc_auc_score(rows["buy"].fillna(0)[known], scores["buy"][known])
    assert found.numbers["buy_auc"] == pytest.approx(area, rel=1e-6)
    assert set(found.segments["task"]) == {"click", "buy", "buy_given_click"}
    alone = tfmoe.extract(model, ["buy"])
    again = tfmoe.measure(alone, rows).numbers
    assert again["buy_auc"] == pytest.approx(found.numbers["buy_auc"], rel=1e-6)
    assert "click_auc" not in again


@pytest.mark.slow
def test_replicas_measure_the_same():
    code = """if True:
        import numpy as np
        import tensorflow as tf
        cpu, = tf.config.list_physical_devices("CPU")
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        import keras, pytest, tfmoe
        from tests.model.test_measure import SCHEMA, table
        keras.utils.set_random_seed(0)
        rows = table()
        metrics = [tfmoe.NormalizedEntropy(), tfmoe.Calibration(), tfmoe.AUC()]
        for given in (None, {"click": metrics}):
            with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
                prep = tfmoe.Preprocessor(SCHEMA).fit(rows, progress=False)
                model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(8,)))
                model.compile(metrics=given, jit_compile=False)
            data = prep.dataset(rows, 100)
            model.fit(data, verbose=0)
            found = tfmoe.measure(model, rows).numbers
            logs = model.evaluate(data, verbose=0)
            for name in {*found} & {*logs}:
                # Bins of an AUC lie where replicas together agree, and are no exact ranks.
                error = 2e-3 if name.endswith("auc") else 1e-5 * abs(found[name])
                assert logs[name] == pytest.approx(found[name], abs=error), name
            assert len({*found} & {*logs}) >= 2
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("scenario", [None, "c"])
def test_what_comes_once_has_the_metrics_of_the_rows_that_were_read(scenario):
    """No second pass reads on where the first one ended."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"x": rng.normal(size=64), "c": ["u", "v"] * 32})
    rows["click"] = (rows["x"] + rng.normal(size=64) > 0) * 1.0
    columns = [tfmoe.Numeric("x"), tfmoe.Categorical("c", dim=2)]
    schema = tfmoe.Schema(columns, [tfmoe.Binary("click")], scenario=scenario)
    prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
    model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(3,)), (2,))
    model.compile("adam")
    expected = model.evaluate(*prep.arrays(rows[:16]), verbose=0)

    def batches(num=None):
        start = 0
        while num is None or start < num:
            yield prep.arrays(rows[start % 64 : start % 64 + 8])
            start += 8

    again = prep.dataset(rows, 8)
    for x, steps in ((batches(16), 2), (batches(), 2), (again, 2)):
        found = model.evaluate(x, steps=steps, verbose=0)
        assert not [name for name in found if name.endswith(("_u", "_v"))]
        for name, value in found.items():
            assert value == pytest.approx(expected[name], rel=1e-3), name


def test_deciles_of_large_numbers_have_names_of_their_own(model, rows):
    seconds = 1_700_000_000 + np.arange(len(rows)) * 10.25
    found = tfmoe.measure(model, rows.assign(at=seconds), by="at")
    own = found.segments[found.segments["task"] == "click"]
    assert own["segment"].nunique() == len(own) == 10
    assert sum(name.startswith("click_auc[") for name in found.by_segment()) == 10


@pytest.mark.parametrize("mark", ["NA", "?"])
def test_a_numbers_markers_are_one_segment_with_its_gaps(rows, mark, tmp_path):
    """A text file and a DataFrame have the same segments, of inputs and of other columns."""
    missing = None if mark == "NA" else ["?"]
    columns = [tfmoe.Numeric("years", transform="none", missing=missing)]
    schema = tfmoe.Schema(columns, [tfmoe.Binary("click")])
    model = tfmoe.MultiTaskModel(schema, tfmoe.SharedBottom(hidden_units=(2,)))
    years = np.arange(len(rows)) % 70 + 10.0
    years[::9] = np.nan
    frame = pd.DataFrame({"years": years, "click": rows["click"]})
    frame["half"] = frame["years"] / 2
    frame.to_csv(tmp_path / "t.csv", index=False, na_rep=mark)
    by = ["years", "half"] if mark == "NA" else ["years"]
    expected = tfmoe.measure(model, frame, by=by).segments
    found = tfmoe.measure(model, str(tmp_path / "t.csv"), by=by).segments
    names = ["column", "segment", "rows"]
    pd.testing.assert_frame_equal(found[names], expected[names])
    assert set(expected.loc[expected["column"] == "years", "segment"].tail(1)) == {"missing"}
    few = frame[frame["years"].isna() | (frame["years"] < 20)]
    few.to_csv(tmp_path / "few.csv", index=False, na_rep=mark)
    found = tfmoe.measure(model, str(tmp_path / "few.csv"), by="years").segments
    assert dict(zip(found["segment"], found["rows"], strict=True))["missing"] > 50
    assert mark not in set(found["segment"])


def test_a_scenario_may_be_called_missing(rows):
    schema = tfmoe.Schema(
        [tfmoe.Categorical("country")], [tfmoe.Binary("click")], scenario="country"
    )
    known = rows.assign(country=rows["country"].fillna("missing"))
    prep = tfmoe.Preprocessor(schema).fit(known, progress=False)
    model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(2,)))
    model.compile(jit_compile=False)
    asked = pd.concat([known, rows[rows["country"].isna()], rows.assign(country="at")])
    logs = model.evaluate(asked, verbose=0)
    assert {"click_auc_missing", "click_auc_(missing)", "click_auc_unknown"} <= set(logs)
