"""What a model takes for raw rows, and what for features."""

import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow as tf

import tfmoe
from tests.oracles import tables
from tfmoe.model.inputs import frame_of, is_frame


@pytest.fixture(scope="module")
def df():
    return tables.rows()


@pytest.fixture(scope="module")
def model(df):
    keras.utils.set_random_seed(0)
    made = tables.small_model(tables.fitted(df))
    made.compile(jit_compile=False)
    return made


def _lists(df):
    return df.astype(object).where(df.notna(), None).to_dict("list")


@pytest.mark.slow
def test_dicts_by_column_predict_as_a_frame(model, df):
    expected = model.predict(df, verbose=0)
    as_arrays = {name: df[name].to_numpy() for name in df}
    for rows in (_lists(df), as_arrays, {name: df[name][::1] for name in df}):
        for task, values in model.predict(rows, verbose=0).items():
            np.testing.assert_array_equal(values, expected[task])
    some = {name: values[5:7] for name, values in _lists(df).items()}
    for task, values in model.predict(some, verbose=0).items():
        np.testing.assert_allclose(values, expected[task][5:7], rtol=1e-5)


@pytest.mark.slow
def test_dicts_by_column_are_evaluated_and_fitted_as_a_frame(model, df):
    logs = model.evaluate(_lists(df), verbose=0)
    assert logs == pytest.approx(model.evaluate(df, verbose=0))
    again = tables.small_model(model.preprocessor)
    again.compile(jit_compile=False)
    with pytest.warns(UserWarning, match="rarely learns much"):
        history = again.fit(_lists(df), validation_data=_lists(df), epochs=1, verbose=0).history
    assert np.isfinite(history["val_loss"]).all()


def test_features_stay_features(model, df):
    expected = model.predict(df, verbose=0)
    features = model.preprocessor.arrays(df, labels=False)
    assert frame_of(model.schema, features) is features
    # In batches of another size.
    for task, values in model.predict(features, verbose=0).items():
        np.testing.assert_allclose(values, expected[task], rtol=1e-5)
    assert frame_of(model.schema, (features, {}, None)) is not None


@pytest.mark.parametrize(
    ("columns", "x", "num_rows"),
    [
        ([tfmoe.Numeric("a")], {"a": 1.5}, 1),
        ([tfmoe.Numeric("a")], {"a": [1.5, 2.0]}, 2),
        ([tfmoe.Numeric("a")], {"a": (1, None, 2**60 + 1)}, 3),
        ([tfmoe.Numeric("a")], {"a": np.array([1.5, 2.0])}, None),
        ([tfmoe.Numeric("a")], {"a": pd.Series([1.5, 2.0])}, None),
        ([tfmoe.Numeric("a", source="A b")], {"A b": np.array([1.5, 2.0])}, 2),
        ([tfmoe.Categorical("a")], {"a": np.array([4, 5], "int32")}, None),
        ([tfmoe.Categorical("a")], {"a": np.array(["u", "v"])}, 2),
        ([tfmoe.Categorical("a")], {"a": pd.Series(["u", "v"], dtype="category")}, 2),
        ([tfmoe.MultiCategorical("a")], {"a": ["u", "v", "w"]}, 1),
        ([tfmoe.MultiCategorical("a")], {"a": [["u", "v"], [], ["w"]]}, 3),
        ([tfmoe.MultiCategorical("a")], {"a": np.array([[4, 0], [5, 4]])}, None),
        ([tfmoe.MultiCategorical("a"), tfmoe.Numeric("b")], {"a": ["u"], "b": 1.0}, 1),
        ([tfmoe.Numeric(f"a{i}", source="a", element=i) for i in (0, 1)], {"a": np.eye(2)}, 2),
    ],
)
def test_raw_rows_are_told_from_features(columns, x, num_rows):
    schema = tfmoe.Schema(columns, [tfmoe.Binary("y")])
    found = frame_of(schema, x)
    if num_rows is None:
        assert found is x
        return
    assert len(found) == num_rows
    prep = tfmoe.Preprocessor(schema).fit(found.assign(y=1), progress=False)
    features = prep.arrays(found, labels=False)
    # What the Preprocessor makes of them is no raw row.
    assert frame_of(schema, features) is features
    assert all(len(values) == num_rows for values in features.values())


def test_integers_with_none_among_them_keep_their_digits():
    schema = tfmoe.Schema([tfmoe.Categorical("a")], [tfmoe.Binary("y")])
    found = frame_of(schema, {"a": [2**60 + 1, None], "y": [0, 1]})
    prep = tfmoe.Preprocessor(schema).fit(found, progress=False)
    assert prep.vocabulary("a").to_pylist() == [2**60 + 1]


def test_dicts_that_are_neither_are_refused(model, df):
    rows = _lists(df)
    with pytest.raises(ValueError, match=r"equally long lists or arrays.*Received lengths"):
        model.predict(rows | {"age": rows["age"][1:]}, verbose=0)
    with pytest.raises(ValueError, match=r"a single value for \['age'\]"):
        model.predict(rows | {"age": 3}, verbose=0)
    with pytest.raises(ValueError, match="'age'"):
        model.predict({name: values for name, values in rows.items() if name != "age"}, verbose=0)
    features = model.preprocessor.arrays(df, labels=False)
    for bad in (-1, 99):
        ids = np.where(np.arange(len(df)) == 7, bad, features["user_id"])
        message = f"from 0 to 14. Received user_id={bad}. If these are raw rows"
        for method in (model.predict, model.evaluate):
            with pytest.raises(ValueError, match=message):
                method(features | {"user_id": ids}, verbose=0)


def test_arrow_tables_are_raw_rows_with_their_integers_as_they_are():
    schema = tfmoe.Schema([tfmoe.Categorical("a")], [tfmoe.Binary("y")])
    found = frame_of(schema, pa.table({"a": [2**60 + 1, None], "y": [0, 1]}))
    assert found["a"].tolist()[0] == 2**60 + 1
    assert is_frame(found)


def test_no_rows_have_no_predictions(model, df, tmp_path):
    expected = {name: values[:0] for name, values in model.predict(df, verbose=0).items()}
    none = df.head(0)
    none.to_parquet(tmp_path / "none.parquet")
    (tmp_path / "parts" / "day=1").mkdir(parents=True)
    none.to_parquet(tmp_path / "parts" / "day=1" / "a.parquet")
    tf.io.TFRecordWriter(str(tmp_path / "none.tfrecord")).close()
    features = model.preprocessor.arrays(df, labels=False)
    for rows in (
        none,
        tmp_path / "parts",
        tmp_path / "none.tfrecord",
        [],
        {name: [] for name in df},
        pa.Table.from_pandas(none),
        {name: values[:0] for name, values in features.items()},
        tmp_path / "none.parquet",
        [tmp_path / "none.parquet"] * 2,
    ):
        found = model.predict(rows, verbose=0)
        assert found.keys() == expected.keys()
        for task, values in found.items():
            assert (values.shape, values.dtype) == (expected[task].shape, expected[task].dtype)
    with pytest.raises(FileNotFoundError, match="No file matches"):
        model.predict(tmp_path / "nothing*.csv")
    # Nothing is learnt or measured of them.
    for use in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match="must be rows to read"):
            use(none, verbose=0)


def test_no_rows_of_one_task_each_have_no_predictions():
    rows = pd.DataFrame({"x": [0.0, 1.0], "items": [[1], [2, 3]], "task": ["a", "b"]})
    rows["y"] = [0.0, 1.0]
    tasks = [tfmoe.Binary(name, source="y") for name in "ab"]
    columns = [tfmoe.Numeric("x"), tfmoe.Sequence("items", max_length=3, dtype="int")]
    schema = tfmoe.Schema(columns, tasks, task_column="task")
    model = tables.small_model(tfmoe.Preprocessor(schema).fit(rows, progress=False))
    expected = {name: values[:0] for name, values in model.predict(rows, verbose=0).items()}
    found = model.predict(rows.head(0), verbose=0)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name], strict=True)
