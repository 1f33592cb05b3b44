"""`tfmoe.load_model`: a model from its file, or a clear error."""

import keras
import numpy as np
import pytest

import tfmoe


@pytest.mark.slow
def test_a_loaded_model_predicts_from_raw_rows_and_trains_on(tmp_path):
    split = tfmoe.data.synthetic_ratings(num_rows=400)
    prep = tfmoe.Preprocessor(split.schema).fit(split.train, progress=False)
    model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(4,)), tower_units=())
    model.compile("adam")
    model.fit(split.train, epochs=1, verbose=0)
    path = tmp_path / "model.keras"
    model.save(path)
    again = tfmoe.load_model(path)
    assert isinstance(again, tfmoe.MultiTaskModel)
    expected = model.predict(split.test, verbose=0)
    found = tfmoe.load_model(str(path)).predict(split.test, verbose=0)
    for task, values in expected.items():
        np.testing.assert_array_equal(found[task], values)
    again.fit(split.train, epochs=1, verbose=0)


def test_a_path_without_a_model_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model at .*none.keras. `model.save`"):
        tfmoe.load_model(tmp_path / "none.keras")


def test_another_kind_of_model_is_told(tmp_path):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "dense.keras")
    with pytest.raises(ValueError, match=r"Received .*dense.keras, a Sequential. Load it with"):
        tfmoe.load_model(tmp_path / "dense.keras")
