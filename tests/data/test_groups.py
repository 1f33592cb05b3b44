"""Groups of rows: exact codes through arrays and datasets, and whole in a batch."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tfmoe
from tfmoe.data.batch.whole_groups import WholeGroups
from tfmoe.schema.schema import GROUP_CODES


def table(num_rows=500, seed=0):
    random = np.random.default_rng(seed)
    rows = pd.DataFrame({"age": random.normal(size=num_rows).astype("float32")})
    # No float and no hash of 32 bits tells these apart.
    rows["user"] = 2**60 + random.integers(0, 80, num_rows)
    rows["click"] = (rows["age"] > 0) * 1.0
    rows["row"] = np.arange(num_rows).astype("float32")
    return rows


COLUMNS = [tfmoe.Numeric("age", transform="none"), tfmoe.Numeric("row", transform="none")]
SCHEMA = tfmoe.Schema(COLUMNS, [tfmoe.Binary("click")], group="user")


def written(rows, folder, kind):
    for part in range(3):
        own = rows.iloc[part::3]
        if kind == "csv":
            own.to_csv(folder / f"{part}.csv", index=False)
        elif kind == "parquet":
            own.to_parquet(folder / f"{part}.parquet", row_group_size=40, index=False)
        else:
            import tensorflow as tf

            with tf.io.TFRecordWriter(str(folder / f"{part}.tfrecord")) as writer:
                for row in own.to_dict("records"):
                    whole = tf.train.Int64List(value=[row.pop("user")])
                    feature = {"user": tf.train.Feature(int64_list=whole)}
                    for name, value in row.items():
                        floats = tf.train.FloatList(value=[value])
                        feature[name] = tf.train.Feature(float_list=floats)
                    features = tf.train.Features(feature=feature)
                    writer.write(tf.train.Example(features=features).SerializeToString())
    return str(folder / f"*.{kind}")


def check_codes(users, codes):
    """Equal values have equal codes, others others."""
    both = set(zip(users, codes.tolist(), strict=True))
    assert len(both) == len(set(users)) == len({code for _, code in both})


@pytest.mark.parametrize("kind", ["frame", "csv", "parquet", "tfrecord"])
def test_codes_are_exact_from_every_source(kind, tmp_path):
    rows, prep = table(), tfmoe.Preprocessor(SCHEMA)
    source = rows if kind == "frame" else written(rows, tmp_path, kind)
    features, *_ = prep.arrays(source)
    own = rows["user"].to_numpy()[features["row"].astype(int)]
    check_codes(own, features[GROUP_CODES])
    assert features[GROUP_CODES].dtype == np.int32
    # Features alone, which is what is served, have none, and need no such column.
    assert set(prep.arrays(rows[["age", "row"]], labels=False)) == {"age", "row"}
    dataset = prep.dataset(source, 64, shuffle=True)
    seen = []
    for _ in range(2):
        batches = [batch[0] for batch in dataset.as_numpy_iterator()]
        seen += [(b["row"], b[GROUP_CODES]) for b in batches]
    places, codes = map(np.concatenate, zip(*seen, strict=True))
    assert len(places) == 2 * len(rows)
    check_codes(rows["user"].to_numpy()[places.astype(int)], codes)


@pytest.mark.slow
def test_a_model_reads_them_over():
    rows, prep = table(), tfmoe.Preprocessor(SCHEMA)
    model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(4,)))
    model.compile(jit_compile=False)
    dataset = prep.dataset(rows, 100)
    training, held_out = prep.split(rows, 100)
    model.fit(training, validation_data=held_out, verbose=0)
    arrays = prep.arrays(rows)
    model.fit(*arrays, batch_size=100, verbose=0)
    raw = model.predict(rows, verbose=0)["click"]
    for given_rows in (dataset, arrays[0]):
        found = model.predict(given_rows, verbose=0)["click"]
        np.testing.assert_allclose(found, raw, rtol=1e-5)
    np.testing.assert_allclose(model.predict_on_batch(arrays[0])["click"], raw, rtol=1e-5)
    logs = model.evaluate(dataset, verbose=0)
    assert logs["click_auc"] == pytest.approx(model.evaluate(*arrays, verbose=0)["click_auc"])
    expected = tfmoe.measure(model, rows).numbers
    assert "click_gauc" in expected
    for encoded in (dataset, arrays):
        assert tfmoe.measure(model, encoded).numbers == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=r"needs the columns.*`group`"):
        prep.arrays(rows.drop(columns="user"))


def test_a_loss_sees_them_beside_the_features():
    seen = []

    class Seeing(tfmoe.MultiTaskModel):
        def compute_loss(self, x=None, *args, **kwargs):
            seen.append(x[GROUP_CODES].dtype)
            return super().compute_loss(x, *args, **kwargs)

    prep = tfmoe.Preprocessor(SCHEMA)
    model = Seeing(prep, tfmoe.SharedBottom(hidden_units=(4,)))
    model.compile(jit_compile=False)
    model.fit(prep.dataset(table(), 100, shuffle=True, keep_groups=True), verbose=0)
    assert seen
    assert {one.name for one in seen} == {"int32"}


@given(st.lists(st.integers(-1, 6), min_size=1, max_size=40), st.integers(1, 12), st.booleans())
def test_groups_stay_whole(codes, batch_size, shuffled):
    codes = np.array(codes, np.int32)
    rng = np.random.default_rng(0) if shuffled else None
    batches = WholeGroups(codes, batch_size).batches(rng)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(codes)))
    where = {}
    for number, rows in enumerate(batches):
        groups = codes[rows].tolist()
        for code in groups:
            if code >= 0:
                assert where.setdefault(code, number) == number
        # More than its rows only if it is one group alone.
        assert len(rows) <= batch_size or (len(set(groups)) == 1 and groups[0] >= 0)
        for code in set(groups) - {-1}:
            own = rows[codes[rows] == code]
            assert np.all(np.diff(own) > 0)
    if not shuffled:
        sizes = [len(rows) for rows in batches]
        firsts = [rows[0] for rows in batches]
        assert firsts == sorted(firsts)
        # The next group would not have fitted.
        for size, following in zip(sizes, batches[1:], strict=False):
            code = codes[following[0]]
            own = 1 if code < 0 else int((codes == code).sum())
            assert size + own > batch_size


def test_rows_of_no_group_are_parted_and_large_groups_are_not():
    codes = np.array([-1] * 6 + [0] * 5 + [-1] * 3)
    sizes = list(map(len, WholeGroups(codes, 4).batches()))
    assert sizes == [4, 2, 5, 3]


@pytest.mark.slow
def test_groups_stay_out_of_what_is_saved_and_served(tmp_path):
    import tensorflow as tf

    rows = table()
    model = tfmoe.MultiTaskModel(tfmoe.Preprocessor(SCHEMA), tfmoe.SharedBottom(hidden_units=(4,)))
    model.save(tmp_path / "model.keras")
    loaded = tfmoe.load_model(tmp_path / "model.keras")
    assert loaded.schema.group == "user"
    version = tfmoe.export(loaded, tmp_path / "served")
    served = tf.saved_model.load(str(version)).signatures["serving_default"]
    assert set(served.structured_input_signature[1]) == {"age", "row"}
    expected = model.predict(rows, verbose=0)["click"]
    given = {name: tf.constant(rows[name].to_numpy("float64")) for name in ("age", "row")}
    np.testing.assert_allclose(served(**given)["click"], expected, rtol=1e-5)
    alone = tfmoe.extract(model, ["click"])
    assert "click_gauc" in tfmoe.measure(alone, rows).numbers


@pytest.mark.parametrize("kind", ["frame", "csv"])
def test_a_dataset_keeps_groups_whole(kind, tmp_path):
    rows, prep = table(), tfmoe.Preprocessor(SCHEMA)
    source = rows if kind == "frame" else written(rows, tmp_path, kind)
    dataset = prep.dataset(source, 32, shuffle=True, keep_groups=True)
    epochs = []
    for _ in range(2):
        batches = list(dataset.as_numpy_iterator())
        groups = [set(x[GROUP_CODES].tolist()) for x, *_ in batches]
        assert sum(map(len, groups)) == len(set.union(*groups)) == rows["user"].nunique()
        assert max(len(x["row"]) for x, *_ in batches) <= 32
        epochs.append(np.concatenate([x["row"] for x, *_ in batches]).tolist())
    assert sorted(epochs[0]) == sorted(epochs[1]) == rows["row"].tolist()
    assert epochs[0] != epochs[1]
    again = prep.dataset(source, 32, shuffle=True, keep_groups=True)
    first = np.concatenate([x["row"] for x, *_ in again.as_numpy_iterator()]).tolist()
    assert first == epochs[0]
    plain = prep.dataset(source, 32, keep_groups=True)
    assert int(plain.cardinality()) == len(list(plain))
    for wrong in ({"drop_remainder": True}, {"shard": (0, 2)}):
        with pytest.raises(ValueError, match="Leave these out"):
            prep.dataset(source, 32, keep_groups=True, **wrong)
    bare = tfmoe.Preprocessor(tfmoe.Schema(COLUMNS, [tfmoe.Binary("click")]))
    with pytest.raises(ValueError, match="a schema without one"):
        bare.dataset(source, keep_groups=True)
