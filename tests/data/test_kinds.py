"""Vectors, times, crossed columns, weights of lists, text: what is fitted and what comes out."""

import datetime
import zoneinfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tfmoe
from tests.oracles import kinds
from tfmoe.data.encode import graph
from tfmoe.data.encode.codecs.zones import offsets
from tfmoe.serving.export import tensors

ZONES = [
    *("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"),
    *("Africa/Casablanca", "Pacific/Apia", "America/St_Johns", "Asia/Tehran", "Europe/Dublin"),
]
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def fitted(*columns, **rows):
    schema = tfmoe.Schema(columns, [tfmoe.Binary("y")])
    df = pd.DataFrame(rows)
    df["y"] = np.arange(len(df)) % 2
    return tfmoe.Preprocessor(schema).fit(df, progress=False), df


def features(*columns, **rows):
    prep, df = fitted(*columns, **rows)
    return prep.arrays(df, labels=False)


def test_vectors_are_standardised_by_element():
    cells = np.array([[1.0, 10.0], [3.0, 10.0], [5.0, np.nan], [7.0, 40.0]])
    rows = pd.Series([*cells.tolist(), None, []])
    prep, df = fitted(tfmoe.Vector("v"), v=rows)
    found = prep.arrays(df, labels=False)["v"]
    expected = (cells - np.nanmean(cells, axis=0)) / np.nanstd(cells, axis=0)
    np.testing.assert_allclose(found[:4], np.nan_to_num(expected), rtol=1e-6)
    assert np.all(found[4:] == 0)
    assert found.dtype == np.float32
    assert prep.lengths == {"v": 2}
    far = prep.arrays({"v": [[1e9, np.inf]], "y": [0]})[0]["v"]
    assert far.tolist() == [[100.0, 0.0]]
    plain = features(tfmoe.Vector("v", standardize=False), v=rows)["v"]
    np.testing.assert_array_equal(plain[:4], np.nan_to_num(cells).astype("float32"))


@pytest.mark.parametrize(
    "cells",
    [
        np.arange(6.0).reshape(3, 2),
        pa.array([[0, 1], [2, 3], [4, 5]], pa.list_(pa.int32(), 2)),
        pa.array([[0, 1], [2, 3], [4, 5]], pa.large_list(pa.float32())),
        [np.array([0.0, 1.0]), np.array([2.0, 3.0]), np.array([4.0, 5.0])],
    ],
)
def test_vectors_come_in_many_forms(cells):
    prep = tfmoe.Preprocessor(tfmoe.Schema([tfmoe.Vector("v")], [tfmoe.Binary("y")]))
    table = {"v": cells, "y": [0, 1, 0]}
    found = prep.fit(table, progress=False).arrays(table)[0]["v"]
    np.testing.assert_allclose(found[:, 0], [-(1.5**0.5), 0, 1.5**0.5], rtol=1e-6)


def test_a_vector_of_another_length_names_its_row():
    with pytest.raises(ValueError, match=r"vectors of 2 numbers.*Received one of 3.*row 2 "):
        features(tfmoe.Vector("v"), v=[[1.0, 2.0], None, [1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match=r"vectors of 4 numbers.*Received one of 2.*row 0 "):
        features(tfmoe.Vector("v", size=4), v=[[1.0, 2.0]])
    with pytest.raises(TypeError, match="lists of numbers"):
        features(tfmoe.Vector("v"), v=[["a", "b"]])
    prep, _ = fitted(tfmoe.Vector("v"), v=[[1.0, 2.0]])
    with pytest.raises(ValueError, match=r"of 2 numbers.*row 1 "):
        prep.arrays({"v": [None, [1.0]], "y": [0, 1]})


@pytest.mark.parametrize("zone", ZONES)
@given(data=st.data())
def test_local_time_is_zoneinfos(zone, data):
    starts, values = offsets(zone)
    near = [int(s) for s in starts[1:]] or [0]
    seconds = data.draw(
        st.lists(
            st.one_of(
                st.integers(-2_200_000_000, 4_100_000_000),
                st.builds(int.__add__, st.sampled_from(near), st.integers(-7200, 7200)),
            ),
            min_size=1,
            max_size=20,
        )
    )
    own = values[np.searchsorted(starts, seconds, side="right") - 1]
    column = tfmoe.Timestamp("t", time_zone=zone, cyclic=False)
    prep = tfmoe.Preprocessor(tfmoe.Schema([column], [tfmoe.Binary("y")]))
    found = prep.arrays({"t": np.array(seconds)}, labels=False)["t"] - 3
    for second, offset, (hour, weekday) in zip(seconds, own, found, strict=True):
        local = (EPOCH + datetime.timedelta(seconds=second)).astimezone(zoneinfo.ZoneInfo(zone))
        assert local.utcoffset() == datetime.timedelta(seconds=int(offset))
        assert (hour, weekday - 24) == (local.hour, local.weekday())


def test_a_time_comes_in_many_forms(tmp_path):
    moments = pd.to_datetime(["2024-03-31 00:30:00.5", "2024-03-31 01:00:00.0", None], utc=True)
    seconds = np.array([1711845000.5, 1711846800.0, np.nan])
    texts = ["2024-03-31T00:30:00.500", "2024-03-31 02:00+01:00", "NA"]
    column = tfmoe.Timestamp("t", parts=("hour", "age"), time_zone="Europe/Berlin")
    prep, _ = fitted(column, t=pd.Series(seconds))
    expected = prep.arrays({"t": seconds}, labels=False)["t"]
    # The clock went from 2 to 3 on that day.
    angles = 2 * np.pi * np.array([1, 3]) / 24
    np.testing.assert_allclose(expected[:2, 0], np.sin(angles), rtol=1e-6)
    assert np.all(expected[2] == 0)
    naive = pa.array(moments.tz_localize(None))
    for cells in (moments, naive, naive.cast(pa.timestamp("ms")), texts, pd.Series(texts)):
        np.testing.assert_array_equal(prep.arrays({"t": cells}, labels=False)["t"], expected)
    (tmp_path / "t.csv").write_text("t,y\n" + "\n".join(f"{text},1" for text in texts))
    np.testing.assert_array_equal(prep.arrays(tmp_path / "t.csv")[0]["t"], expected)
    milli = tfmoe.Preprocessor(
        tfmoe.Schema([tfmoe.Timestamp("t", unit="ms", parts=["hour"])], [tfmoe.Binary("y")])
    )
    hours = milli.arrays({"t": [1711845000500, 1711846800000]}, labels=False)["t"]
    np.testing.assert_allclose(hours[:, 0], np.sin(2 * np.pi * np.array([0, 1]) / 24), atol=1e-7)
    dates = milli.arrays({"t": [datetime.date(2024, 3, 31), None]}, labels=False)["t"]
    np.testing.assert_array_equal(dates, np.array([[0, 1], [0, 0]], "float32"))


def test_vectors_as_text_are_told_how_to_be_lists():
    cells = pd.Series(["[1, 2.5]", "3 -4", None])
    with pytest.raises(TypeError, match=r"Make lists of the column: in pandas df\['v'\]"):
        features(tfmoe.Vector("v"), v=cells)
    lists = cells.str.findall(r"[\w.+-]+").map(
        lambda cell: [float(one) for one in cell], na_action="ignore"
    )
    found = features(tfmoe.Vector("v", standardize=False), v=lists)["v"]
    np.testing.assert_array_equal(found, [[1, 2.5], [3, -4], [0, 0]])


def test_an_age_is_standardised_whatever_it_is_counted_from():
    days = pd.to_datetime(["2024-01-01", "2024-01-03", "2024-01-08"])
    for since in (None, "2020-06-01", datetime.date(2024, 1, 1)):
        found = features(tfmoe.Timestamp("t", parts=["age"], since=since), t=days)["t"][:, 0]
        values = np.array([0, 2, 7.0])
        np.testing.assert_allclose(found, (values - 3) / values.std(), rtol=1e-5)


def test_times_of_bigquery_are_read():
    cells = ["2024-03-31 01:30:00 UTC", "2024-03-31 23:00:00.25 UTC", None]
    found = features(tfmoe.Timestamp("t"), t=cells)["t"]
    np.testing.assert_array_equal(
        found, features(tfmoe.Timestamp("t"), t=[cell and cell[:-4] for cell in cells])["t"]
    )
    rows = pd.DataFrame({"t": cells[:2] * 9, "y": [0, 1] * 9})
    with pytest.warns(UserWarning, match="Of times the hour"):
        assert tfmoe.Schema.infer(rows, "y").columns == (tfmoe.Timestamp("t"),)


def test_what_is_no_time_names_its_row():
    with pytest.raises(TypeError, match=r"points in time.*'tomorrow'.*row 1 "):
        features(tfmoe.Timestamp("t"), t=["2024-01-01", "tomorrow"])
    with pytest.raises(TypeError, match=r"by ISO 8601.*pd.to_datetime\(df\['t'\]"):
        features(tfmoe.Timestamp("t"), t=["03/31/2024 01:30"])
    with pytest.raises(TypeError, match="points in time"):
        features(tfmoe.Timestamp("t"), t=pd.to_timedelta([1, 2], unit="s"))


@pytest.mark.parametrize(
    ("unit", "cells", "advice"),
    [
        ("s", [1_700_000_000_000] * 3, "most are after 2100.*with unit='ms'"),
        ("ms", [1_700_000_000] * 3, "most are before 1990. .*with unit='s'"),
        ("s", [20240331, 20240401, None], "Make dates of what is written as 20240331"),
        ("s", ["20240331", "20240401", ""], "Make dates of what is written as 20240331"),
    ],
)
def test_times_in_another_unit_are_told(unit, cells, advice):
    with pytest.warns(UserWarning, match=advice):
        features(tfmoe.Timestamp("t", unit=unit), t=cells)


def test_times_that_may_be_meant_are_not_told():
    day = np.datetime64("1985-05-05")
    early = pd.to_datetime(pd.Series(["1970-01-09", "1970-01-10"]))
    for cells in (early, early.astype(str)):
        features(tfmoe.Timestamp("t", unit="ms"), t=cells)
    for cells in ([-5.0, 1.0, 86_400.0], pd.Series([day] * 3), ["2200-01-01"] * 3, [None] * 3):
        features(tfmoe.Timestamp("t"), t=cells)


def test_crossed_columns_are_hashed_by_their_values():
    columns = [
        tfmoe.Categorical("a", dtype="string"),
        tfmoe.Categorical("b", missing=["?"], min_count=9),
        tfmoe.Crossed("ab", columns=["a", "b"], hash_buckets=10**6),
        tfmoe.Crossed("ba", columns=["b", "a"], hash_buckets=10**6),
    ]
    rows = {"a": ["x", "x", "y", "", "true"], "b": ["1", "2", "1", "1", "?"]}
    found = features(*columns, **rows)
    assert found["ab"][3] == found["ab"][4] == 1  # a part is missing
    assert len(set(found["ab"][:3].tolist())) == 3  # though each b is unknown to its own column
    assert set(found["b"][:3].tolist()) == {2}
    assert not set(found["ab"][:3]) & set(found["ba"][:3])
    # Hashed by text, whatever type it came as, and whatever was fitted.
    ints = features(*columns, a=rows["a"], b=pd.Series([1, 2, 1, 1, None], dtype="Int64"))
    np.testing.assert_array_equal(ints["ab"], found["ab"])
    hashed = [tfmoe.Categorical("a", hash_buckets=3), tfmoe.Categorical("b", hash_buckets=3)]
    again = features(*hashed, columns[2], a=rows["a"][:3], b=rows["b"][:3])
    np.testing.assert_array_equal(again["ab"], found["ab"][:3])


@pytest.mark.parametrize("kind", [tfmoe.MultiCategorical, tfmoe.Sequence])
def test_weights_lie_where_their_values_do(kind):
    column = kind("tags", weights="w", max_length=2, hash_buckets=1000, missing=["?"])
    tags = [["a", "b", "c"], ["?", "b"], ["a", "b", "?"], [], None, ["a"]]
    weights = [[1.0, 2.0, 3.0], [5.0, None], [4.0, -5.0, 6.0], [], None, None]
    found = features(column, tags=tags, w=weights)["tags_weights"]
    kept = [[2, 3], [0, 1], [4, -5]] if kind is tfmoe.Sequence else [[1, 2], [0, 1], [4, -5]]
    assert found.tolist() == [*kept, [1, 0], [1, 0], [1, 0]]
    text = kind("tags", weights="w", max_length=2, hash_buckets=1000, missing=["?"], separator="|")
    joined = ["a|b|c", "?|b", "a|b|?", "", None, "a"]
    for numbers in (weights, ["1|2|3", "5|", "4|-5|6", "", None, None]):
        again = features(text, tags=joined, w=numbers)["tags_weights"]
        assert again.tolist() == found.tolist()


def test_weights_are_as_many_as_values():
    column = tfmoe.MultiCategorical("tags", weights="w")
    with pytest.raises(ValueError, match=r"Received 1 weights of 2 values.*row 1 "):
        features(column, tags=[["a"], ["a", "b"]], w=[[1.0], [1.0]])
    with pytest.raises(TypeError, match="lists of numbers"):
        features(column, tags=[["a"]], w=[1.0])


def test_words_of_a_text():
    column = tfmoe.Text("t", hash_buckets=10**6, max_length=3)
    cells = [
        "Größe, IN cm",
        "größe in--cm",
        "\u00bfÉté\u2026 en\u3000CM\uff01 more",
        "--",
        None,
        "a_b",
    ]
    found = features(column, t=cells)["t"]
    assert found.shape == (6, 3)
    assert found[0].tolist() == found[1].tolist()
    assert found[2].min() > 2
    assert found[2, 2] == found[0, 2]
    assert found[3].tolist() == found[4].tolist() == [1, 0, 0]
    assert (found[5] > 2).tolist() == [True, True, False]
    exact = features(tfmoe.Text("t", lower=False, hash_buckets=10**6), t=cells)["t"]
    assert exact[0, 0] != exact[1, 0]


def test_runs_of_words():
    column = tfmoe.Text("t", ngrams=3, hash_buckets=10**6, max_length=4)
    found = features(column, t=["a b c d e", "b c", "c"])["t"]
    assert found.shape == (3, 4 + 3 + 2)
    assert len(set(found[0].tolist())) == 9
    assert found[1, :4].tolist() == [found[0, 1], found[0, 2], found[0, 5], 0]
    assert found[2].tolist() == [found[0, 2]] + [0] * 8


def test_parts_are_merged_and_saved(tmp_path):
    rows = kinds.rows()
    whole = tfmoe.Preprocessor(kinds.SCHEMA).fit(rows, progress=False)
    parts = [
        tfmoe.Preprocessor(kinds.SCHEMA).fit(part, progress=False)
        for part in (rows[:70], rows[70:])
    ]
    merged = parts[0].merge(parts[1])
    merged.save(tmp_path / "state")
    merged.save(tmp_path / "plain", state=False)
    loaded = tfmoe.Preprocessor.load(tmp_path / "state")
    expected = whole.arrays(rows, labels=False)
    for prep in (merged, loaded, tfmoe.Preprocessor.load(tmp_path / "plain")):
        for name, values in prep.arrays(rows, labels=False).items():
            np.testing.assert_allclose(values, expected[name], rtol=2e-5, atol=2e-5, err_msg=name)
    again = loaded.merge(parts[0])
    assert again.num_rows == 270
    assert loaded.select(["watch"]).lengths == whole.lengths
    assert loaded.add_task(tfmoe.Binary("new")).table_sizes == whole.table_sizes


def test_vectors_of_parts_are_equally_long():
    long, short = (fitted(tfmoe.Vector("v"), v=[[1.0] * size])[0] for size in (2, 3))
    with pytest.raises(ValueError, match=r"with 2 and 3 numbers"):
        long.merge(short)
    nothing, _ = fitted(tfmoe.Vector("v"), v=[None])
    assert nothing.merge(long).lengths == long.merge(nothing).lengths == {"v": 2}


def test_records_hold_vectors_and_times(tmp_path):
    import tensorflow as tf

    path = tmp_path / "t.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in range(3):
            feature = {
                "v": tf.train.Feature(float_list=tf.train.FloatList(value=[row, 2.0])),
                "t": tf.train.Feature(int64_list=tf.train.Int64List(value=[1711845000 + row])),
                "y": tf.train.Feature(int64_list=tf.train.Int64List(value=[row % 2])),
                "title": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"a b"])),
            }
            writer.write(
                tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
            )
    columns = [tfmoe.Vector("v"), tfmoe.Timestamp("t"), tfmoe.Text("title")]
    prep = tfmoe.Preprocessor(tfmoe.Schema(columns, [tfmoe.Binary("y")]))
    found = prep.fit(path, progress=False).arrays(path)[0]
    assert found["v"].shape == (3, 2)
    assert found["t"].shape == (3, 4)
    assert (found["title"][:, :2] > 2).all()
    batch = next(iter(prep.dataset(path, batch_size=3)))[0]
    for name, values in found.items():
        np.testing.assert_array_equal(batch[name], values)


def test_weights_of_one_value_a_cell_may_be_plain_numbers(tmp_path):
    """As pandas reads a text file whose cells have one each; an empty text weighs nothing else."""
    column = tfmoe.Sequence("tags", weights="w", max_length=3, hash_buckets=1000, separator="|")
    rows = pd.DataFrame({"tags": ["a", "b|c", ""], "w": ["2.0", "1|2", "3"], "y": [0, 1, 0]})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    schema = tfmoe.Schema([column], [tfmoe.Binary("y")])
    for source in (rows, str(tmp_path / "rows.csv")):
        prep = tfmoe.Preprocessor(schema).fit(source, progress=False)
        found = prep.arrays(source, labels=False)
        assert found["tags_weights"].tolist() == [[2, 0, 0], [1, 2, 0], [1, 0, 0]]
        assert found["tags"][2].tolist() == [1, 0, 0]
    one = {"tags": ["a", "c", "d", None], "w": [2.0, 0.5, None, 3.0], "y": [0, 1, 0, 1]}
    pd.DataFrame(one).to_csv(tmp_path / "one.csv", index=False)
    read = pd.read_csv(tmp_path / "one.csv")
    assert read["w"].dtype == "float64"
    expected = [2, 0.5, 1, 1]
    for source in (read, str(tmp_path / "one.csv")):
        weights = tfmoe.Preprocessor(schema).arrays(source, labels=False)["tags_weights"]
        assert weights[:, 0].tolist() == expected


@pytest.mark.parametrize("marker", [-99.9, "-99.9", 1e-3])
def test_a_fraction_is_missing_in_32_bits_too(marker):
    column = tfmoe.Numeric("x", transform="none", missing=[marker], fill=7.0)
    cells = np.array([float(marker), 1.0, 2.0])
    for kind in ("float64", "float32"):
        prep, df = fitted(column, x=cells.astype(kind))
        assert prep.arrays(df, labels=False)["x"].tolist() == [7, 1, 2]
        encode = graph.GraphEncoder(prep)
        for asked in (df, df.astype({"x": "float64"})):
            assert encode(tensors(prep, asked))["x"].numpy().tolist() == [7, 1, 2]
